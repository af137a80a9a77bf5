"""OpenAI's own client against the server."""

import base64
import io

import cv2
import numpy as np
import openai
import pytest
from PIL import Image, ImageCms

from engine.picture.source import Source
from engine.request.record import EditRecord
from tests.kit.serving import SETTINGS, edited, pixels, png

EXTRA = {name: value for name, value in SETTINGS.items() if name != "prompt"}


@pytest.fixture(scope="module")
def sdk(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def mask(scene) -> bytes:
    """What is transparent is edited: half-transparent, half as strongly."""
    return png(np.dstack([scene.image, 255 - scene.soft]))


def shown(answer, k: int = 0):
    return pixels(base64.b64decode(answer.data[k].b64_json))


def test_a_mask_is_honoured_pixel_by_pixel(sdk, scene, mask, expected):
    answer = sdk.images.edit(
        image=("p.png", scene.picture),
        mask=("m.png", mask),
        prompt=SETTINGS["prompt"],
        extra_body=EXTRA,
    )
    strength = np.float32(1) - (255 - scene.soft).astype(np.float32) / np.float32(255)
    assert np.array_equal(shown(answer), expected(strength_map=strength)[0])
    assert answer.size == "128x128"


def test_several_pictures_and_other_settings(sdk, scene, mask, expected):
    answer = sdk.images.edit(
        image=("p.png", scene.picture),
        mask=("m.png", mask),
        prompt=SETTINGS["prompt"],
        n=2,
        extra_body={**EXTRA, "strategy": "blend", "guidance_scale": 3},
    )
    strength = np.float32(1) - (255 - scene.soft).astype(np.float32) / np.float32(255)
    own = expected(strength_map=strength, num_images=2, strategy="blend", guidance_scale=3.0)
    assert len(answer.data) == 2
    for k in range(2):
        assert np.array_equal(shown(answer, k), own[k])


def test_without_a_mask_the_pictures_own_transparency_is_edited(sdk, pocket, scene):
    clear = np.zeros((128, 128), np.uint8)
    clear[70:] = 255
    picture = png(np.dstack([scene.image, 255 - clear]))
    answer = sdk.images.edit(image=("p.png", picture), prompt="snow", extra_body=EXTRA)
    own = edited(
        pocket,
        image=Source("p", picture),
        strength_map="alpha",
        **{**SETTINGS, "prompt": "snow"},
    )
    assert np.array_equal(shown(answer), np.asarray(own.images[0]))


def test_a_mask_without_alpha_is_refused_in_words(sdk, scene):
    for files in ({"mask": ("m.png", scene.map)}, {}):
        with pytest.raises(openai.BadRequestError, match="alpha channel"):
            sdk.images.edit(image=("p.png", scene.picture), prompt="snow", **files)


def test_a_stream_has_partial_pictures_and_the_picture(sdk, scene, mask, expected):
    stream = sdk.images.edit(
        image=("p.png", scene.picture),
        mask=("m.png", mask),
        prompt=SETTINGS["prompt"],
        stream=True,
        partial_images=2,
        extra_body={**EXTRA, "num_inference_steps": 6},
    )
    told = list(stream)
    assert [each.type for each in told] == ["image_edit.partial_image"] * 2 + [
        "image_edit.completed"
    ]
    assert [each.partial_image_index for each in told[:2]] == [0, 1]
    assert pixels(base64.b64decode(told[0].b64_json)).shape == (128, 128, 3)
    strength = np.float32(1) - (255 - scene.soft).astype(np.float32) / np.float32(255)
    own = expected(strength_map=strength, num_inference_steps=6)[0]
    assert np.array_equal(pixels(base64.b64decode(told[-1].b64_json)), own)


def test_formats_quality_sizes_and_addresses(sdk, client, scene, mask):
    common = {"image": ("p.png", scene.picture), "mask": ("m.png", mask), "prompt": "snow"}
    quick = {"num_inference_steps": 1, "seed": 1}
    sizes = []
    for quality in (20, 95):
        answer = sdk.images.edit(
            **common, output_format="jpeg", output_compression=quality, extra_body=quick
        )
        data = base64.b64decode(answer.data[0].b64_json)
        assert Image.open(io.BytesIO(data)).format == "JPEG"
        sizes.append(len(data))
    assert sizes[0] < sizes[1]
    answer = sdk.images.edit(**common, size="64x64", response_format="url", extra_body=quick)
    assert pixels(client.get(answer.data[0].url).content).shape == (64, 64, 3)
    with pytest.raises(openai.BadRequestError, match="aspect ratio"):
        sdk.images.edit(**common, size="64x32", extra_body=quick)


def test_models(sdk):
    assert [each.id for each in sdk.models.list()] == ["pocket"]
    assert sdk.models.retrieve("pocket").owned_by == "softpaint"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-image-1")


def test_vllm_omnis_names(client, scene, expected):
    mask = np.where(scene.soft > 127, 255, 0).astype(np.uint8)
    files = {"image": scene.picture, "mask_image": png(mask)}
    data = {name: str(value) for name, value in SETTINGS.items()}
    answer = client.post("/v1/images/edits", files=files, data=data | {"guidance_scale": "5.0"})
    assert answer.status_code == 200, answer.text
    got = pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert np.array_equal(got, expected(mask=mask)[0])


def test_pictures_of_other_kinds(client, scene):
    """A photo on its side, one of 16 bits, and one with holes, each at another size or format."""
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[40:90, 40:90] = 0

    def asked(picture, status=200, **more):
        answer = client.post(
            "/v1/images/edits",
            data={"prompt": "snow", "num_inference_steps": 1, "seed": 1, **more},
            files={"image": picture, "mask": png(np.dstack([scene.image, alpha]))},
        )
        assert answer.status_code == status, answer.text
        return answer.json()

    def opened(answer):
        return Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))

    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6
    lying = Image.fromarray(scene.image).transpose(Image.Transpose.ROTATE_90)
    lying.save(file, "PNG", exif=exif)
    same = asked(scene.picture, size="64x64")
    turned = asked(file.getvalue(), size="64x64")
    assert np.array_equal(np.asarray(opened(turned)), np.asarray(opened(same)))

    deep = np.asarray(scene.image).astype(np.uint16) * 257 + 100
    written = cv2.imencode(".png", deep[:, :, ::-1])[1].tobytes()
    sent = base64.b64decode(asked(written, size="64x64")["data"][0]["b64_json"])
    small = np.asarray(cv2.imdecode(np.frombuffer(sent, np.uint8), cv2.IMREAD_UNCHANGED))
    assert small.dtype == np.uint16
    plain = np.asarray(opened(same)).astype(int)
    # Where nothing is repainted: the same photo to one level of 8 bits, which Pillow rounds twice.
    assert np.abs(small[:8, :, ::-1].astype(int) - plain[:8] * 257 - 100).max() < 2 * 257

    holes = np.dstack([scene.image, np.full((128, 128), 255, np.uint8)])
    holes[:20, :, 3] = 0
    refused = asked(png(holes), 400, output_format="jpeg", output_compression=80)
    assert "JPEG holds no transparency" in refused["error"]["message"]
    assert asked(png(holes))["background"] == "transparent"
    assert same["background"] == "opaque"


