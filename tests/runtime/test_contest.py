"""Candidates: who is judged, who leaves, and what is left of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from engine import CancelledError, InputError, UnknownNameError
from engine.edit.halving import going_on
from engine.picture.judging import Look, Scores, score
from engine.request.record import EditRecord
from engine.request.request import EditRequest
from engine.runtime.contest import Contest, contenders
from engine.runtime.core import Runtime
from engine.runtime.progress import run
from strategies import LatentBlend
from tests.kit import tiny

STEPS = 5
CALLS = 8 * 1 + 3 * 1 + 1 * 3
"""Of 8 candidates in five steps: a third goes on after the first and after the second."""


def brightness(picture, _):
    """A judge that likes bright pictures."""
    return float(picture.mean()) / 255


def alone(engine, **changes):
    given = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a red house", "seed": 1}
    return engine.edit(**{**given, "num_inference_steps": STEPS, "progress": False, **changes})


def chosen(engine, **changes):
    return alone(engine, **{"candidates": 8, "judge": brightness, **changes})


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


# --- the cuts ---------------------------------------------------------------------------------


def test_a_run_of_one_step_is_judged_at_its_end(engine):
    result = chosen(engine, candidates=3, num_inference_steps=1)
    assert [len(each.judged) for each in result.candidates] == [1, 1, 1]
    assert len(result.images) == 1


def test_the_best_third_goes_on_at_each_share(engine):
    result = chosen(engine, seed=3)
    left = [each.left_at for each in result.candidates]
    assert [each.seed for each in result.candidates] == list(range(3, 11))
    assert sorted(filter(None, left)) == [0.2] * 5 + [0.4] * 2
    assert result.model_calls == CALLS
    assert len(result.images) == 1
    best = next(each for each in result.candidates if each.left_at is None)
    assert result.seeds == [best.seed]
    assert [each.share for each in best.judged] == [0.2, 0.4, 1.0]


def test_whoever_leaves_was_judged_worse_than_those_who_stay(engine):
    candidates = chosen(engine, seed=3).candidates
    for share in (0.2, 0.4):
        scores = {
            each.number: judged.scores["total"]
            for each in candidates
            for judged in each.judged
            if judged.share == share
        }
        thrown = [each.number for each in candidates if each.left_at == share]
        stayed = scores.keys() - set(thrown)
        assert max(scores[number] for number in thrown) <= min(scores[n] for n in stayed)


def test_the_best_are_kept_in_order(engine):
    result = chosen(engine, keep=3, candidates=6)
    kept = {each.seed: each.score for each in result.candidates if each.left_at is None}
    assert len(result.images) == len(result.seeds) == 3
    assert result.seeds == sorted(kept, key=lambda seed: -kept[seed])


def test_every_candidate_has_a_preview_of_the_whole_picture(engine):
    result = chosen(engine, seed=3)
    original = pixels(tiny.picture())
    for each in result.candidates:
        assert each.judged
        shown = pixels(each.judged[-1].preview)
        assert shown.shape == original.shape
        outside = pixels(tiny.box_mask())[..., 0] == 0
        assert (shown[outside] == original[outside]).all()
    assert all(str(each.seed) in result.ranking() for each in result.candidates)


@pytest.mark.parametrize(("running", "keep", "left"), [(8, 1, 3), (9, 1, 3), (4, 3, 3), (2, 1, 1)])
def test_a_third_is_rounded_up_and_never_below_what_is_kept(running, keep, left):
    assert going_on(running, keep) == left


# --- those that are called back ------------------------------------------------------------------


class Picky:
    """A judge that finds what it is asked for in the ``number``-th finished picture.

    On the way it likes what is dark, so that the order is known.
    """

    def __init__(self, number, looks):
        self.number, self.looks, self.seen = number, looks, 0

    def __call__(self, picture, _):
        self.seen += 1
        finished = self.seen - self.looks
        return 1.0 if finished == self.number else 0.4 + 0.1 * (1 - float(picture.mean()) / 255)


LOOKS = 4 + 2
"""Of 4 candidates on their way: two go on after a fifth, one of them after two."""


@pytest.mark.parametrize(("number", "finished"), [(1, 1), (2, 2), (4, 4), (9, 4)])
def test_those_that_stopped_are_called_back_until_one_is_good_enough(engine, number, finished):
    result = chosen(engine, candidates=4, seed=3, judge=Picky(number, LOOKS), enough=0.8)
    left = [each.left_at for each in result.candidates]
    assert left.count(None) == finished
    stopped = sum(round(STEPS * share) for share in left if share)
    assert result.model_calls == STEPS * finished + stopped
    if number <= finished:
        kept = next(each for each in result.candidates if each.seed == result.seeds[0])
        assert kept.judged[-1].scores["prompt"] == 1


def test_the_best_of_those_that_wait_comes_first(engine):
    result = chosen(engine, candidates=4, seed=3, judge=Picky(2, LOOKS), enough=0.8)
    shares = {each.number: [judged.share for judged in each.judged] for each in result.candidates}
    called = next(each for each in result.candidates if each.seed == result.seeds[0])
    assert shares[called.number][-1] == 1
    before = called.judged[-2].scores["total"]
    assert all(each.score <= before for each in result.candidates if each.left_at is not None)


def test_one_that_is_called_back_is_its_single_run(engine):
    result = chosen(engine, candidates=4, seed=3, judge=Picky(3, LOOKS), enough=0.8)
    single = alone(engine, seed=result.seeds[0])
    assert torch.allclose(result.latents, single.latents, atol=5e-4)
    assert np.abs(pixels(result.images[0]) - pixels(single.images[0])).max() <= 1


def test_all_that_are_kept_are_to_be_good_enough(engine):
    result = chosen(engine, candidates=4, keep=2, seed=3, judge=lambda *_: 0.5, enough=0.6)
    assert [each.left_at for each in result.candidates] == [None] * 4
    assert len(result.images) == 2


@pytest.mark.parametrize(
    "changes", [{"enough": 0}, {}, {"enough": 0.8, "judge": lambda *_: math.nan}]
)
def test_nobody_is_called_back_where_no_judge_misses_anything(engine, changes):
    result = chosen(engine, **{"judge": lambda *_: 0.0, "candidates": 4, **changes})
    assert [each.left_at for each in result.candidates].count(None) == 1


def test_the_pocket_says_itself_what_is_enough(pocket):
    contest = Contest(pocket.runtime(), tiny_request(candidates=2))
    assert contest.enough == 0.8
    contest.abort()
    for judge in ("none", brightness):
        assert Contest(pocket.runtime(), tiny_request(candidates=2, judge=judge)).enough is None


# --- laws ----------------------------------------------------------------------------------------


def test_a_candidate_is_its_single_run(engine):
    result = chosen(engine, seed=3)
    single = alone(engine, seed=result.seeds[0])
    # Rows of one call go through the same products in other blocks.
    assert torch.allclose(result.latents, single.latents, atol=5e-4)
    assert np.abs(pixels(result.images[0]) - pixels(single.images[0])).max() <= 1


def test_the_same_again(engine):
    one, two = (chosen(engine, seed=3) for _ in range(2))
    assert one.seeds == two.seeds
    assert (pixels(one.images[0]) == pixels(two.images[0])).all()


def test_a_kept_picture_is_repeated_from_its_record(engine, files):
    asked = {"image": str(files.photo), "mask": str(files.mask)}
    result = chosen(engine, keep=2, candidates=3, seed=3, **asked)
    paths = result.save(files.folder / "out.png")
    for path, seed in zip(paths, result.seeds, strict=True):
        record = EditRecord.read(path)
        assert record.edit["seed"] == seed
        assert "candidates" not in record.edit
        again = engine.edit(**asked, **record.edit, progress=False)
        assert np.abs(pixels(again.images[0]) - pixels(Image.open(path))).max() <= 1
        assert record.settings["candidate"]["of"] == 3


def test_steps_in_which_all_is_held_are_not_judged(engine):
    half = np.full((tiny.SIZE, tiny.SIZE), 0.5, np.float32)
    result = chosen(engine, strength_map=half, mask=None, num_inference_steps=10, candidates=4)
    # Half of ten steps is left: shares are of what is computed.
    assert result.model_calls == 4 * 1 + 2 * 1 + 1 * 3


def test_cut_outs_of_their_own_are_judged_together(engine):
    mask = np.zeros((tiny.SIZE, 4 * tiny.SIZE), np.uint8)
    mask[16:32, 16:32] = mask[16:32, -32:-16] = 255
    wide = Image.fromarray(np.tile(np.asarray(tiny.picture()), (1, 4, 1)))
    given = {"image": wide, "mask": Image.fromarray(mask), "region": "mask"}
    result = chosen(engine, candidates=2, **given)
    assert len(result.settings["regions"]) == 2
    assert result.candidates[0].judged[-1].preview.size == wide.size


def test_strategies_of_several_stages_are_judged(engine):
    result = chosen(engine, strategy="staged", scales="0.5,1", candidates=2)
    assert len([each for each in result.candidates if each.left_at is None]) == 1


# --- strategies ----------------------------------------------------------------------------------


def test_runs_of_one_step_are_judged(engine):
    for changes in ({"num_inference_steps": 1}, {"strength": 0.2}):
        result = chosen(engine, **{"candidates": 3, **changes})
        finished = [each for each in result.candidates if each.left_at is None]
        assert finished
        assert all(each.judged[-1].share == 1 and each.model_calls for each in finished)


def test_several_strategies_take_every_seed(engine):
    result = chosen(engine, strategy="blend,soft-blend", candidates=4, seed=5, power=2.0)
    told = [(each.strategy, each.seed) for each in result.candidates]
    assert told == [("blend", 5), ("soft-blend", 5), ("blend", 6), ("soft-blend", 6)]
    assert result.settings["strategy"] in {"blend", "soft-blend"}


def test_each_strategy_is_tried_without_a_number(engine):
    several = contenders(
        EditRequest(image="i", mask="m", prompt="p", strategy="blend,differential,soft-blend")
    )
    assert [each.strategy.name for each in several] == ["blend", "differential", "soft-blend"]
    assert len({each.seed for each in several}) == 1
    with pytest.raises(UnknownNameError, match="blnd"):
        alone(engine, strategy="blend,blnd")


class Broken(LatentBlend):
    """Fails in its second step."""

    def after_step(self, state, latents, step):
        if step.index == 1:
            raise LookupError("broken")
        return super().after_step(state, latents, step)


class Failing(LatentBlend):
    """Fails in its next step."""

    def after_step(self, state, latents, step):
        raise LookupError("broken")


def test_one_that_fails_leaves_the_others(engine):
    request = replace(tiny_request(), candidates=3, seed=1)
    runtime = engine.runtime()
    contest = Contest(runtime, request)
    broken = contest.entries[1].ticket
    runtime.step()
    broken.jobs[0].strategy = replace(broken.jobs[0].strategy, parts=(Broken(),))
    run(runtime, [contest], progress=False)
    told = contest.outcome().candidates
    assert [type(each.error) for each in told].count(LookupError) == 1
    assert contest.error is None


def test_where_the_last_one_fails_the_next_takes_its_place(engine):
    runtime = engine.runtime()
    contest = Contest(runtime, tiny_request(candidates=4, seed=1, judge=brightness))
    while not any(entry.waiting for entry in contest.entries):
        runtime.step()
        contest.advance()
    while sum(entry.running for entry in contest.entries) > 1:
        runtime.step()
        contest.advance()
    (last,) = (entry for entry in contest.entries if entry.running)
    for job in last.ticket.jobs:
        job.strategy = replace(job.strategy, parts=(Failing(),))
    run(runtime, [contest], progress=False)
    told = contest.outcome().candidates
    assert type(told[last.number].error) is LookupError
    assert sum(each.left_at is None and each.error is None for each in told) == 1


def test_all_that_fail_are_an_error(engine):
    with pytest.raises(LookupError, match="broken"):
        chosen(engine, strategy=Broken(), candidates=2)


# --- the loop ------------------------------------------------------------------------------------


def tiny_request(**changes):
    return EditRequest(
        **{
            "image": tiny.picture(),
            "mask": tiny.box_mask(),
            "prompt": "a red house",
            "num_inference_steps": STEPS,
            **changes,
        }
    )


def test_those_that_wait_take_no_place(engine):
    runtime = Runtime(engine.backbone, "tiny", max_running=2)
    contest = Contest(runtime, tiny_request(candidates=4, seed=1, judge=brightness))
    other = runtime.add(tiny_request(seed=9))
    run(runtime, [contest, other], progress=False)
    assert contest.outcome().model_calls == 4 + 2 + 3
    assert other.outcome().seeds == [9]


def test_a_call_too_small_for_all_keeps_nobody_from_being_judged(engine):
    runtime = engine.runtime()
    runtime._loop._batching.max_cells = 3 * 2 * (tiny.SIZE // 8) ** 2
    contest = Contest(runtime, tiny_request(candidates=8, seed=3, judge=brightness))
    run(runtime, [contest], progress=False)
    assert contest.outcome().model_calls == CALLS


def test_a_callback_is_told_which_candidate_and_cancels_all(engine):
    seen = set()

    def watch(shot):
        seen.add(shot.image)
        return shot.index < 1

    with pytest.raises(CancelledError):
        chosen(engine, candidates=3, callback=watch)
    assert seen == {0, 1, 2}


def test_edits_beside_each_other_choose_by_themselves(engine):
    given = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a", "progress": False}
    given |= {"num_inference_steps": STEPS}
    one, two = engine.edit_many(
        [{**given, "seed": 3, "candidates": 4, "judge": brightness}, {**given, "seed": 9}]
    ).unwrap()
    assert (len(one.candidates), len(two.candidates)) == (4, 0)
    assert two.seeds == [9]


def test_prompts_of_one_edit_choose_by_themselves(engine):
    result = chosen(engine, prompt=["a", "b"], candidates=2, seed=3)
    assert [each.seed for each in result.candidates] == [3, 4, 5, 6]
    assert len(result.images) == len(result.parts) == 2


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 2}, "candidates"),
        ({"candidates": 2, "keep": 3}, "keep"),
        ({"candidates": 2, "num_images": 2}, "keep says"),
        ({"candidates": 2, "output_type": "latent"}, "latent"),
        ({"candidates": 2, "compat": "diffusers", "strategy": "blend"}, "compat"),
        ({"candidates": 2, "generator": torch.Generator()}, "seed="),
        ({"candidates": 2, "image": [tiny.picture(), tiny.picture()]}, "one picture"),
        ({"candidates": 2, "image": torch.randn(1, 4, 8, 8)}, "latents were given"),
        ({"candidates": 2, "judge": "nobody"}, "nobody"),
        ({"candidates": 2, "judge": "clip"}, "clip:MODEL"),
        ({"candidates": 2, "judge": 3}, "callable"),
        ({"candidates": 0}, "from 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(engine, changes, message):
    with pytest.raises(InputError, match=message):
        alone(engine, **changes)


def test_sessions_and_comparisons_take_one_run(engine):
    given = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a"}
    with pytest.raises(InputError, match="candidates"):
        engine.session(**given).render(candidates=2)
    with pytest.raises(InputError, match="candidates"):
        engine.compare(**given, candidates=2, strategies=["blend"])


def test_a_judge_that_says_nonsense_is_refused(engine):
    with pytest.raises(InputError, match="from 0 to 1"):
        chosen(engine, judge=lambda *_: 31.0, candidates=2)


# --- the score -----------------------------------------------------------------------------------


def look(result, original, mask, decoded=None):
    return Look(result, result if decoded is None else decoded, original, mask)


@pytest.fixture
def grey():
    mask = np.zeros((64, 64), np.float32)
    mask[16:48, 16:48] = 1
    return np.full((64, 64, 3), 128, np.uint8), mask


def test_an_unseen_edit_is_best_and_each_fault_costs(grey):
    original, mask = grey
    best = score([look(original, original, mask)], [], None)
    assert (best.total, best.seam, best.colour, best.drift) == (1.0, 0.0, 0.0, 0.0)
    assert math.isnan(best.prompt)
    edged = original.copy()
    edged[16:48, 16:48] = 200
    drifted = original.copy()
    drifted[:8] = 100
    for result, decoded in ((edged, None), (original, drifted)):
        assert score([look(result, original, mask, decoded)], [], None).total < 1


def test_what_the_judge_says_counts(grey):
    original, mask = grey
    seen = [look(original, original, mask)]
    yes, no = (score(seen, [(original, "")], lambda *_, said=said: said) for said in (1.0, 0.0))
    assert yes.total == 1
    assert no.total < 0.6
    unsure = score(seen, [(original, "")], lambda *_: math.nan)
    assert unsure.total == 1
    assert isinstance(unsure, Scores)
    assert "prompt" not in unsure.told()


def test_a_picture_repainted_wholly_is_judged_by_its_prompt_alone(grey):
    original, mask = grey
    found = score([look(original, original, np.ones_like(mask))], [(original, "")], lambda *_: 0.7)
    assert found.total == pytest.approx(0.7)


def test_the_pocket_judges_its_own_model(pocket):
    assert pocket.backbone.judge == "pocket"
    runtime = pocket.runtime()
    contest = Contest(runtime, tiny_request(candidates=2))
    assert contest.judge is not None
    contest.abort()
    assert Contest(pocket.runtime(), tiny_request(candidates=2, judge="none")).judge is None
