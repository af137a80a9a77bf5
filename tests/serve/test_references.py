"""Pictures for an IP-Adapter over HTTP: bytes, for an adapter that the server has."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from safetensors.torch import save_file

from controls import Reference
from engine import InpaintEngine, Region
from engine.picture.source import Source
from engine.request.record import EditRecord
from tests.kit import tiny, tiny_controls
from tests.kit.serving import SETTINGS, edited, form, pixels, png, serving
from tests.serve.studio import open_picture, paint, picture, render, visit

NAME = "ip-tiny"
STYLE, OTHER = (png(np.asarray(tiny.picture(48, seed=seed))) for seed in (21, 22))


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """The pocket model with an adapter that was loaded by its file."""
    folder = tmp_path_factory.mktemp("adapter")
    engine = InpaintEngine.from_pretrained(device="cpu")
    made = tiny_controls.ip_adapter(engine.pipe.unet)
    flat = {f"{table}.{name}": each for table, held in made.items() for name, each in held.items()}
    save_file(flat, folder / f"{NAME}.safetensors")
    tiny_controls.image_reader()["image_encoder"].save_pretrained(folder / "image_encoder")
    engine.adapters.set_ip_adapters([str(folder / f"{NAME}.safetensors")])
    return engine


@pytest.fixture(scope="module")
def offering(painted):
    with serving(painted) as running:
        yield running


@pytest.fixture(scope="module")
def own(painted, scene):
    """The engine's own picture with these references."""

    def edit(references, **changes):
        arguments = {**scene.arguments, **SETTINGS, "ip_adapter_image": references, **changes}
        return np.asarray(edited(painted, **arguments).images[0])

    return edit


def based(data: bytes) -> str:
    return base64.b64encode(data).decode()


def post(server, scene, data, **files) -> np.ndarray:
    answer = server.client.post("/api/jobs?wait=true", files={**scene.files, **files}, data=data)
    assert answer.status_code == 200, answer.text
    return pixels(answer.content)


def test_the_server_tells_its_adapters_by_the_names_of_their_files(offering, server):
    assert offering.client.get("/api/about").json()["ip_adapters"] == [NAME]
    assert server.client.get("/api/about").json()["ip_adapters"] == []


def test_base64_and_files_are_the_engines_own_picture(offering, scene, own):
    half = np.full((128, 128), 0.5, np.float32)
    asked = Reference(Source("s", STYLE), 0.7, mask=half)
    expected = own([asked])
    assert not np.array_equal(expected, own(None))
    mask = png(np.full((128, 128), 32768, np.uint16))
    told = {"image": based(STYLE), "scale": 0.7, "adapter": NAME, "mask": based(mask)}
    got = post(offering, scene, form(ip_adapter_image=[told]))
    off = np.abs(got.astype(int) - expected.astype(int)).max()
    assert off <= 1, "a mask of 16 bits is half a level from 0.5"
    two = own([[Reference(Source("s", STYLE), 0.4), Reference(Source("o", OTHER))]])
    sent = form(ip_adapter_image=[{"scale": 0.4}, based(OTHER)])
    assert np.array_equal(post(offering, scene, sent, ip_adapter_image=STYLE), two)


def test_an_openai_client_gives_further_images(offering, server, scene, own):
    clear = np.dstack([scene.image, 255 - scene.soft])
    files = [("image[]", ("p.png", png(clear))), ("image[]", ("s.png", STYLE))]
    data = {**SETTINGS, "response_format": "b64_json"}
    answer = offering.client.post("/v1/images/edits", files=files, data=data)
    assert answer.status_code == 200, answer.text
    strength = np.float32(1) - (255 - scene.soft).astype(np.float32) / np.float32(255)
    expected = own(Source("s", STYLE), image=Source("p", png(clear)), strength_map=strength)
    got = pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert np.array_equal(got, expected)
    refused = server.client.post("/v1/images/edits", files=files, data=data)
    assert refused.status_code == 400
    assert "--ip-adapter" in refused.json()["error"]["message"]


