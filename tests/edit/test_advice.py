"""What the strategy auto does, and what it says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import InpaintEngine, InputError, Region, UnknownNameError
from engine.cli import run
from engine.edit.advice import MEASURED, ORDER, guess_task
from engine.edit.halving import cost
from engine.evaluate import open_suite
from engine.picture.fill import choose_prefill
from engine.request.record import EditRecord
from engine.request.request import EditRequest
from strategies import list_strategies
from tests.kit import tiny

HARD = np.zeros((64, 64), np.float32)
HARD[16:48, 16:48] = 1
FLAT = np.full((64, 64, 3), 120, np.uint8)
THING = FLAT.copy()
THING[20:44, 20:44] = (220, 30, 30)


def request(**changes):
    return EditRequest(**{"image": FLAT, "mask": HARD, "prompt": "a red house", **changes})


def guessed(image=FLAT, strength_map=HARD, **changes):
    asked = request(image=image, strength_map=strength_map, mask=None, **changes)
    return guess_task(asked, image, strength_map)[0]


def edited(engine, **changes):
    given = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a red house", "seed": 1}
    settings = {"strategy": "auto", "judge": "none", "num_inference_steps": 5, "progress": False}
    return engine.edit(**{**given, **settings, **changes})


class TestWhatItIsFor:
    def test_canvas_words_strengths_and_what_stands_there_tell(self):
        assert guessed(expand=(0, 0, 16, 0)) == "extend"
        assert guessed(prompt="remove the car") == guessed(prompt="") == "remove"
        assert guessed(prompt="a house without windows") == "add"
        assert guessed(strength=0.5) == guessed(strength_map=HARD / 2) == "restyle"
        assert guessed(strength_map=np.ones_like(HARD)) == "restyle"
        assert guessed() == "add"
        assert guessed(THING) == "replace"

    @pytest.mark.parametrize(("task", "wanted"), [("insertion", "add"), ("recolour", "replace")])
    def test_nine_of_ten_scenes_are_guessed(self, task, wanted):
        cases = open_suite("pocket", first_seed=1_050_000, size=64).cases(task, 40)
        found = [guessed(case.image, case.strength_map, prompt=case.prompt) for case in cases]
        assert found.count(wanted) >= 0.85 * len(cases)

    def test_what_is_said_counts(self, engine):
        told = engine.advise(image=THING, mask=HARD, prompt="a red house", task="add")
        assert told.task == "add"
        assert not any("stands" in reason for reason in told.reasons)


class TestWhatIsDone:
    def test_more_is_spent_on_quality(self, engine):
        given = {"image": THING, "mask": HARD, "prompt": "a red house"}
        speed, balance, quality = (
            engine.advise(**given, prefer=each) for each in ("speed", "balance", "quality")
        )
        assert (speed.candidates, balance.candidates, quality.candidates) == (1, 4, 8)
        assert (len(speed.strategies), len(quality.strategies)) == (1, 2)
        assert speed.runs < balance.runs < quality.runs

    def test_without_a_network_the_next_best_is_taken_and_said(self):
        engine = tiny.engine(inpaint=False)
        given = {"image": FLAT, "mask": HARD, "prompt": "a red house"}
        told, unguided = engine.advise(**given), engine.advise(**given, guidance_scale=1.0)
        assert told.strategies == unguided.strategies == ("think",)
        assert "inpaint9 is better at it" in told.reasons[-1]
        # inner steps are counted, which are not guided: as dear as the others where those are not
        assert told.candidates < told.runs < unguided.runs

    def test_every_task_names_strategies_that_there_are(self):
        assert set(ORDER) == {"remove", "add", "replace", "recolour", "restyle", "extend"}
        assert {
            part for names in ORDER.values() for name in names for part in name.split("+")
        } <= set(list_strategies())
        assert MEASURED.is_file()

    def test_a_model_of_another_network_only_is_advised_for_every_task(self):
        from diffusers import FluxFillPipeline

        from tests.kit import tiny_flux

        fill = InpaintEngine.from_pipe(FluxFillPipeline(**tiny_flux.modules(fill=True)))
        for task in ORDER:
            told = fill.advise(image=FLAT, mask=HARD, prompt="a red house", task=task)
            assert told.strategies == ("fill+differential" if task == "restyle" else "fill",)

    def test_an_edit_does_what_was_advised(self, engine):
        result = edited(engine, prefer="balance", task="replace")
        assert {each.strategy for each in result.candidates} == {"inpaint9"}
        assert len(result.candidates) == 4
        single = edited(engine, prefer="speed", task="remove")
        assert (single.candidates, single.settings["strategy"]) == ((), "remove")
        assert single.settings["task"] == "remove"

    def test_a_number_of_candidates_that_is_said_counts(self, engine):
        result = edited(engine, prefer="quality", task="add", candidates=3, keep=2)
        assert len(result.candidates) == 3
        assert len(result.images) == 2

    def test_it_is_repeated_from_its_record_as_what_it_became(self, engine, files):
        asked = {"image": str(files.photo), "mask": str(files.mask)}
        result = edited(engine, **asked, task="restyle")
        (path,) = result.save(files.folder / "out.png")
        edit = EditRecord.read(path).edit
        assert edit["strategy"] in ORDER["restyle"]
        again = engine.edit(**asked, **edit, progress=False)
        one, two = (np.asarray(each).astype(int) for each in (again.images[0], Image.open(path)))
        assert np.abs(one - two).max() <= 1

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"task": "paint"}, UnknownNameError, "task"),
            ({"prefer": "beauty"}, UnknownNameError, "prefer"),
            ({"generator": 3}, InputError, "generator"),
        ],
    )
    def test_what_is_refused(self, engine, changes, error, message):
        with pytest.raises(error, match=message):
            edited(engine, **changes)


SCENE: dict[str, Any] = {
    "image": np.tile(THING, (1, 3, 1)),
    "num_inference_steps": 3,
    "seed": 3,
    "progress": False,
}


class TestRegions:
    """Each run by itself: a thing that goes, something new, and what has a strategy."""

    @staticmethod
    def column(number):
        strength_map = np.zeros((64, 192), np.float32)
        strength_map[16:48, 64 * number + 16 : 64 * number + 48] = 1
        return strength_map

    def regions(self):
        return [
            Region(self.column(0), "a red house"),
            Region(self.column(1), ""),
            Region(self.column(2), "a boat", strategy="blend"),
        ]

    def test_each_gets_what_is_best_for_it(self, engine):
        told = engine.advise(image=SCENE["image"], regions=self.regions(), prefer="balance")
        (one, first), (two, second) = told.each
        assert (one, first.task, first.strategies) == ((1,), "replace", ("inpaint9",))
        assert (two, second.task, second.strategies) == ((2,), "remove", ("remove",))
        assert (told.named, told.candidates) == (((3,),), 4)
        assert told.runs == pytest.approx(first.runs + second.runs)
        lines = told.lines()
        assert lines[0] == "region 1: replace"
        assert "region 2: remove" in lines
        assert lines[-1] == "region 3: as named"

    def test_the_edit_is_as_with_these_names(self, engine):
        auto, named = (
            engine.edit(**SCENE, regions=regions, output_type="np", **changes)
            for regions, changes in (
                (self.regions(), {"strategy": "auto", "prefer": "speed"}),
                (
                    [
                        Region(self.column(0), "a red house", strategy="inpaint9", task="replace"),
                        Region(self.column(1), "", strategy="remove", task="remove"),
                        Region(self.column(2), "a boat", strategy="blend"),
                    ],
                    {},
                ),
            )
        )
        assert auto.settings["runs"] == [[1], [2], [3]]
        assert np.array_equal(auto.images[0], named.images[0])

    def test_candidates_say_what_made_each(self, engine):
        given = {"regions": self.regions(), "strategy": "auto", "judge": "none", "candidates": 2}
        result = engine.edit(**SCENE, **given, prompt="")
        told = [(each.regions, each.strategy) for each in result.candidates]
        names = ("inpaint9", "remove", "blend")
        assert told == [((n,), name) for n, name in enumerate(names, start=1) for _ in range(2)]

    def test_candidates_and_the_edits_own_map(self, engine):
        """What touches the edit's own map is made as that is."""
        own = np.zeros((64, 192), np.float32)
        own[:, :100] = 0.5
        result = engine.edit(
            **SCENE,
            regions=self.regions()[:2],
            strength_map=own,
            prompt="a field",
            strategy="auto",
            judge="none",
        )
        assert len(result.candidates) == 4
        assert {each.strategy for each in result.candidates} == {"differential"}
        assert result.parts[0].settings["task"] == "restyle"
        assert result.parts[0].settings["runs"] == [[0, 1, 2]]


