import time

import numpy as np
import pytest

from engine.serve.limits import Limits
from tests.kit.serving import SETTINGS, ended, events, form, pixels, png, serving


@pytest.fixture
def session(client, scene):
    answer = client.post("/api/sessions", files={"picture": scene.picture}, data=form())
    assert answer.status_code == 201, answer.text
    return answer.json()


def shown(client, answer):
    assert answer.status_code == 202, answer.text
    told = ended(client, answer.json()["id"])
    assert told["state"] == "finished", told
    return pixels(client.get(told["results"][0]["url"]).content), told["results"][0]


def test_renders_are_full_edits_to_the_bit_for_less_work(client, session, scene, expected):
    assert (session["width"], session["height"], session["seed"]) == (128, 128, 3)
    url = f"/api/sessions/{session['id']}/render"
    first, _ = shown(client, client.post(url, files={"map": scene.map}))
    assert np.array_equal(first, expected()[0])
    weaker = np.where(scene.soft < 100, scene.soft // 2, scene.soft).astype(np.uint8)
    second, told = shown(client, client.post(url, files={"map": png(weaker)}))
    assert np.array_equal(second, expected(strength_map=weaker)[0])
    assert told["reused_calls"] > 0


def test_a_patch_is_laid_into_the_sessions_map(client, session, scene, expected):
    url = f"/api/sessions/{session['id']}/render"
    shown(client, client.post(url, files={"map": scene.map}))
    patch = np.full((20, 30), 200, np.uint8)
    answer = client.post(url, files={"patch": png(patch)}, data={"rect": "40,50,30,20"})
    whole = scene.soft.copy()
    whole[50:70, 40:70] = 200
    assert np.array_equal(shown(client, answer)[0], expected(strength_map=whole)[0])
    # Settings alone keep the map.
    answer = client.post(url, data={"settings": '{"feather": 9}'})
    kept, _ = shown(client, answer)
    assert np.array_equal(kept, expected(strength_map=whole, feather=9.0)[0])


@pytest.mark.parametrize(
    ("rect", "size"), [("100,100,40,40", (40, 40)), ("0,0,10,10", (9, 10)), ("a,b", (4, 4))]
)
def test_patches_that_do_not_fit_are_refused_and_the_map_stays(client, session, rect, size):
    patch = png(np.full(size, 255, np.uint8))
    url = f"/api/sessions/{session['id']}/render"
    answer = client.post(url, files={"patch": patch}, data={"rect": rect})
    assert answer.status_code == 400


def test_a_later_render_ends_the_one_before(client, session, scene):
    url = f"/api/sessions/{session['id']}/render"
    slow = client.post(
        url, files={"map": scene.map}, data={"settings": '{"num_inference_steps": 150}'}
    ).json()["id"]
    picture, _ = shown(client, client.post(url, files={"map": scene.map}))
    assert picture.shape == (128, 128, 3)
    assert events(client, slow)[-1][1] == "cancelled"


def test_sessions_that_are_dropped_or_closed_are_gone(pocket, scene):
    with serving(pocket, Limits(sessions=2)) as small:
        names = [
            small.client.post(
                "/api/sessions", files={"picture": scene.picture}, data=form()
            ).json()["id"]
            for _ in range(3)
        ]
        render = [
            small.client.post(f"/api/sessions/{name}/render", data={"settings": "{}"})
            for name in (names[0], "never")
        ]
        assert [each.status_code for each in render] == [410, 404]
        assert "dropped" in render[0].json()["error"]["message"]
        assert small.client.delete(f"/api/sessions/{names[1]}").status_code == 200
        assert small.client.delete(f"/api/sessions/{names[1]}").status_code == 410


def test_sessions_keep_no_more_bytes_than_they_may(pocket, scene):
    with serving(pocket, Limits(session_bytes=250_000)) as small:
        for _ in range(3):
            name = small.client.post(
                "/api/sessions", files={"picture": scene.picture}, data=form()
            ).json()["id"]
            answer = small.client.post(f"/api/sessions/{name}/render", files={"map": scene.map})
            shown(small.client, answer)
        assert small.service.sessions.cost <= 250_000
        assert len(small.service.sessions) < 3


def test_a_stack_is_made_at_leisure_and_is_the_engines(client, scene, expected):
    quick = form(num_inference_steps=2)
    session = client.post("/api/sessions", files={"picture": scene.picture}, data=quick).json()
    stack = client.post("/api/stack", data={"session": session["id"]}).json()["id"]
    other = client.post("/api/jobs", files=scene.files, data=quick).json()
    ended(client, other["id"])
    half = client.get(f"/api/jobs/{stack}").json()
    assert half["state"] in {"queued", "running"}, "it stood still beside the other job"
    told = ended(client, stack)
    labels = [float(each["label"]) for each in told["results"]]
    assert labels == pytest.approx([k / 9 for k in range(1, 10)], abs=1e-5)
    strength = np.full((128, 128), 5 / 9, np.float32)
    own = expected(strength_map=strength, region="full", num_inference_steps=2)[0]
    picture = pixels(client.get(told["results"][4]["url"]).content).astype(int)
    assert np.abs(picture - own).max() <= 1  # in shared calls


def test_what_belongs_to_the_session_is_not_a_renders(client, session, scene):
    url = f"/api/sessions/{session['id']}/render"
    for changes in ('{"num_images": 2}', '{"expand": [1, 1, 1, 1]}'):
        answer = client.post(url, files={"map": scene.map}, data={"settings": changes})
        assert answer.status_code == 400
    answer = client.post(url, files={"map": scene.map}, data={"settings": '{"feather": -1}'})
    assert answer.status_code == 400
    assert "feather" in answer.json()["error"]["message"]
    wrong = {"settings": '{"num_inference_steps": 3}'}  # no prompt
    answer = client.post("/api/sessions", files={"picture": scene.picture}, data=wrong)
    assert answer.status_code == 400
    assert SETTINGS["seed"] == session["seed"]


def test_a_large_pictures_figures_do_not_keep_its_painter_waiting(
    client, session, scene, monkeypatch
):
    monkeypatch.setattr("engine.serve.finisher.PROMPT_PIXELS", 0)
    url = f"/api/sessions/{session['id']}/render"
    job = client.post(url, files={"map": scene.map}).json()["id"]
    assert events(client, job)[-1][2]["results"][0]["figures"] == {}
    deadline = time.monotonic() + 10
    while not client.get(f"/api/jobs/{job}").json()["results"][0]["figures"]:
        assert time.monotonic() < deadline