def test_sessions_and_regions_take_them(offering, painted, scene):
    client, told = offering.client, form()
    opened = client.post(
        "/api/sessions", files={"picture": scene.picture, "ip_adapter_image": STYLE}, data=told
    ).json()
    session = offering.service.sessions.get(opened["id"]).session
    ((reference,),) = session.arguments["ip_adapter_image"]
    assert bytes(reference.image.data) == STYLE
    regions = [{"map": based(scene.map), "reference": {"image": based(STYLE), "scale": 0.5}}]
    data = {"settings": json.dumps({**SETTINGS, "regions": regions})}
    answer = client.post("/api/jobs?wait=true", files={"picture": scene.picture}, data=data)
    assert answer.status_code == 200, answer.text
    region = Region(Source("m", scene.map), reference=Reference(Source("s", STYLE), 0.5))
    expected = edited(painted, image=scene.arguments["image"], regions=[region], **SETTINGS)
    assert np.array_equal(pixels(answer.content), np.asarray(expected.images[0]))


def test_a_picture_tells_that_it_had_references(offering, scene, tmp_path):
    answer = offering.client.post(
        "/api/jobs?wait=true", files={**scene.files, "ip_adapter_image": STYLE}, data=form()
    )
    (tmp_path / "out.png").write_bytes(answer.content)
    ((reference,),) = EditRecord.read(tmp_path / "out.png").references
    assert reference.image is not None
    assert reference.scale == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"image": "AAAA"}, "reference 1's image"),
        ({"image": "/etc/passwd"}, "not base64"),
        ({"image": "https://x.example/a.png"}, "nothing is fetched"),
        ({"scale": 0.5}, "must be a picture"),
        ({"image": based(STYLE), "scale": "much"}, "scale must be a finite number"),
        ({"image": based(STYLE), "adapter": "../secret"}, NAME),
        ({"image": based(STYLE), "weight": 1}, "'weight' is none of image, scale"),
        ([], "1 to 16 are taken"),
    ],
)
def test_what_is_no_reference_is_refused_in_a_line(offering, scene, value, said):
    answer = offering.client.post("/api/jobs", files=scene.files, data=form(ip_adapter_image=value))
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_a_server_without_an_adapter_says_so(server, scene):
    answer = server.client.post(
        "/api/jobs", files={**scene.files, "ip_adapter_image": STYLE}, data=form()
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "ip_adapter_image: this server has no IP-Adapter; --ip-adapter FILE starts it with one."
    )


def test_the_page_has_a_place_for_them_where_the_server_has_an_adapter(browser, offering):
    with visit(browser, f"{offering.url}/") as page:
        open_picture(page, picture())
        page.evaluate(
            "for (const d of document.querySelectorAll('#settings details')) d.open = true"
        )
        chooser = page.get_by_label("Reference picture", exact=True)
        chooser.set_input_files({"name": "s.png", "mimeType": "image/png", "buffer": STYLE})
        page.locator(".reference").get_by_role("spinbutton", name="Weight").fill("60")
        page.keyboard.press("Tab")
        paint(page)
        render(page)
        session = list(offering.service.sessions._open.values())[-1]
        ((reference,),) = session.job.requests[""].ip_adapter_image
        assert bytes(reference.image.data) == STYLE
        assert reference.scale == 0.6
        page.get_by_role("button", name="Remove reference 1").click()
        assert page.locator(".reference").count() == 0
        render(page)
        session = list(offering.service.sessions._open.values())[-1]
        assert session.job.requests[""].ip_adapter_image is None


def test_the_page_of_a_server_without_one_does_not_offer_it(browser, server):
    with visit(browser, f"{server.url}/") as page:
        assert page.get_by_label("Reference picture", exact=True).count() == 0
