"""What networks predict, over every registered kind; flow and EDM schedulers from end to end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
)

from engine.errors import InputError
from engine.registry import Registry
from engine.solvers import parameterisation
from engine.solvers.names import SCHEDULERS, fresh_scheduler
from engine.solvers.parameterisation import PARAMETERISATIONS, Parameterisation, parameterisation_of
from engine.solvers.schedule import Schedule
from engine.types import Level

STEPS = 6
FLOW_NAMES = [name for name in SCHEDULERS.names() if SCHEDULERS.get(name).flow]


def latents(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def arrives_at(schedule: Schedule, x0: torch.Tensor) -> float:
    """How far from ``x0`` a run ends whose network always knows it."""
    generator = torch.Generator().manual_seed(0)
    x = schedule.start(x0, latents(1))
    for step in schedule.steps:
        schedule.scale(x, step)
        prediction = schedule.from_denoised(x0, x, step)
        # Epsilon and EDM divide by small numbers: float32 at latents of up to sigma 80.
        assert torch.allclose(schedule.to_denoised(prediction, x, step), x0, atol=1e-4, rtol=1e-4)
        x = schedule.step(prediction, x, step, generator)
    return float((x - x0).abs().max())


@pytest.mark.parametrize("name", PARAMETERISATIONS.names())
@pytest.mark.parametrize("sigma", [0.02, 0.4, 0.9])
def test_denoised_and_prediction_are_inverse(name, sigma):
    kind = PARAMETERISATIONS.get(name)
    for at in (kind.level(sigma), Level(math.sqrt(1 - sigma**2), sigma)):
        x0, x = latents(0), latents(2)
        back = kind.denoised(kind.prediction(x0, x, at), x, at)
        assert torch.allclose(back, x0, atol=1e-5)


def test_flow_is_the_straight_line():
    flow, x0, noise = PARAMETERISATIONS.get("flow_prediction"), latents(0), latents(1)
    level = flow.level(0.25)
    assert level == Level(0.75, 0.25)
    x = level.noise_to(x0, noise)
    assert torch.allclose(flow.denoised(noise - x0, x, level), x0, atol=1e-6)
    assert torch.allclose(flow.prediction(x0, x, level), noise - x0, atol=1e-5)


def test_an_unknown_prediction_type_lists_what_exists():
    scheduler: Any = EulerDiscreteScheduler()
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(InputError, match=r"'score'.*epsilon.*flow_prediction"):
        Schedule(scheduler, STEPS)


def test_a_kind_is_added_from_outside(monkeypatch):
    @dataclass(frozen=True)
    class Score(Parameterisation):
        """The score: minus the noise over sigma."""

        def denoised(self, prediction, latents, at):
            return (latents + at.sigma**2 * prediction) / at.alpha

        def prediction(self, denoised, latents, at):
            return (at.alpha * denoised - latents) / at.sigma**2

    kinds: Registry[Any] = Registry("parameterisation", Score, "softpaint.none", reserved="")
    kinds.register(Score("score", "the gradient of the log density"))
    monkeypatch.setattr(parameterisation, "PARAMETERISATIONS", kinds)
    scheduler: Any = EulerDiscreteScheduler()
    scheduler.register_to_config(prediction_type="score")
    schedule = Schedule(scheduler, STEPS)
    step = schedule.steps[2]
    x = step.level.noise_to(latents(0), latents(1))
    score = -latents(1) / step.level.sigma
    assert torch.allclose(schedule.to_denoised(score, x, step), latents(0), atol=1e-4)


@pytest.mark.parametrize("name", [*FLOW_NAMES, FlowMatchLCMScheduler])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_flow_runs_arrive(name, strength):
    model = FlowMatchEulerDiscreteScheduler(shift=3.0)
    own = name if isinstance(name, str) else name(shift=3.0)
    schedule = Schedule(fresh_scheduler(own, model), STEPS, strength)
    assert parameterisation_of(schedule.scheduler) is PARAMETERISATIONS.get("flow_prediction")
    assert all(step.level.alpha == pytest.approx(1 - step.level.sigma) for step in schedule.steps)
    assert arrives_at(schedule, latents(0)) < 1e-5
    assert torch.equal(schedule.start_from_noise(latents(1)), latents(1))


def test_flow_heun_visits_each_level_twice():
    schedule = Schedule(FlowMatchHeunDiscreteScheduler(), 4)
    assert [step.starts for step in schedule.steps] == [True, False] * 3 + [True]
    assert [step.position for step in schedule.steps] == [0, 0, 1, 1, 2, 2, 3]
    assert schedule.num_steps == 4


def test_levels_do_not_depend_on_the_schedulers_own_noising():
    """``scale_noise`` of a flow scheduler that has started ignores its timestep."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = Schedule(scheduler, STEPS)
    for step in schedule.steps:
        fresh: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
        fresh.set_timesteps(STEPS)
        want = fresh.scale_noise(latents(0), step.timestep[None], latents(1))
        assert torch.allclose(step.level.noise_to(latents(0), latents(1)), want, atol=1e-6)