class TestPrefill:
    @pytest.mark.parametrize("task", ["add", "replace", "recolour", "restyle"])
    def test_what_changes_something_starts_from_it(self, task):
        assert choose_prefill([HARD], 1.0, task) == "original"

    @pytest.mark.parametrize("task", ["auto", "remove", "extend"])
    def test_what_is_to_go_does_not_shine_through(self, task):
        assert choose_prefill([HARD], 1.0, task) == "blur"

    def test_a_guess_changes_no_pixel_of_a_named_strategy(self, engine):
        plain = edited(engine, strategy="differential", task="auto")
        assert plain.settings["prefilled"] == "blur"
        named = edited(engine, strategy="differential", task="replace")
        assert named.settings["prefilled"] == "original"
        nine = edited(engine, strategy="inpaint9", task="replace")
        assert nine.settings["prefilled"] == "blur"

    def test_another_colour_keeps_the_shape(self, engine):
        """Three fifths of a run, from the original; a strength that is said is taken as it is."""
        named, partly, nine = (
            edited(engine, task="recolour", num_inference_steps=10, output_type="latent", **changes)
            for changes in (
                {"strategy": "differential"},
                {"strategy": "differential", "strength": 0.5},
                {"strategy": "inpaint9"},
            )
        )
        assert [each.model_calls for each in (named, partly, nine)] == [6, 5, 10]
        plain = edited(
            engine,
            strategy="differential",
            prefill="original",
            strength=0.6,
            num_inference_steps=10,
            output_type="latent",
        )
        assert torch.equal(named.latents, plain.latents)


