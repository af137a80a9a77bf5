"""Candidates of regions: each run's best, in one picture that its record makes again."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from engine import CancelledError, Region
from engine.request.request import EditRequest
from engine.runtime.begin import begun
from engine.runtime.contest import Contest
from engine.runtime.core import Runtime
from engine.runtime.progress import run
from engine.runtime.regional_contest import RegionalContest
from strategies import LatentBlend
from tests.kit import tiny

STEPS, SIZE = 5, 64
pytestmark = pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")


def columns(left, right):
    strength_map = np.zeros((SIZE, SIZE), np.float32)
    strength_map[:, left:right] = 1
    return strength_map


LEFT, RIGHT, WIDE = columns(0, 16), columns(48, 64), columns(8, 32)
PHOTO = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def contrary(picture, prompt):
    """A judge that likes dark barns and bright boats: nothing is best at both."""
    bright = float(picture.mean()) / 255
    return 1 - bright if prompt == "a barn" else bright


def asked(*regions, **changes):
    given: dict[str, Any] = {"prompt": "a field", "num_inference_steps": STEPS, "seed": 3}
    given |= {"candidates": 4, "judge": contrary, "progress": False, "output_type": "np"}
    regions = regions or (Region(LEFT, "a barn"), Region(RIGHT, "a boat"))
    return EditRequest(image=PHOTO, regions=list(regions), **{**given, **changes})


def chosen(engine, *regions, **changes):
    return made(engine, asked(*regions, **changes))


def made(engine, request):
    return engine.edit(**{name: getattr(request, name) for name in request.__dataclass_fields__})


def best_of(result, *regions):
    """A run's finished candidates, the best first."""
    own = [c for c in result.candidates if c.regions == regions and c.left_at is None]
    return sorted(own, key=lambda each: -each.score)


def again(engine, result):
    """The edit that the result says it is."""
    part = result.parts[0]
    return made(engine, replace(part.request, callback=None))


def near(one, two):
    """The same but for the last bits, of rows that share a call or not."""
    return np.abs(one.images[0] - two.images[0]).max() <= 2.01 / 255


class TestEachRunHasItsBest:
    def test_no_start_of_the_whole_has_both(self, engine):
        result = chosen(engine)
        (left, *_), (right, *_) = best_of(result, 1), best_of(result, 2)
        assert left.seed != right.seed
        assert [each.number for each in result.candidates] == list(range(8))
        for each, region in ((left, Region(LEFT, "a barn")), (right, Region(RIGHT, "a boat"))):
            tried = [c for c in result.candidates if c.regions == each.regions]
            assert len(tried) == 4
            early = {c.number: c.judged[0].scores["total"] for c in tried}
            assert early[each.number] >= sorted(early.values())[-2]
            alone = chosen(engine, region, candidates=None, judge="auto", seed=each.seed)
            number = result.candidates.index(each) // 4
            assert torch.allclose(result.latents[number], alone.latents[0], atol=1e-4)
        assert result.model_calls == sum(each.model_calls for each in result.candidates)
        assert result.model_calls == 2 * (4 + 2 * 1 + 1 * 3)

    def test_it_is_an_edit_of_regions_with_seeds_of_their_own(self, engine):
        result = chosen(engine)
        told = result.parts[0].settings["region_edits"]
        assert [each["seed"] for each in told] == [
            best_of(result, number)[0].seed for number in (1, 2)
        ]
        assert near(result, again(engine, result))
        runs = result.parts[0].settings["candidate"]["runs"]
        assert [each["regions"] for each in runs] == [(1,), (2,)]
        assert "regions" in result.ranking()

    def test_several_are_kept_by_rank(self, engine):
        result = chosen(engine, keep=2)
        assert len(result.images) == len(result.seeds) == len(result.parts) == 2
        for rank, part in enumerate(result.parts):
            seeds = [each["seed"] for each in part.settings["region_edits"]]
            assert seeds == [best_of(result, number)[rank].seed for number in (1, 2)]

    def test_strategies_are_tried_for_each_that_names_none(self, engine):
        regions = [Region(LEFT, "a barn"), Region(RIGHT, "a boat", strategy="soft-blend")]
        result = chosen(engine, *regions, strategy="blend,inpaint9", options={"grow": 2})
        assert {c.strategy for c in result.candidates if c.regions == (1,)} == {
            "blend",
            "inpaint9",
        }
        of_second = [c for c in result.candidates if c.regions == (2,)]
        assert len({c.seed for c in of_second}) == len(of_second) == 4
        assert {c.strategy for c in of_second} == {"soft-blend"}
        assert near(result, again(engine, result))

    def test_what_has_a_seed_is_made_once(self, engine):
        regions = [Region(LEFT, "a barn", seed=9), Region(RIGHT, "a boat")]
        result = chosen(engine, *regions)
        assert [c.regions for c in result.candidates] == [(1,), (2,), (2,), (2,), (2,)]
        assert result.parts[0].settings["region_edits"][0]["seed"] == 9
        assert near(result, again(engine, result))

    def test_what_shares_a_run_is_chosen_together(self, engine):
        """Those that overlap, and the edit's own map, have the edit's seed."""
        regions = [Region(LEFT, "a barn"), Region(WIDE, "a barn"), Region(RIGHT, "a boat")]
        result = chosen(engine, *regions)
        assert result.parts[0].settings["runs"] == [[1, 2], [3]]
        joint, (alone, *_) = best_of(result, 1, 2)[0], best_of(result, 3)
        assert result.seeds == [joint.seed]
        told = result.parts[0].settings["region_edits"]
        assert [each.get("seed") for each in told] == [None, None, alone.seed]
        assert near(result, again(engine, result))

    def test_a_coupling_that_is_named_chooses_the_whole(self, engine):
        runtime = engine.runtime()
        for coupling, kind in (("auto", RegionalContest), ("latents", Contest)):
            contest = begun(runtime, asked(coupling=coupling))
            assert type(contest) is kind
            for ticket in contest.tickets:
                runtime.abort(ticket)
        assert not runtime.busy


