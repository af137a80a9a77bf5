import gc
import json
import time
import weakref

import numpy as np
import pytest

from engine.picture.metadata import read_metadata
from engine.picture.source import Source
from engine.request.record import EditRecord
from engine.serve.limits import Limits
from tests.kit.serving import SETTINGS, ended, events, form, pixels, png, serving


def test_a_synchronous_job_is_the_engines_own_picture(client, scene, expected):
    answer = client.post("/api/jobs?wait=true", files=scene.files, data=form())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(pixels(answer.content), expected()[0])


def test_a_picture_has_its_recipe_and_nothing_of_this_machine(client, scene):
    answer = client.post("/api/jobs?wait=true", files=scene.files, data=form())
    record = EditRecord.read(Source("result", answer.content))
    assert record.edit["prompt"] == SETTINGS["prompt"]
    assert record.edit["seed"] == SETTINGS["seed"]
    assert "/" not in json.dumps(read_metadata(Source("r", answer.content))["edit"]).replace(
        "\\/", ""
    ).replace("standard input", "")


def test_a_job_tells_what_happens_and_gives_its_pictures(client, scene, expected):
    answer = client.post("/api/jobs", files=scene.files, data=form() | {"n": "2"})
    assert answer.status_code == 202
    job = answer.json()["id"]
    heard = events(client, job)
    assert [number for number, _, _ in heard] == list(range(1, len(heard) + 1))
    kinds = [kind for _, kind, _ in heard]
    assert kinds[0] == "queued"
    assert kinds[-1] == "finished"
    assert "step" in kinds
    steps = [data for _, kind, data in heard if kind == "step"]
    assert [each["done"] for each in steps] == sorted(each["done"] for each in steps)
    results = heard[-1][2]["results"]
    assert [each["seed"] for each in results] == [3, 4]
    for k, result in enumerate(results):
        assert np.array_equal(pixels(client.get(result["url"]).content), expected(num_images=2)[k])
        assert result["figures"]["untouched"] == 0
        assert {"seam", "colour_ring", "prompt"} <= result["figures"].keys()


def test_events_go_on_after_the_last_one_that_was_heard(client, scene):
    job = client.post("/api/jobs", files=scene.files, data=form()).json()["id"]
    heard = events(client, job)
    assert events(client, job, after=2) == heard[2:]
    assert events(client, job, after=heard[-1][0]) == []


