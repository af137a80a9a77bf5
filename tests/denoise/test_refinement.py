"""Jobs that ask for more than one evaluation at a level, or for other branches than two."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from engine.denoise.guidance import COND, UNCOND, ClassifierFree, Guidance
from engine.denoise.loop import Loop
from engine.denoise.strategy import Part, Stage, StagedStrategy, Strategy
from engine.errors import CancelledError, InputError
from engine.request.request import EditRequest
from engine.types import Conditioning
from strategies import DifferentialDiffusion, LatentBlend
from tests.kit import tiny
from tests.kit.jobs import jobs_of

STEPS = 3
# Rows of one batch go through the same matrix products in other blocks: float32 rounding of
# activations of order 10, over a few steps.
TOLERANCE = 5e-4


@dataclass(frozen=True)
class Langevin(Part):
    """Unadjusted Langevin steps at each level before the solver's: ``inner`` evaluations more."""

    inner: int = 2
    size: float = 0.05

    def refine(self, state, latents, step, draw):
        level = step.level
        for _ in range(self.inner):
            evaluation = yield latents
            drift = level.alpha * evaluation.denoised() - latents
            latents = latents + self.size * drift + math.sqrt(2 * self.size) * level.sigma * draw()
        return latents


THREE = Strategy("three", (LatentBlend(), Langevin()))
HELD = Strategy("held", (DifferentialDiffusion(), Langevin(inner=1)))


def jobs_for(engine, strategy, **changes):
    request = EditRequest(
        image=tiny.picture(),
        mask=tiny.box_mask(),
        **{"prompt": "a red house", "num_inference_steps": STEPS, "seed": 1, **changes},
    )
    return jobs_of(engine, request, [strategy])


def finished(*jobs):
    loop = Loop()
    loop.submit(jobs)
    loop.run()
    for job in jobs:
        if job.error is not None:
            raise job.error
    return [job.latents for job in jobs]


def edited(engine, strategy, **changes):
    return tiny.edited(engine, **{"strategy": strategy, "num_inference_steps": STEPS, **changes})


class Watched:
    """A network that notes its calls' rows."""

    def __init__(self, network):
        self.network, self.sizes = network, []

    def cells_at_hand(self):
        return self.network.cells_at_hand()

    def predict(self, sample, timesteps, conditioning, residuals):
        self.sizes.append(len(sample))
        return self.network.predict(sample, timesteps, conditioning, residuals)


def watched(*jobs):
    network = Watched(jobs[0].network)
    for job in jobs:
        job.network = network
    return network


# Several evaluations a step --------------------------------------------------------------------


@torch.no_grad()
def by_hand(job, inner, size=0.05):
    """The run of :data:`THREE` written out."""
    x, blend, network = job.latents, job.strategy.parts[0], job.network
    both = Conditioning.join([job.branches[UNCOND], job.branches[COND]])
    generator = job.generator
    for step in job.schedule.steps:

        def predicted(x, step=step):
            scaled = torch.cat([job.schedule.scale(x, step)] * 2)
            time = step.timestep.float().expand(2)
            uncond, cond = network.predict(scaled, time, both, {}).chunk(2)
            return uncond + job.guidance.scale * (cond - uncond)

        for _ in range(inner):
            x0 = job.schedule.to_denoised(predicted(x), x, step)
            drift = step.level.alpha * x0 - x
            noise = torch.randn(x.shape, generator=generator)
            x = x + size * drift + math.sqrt(2 * size) * step.level.sigma * noise
        x = job.schedule.step(predicted(x), x, step, generator)
        x = blend.after_step(job.state[0], x, step)
    return x


def test_three_evaluations_a_step(engine):
    (job,) = jobs_for(engine, THREE)
    (again,) = jobs_for(engine, THREE)
    network = watched(job)
    (got,) = finished(job)
    assert network.sizes == [2] * 3 * STEPS
    assert job.calls == 3 * STEPS
    assert torch.allclose(got, by_hand(again, inner=2), atol=1e-5)


def test_observers_see_steps_not_evaluations(engine):
    seen = []
    (job,) = jobs_for(engine, THREE, callback=lambda shot: seen.append(shot.index))
    finished(job)
    assert seen == list(range(STEPS))


