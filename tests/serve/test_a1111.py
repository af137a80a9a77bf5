"""A client of A1111's against the server."""

import base64
import io
import json
import threading
import time

import cv2
import numpy as np
import pytest
import webuiapi
from PIL import Image

from engine.picture.source import Source
from engine.request.record import EditRecord
from engine.serve.webui import samplers, scheduler_of
from tests.kit.serving import SETTINGS, edited, png


@pytest.fixture(scope="module")
def webui(server):
    api = webuiapi.WebUIApi(host="127.0.0.1", port=server.port)
    yield api
    api.session.close()


@pytest.fixture(scope="module")
def mask():
    """H W, white is edited."""
    drawn = np.zeros((128, 128), np.uint8)
    drawn[60:110, 30:100] = 255
    return drawn


def test_a_blurred_mask_is_a_soft_map(webui, pocket, scene, mask):
    answer = webui.img2img(
        images=[Image.fromarray(scene.image)],
        mask_image=Image.fromarray(mask),
        mask_blur=4,
        inpainting_fill=1,
        inpaint_full_res=False,
        denoising_strength=0.9,
        prompt=SETTINGS["prompt"],
        seed=3,
        steps=3,
        cfg_scale=4,
        sampler_name="Euler a",
        width=128,
        height=128,
        batch_size=2,
    )
    soft = cv2.GaussianBlur(mask.astype(np.float32) / np.float32(255), (21, 21), 4)
    own = edited(
        pocket,
        image=Source("p", png(scene.image)),
        strength_map=soft.clip(0, 1),
        prompt=SETTINGS["prompt"],
        prefill="original",
        region="full",
        strength=0.9,
        seed=3,
        num_images=2,
        num_inference_steps=3,
        guidance_scale=4.0,
        scheduler="euler-a",
    )
    assert len(answer.images) == 2
    for got, wanted in zip(answer.images, own.images, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(wanted))
    assert answer.info["all_seeds"] == [3, 4]


def test_a_cut_out_and_an_inverted_mask(webui, pocket, scene, mask):
    answer = webui.img2img(
        images=[Image.fromarray(scene.image)],
        mask_image=Image.fromarray(255 - mask),
        inpainting_mask_invert=1,
        mask_blur=0,
        inpainting_fill=0,
        inpaint_full_res=True,
        inpaint_full_res_padding=16,
        prompt="snow",
        seed=5,
        steps=2,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        width=128,
        height=72,
    )
    own = edited(
        pocket,
        image=Source("p", png(scene.image)),
        strength_map=mask.astype(np.float32) / 255,
        prompt="snow",
        prefill="blur",
        region="mask",
        padding=16,
        native_size=96,  # as many pixels as it asks for, which small things are enlarged to
        zoom=16.0,
        strength=0.75,
        seed=5,
        num_inference_steps=2,
        guidance_scale=7.0,
        scheduler="dpmpp-2m-karras",
    )
    assert np.array_equal(np.asarray(answer.images[0]), np.asarray(own.images[0]))


def test_without_a_mask_the_whole_picture_is_edited_at_its_size(webui, scene):
    answer = webui.img2img(
        images=[Image.fromarray(scene.image)], prompt="snow", steps=1, width=64, height=96
    )
    assert answer.images[0].size == (64, 96)


def test_progress_is_told_and_an_interrupt_ends_it(webui, scene, mask):
    answers = []

    def ask():
        answers.append(
            webui.img2img(
                images=[Image.fromarray(scene.image)],
                mask_image=Image.fromarray(mask),
                prompt="snow",
                steps=150,
            )
        )

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 30
    told: dict = {"progress": 0.0, "current_image": None}
    while (not told["progress"] or not told["current_image"]) and time.monotonic() < deadline:
        told = webui.get_progress()
    assert 0 < told["progress"] < 1
    assert told["state"]["sampling_steps"] > told["state"]["sampling_step"]
    webui.interrupt()
    asking.join(10)
    assert answers[0].images == []
    assert webui.get_progress()["progress"] == 0