def test_previews_are_pictures_of_what_is_shown(client, scene):
    job = client.post("/api/jobs", files=scene.files, data=form(num_inference_steps=6)).json()["id"]
    shown = [data for _, kind, data in events(client, job) if kind == "preview"]
    assert shown, "somebody listened"
    assert shown[-1]["box"] == [0, 0, 128, 128]
    answer = client.get(shown[-1]["url"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert pixels(answer.content).shape == (128, 128, 3)
    assert client.get(f"/api/jobs/{job}/previews/99").status_code == 404


def test_nothing_is_shown_to_who_only_waits_for_the_picture(client, server, scene):
    answer = client.post("/api/jobs?wait=true", files=scene.files, data=form(num_inference_steps=6))
    job = server.service.job(answer.headers["x-softpaint-job"])
    assert job.state == "finished"
    assert job.last_preview is None


def test_seeds_are_a_picture_each_like_their_single_runs(client, scene, expected):
    answer = client.post("/api/jobs", files=scene.files, data=form() | {"seeds": "[9, 3]"})
    results = ended(client, answer.json()["id"])["results"]
    assert [each["seed"] for each in results] == [9, 3]
    # They shared model calls, whose last bits are the library's.
    shown = pixels(client.get(results[1]["url"]).content).astype(int)
    assert np.abs(shown - expected()[0]).max() <= 1


def test_a_map_of_sixteen_bits_and_a_hard_mask_are_read_as_the_engine_does(client, scene, expected):
    deep = scene.soft.astype(np.uint16) * 257
    files = {"picture": scene.picture, "map": png(deep)}
    answer = client.post("/api/jobs?wait=true", files=files, data=form())
    assert np.array_equal(pixels(answer.content), expected(strength_map=deep)[0])
    mask = np.where(scene.soft > 127, 255, 0).astype(np.uint8)
    files = {"picture": scene.picture, "mask": png(mask)}
    answer = client.post("/api/jobs?wait=true", files=files, data=form())
    assert np.array_equal(pixels(answer.content), expected(mask=mask)[0])


def test_a_job_ends_within_a_step_when_it_is_told_to(client, server, scene):
    job = client.post("/api/jobs", files=scene.files, data=form(num_inference_steps=200)).json()
    while client.get(f"/api/jobs/{job['id']}").json()["done"] < 2:
        time.sleep(0.01)
    told = client.delete(f"/api/jobs/{job['id']}").json()
    assert told["state"] == "cancelled"
    assert told["done"] < 100
    assert events(client, job["id"])[-1][1] == "cancelled"
    assert not server.service.worker.running
    answer = client.get(f"/api/jobs/{job['id']}/results/0.png")
    assert answer.status_code == 409


def test_a_client_that_leaves_ends_its_edit(server, scene):
    import httpx2

    with (
        httpx2.Client(base_url=server.url, timeout=0.6) as hasty,
        pytest.raises(httpx2.TimeoutException),
    ):
        hasty.post(
            "/api/jobs?wait=true", files=scene.files, data=form(num_inference_steps=200, seed=77)
        )
    deadline = time.monotonic() + 10
    while server.service.worker.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.service.worker.running


def test_an_idempotency_key_asks_once(client, scene):
    headers = {"idempotency-key": "one"}
    first, again = (
        client.post("/api/jobs", files=scene.files, data=form(seed=11), headers=headers).json()
        for _ in range(2)
    )
    assert first["id"] == again["id"]
    other = client.post("/api/jobs", files=scene.files, data=form(seed=12), headers=headers)
    assert other.status_code == 422
    ended(client, first["id"])


@pytest.mark.parametrize(
    ("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("png", "PNG")]
)
def test_pictures_come_in_other_formats(client, scene, suffix, kind, expected):
    import io

    from PIL import Image

    data = form()
    job = client.post("/api/jobs", files=scene.files, data=data, headers={"idempotency-key": "f"})
    ended(client, job.json()["id"])
    answer = client.get(f"/api/jobs/{job.json()['id']}/results/0.{suffix}")
    image = Image.open(io.BytesIO(answer.content))
    assert image.format == kind
    off = np.abs(np.asarray(image).astype(int) - expected()[0]).mean()
    assert off == 0 if kind != "JPEG" else off < 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feather": -1}, "feather must be from 0"),
        ({"num_inference_steps": 10_000}, "num_inference_steps"),
        ({"num_inference_steps": 201}, "at most 200"),
        ({"strategy": "no-such"}, "unknown strategy"),
        ({"scheduler": "no-such"}, "unknown scheduler"),
        ({"feathr": 3}, "feather"),
        ({"output_type": "latent"}, "Python"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": "x" * 9000}, "8192"),
        ({"seed": 10**400}, "not a number of such a size"),
        ({"image": "x"}, "image is no setting"),
        ({"steps": 3}, "here it is called num_inference_steps"),
    ],
)
def test_what_is_wrong_is_said_in_words(client, scene, changes, words):
    answer = client.post("/api/jobs", files=scene.files, data=form(**changes))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_files_that_are_no_pictures_or_missing_are_refused(client, scene):
    for files, words in (
        ({"map": scene.map}, "picture is missing"),
        ({"picture": b"no picture", "map": scene.map}, "not a picture"),
        ({"picture": scene.picture, "map": b""}, "map"),
        ({"picture": scene.picture}, "mask"),
        ({"picture": scene.picture, "map": png(np.zeros((128, 128), np.uint8))}, "empty"),
        ({"picture": scene.picture, "map": png(np.ones((64, 128), np.uint8))}, "aspect"),
        ({"picture": scene.picture[:3000], "map": scene.map}, "damaged"),
    ):
        answer = client.post("/api/jobs", files=files, data=form())
        assert answer.status_code == 400, files.keys()
        assert words in answer.json()["error"]["message"]
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": form() | {"prompt": "x"}}, "prompt belongs into the form's field settings"),
        ({"data": form() | {"picture": "x"}}, "picture must be a file of the form"),
        ({"data": form() | {"stepz": "x"}}, "unknown field 'stepz'; it takes picture, image, map"),
        ({"extra": b"x"}, "unknown field 'extra'"),
    ],
)
def test_what_nobody_reads_of_a_form_is_refused(client, scene, changes, words):
    files = {**scene.files, **{k: v for k, v in changes.items() if k != "data"}}
    if "picture" in changes.get("data", {}):
        del files["picture"]
    for path in ("/api/jobs", "/api/compare"):
        answer = client.post(path, files=files, data=changes.get("data", form()))
        assert answer.status_code == 400
        assert words in answer.json()["error"]["message"]