def test_choosing_costs_a_part_of_all_runs():
    assert cost(8, 1) == pytest.approx(2.8)
    assert cost(1, 1) == 1
    assert cost(4, 4) == 4


class TestCommand:
    def test_it_says_what_why_and_what_it_costs(self, files, capsys):
        with tiny.loaded():
            assert run(["advise", str(files.photo), "--mask", str(files.mask)]) == 0
        told = capsys.readouterr().out
        for word in ("task      remove", "strategy  remove", "costs", "because"):
            assert word in told

    def test_it_needs_a_picture_and_what_is_to_be_repainted(self, files, capsys):
        assert run(["advise"]) == 2
        assert run(["advise", str(files.photo)]) == 2
        assert "--mask" in capsys.readouterr().err

    def test_it_says_it_of_regions(self, files, capsys):
        asked = ["advise", str(files.photo), "--region-edit", f"{files.mask}::a boat::task=add"]
        with tiny.loaded():
            assert run(asked) == 0
        assert capsys.readouterr().out.startswith("region 1: add\nstrategy  inpaint9, 4 starts")

    def test_an_edit_says_it_too_and_ranks_its_candidates(self, files, capsys):
        output = files.folder / "out.png"
        with tiny.loaded():
            asked = [
                "edit",
                str(files.photo),
                "-m",
                str(files.mask),
                "-p",
                "a boat",
                "--steps",
                "3",
            ]
            asked += ["--strategy", "auto", "--task", "add", "--judge", "none", "-o", str(output)]
            assert run(asked) == 0
        told = capsys.readouterr().err
        assert output.exists()
        assert "task      add" in told
        assert "candidate" in told
        assert "inpaint9" in told.splitlines()[-2]