def test_what_clients_look_at_first(webui):
    assert webui.util_get_model_names() == ["pocket"]
    assert webui.util_get_current_model() == "pocket"
    assert "Euler a" in webui.util_get_sampler_names()
    assert "karras" in webui.util_get_scheduler_names()
    assert webui.get_loras() == webui.get_upscalers() == []


def test_every_sampler_that_is_told_is_understood():
    for name, own in samplers().items():
        assert scheduler_of(name, None) == own
    assert scheduler_of("DPM++ 2M Karras", "Automatic") == "dpmpp-2m-karras"
    assert scheduler_of("euler a", "automatic") == "euler-a"
    assert scheduler_of("euler-trailing", "") == "euler-trailing"
    assert scheduler_of(None, "Automatic") is None
    assert scheduler_of(None, "Karras") == "euler-karras"  # as there: Euler, unless one is named
    wrong = (("No such", None), ("Heun", "Karras"), ("Euler", "none"), (None, "none"), (["x"], ""))
    for sampler, spacing in wrong:
        with pytest.raises(ValueError, match=r"no "):
            scheduler_of(sampler, spacing)


def test_own_settings_and_mistakes(client, scene, mask):
    text = {name: base64.b64encode(each).decode() for name, each in {"m": png(mask)}.items()}
    body = {
        "init_images": [base64.b64encode(scene.picture).decode()],
        "mask": "data:image/png;base64," + text["m"],
        "prompt": "snow",
        "steps": 1,
        "alwayson_scripts": {"softpaint": {"args": [{"strategy": "blend", "feather": 2}]}},
    }
    answer = client.post("/sdapi/v1/img2img", json=body).json()
    (told,) = json.loads(answer["info"])["infotexts"]
    assert told.startswith("snow\nSteps: 1, Sampler: ")
    record = EditRecord.read(Source("r", base64.b64decode(answer["images"][0])))
    assert (record.edit["strategy"], record.edit["feather"]) == ("blend", 2.0)
    for changes, words in (
        ({"init_images": []}, "one picture"),
        ({"init_images": ["https://example.org/a.png"]}, "nothing is fetched"),
        ({"init_images": ["/etc/passwd"]}, "init_images"),
        ({"mask": "%%%"}, "base64"),
        ({"steps": 0}, "steps"),
        ({"inpainting_fill": 7}, "inpainting_fill"),
        ({"sampler_name": "none such"}, "no sampler"),
        ({"send_images": "no"}, "send_images must be true or false"),
        ({"alwayson_scripts": "x"}, "alwayson_scripts must be an object"),
        ({"denoising_strength": 0}, "strength"),
    ):
        answer = client.post("/sdapi/v1/img2img", json={**body, **changes})
        assert answer.status_code == 400, changes
        assert words in answer.json()["detail"]


def test_masks_are_read_as_everywhere(client, scene, mask):
    """Deep and coloured masks, and a photo that lies on its side in the file."""

    def sent(image, **more):
        file = io.BytesIO()
        image.save(file, "PNG", **more)
        return base64.b64encode(file.getvalue()).decode()

    def made(picture, drawn, **changes):
        body = {
            "init_images": [picture],
            "mask": drawn,
            "mask_blur": 0,
            "inpaint_full_res": False,
            "denoising_strength": 1,
            "seed": 3.0,  # as JavaScript writes it
            "steps": 1,
            **changes,
        }
        answer = client.post("/sdapi/v1/img2img", json=body)
        assert answer.status_code == 200, answer.text
        (text,) = answer.json()["images"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))

    photo = Image.fromarray(scene.image)
    plain = made(sent(photo), sent(Image.fromarray(mask)))
    # a mask in the first hundredth of 16 bits' range outside, which is no white
    deep = np.where(mask > 0, 65535, 0).astype(np.uint16)
    assert np.array_equal(made(sent(photo), sent(Image.fromarray(deep))), plain)
    faint = made(sent(photo), sent(Image.fromarray(np.maximum(deep, 1000))))
    outside = mask == 0
    assert np.array_equal(faint[outside], scene.image[outside])
    red = np.zeros((*mask.shape, 3), np.uint8)
    red[..., 0] = mask
    assert np.array_equal(made(sent(photo), sent(Image.fromarray(red))), plain)
    # The same photo on its side with a note of it, made smaller: mask and size are as it is seen.
    upright = photo.crop((0, 0, 128, 96))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x112] = 6
    hole = Image.fromarray(mask).crop((0, 0, 128, 96))
    small = {"width": 96, "height": 72}
    turned = made(sent(lying, exif=exif), sent(hole), **small)
    assert np.array_equal(turned, made(sent(upright), sent(hole), **small))


