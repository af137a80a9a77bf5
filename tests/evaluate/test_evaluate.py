"""The bench: its suites, what it keeps and resumes, its peers, its command."""

from __future__ import annotations

import functools
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image

from engine import InpaintEngine, InputError, ModelError, SoftpaintError, UnknownNameError
from engine.cli import run
from engine.evaluate import (
    Plan,
    Row,
    Store,
    Variant,
    choose,
    evaluate,
    open_suite,
    rows_csv,
    summarise,
    summary_json,
)
from engine.evaluate.peers import peer_pipeline, run_peer
from engine.evaluate.suites import decode_runs
from engine.evaluate.workers import in_processes
from engine.picture.metrics import METRICS
from engine.pocket import world
from strategies import get_strategy
from tests.kit import tiny
from tests.kit.workers import doubling

FIRST = 1_050_000
TASKS = ["removal", "insertion", "recolour", "outpaint", "strength"]


@pytest.fixture(scope="module")
def suite():
    return open_suite("pocket", first_seed=FIRST, size=tiny.SIZE)


# --------------------------------------------------------------------------------- suites


@pytest.mark.parametrize("task", TASKS)
def test_pocket_cases_hold_together(suite, task):
    cases = suite.cases(task, 4)
    again = suite.cases(task, 4)
    assert len({case.scene for case in cases}) == 4
    for case, other in zip(cases, again, strict=True):
        assert case.task == task
        assert case.prompt == other.prompt
        np.testing.assert_array_equal(case.image, other.image)
        np.testing.assert_array_equal(case.strength_map, other.strength_map)
        assert case.canvas.shape == (tiny.SIZE, tiny.SIZE, 3)
        assert case.canvas_map.shape == case.canvas.shape[:2]
        assert 0 < (case.canvas_map > 0).mean() < 1
        if case.truth is not None:
            kept = case.canvas_map == 0
            np.testing.assert_array_equal(case.truth[kept], case.canvas[kept])
            assert (case.truth != case.canvas)[~kept].any()
        if case.subject is not None:
            assert case.subject.any()
            assert (case.canvas_map[case.subject] == 1).all()


def test_more_scenes_begin_with_the_same_ones(suite):
    few, many = (suite.cases("removal", count) for count in (2, 5))
    assert [case.scene for case in few] == [case.scene for case in many[:2]]


def test_the_prompt_names_what_the_mask_is_to_hold_and_nothing_else(suite):
    def asked(case):
        return world.attributes_from_caption(case.prompt).objects

    assert all(asked(case) == () for case in suite.cases("removal", 4))
    for case in suite.cases("insertion", 4):
        spec = world.sample_scene(int(case.scene))
        ((kind, colour),) = asked(case)
        thing = world.fitting_object(spec, np.random.default_rng([int(case.scene), 1]))
        assert thing
        assert (kind, colour) == (thing.kind, thing.colour)
        np.testing.assert_array_equal(
            case.truth, world.render(spec.with_object(thing), tiny.SIZE).image
        )
    for case in suite.cases("recolour", 4):
        before = world.sample_scene(int(case.scene)).objects[0]
        ((kind, colour),) = asked(case)
        assert kind == before.kind
        assert colour != before.colour


def test_outpainting_cuts_every_number_of_sides(suite):
    cases = suite.cases("outpaint", 12)
    assert {sum(side > 0 for side in case.expand) for case in cases} == {1, 2, 3, 4}
    assert all(side in {0, 12} for case in cases for side in case.expand)
    assert not any(case.strength_map.any() for case in cases)


def test_strengths_are_nine_and_change_places(suite):
    first, second = suite.cases("strength", 2)
    assert len(np.unique(first.strength_map)) == 9
    assert (first.strength_map != second.strength_map).any()
    assert first.truth is None


def test_unknown_task(suite):
    with pytest.raises(UnknownNameError, match="Did you mean 'removal'"):
        suite.cases("removall", 1)


