"""Runs of every scheduler: where solver steps start, what levels they have, how they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, IPNDMScheduler, RePaintScheduler

from engine.errors import InputError, UnknownNameError
from engine.solvers.names import check_scheduler, fresh_scheduler, list_schedulers
from engine.solvers.runs import steps_for_strength
from engine.solvers.schedule import Schedule
from tests.kit import tiny

STEPS = 6


@pytest.fixture(scope="module")
def base():
    return tiny.modules()["scheduler"]


def make(name, base, strength=1.0, **kwargs) -> Schedule:
    return Schedule(fresh_scheduler(name, base), STEPS, strength, **kwargs)


@pytest.mark.parametrize("name", list_schedulers())
@pytest.mark.parametrize("strength", [1.0, 0.6, 0.17])
class TestEveryScheduler:
    def test_levels_are_what_add_noise_gives(self, base, name, strength):
        """At the start of each solver step, the explicit level equals the scheduler's own."""
        schedule = make(name, base, strength)
        x0, noise = torch.full((1, 4, 2, 2), 0.5), torch.ones(1, 4, 2, 2)
        for step in schedule.steps:
            if not step.starts:
                continue
            # A scheduler that has not started, told by begin_index where it is.
            other = fresh_scheduler(name, base)
            other.set_timesteps(STEPS)
            if hasattr(other, "set_begin_index"):
                begin = schedule.scheduler.begin_index or 0
                other.set_begin_index(begin + step.index)
            want = other.add_noise(x0, noise, step.timestep[None])
            assert torch.allclose(step.level.noise_to(x0, noise), want, rtol=2e-6, atol=1e-6)

    def test_solver_steps_tile_the_run(self, base, name, strength):
        schedule = make(name, base, strength)
        steps = schedule.steps
        assert steps[0].starts
        assert steps[-1].ends
        assert steps[-1].last
        assert steps[-1].next_level.sigma == 0
        assert [step.index for step in steps] == list(range(len(schedule)))
        for before, after in pairwise(steps):
            assert before.ends == after.starts
            assert before.next_level == after.level
        starts = [step for step in steps if step.starts]
        assert starts[0].position == 0
        assert schedule.num_steps == steps_for_strength(STEPS, strength)
        positions = [step.position for step in starts]
        assert positions == sorted(set(positions))
        sigmas = [step.level.sigma / step.level.alpha for step in starts]
        assert sigmas == sorted(sigmas, reverse=True)

    def test_a_perfect_prediction_arrives_at_the_original(self, base, name, strength):
        """A network that always knows the noise leads every scheduler back to x0, from any cut:
        the run's timesteps, tables and counters agree with one another."""
        schedule = make(name, base, strength)
        generator = torch.Generator().manual_seed(0)
        x0 = torch.randn(1, 4, 4, 4, generator=generator)
        noise = torch.randn(1, 4, 4, 4, generator=generator)
        latents = schedule.start(x0, noise)
        for step in schedule.steps:
            schedule.scale(latents, step)
            prediction = schedule.from_denoised(x0, latents, step)
            assert torch.allclose(
                schedule.to_denoised(prediction, latents, step), x0, atol=1e-4, rtol=1e-4
            )
            latents = schedule.step(prediction, latents, step, generator)
        # Some stop at the smallest level of their table, sigma .03 to .04, and leave that much
        # noise: 4 standard deviations of it.
        assert (latents - x0).abs().max() < 0.16


@pytest.mark.parametrize("name", list_schedulers())
def test_v_prediction_is_inverted(base, name):
    base = type(base).from_config(base.config, prediction_type="v_prediction")
    schedule = make(name, base)
    x0, noise = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    for step in schedule.steps:
        level = step.level
        latents = level.noise_to(x0, noise)
        norm = (level.alpha**2 + level.sigma**2) ** 0.5
        velocity = (level.alpha * noise - level.sigma * x0) / norm
        assert torch.allclose(schedule.to_denoised(velocity, latents, step), x0, atol=1e-4)
        assert torch.allclose(schedule.from_denoised(x0, latents, step), velocity, atol=2e-3)


def test_strength_rounds_to_the_nearest_step():
    assert [steps_for_strength(4, s) for s in (1.0, 0.9999, 0.5, 0.1)] == [4, 4, 2, 1]
    assert steps_for_strength(30, 0.6) == 18


@pytest.mark.parametrize("name", [None, *list_schedulers()])
def test_fresh_schedulers_are_equal_and_apart(name, base):
    first, second = (fresh_scheduler(name, base) for _ in range(2))
    assert type(first) is type(second)
    assert dict(first.config) == dict(second.config)
    first.set_timesteps(4)
    for key, value in vars(second).items():
        if isinstance(value, torch.Tensor):
            assert vars(first)[key].data_ptr() != value.data_ptr(), key
    third = fresh_scheduler(name, base)
    third.set_timesteps(4)
    assert torch.equal(third.timesteps, first.timesteps)


def test_a_changed_config_makes_other_schedulers(base):
    before = fresh_scheduler("euler", base)
    changed = fresh_scheduler(None, base)
    changed.register_to_config(beta_end=0.5)
    assert fresh_scheduler("euler", changed).config.beta_end == 0.5
    assert fresh_scheduler("euler", base).config.beta_end == before.config.beta_end != 0.5


def test_a_fresh_scheduler_shares_nothing(base):
    first = fresh_scheduler(base, base)
    assert first is not base
    first.set_timesteps(3)
    assert fresh_scheduler(None, first).num_inference_steps is None


def test_unknown_names_say_what_is_near():
    with pytest.raises(UnknownNameError, match="Did you mean 'euler-karras'"):
        check_scheduler("euler-karas")
    with pytest.raises(InputError, match="not int"):
        check_scheduler(3)
    with pytest.raises(
        InputError, match=r"give an object of it, such as DDIMScheduler\.from_config"
    ):
        check_scheduler(DDIMScheduler)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (RePaintScheduler, "a pipeline of its own: its steps want original_image, mask"),
        (IPNDMScheduler, "tells no noise levels"),
    ],
)
def test_schedulers_of_other_pipelines_are_refused(base, kind, words):
    scheduler = kind.from_config(base.config)
    scheduler.register_to_config(prediction_type="epsilon")
    with pytest.raises(InputError, match=f"{kind.__name__}.*{words}"):
        Schedule(scheduler, STEPS)


def test_a_scheduler_that_refuses_the_steps_is_an_input_error(base):
    with pytest.raises(InputError, match="LCMScheduler cannot run 60 steps"):
        Schedule(fresh_scheduler("lcm", base), 60)


def test_denoising_start_and_end_split_a_run(base):
    first = make("euler", base, denoising_end=0.5)
    second = make("euler", base, denoising_start=0.5)
    whole = make("euler", base)
    timesteps = [float(step.timestep) for step in (*first.steps, *second.steps)]
    assert timesteps == [float(step.timestep) for step in whole.steps]
    assert first.steps[-1].next_level == second.steps[0].level
    assert first.steps[-1].next_level.sigma > 0
