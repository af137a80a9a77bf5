"""Flow levels that shift with the size of the picture, under every solver that knows flows."""

from __future__ import annotations

import math

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from engine.solvers.names import SCHEDULERS, fresh_scheduler
from engine.solvers.schedule import Schedule
from engine.solvers.shift import dynamic_shift

FLOW = [info.name for info in SCHEDULERS if info.flow is not None]
STEPS = 6


@pytest.fixture(scope="module")
def dynamic():
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)


@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096, 8100])
def test_mu_is_that_of_diffusers_pipelines(dynamic, tokens):
    assert dynamic_shift(dynamic, tokens) == {"mu": calculate_shift(tokens)}


def test_a_scheduler_that_does_not_go_by_size_is_told_nothing():
    assert dynamic_shift(FlowMatchEulerDiscreteScheduler(shift=3.0), 4096) == {}


def levels(scheduler, **arguments):
    schedule = Schedule(scheduler, STEPS, arguments=arguments)
    return [step.level.sigma for step in schedule.steps if step.starts]


@pytest.mark.parametrize("name", FLOW)
def test_every_flow_solver_takes_the_shift_of_the_size(dynamic, name):
    """A level s becomes e^mu s / (1 + (e^mu - 1) s), whatever the solver's own levels are."""
    plain = levels(fresh_scheduler(name, dynamic), mu=0.0)
    shifted = levels(fresh_scheduler(name, dynamic), mu=1.1)
    factor = math.exp(1.1)
    for before, after in zip(plain, shifted, strict=True):
        assert after == pytest.approx(factor * before / (1 + (factor - 1) * before), abs=2e-4)
    assert shifted[1] > plain[1] + 0.05


@pytest.mark.parametrize("name", FLOW)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_step_is_the_same_share_of_linear_time_under_every_shift(name, shift):
    """So that a strength, which counts steps, means the same share of the run; the levels that it
    is noised to are the shifted ones.
    """
    model = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = Schedule(fresh_scheduler(name, model), 20)
    starts = [step for step in schedule.steps if step.starts]
    for step in starts:
        sigma = step.level.sigma
        linear = sigma / (shift - (shift - 1) * sigma)
        assert linear == pytest.approx(1 - step.position / len(starts), abs=1.01 / len(starts))


@pytest.mark.parametrize("name", FLOW)
def test_a_fixed_shift_reaches_every_flow_solver(name):
    one, three = (
        levels(fresh_scheduler(name, FlowMatchEulerDiscreteScheduler(shift=shift)))
        for shift in (1.0, 3.0)
    )
    assert three[2] > one[2] + 0.1


def test_sigmas_are_for_those_that_take_some(dynamic):
    sigmas = [1.0, 0.75, 0.5, 0.25]
    own = Schedule(fresh_scheduler(None, dynamic), 4, arguments={"sigmas": sigmas, "mu": 0.0})
    assert [step.level.sigma for step in own.steps] == pytest.approx(sigmas)
    heun = Schedule(fresh_scheduler("heun", dynamic), 4, arguments={"sigmas": sigmas, "mu": 0.0})
    assert len(heun) == 7


def test_two_sizes_of_one_model_share_nothing(dynamic):
    """The shift is written into the copy of a scheduler, not into the one it is a copy of."""
    small, large = (levels(fresh_scheduler("unipc", dynamic), mu=mu) for mu in (0.5, 1.5))
    assert small == levels(fresh_scheduler("unipc", dynamic), mu=0.5) != large