def runs_of(mask: np.ndarray) -> list[int]:
    """BrushBench's encoding: starts from 1 and lengths, row by row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(int), [0]])))
    return [
        int(n)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        for n in (start + 1, end - start)
    ]


@pytest.fixture
def folder(tmp_path: Path, suite) -> Path:
    """Two pictures in BrushBench's layout, the second without a mask for outpainting."""
    records = {}
    for i, case in enumerate(suite.cases("removal", 2)):
        Image.fromarray(case.image).save(tmp_path / f"{i}.png")
        records[f"00000{i}"] = {
            "image": f"{i}.png",
            "caption": case.prompt,
            "inpainting_mask": runs_of(case.strength_map > 0),
        }
    records["000000"]["outpainting_mask"] = [str(n) for n in runs_of(case.strength_map == 0)]
    (tmp_path / "mapping_file.json").write_text(json.dumps(records), encoding="utf-8")
    return tmp_path


def test_a_folder_in_brushbenchs_layout(folder, suite):
    opened = open_suite(str(folder), first_seed=0, size=64)
    assert list(opened.tasks) == ["inpainting", "outpainting"]
    want = suite.cases("removal", 2)
    for case, other in zip(opened.cases("inpainting", 9), want, strict=True):
        np.testing.assert_array_equal(case.strength_map, other.strength_map)
        np.testing.assert_array_equal(case.image, other.image)
        assert case.prompt == other.prompt
        assert case.truth is None
    (outside,) = opened.cases("outpainting", 9)
    np.testing.assert_array_equal(outside.strength_map, 1 - want[1].strength_map)


def test_runs_are_counted_from_one():
    np.testing.assert_array_equal(decode_runs([1, 2, 6, 1], (2, 3), ""), [[1, 1, 0], [0, 0, 1]])


def spoil(record: dict, field: str, value: object) -> dict:
    return {"a": {**record, field: value}}


RECORD = {"image": "0.png", "caption": "the sea", "inpainting_mask": [1, 4]}
BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "empty": "{}",
    "no masks": json.dumps({"a": {"image": "0.png", "caption": ""}}),
    "no caption": json.dumps({"a": {"image": "0.png", "inpainting_mask": [1, 4]}}),
    "a number": json.dumps({"a": 1}),
    "odd runs": json.dumps(spoil(RECORD, "inpainting_mask", [1, 4, 9])),
    "no numbers": json.dumps(spoil(RECORD, "inpainting_mask", ["x", "y"])),
    "outside": json.dumps(spoil(RECORD, "inpainting_mask", [1, 64 * 64 + 1])),
    "before": json.dumps(spoil(RECORD, "inpainting_mask", [0, 4])),
    "no image": json.dumps(spoil(RECORD, "image", "7.png")),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.usefixtures("no_model")
def test_a_broken_folder_is_one_line_and_exit_code_2(folder, broken, capsys):
    (folder / "mapping_file.json").write_text(BROKEN[broken], encoding="utf-8")
    code = run(["evaluate", "--suite", str(folder), "-o", str(folder / "report")])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("softpaint: error: ")
    assert error.count("\n") == 1
    assert str(folder) in error
    assert not (folder / "report").exists()


# ---------------------------------------------------------------------------------- store


def a_row(scene: str = "1", **changes) -> Row:
    return Row(
        **{
            "name": "blend",
            "peer": False,
            "task": "removal",
            "scene": scene,
            "metrics": {"seam": 2.5},
            **changes,
        }
    )