def test_a_side_that_is_not_given_is_theirs(client, scene, mask):
    """Masked parts are drawn at width x height, and A1111 takes 512 for either."""
    body = {
        "init_images": [base64.b64encode(scene.picture).decode()],
        "mask": base64.b64encode(png(mask)).decode(),
        "steps": 1,
        "seed": 3,
    }

    def made(**changes):
        answer = client.post("/sdapi/v1/img2img", json={**body, **changes}).json()
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))

    wide = made(width=128)
    assert np.array_equal(wide, made(width=128, height=512))
    assert np.array_equal(wide, made(height=128))
    assert not np.array_equal(wide, made(width=128, height=128))


def test_how_another_frame_is_filled(client, scene, mask):
    body = {
        "init_images": [base64.b64encode(scene.picture).decode()],
        "mask": base64.b64encode(png(mask)).decode(),
        "inpaint_full_res": False,
        "mask_blur": 0,
        "steps": 1,
        "width": 64,
        "height": 32,
        "styles": ["x"],
        "alwayson_scripts": {"controlnet": {"args": []}},
    }
    answer = client.post("/sdapi/v1/img2img", json={**body, "resize_mode": 1}).json()
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))
    middle = Image.fromarray(scene.image).resize(
        (64, 32), Image.Resampling.LANCZOS, box=(0, 32, 128, 96)
    )
    soft = Image.fromarray(mask.astype(np.float32)).resize(
        (64, 32), Image.Resampling.BILINEAR, box=(0, 32, 128, 96)
    )
    kept = np.asarray(soft) == 0
    assert np.array_equal(got[kept], np.asarray(middle)[kept])
    unused = json.loads(answer["info"])["unused"]
    assert unused == ["alwayson_scripts: controlnet", "styles"]
    for changes, words in (
        ({"resize_mode": 2}, "expand"),
        ({"inpaint_full_res": "false"}, "true or false"),
    ):
        refused = client.post("/sdapi/v1/img2img", json={**body, **changes})
        assert refused.status_code == 400
        assert words in refused.json()["detail"]


def test_a_blur_of_each_direction_its_own(client, scene, mask):
    body = {
        "init_images": [base64.b64encode(scene.picture).decode()],
        "mask": base64.b64encode(png(mask)).decode(),
        "inpaint_full_res": False,
        "denoising_strength": 1,
        "steps": 1,
        "seed": 3,
    }

    def made(**blur):
        answer = client.post("/sdapi/v1/img2img", json={**body, **blur}).json()
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))

    assert np.array_equal(made(mask_blur_x=0, mask_blur_y=0), made(mask_blur=0))
    changed = (made(mask_blur_x=6, mask_blur_y=0) != scene.image).any(2)
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 60  # the mask's own rows
    assert rows.max() < 110
    assert columns.min() < 28
    as_text = made(mask_blur_x="6", mask_blur_y=0, seed="3", steps="1")
    assert np.array_equal(changed, (as_text != scene.image).any(2))
    silent = client.post("/sdapi/v1/img2img", json={**body, "send_images": False}).json()
    assert silent["images"] == []