def test_it_shares_calls_with_an_ordinary_job(engine):
    (three,) = jobs_for(engine, THREE)
    (plain,) = jobs_for(engine, Strategy("plain", (LatentBlend(),)), seed=7)
    alone = [
        *finished(*jobs_for(engine, THREE)),
        *finished(*jobs_for(engine, Strategy("plain", (LatentBlend(),)), seed=7)),
    ]
    network = watched(three, plain)
    together = finished(three, plain)
    assert network.sizes == [4] * STEPS + [2] * 2 * STEPS
    for got, want in zip(together, alone, strict=True):
        assert torch.allclose(got, want, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("done", [1, 2, 3, 5])
def test_an_abort_between_evaluations_frees_the_job(engine, done):
    """Before, within and after inner iterations; the others go on."""
    want = finished(*jobs_for(engine, THREE, seed=7))[0]
    (gone,) = jobs_for(engine, THREE)
    (stays,) = jobs_for(engine, THREE, seed=7)
    loop = Loop()
    loop.submit([gone, stays])
    for _ in range(done):
        assert loop.step() == []
    held = [weakref.ref(gone.latents), weakref.ref(gone.state[0].noise)]
    loop.abort(gone)
    gc.collect()
    assert not any(each() is not None for each in held)
    assert loop.step() == [gone]
    assert isinstance(gone.error, CancelledError)
    left = []
    while loop.active:
        left += loop.step()
    assert left == [stays]
    assert torch.allclose(stays.latents, want, atol=TOLERANCE, rtol=TOLERANCE)
    loop.abort(stays)  # has left: no effect
    assert stays.error is None


def test_who_leaves_is_reported_by_itself(engine):
    (quick,) = jobs_for(engine, THREE, num_inference_steps=1)
    (bad,) = jobs_for(engine, THREE, callback=lambda shot: 1 / shot.index)
    (slow,) = jobs_for(engine, THREE)
    loop, left = Loop(), []
    loop.submit([quick, bad, slow])
    while loop.active:
        left.append(loop.step())
    # One step takes three evaluations; both first steps end with the third call.
    assert left == [[], [], [quick, bad], *[[]] * 5, [slow]]
    assert isinstance(bad.error, ZeroDivisionError)


def test_owners_pass_to_the_jobs_that_follow(engine):
    first, second = (Strategy(name, (LatentBlend(),)) for name in "ab")
    staged = StagedStrategy("staged", (Stage(first), Stage(second, 0.5)))
    (job,) = jobs_for(engine, staged)
    job.owner = "ticket"
    loop, left = Loop(), []
    loop.submit([job])
    while loop.active:
        left += loop.step()
    assert left == [job.chain[-1]] != [job]
    assert left[0].owner == "ticket"


# Steps left out and gone on from ---------------------------------------------------------------


def test_skipped_is_full(engine):
    """Inner iterations of skipped steps draw their noise: the rest is the same to the bit."""
    weak = np.full((tiny.SIZE, tiny.SIZE), 0.4, np.float32)
    run = {"strength_map": weak, "num_inference_steps": 5}
    quick, full = edited(engine, HELD, **run), edited(engine, HELD, **run, skip=False)
    assert torch.equal(quick.latents, full.latents)
    assert quick.model_calls == 2 * 2
    assert quick.skipped_calls == 2 * 3


def test_a_session_goes_on_from_the_last_equal_step(engine):
    settings = {"image": tiny.picture(), "prompt": "a red house", "strategy": THREE, "seed": 2}
    settings |= {"mask": tiny.box_mask(), "num_inference_steps": 4, "output_type": "latent"}
    session = engine.session(**settings)
    first = session.render()
    assert (first.model_calls, first.reused_calls) == (12, 0)
    changed = session.render(guidance_end=0.5)
    full = engine.edit(**settings, guidance_end=0.5)
    assert torch.equal(changed.latents, full.latents)
    assert (changed.model_calls, changed.reused_calls) == (6, 6)
    again = session.render()
    assert torch.equal(again.latents, first.latents)
    assert (again.model_calls, again.reused_calls) == (0, 12)


def test_another_map_starts_a_refined_run_anew(engine):
    """What inner iterations make of the state is not tried out: other states share no step."""
    settings = {"image": tiny.picture(), "prompt": "a red house", "strategy": THREE, "seed": 2}
    settings |= {"num_inference_steps": STEPS, "output_type": "latent"}
    one, two = (np.full((tiny.SIZE, tiny.SIZE), value, np.float32) for value in (1.0, 0.5))
    session = engine.session(**settings)
    session.render(strength_map=one)
    changed = session.render(strength_map=two)
    assert torch.equal(changed.latents, engine.edit(**settings, strength_map=two).latents)
    assert changed.reused_calls == 0


# Branches --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toward:
    """Classifier-free guidance towards a mean of two prompts."""

    scale: float
    branches: tuple[str, ...] = (UNCOND, COND, "style")

    def at(self, progress):
        return self

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mean = (predictions[COND] + predictions["style"]) / 2
        return predictions[UNCOND] + self.scale * (mean - predictions[UNCOND])


def test_a_guider_may_have_three_branches(engine):
    blend = Strategy("plain", (LatentBlend(),))
    (job,) = jobs_for(engine, blend)
    (plain,) = jobs_for(engine, blend)
    (other,) = jobs_for(engine, blend, prompt="a boat")
    want = finished(plain)[0]
    same, apart = jobs_for(engine, blend)[0], job
    for each, style in ((same, job.branches[COND]), (apart, other.branches[COND])):
        each.branches = {**each.branches, "style": style}
        each.guidance = Toward(5.0)
    network = watched(same)
    assert torch.allclose(finished(same)[0], want, atol=TOLERANCE, rtol=TOLERANCE)
    assert network.sizes == [3] * STEPS
    assert (finished(apart)[0] - want).abs().max() > 0.01


def test_inner_iterations_may_combine_the_branches_otherwise(engine):
    seen = []

    class Looks(Part):
        def refine(self, state, latents, step, draw):
            evaluation = yield latents
            plain = evaluation.denoised(ClassifierFree(1.0))
            seen.append((evaluation.denoised() - plain).abs().max())
            assert torch.allclose(
                evaluation.prediction(ClassifierFree(1.0)), evaluation.predictions[COND], atol=1e-5
            )
            return latents

    finished(*jobs_for(engine, Strategy("looks", (LatentBlend(), Looks()))))
    assert min(seen) > 1e-3


def with_short_negative(job, *, masked):
    """The job with a negative prompt of one token, which can be padded and masked, or not."""
    uncond = job.branches[UNCOND]
    short = uncond.adding({"encoder_hidden_states": uncond.text[:, :1]})
    masks = {"encoder_hidden_states": "encoder_attention_mask"} if masked else {}
    branches = {UNCOND: short, COND: job.branches[COND]}
    job.branches = {name: replace(each, masks=masks) for name, each in branches.items()}
    return job


def test_prompts_of_unequal_length_are_padded_or_make_calls_of_their_own(engine):
    blend = Strategy("plain", (LatentBlend(),))
    made = {}
    for masked in (True, False):
        pair = [jobs_for(engine, blend, seed=seed)[0] for seed in (1, 2)]
        jobs = [with_short_negative(job, masked=masked) for job in pair]
        network = watched(*jobs)
        made[masked] = finished(*jobs)
        # One call of all; or one of both short ones and one of both long ones.
        assert network.sizes == ([4] * STEPS if masked else [2, 2] * STEPS)
    for one, other in zip(made[True], made[False], strict=True):
        assert torch.allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def test_controls_need_branches_that_share_a_call(engine):
    (job,) = jobs_for(engine, Strategy("plain", (LatentBlend(),)))
    with_short_negative(job, masked=False)
    with pytest.raises(InputError, match="length of their prompts"):
        replace(job, controls=[object()])


def test_guidance_is_a_value_of_its_time():
    whole, part = Guidance(5.0), Guidance(5.0, start=0.25, end=0.5)
    assert whole.at(0.0) == part.at(0.25) == ClassifierFree(5.0)
    assert part.at(0.0) == part.at(0.5) == Guidance(1.0).at(0.3)
    assert part.at(0.5).branches == (COND,)
    halves = {name: torch.ones(2, 4, 4, 4) * value for name, value in ((UNCOND, 1), (COND, 2))}
    assert torch.equal(whole.at(0).combine(halves), torch.full((2, 4, 4, 4), 6.0))