def test_what_the_family_knows_reaches_the_scheduler():
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    small, large = (
        Schedule(fresh_scheduler(None, dynamic), 4, arguments={"mu": mu}) for mu in (0.5, 1.15)
    )
    assert large.steps[1].level.sigma > small.steps[1].level.sigma
    own = Schedule(fresh_scheduler(None, dynamic), 2, arguments={"mu": 0.0, "sigmas": [1.0, 0.5]})
    assert [step.level.sigma for step in own.steps] == [1.0, 0.5]
    with pytest.raises(InputError, match="mu"):
        Schedule(fresh_scheduler(None, dynamic), 4)
    with pytest.raises(InputError, match="FlowMatchHeunDiscreteScheduler takes no phi"):
        Schedule(fresh_scheduler("heun", dynamic), 4, arguments={"phi": 0.5})


def test_a_solver_without_a_flow_form_says_which_have_one():
    model = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match=r"'lms' cannot run a flow model.*euler, dpmpp-2m"):
        fresh_scheduler("lms", model)


@pytest.mark.parametrize("kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_edm_runs_arrive_and_agree_with_diffusers(kind, predicts):
    scheduler = kind(prediction_type=predicts)
    schedule = Schedule(fresh_scheduler(scheduler, scheduler), STEPS)
    step = schedule.steps[2]
    x, prediction = step.level.noise_to(latents(0), latents(1)), latents(2)
    want = scheduler.precondition_outputs(x, prediction, step.level.sigma)
    assert torch.allclose(schedule.to_denoised(prediction, x, step), want, atol=1e-5, rtol=1e-5)
    # The solver's last level is clean; float32 at a first one of sigma 80.
    assert arrives_at(schedule, latents(0)) < 1e-4


def test_names_mean_the_same_solver_of_an_edm_model():
    model: Any = EDMDPMSolverMultistepScheduler(sigma_max=120.0, prediction_type="v_prediction")
    made: Any
    for name, kind in (("euler", EDMEulerScheduler), ("dpmpp-2m-sde", type(model))):
        made = fresh_scheduler(name, model)
        assert (made.config.sigma_max, made.config.prediction_type) == (120.0, "v_prediction")
        assert type(made) is kind
        assert arrives_at(Schedule(made, STEPS), latents(0)) < 1e-3
    with pytest.raises(InputError, match=r"'ddim' cannot run a model with EDM.*: euler, "):
        fresh_scheduler("ddim", model)


def test_an_edm_model_has_no_shares_of_a_training_schedule():
    scheduler = fresh_scheduler(None, EDMEulerScheduler())
    with pytest.raises(InputError, match="EDM's preconditioning has none"):
        Schedule(scheduler, STEPS, denoising_start=0.5)