def test_what_an_address_says_wrongly_is_an_error_like_others(client, scene):
    answer = client.post("/api/jobs?wait=maybe", files=scene.files, data=form())
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("wait: ")


def test_a_full_queue_refuses_and_says_when_to_come_again(pocket, scene):
    from engine.serve.limits import Limits

    with serving(pocket, Limits(queue=2, running=1)) as small:
        many = form(num_inference_steps=100)
        taken = [small.client.post("/api/jobs", files=scene.files, data=many) for _ in range(5)]
        assert [each.status_code for each in taken] == [202, 202, 202, 429, 429]
        wait = int(taken[-1].headers["retry-after"])
        worker = small.service.worker
        if worker.rate.value is not None:
            assert wait == pytest.approx(
                worker.queued_steps / worker.rate.value, abs=0.5 * wait + 2
            )
        places = [small.client.get(f"/api/jobs/{each.json()['id']}").json() for each in taken[:3]]
        assert [each["place"] for each in places] == [0, 1, 2]
        for each in taken[:3]:
            small.client.delete(f"/api/jobs/{each.json()['id']}")
        assert b'softpaint_refused_total{status="429"} 2.0' in small.client.get("/metrics").content


def test_jobs_join_a_running_loop_and_each_is_its_solo_run(client, scene, expected):
    strategies = ["differential", "blend", "soft-blend"]
    first = client.post("/api/jobs", files=scene.files, data=form(num_inference_steps=6)).json()
    while client.get(f"/api/jobs/{first['id']}").json()["done"] < 2:
        time.sleep(0.005)
    joined = [
        client.post("/api/jobs", files=scene.files, data=form(strategy=name)).json()
        for name in strategies
    ]
    told = [ended(client, each["id"]) for each in joined]
    for name, each in zip(strategies, told, strict=True):
        shown = pixels(client.get(each["results"][0]["url"]).content).astype(int)
        # Model calls are shared: last bits are the library's.
        assert np.abs(shown - expected(strategy=name)[0]).max() <= 1
    ended(client, first["id"])


def test_a_failing_edit_is_its_own_and_the_loop_goes_on(client, scene, monkeypatch):
    from engine.denoise import job as denoise

    real = denoise.Job.take

    def broken(self, *arguments):
        if self.owner.request.seed == 666:
            raise ZeroDivisionError("a part that breaks")
        return real(self, *arguments)

    monkeypatch.setattr(denoise.Job, "take", broken)
    bad, good = (
        client.post("/api/jobs", files=scene.files, data=form(seed=seed)).json()
        for seed in (666, 3)
    )
    told = ended(client, bad["id"])
    assert told["state"] == "failed"
    assert told["error"]["status"] == 500
    assert "a part that breaks" not in json.dumps(told)
    assert ended(client, good["id"])["state"] == "finished"