def test_the_store_goes_on_where_it_was(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    store = Store(tmp_path / "a/b", {"steps": 5})
    store.add(a_row("1"), pixels)
    store.add(a_row("2", name="a:b=1/2"), pixels)
    with (tmp_path / "a/b/rows.jsonl").open("a") as file:
        file.write('{"name": "cut sh')  # a crash
    again = Store(tmp_path / "a/b", {"steps": 5})
    assert again.rows == store.rows
    assert ("removal", "1", "blend") in again
    np.testing.assert_array_equal(again.pixels("removal", "2", "a:b=1/2"), pixels)
    again.add(a_row("3"), pixels)
    assert len(Store(tmp_path / "a/b", {"steps": 5}).rows) == 3


def test_the_store_keeps_to_its_settings(tmp_path):
    Store(tmp_path, {"steps": 5, "seed": 1})
    with pytest.raises(InputError, match="steps = 5, not 6"):
        Store(tmp_path, {"steps": 6, "seed": 1})
    (tmp_path / "rows.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="damaged"):
        Store(tmp_path, {"steps": 5, "seed": 1})


def test_sums_are_over_what_is_defined():
    rows = [
        a_row("1"),
        a_row("2", metrics={"seam": 3.5, "hue": 1.0}),
        a_row("3", metrics={"seam": 9.0}),
    ]
    seam, hue = summarise(rows)
    assert (seam.mean, seam.median, seam.n) == (5.0, 3.5, 3)
    assert (hue.mean, hue.n) == (1.0, 1)
    assert list(json.loads(summary_json(rows))) == ["rows"]
    assert json.loads(summary_json(rows))["rows"][1] == {
        "name": "blend",
        "peer": False,
        "task": "removal",
        "metric": "hue",
        "mean": 1.0,
        "median": 1.0,
        "n": 1,
    }
    assert rows_csv(rows).splitlines()[:2] == [
        "task,scene,name,peer,seam,hue",
        "removal,1,blend,0,2.5,",
    ]


# ---------------------------------------------------------------------------------- peers


def test_a_peer_is_diffusers_own_pipeline(engine):
    """The same pixels as its pipeline gives when it is called by hand, alone; the same within a
    level in a batch, where sums round otherwise.
    """
    inpaint = engine.backbone.networks["inpaint"].unet
    by_hand: Any = StableDiffusionXLInpaintPipeline(**{**engine.pipe.components, "unet": inpaint})
    by_hand.set_progress_bar_config(disable=True)
    want = by_hand(
        prompt="the sea",
        image=tiny.picture(),
        mask_image=tiny.box_mask(),
        width=tiny.SIZE,
        height=tiny.SIZE,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(5),
    ).images[0]
    pipe = peer_pipeline(engine.backbone, "diffusers-9ch", engine.pipe.scheduler)
    edits: dict[str, Any] = {
        "images": [tiny.picture(), tiny.picture(seed=1)],
        "masks": [tiny.box_mask()] * 2,
        "prompts": ["the sea", "a boat"],
        "seeds": [5, 6],
    }
    settings: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0}
    (alone,) = run_peer(pipe, **{key: each[:1] for key, each in edits.items()}, **settings)
    np.testing.assert_array_equal(np.asarray(alone), np.asarray(want))
    both = run_peer(pipe, **edits, **settings)
    np.testing.assert_allclose(np.asarray(both[0], float), np.asarray(want, float), atol=1)
    assert (np.asarray(both[0]) != np.asarray(both[1])).any()


def test_odd_sizes_come_back_as_they_were(engine):
    pipe = peer_pipeline(engine.backbone, "diffusers-4ch", engine.pipe.scheduler)
    picture, mask = (each.resize((61, 50)) for each in (tiny.picture(), tiny.box_mask()))
    (made,) = run_peer(
        pipe,
        images=[picture],
        masks=[mask],
        prompts=["the sea"],
        seeds=[1],
        num_inference_steps=2,
        guidance_scale=4.0,
    )
    assert made.size == (61, 50)


# ------------------------------------------------------------------------------------ all


@pytest.fixture
def plan() -> Plan:
    return Plan(size=tiny.SIZE, first_seed=FIRST, steps=2, guidance=4.0, seed=3)


def test_rows_pictures_and_going_on(engine, suite, plan, tmp_path):
    cases = {task: suite.cases(task, 2) for task in ("removal", "outpaint")}
    variants, peers = choose(
        engine, [Variant("blend", "blend"), Variant("inpaint9", "inpaint9")], diffusers=True
    )
    assert peers == ["diffusers-4ch", "diffusers-9ch"]
    said: list[str] = []
    store = Store(tmp_path, plan.settings())
    go = functools.partial(evaluate, engine, plan, peers=peers, say=said.append)
    rows = go(cases, variants=variants, store=store)
    assert len(rows) == 2 * 4 * 2
    assert [row.name for row in rows[:8:2]] == ["blend", "inpaint9", *peers]
    assert {row.peer for row in rows if row.name in peers} == {True}
    for row in rows:
        assert row.metrics["seconds"] > 0
        assert set(row.metrics) <= set(METRICS.names())
        assert {"seam", "colour_inside", "prompt", "psnr_inside"} <= set(row.metrics)
        assert (row.metrics["untouched"] == 0) == (not row.peer)
        assert store.pixels(row.task, row.scene, row.name).shape == (tiny.SIZE, tiny.SIZE, 3)
    assert len(said) == 8

    # the pictures are those of single edits, but for the last bits of shared calls
    case = cases["removal"][1]
    alone = engine.edit(
        image=case.image,
        mask=case.strength_map,
        prompt=case.prompt,
        strategy="blend",
        num_inference_steps=2,
        guidance_scale=4.0,
        seed=4,
    )
    got = store.pixels("removal", case.scene, "blend").astype(int)
    assert np.abs(got - np.asarray(alone.images[0])).max() <= 1

    # nothing is made twice; more scenes and another variant are made beside what is there
    said.clear()
    assert go(cases, variants=variants, store=Store(tmp_path, plan.settings())) == rows
    assert said == []
    more = {"removal": suite.cases("removal", 3)}
    both = [*variants, Variant("blend:feather=0", "blend", {"feather": 0})]
    grown = go(more, variants=both, store=Store(tmp_path, plan.settings()))
    assert len(grown) == 3 * 5
    assert len(said) == 5
    assert [row for row in grown if row in rows] == [row for row in rows if row.task == "removal"]


def test_a_failing_edit_costs_no_other(engine, suite, plan, tmp_path, monkeypatch):
    cases = {"removal": suite.cases("removal", 3)}
    store = Store(tmp_path, plan.settings())
    variants = [Variant("blend", "blend")]
    decode, calls = engine.backbone.decode, iter(range(100))

    def failing(latents):
        if next(calls) == 1:
            raise RuntimeError("out of luck")
        return decode(latents)

    monkeypatch.setattr(engine.backbone, "decode", failing)
    scene = cases["removal"][1].scene
    message = f"1 of 3 pictures failed; the first: removal, {scene}, blend: out of luck"
    with pytest.raises(SoftpaintError, match=message):
        evaluate(engine, plan, cases, variants=variants, peers=[], store=store)
    assert [row.scene for row in store.rows.values()] == [
        case.scene for case in cases["removal"] if case.scene != scene
    ]
    rows = evaluate(engine, plan, cases, variants=variants, peers=[], store=store)
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("end", "message"), [("raises", "ValueError: no threes"), ("dies", "exit code 7")]
)
def test_a_worker_that_fails_says_why(end, message):
    done: list[int] = []
    with pytest.raises(ModelError, match=message):
        done.extend(in_processes(functools.partial(doubling, end), range(2, 5), 1))
    assert done == [4]