class TestWhatEndsIt:
    def test_the_callback(self, engine):
        seen = []

        def stop(shot):
            seen.append(shot.image)
            return len(seen) < 10

        with pytest.raises(CancelledError):
            chosen(engine, callback=stop)
        assert max(seen) < 4

    def test_a_run_of_which_all_fail(self, engine):
        """The others are not gone on with, and the runtime is free."""
        runtime = engine.runtime()
        contest = RegionalContest(runtime, *layout_of(engine, asked()))
        runtime.step()
        for entry in contest.contests[1].entries:
            entry.ticket.jobs[0].strategy = replace(
                entry.ticket.jobs[0].strategy, parts=(Broken(),)
            )
        run(runtime, [contest], progress=False)
        assert isinstance(contest.error, LookupError)
        with pytest.raises(LookupError):
            contest.outcome()
        assert not runtime.busy

    def test_the_last_decoding(self, engine, monkeypatch):
        runtime = engine.runtime()
        contest = RegionalContest(runtime, *layout_of(engine, asked()))
        with pytest.raises(RuntimeError, match="are running"):
            contest.outcome()
        monkeypatch.setattr(
            "engine.edit.regional.PreparedRegions.finishing",
            lambda *_: (_ for _ in ()).throw(MemoryError("none left")),
        )
        run(runtime, [contest], progress=False)
        with pytest.raises(MemoryError):
            contest.outcome()


def test_the_last_touches_may_be_anothers(engine):
    """As a server finishes pictures: in another thread, when the model is somewhere else."""
    runtime = Runtime(engine.backbone, "tiny", touches=False)
    contest = begun(runtime, asked())
    run(runtime, [contest], progress=False)
    results = []
    thread = Thread(target=lambda: results.append(contest.outcome()))
    thread.start()
    thread.join()
    assert np.array_equal(results[0].images[0], chosen(engine).images[0])


class Broken(LatentBlend):
    """Fails in its next step."""

    def after_step(self, state, latents, step):
        raise LookupError("broken")


def layout_of(engine, request):
    from engine.edit.placing import Layout

    return request, Layout.of(request, engine.backbone)


@pytest.fixture(scope="module")
def engine():
    return tiny.engine()