def test_old_jobs_make_room_and_are_gone(pocket, scene):
    from engine.serve.limits import Limits

    with serving(pocket, Limits(jobs=1)) as small:
        names = []
        for seed in (1, 2):
            told = small.client.post(
                "/api/jobs", files=scene.files, data=form(seed=seed, num_inference_steps=1)
            ).json()
            ended(small.client, told["id"])
            names.append(told["id"])
        assert small.client.get(f"/api/jobs/{names[0]}").status_code == 410
        assert small.client.get(f"/api/jobs/{names[1]}").status_code == 200
        assert small.client.get("/api/jobs/never").status_code == 404


def test_settings_are_those_of_the_table_and_of_the_registries(client):
    from engine.picture.paste import list_pastes
    from engine.request.field import Group, fields_of
    from engine.request.fields import Fields
    from engine.solvers.names import list_schedulers
    from strategies import list_strategies

    told = client.get("/api/settings").json()
    table = fields_of(Fields)
    names = {each["name"] for each in told["fields"]}
    assert names <= {name for name, each in table.items() if each.group is not Group.OUTPUT}
    assert {"prompt", "feather", "strength", "scheduler", "expand"} <= names
    feather = next(each for each in told["fields"] if each["name"] == "feather")
    assert (feather["minimum"], feather["maximum"], feather["default"]) == (0, 4096, 4.0)
    assert [each["name"] for each in told["strategies"]] == list_strategies()
    assert [each["name"] for each in told["schedulers"]] == list_schedulers()
    assert [each["name"] for each in told["pastes"]] == list_pastes()


def test_samples_can_be_edited_as_they_come(client):
    about = client.get("/api/about").json()
    assert about["native"] == [128, 128]
    sample = about["samples"][0]
    picture, strength_map = (client.get(sample[name]) for name in ("url", "map"))
    assert pixels(picture.content).shape == (sample["height"], sample["width"], 3)
    assert pixels(strength_map.content).shape == (sample["height"], sample["width"])


def test_a_comparison_has_a_result_for_each_strategy(client, scene, expected):
    data = form() | {"strategies": '["blend", "differential"]'}
    told = ended(client, client.post("/api/compare", files=scene.files, data=data).json()["id"])
    assert [each["label"] for each in told["results"]] == ["blend", "differential"]
    for each in told["results"]:
        shown = pixels(client.get(each["url"]).content).astype(int)
        assert np.abs(shown - expected(strategy=each["label"])[0]).max() <= 1
        assert each["figures"]["untouched"] == 0


def test_annotated_pictures_and_figures_are_the_engines(client, scene):
    from PIL import Image

    from controls import annotate
    from engine.serve.finisher import figures

    answer = client.post("/api/controls/canny/annotate", files={"picture": scene.picture})
    assert np.array_equal(pixels(answer.content), annotate(scene.image, "canny"))
    result = np.where(scene.soft[..., None] > 100, 255 - scene.image, scene.image)
    files = {"result": png(result), "original": scene.picture, "map": scene.map}
    told = client.post("/api/figures", files=files).json()
    own = figures(
        Image.fromarray(result), Image.fromarray(scene.image), scene.soft.astype(np.float32) / 255
    )
    assert told["figures"] == pytest.approx(own)
    assert told["meaning"]["seam"]["better"] == "lower"
    assert client.post("/api/controls/none/annotate", files=files).status_code == 404


def test_memory_goes_back_to_the_system(monkeypatch):
    from engine.serve import heap

    monkeypatch.setattr(heap, "EVERY", 0.0)
    kept = heap.Heap()
    assert kept.give_back() is (kept._trim is not None)
    monkeypatch.setattr(heap, "EVERY", 3600.0)
    assert not heap.Heap().give_back()


def test_a_forgotten_job_is_free_at_once(pocket, scene):
    gc.disable()  # nobody looks for circles
    try:
        with serving(pocket, Limits(jobs=1)) as small:
            first, second = (
                small.client.post("/api/jobs", files=scene.files, data=form(seed=seed)).json()["id"]
                for seed in (1, 2)
            )
            held = weakref.ref(small.service.job(first))
            ended(small.client, second)
            # the thread that made it may be on its last line
            until = time.monotonic() + 5
            while held() is not None and time.monotonic() < until:
                time.sleep(0.01)
            assert held() is None
    finally:
        gc.enable()