def test_settings_of_forms(client, scene, mask):
    def answered(**more):
        return client.post(
            "/v1/images/edits",
            data={"prompt": "snow", "num_inference_steps": 1, **more},
            files={"image": scene.picture, "mask": mask},
        )

    wider = answered(expand="0,0,32,0").json()
    assert wider["size"] == answered(expand="[0,0,32,0]").json()["size"] == "160x128"
    for more, words in (
        ({"expand": "8"}, "expand must be a list of 4 numbers"),
        ({"expand": "abc"}, "expand must be a list of 4 numbers"),
        ({"response_format": "xyz"}, "b64_json or url"),
    ):
        answer = answered(**more)
        assert answer.status_code == 400
        assert words in answer.json()["error"]["message"]
    answer = answered(strategy="auto")
    assert answer.status_code == 200, answer.text


def test_a_jpeg_keeps_profile_and_record_at_any_quality(client, scene, mask):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "PNG", icc_profile=profile)
    for quality in ({}, {"output_compression": "70"}):
        answer = client.post(
            "/v1/images/edits",
            data={"prompt": "snow", "num_inference_steps": 1, "output_format": "jpeg", **quality},
            files={"image": file.getvalue(), "mask": mask},
        )
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile
        assert EditRecord.read(Source("a.jpg", data)).edit["prompt"] == "snow"