def test_a_strategy_for_one_kind_of_edit_runs_in_its_task_only(engine, suite, plan, tmp_path):
    cases = {task: suite.cases(task, 1) for task in ("removal", "insertion")}
    variants, _ = choose(engine, None, diffusers=False)
    store = Store(tmp_path, plan.settings())
    rows = evaluate(engine, plan, cases, variants=variants, peers=[], store=store)
    names = {task: [row.name for row in rows if row.task == task] for task in cases}
    assert names["removal"] == sorted(tiny.STRATEGIES, key=names["removal"].index)
    assert names["insertion"] == [n for n in names["removal"] if not get_strategy(n).only]
    named = [Variant("remove", "remove")]
    rows = evaluate(engine, plan, cases, variants=named, peers=[], store=store)
    assert [row.task for row in rows] == list(cases)


def test_variants_are_checked_before_a_model_is_needed(engine):
    Variant("x", "differential+canny", {"strength_mode": "legacy", "feather": 2}).check()
    for strategy, settings, message in (
        ("blendd", {}, "Did you mean 'blend'"),
        ("blend", {"gorw": 1}, "Did you mean 'grow'"),
        ("blend", {"feather": -1}, "feather"),
        ("blend", {"seed": 1}, "seed is decided by the suite"),
    ):
        with pytest.raises(InputError, match=message):
            Variant("x", strategy, settings).check()
    with pytest.raises(InputError, match="twice"):
        choose(engine, [Variant("blend", "blend")] * 2, diffusers=False)
    only_base = InpaintEngine.from_pipe(engine.pipe)
    with pytest.raises(InputError, match="9-channel"):
        choose(only_base, [Variant("inpaint9", "inpaint9")], diffusers=True)
    assert choose(only_base, None, diffusers=True)[1] == ["diffusers-4ch"]


