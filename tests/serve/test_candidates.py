"""Several starts of which the best are kept, asked of the server."""

import base64

import numpy as np
import pytest

from engine.runtime.contest import Contest
from tests.kit.serving import SETTINGS, edited, ended, form, pixels, png

CHOICE = {"candidates": 4, "keep": 2, "num_inference_steps": 5}


@pytest.fixture(scope="module")
def told(client, scene):
    """The job once it is over; another ran beside it."""
    job = client.post("/api/jobs", files=scene.files, data=form(**CHOICE)).json()["id"]
    other = client.post("/api/jobs", files=scene.files, data=form()).json()["id"]
    assert ended(client, other)["state"] == "finished"
    return ended(client, job)


@pytest.fixture(scope="module")
def client(server):
    return server.client


def test_the_best_are_kept_as_the_engine_keeps_them(told, client, scene, pocket):
    own = edited(pocket, **scene.arguments, **SETTINGS | CHOICE)
    assert [each["seed"] for each in told["results"]] == own.seeds
    for k, result in enumerate(told["results"]):
        shown = pixels(client.get(result["url"]).content).astype(int)
        # What shared the calls differs, and with it the last bits.
        assert np.abs(shown - np.asarray(own.picture(k))).max() <= 1
        assert {"seam", "colour_ring", "prompt"} <= result["figures"].keys()


def test_everybody_who_was_tried_is_told_of_and_shown(told, client):
    several = told["candidates"]
    assert [each["number"] for each in several] == [0, 1, 2, 3]
    kept = {each["seed"] for each in several if each["left_at"] is None}
    assert kept == {each["seed"] for each in told["results"]}
    for each in several:
        assert 0 <= each["scores"]["total"] <= 1
        assert each["judged_at"] == (1 if each["left_at"] is None else each["left_at"])
        assert pixels(client.get(each["url"]).content).shape == (128, 128, 3)
    assert client.get(several[0]["url"].replace("/0.", "/9.")).status_code == 404


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidates": 33}, "candidates is 33; this server takes at most 32"),
        ({"candidates": 2, "keep": 3}, "keep"),
        ({"candidates": 2, "num_images": 2}, "num_images"),
        ({"candidates": 2, "judge": "/etc/passwd"}, "judge"),
    ],
)
def test_what_makes_no_sense_is_refused(client, scene, changes, words):
    answer = client.post("/api/jobs", files=scene.files, data=form(**changes))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_a_session_says_that_it_does_not_choose(client, scene):
    data = form(candidates=2)
    opened = client.post("/api/sessions", files={"picture": scene.picture}, data=data)
    answer = opened
    if opened.status_code < 400:
        answer = client.post(
            f"/api/sessions/{opened.json()['id']}/render", files={"map": scene.map}
        )
    assert answer.status_code == 400
    assert "candidates" in answer.json()["error"]["message"]


def test_a_fault_while_they_are_judged_ends_their_job_alone(client, scene, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Contest, "advance", broken)
        job = client.post("/api/jobs", files=scene.files, data=form(**CHOICE)).json()["id"]
        assert ended(client, job)["state"] == "failed"
    job = client.post("/api/jobs", files=scene.files, data=form()).json()["id"]
    assert ended(client, job)["state"] == "finished"


def test_what_is_measured_to_be_best_may_be_asked_for(client, scene):
    settings = form(strategy="auto", num_inference_steps=1)
    job = client.post("/api/jobs", files=scene.files, data=settings).json()["id"]
    told = ended(client, job)
    assert told["state"] == "finished"
    assert len(told["candidates"]) > 1


def test_several_strategies_are_tried_by_name(client, scene):
    asked = form(strategy="blend,differential", num_inference_steps=1)
    job = client.post("/api/jobs", files=scene.files, data=asked).json()["id"]
    assert len(ended(client, job)["candidates"]) == 2


def tents(**settings):
    """Two regions: maps as base64, and settings."""
    halves = []
    for columns in (slice(8, 48), slice(72, 120)):
        half = np.zeros((128, 128), np.uint8)
        half[40:100, columns] = 255
        halves.append(base64.b64encode(png(half)).decode())
    return [
        {"map": half, "prompt": f"a {colour} tent", **settings}
        for half, colour in zip(halves, ("red", "blue"), strict=True)
    ]


def test_regions_are_chosen_too(client, scene):
    """Each by itself."""
    asked = form(regions=tents(), candidates=3, num_inference_steps=5)
    files = {"picture": scene.files["picture"]}
    job = client.post("/api/jobs", files=files, data=asked).json()["id"]
    told = ended(client, job)
    assert told["state"] == "finished"
    assert [each["regions"] for each in told["candidates"]] == [[1]] * 3 + [[2]] * 3
    assert len({each["url"] for each in told["candidates"]}) == 6
    assert all("prompt" in each["scores"] for each in told["candidates"])


def test_a_region_names_loras_that_are_loaded(client, scene):
    asked = form(regions=tents(lora="style:0.5"), num_inference_steps=2)
    files = {"picture": scene.files["picture"]}
    answer = client.post("/api/jobs", files=files, data=asked)
    assert answer.status_code == 400
    assert "region 1: there is no LoRA 'style'; loaded: none" in answer.json()["error"]["message"]