def test_a_variant_knows_its_uncorrected_twin():
    plain, field, other = (
        Variant("a", "blend", {"colour": "none", "feather": 2}),
        Variant("b", "blend", {"feather": 2}),
        Variant("c", "blend", {"colour": "lab"}),
    )
    assert plain.is_uncorrected(field)
    assert not plain.is_uncorrected(other)
    assert not field.is_uncorrected(field)


# -------------------------------------------------------------------------------- command


@pytest.fixture
def no_model(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("a model was loaded before the input was checked")

    monkeypatch.setattr(InpaintEngine, "from_pretrained", refuse)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "removall"], "Did you mean 'removal'"),
        (["--strategies", "blendd"], "Did you mean 'blend'"),
        (["--strategies", "blend:grow"], "key=value"),
        (["--strategies", "blend:image=a.png"], "image is decided by the suite"),
        (["--worst-by", "seem"], "Did you mean 'seam'"),
        (["--peers", "forge"], "unknown peer 'forge'"),
        (["--scheduler", "eulr"], "Did you mean 'euler'"),
        (["--count", "0"], "--count"),
        (["--size", "100"], "multiple of 8"),
        (["--suite", "/nowhere"], "/nowhere"),
        (["-o", "/dev/null/report"], "/dev/null/report"),
        (["--json", "/nowhere/x.json"], "/nowhere"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_bad_use_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    code = run(["evaluate", "--count", "1", "-o", str(tmp_path / "report"), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.startswith("softpaint: error: ")
    assert error.count("\n") == 1


def test_the_command_in_this_process_and_in_workers(tmp_path, capsys, monkeypatch, pocket):
    """A worker is a real process with an embedded model of its own: it gives the same rows."""
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pocket)
    common = ["--tasks", "removal", "--count", "1", "--steps", "2", "--size", "64"]
    both = []
    for workers in ("1", "2"):
        out, means = tmp_path / workers, tmp_path / f"{workers}.json"
        chosen = ["--strategies", "blend:feather=2", "--workers", workers]
        code = run(["evaluate", *common, *chosen, "--json", str(means), "-o", str(out)])
        told = capsys.readouterr()
        assert code == 0, told.err
        assert told.out.startswith("| removal (1) | untouched | seam |")
        assert "| `blend:feather=2` | 0 |" in told.out
        assert (out / "index.html").stat().st_size > 10_000
        assert len((out / "results.csv").read_text().splitlines()) == 2
        assert len(list((out / "pictures").glob("*.png"))) == 1
        both.append({r["metric"]: r["mean"] for r in json.loads(means.read_text())["rows"]})
    first, second = ({k: v for k, v in each.items() if k != "seconds"} for each in both)
    assert first == pytest.approx(second, rel=0.02)


def test_scenes_of_any_seed_can_be_asked_for():
    """The world has no last seed; those of training are a user's own choice."""
    for first in (0, 123_456_789):
        (case,) = islice(open_suite("pocket", first_seed=first, size=64).tasks["outpaint"](), 1)
        assert case.scene == str(first)
