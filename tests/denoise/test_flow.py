"""Every 4-channel strategy on a flow model, at the loop: a network of one line, no UNet, no VAE.

The network knows where it is heading: its flow from any latents x at level s is (x - target) / s,
which is linear in x, so that a run that repaints everything ends at the target.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from engine.denoise.guidance import Guidance, Unguided
from engine.denoise.job import Job
from engine.denoise.loop import Loop
from engine.denoise.resume import Trace
from engine.denoise.strategy import StrategyContext
from engine.solvers.names import SCHEDULERS, fresh_scheduler
from engine.solvers.schedule import Schedule
from engine.types import Conditioning
from strategies import create_strategy, get_strategy
from tests.kit import tiny

STEPS = 12
SHAPE = (1, 16, 8, 8)
ROUNDED = 0.02
"""How far off a run may end: some solvers tell the network a timestep cut to a whole thousandth of
the level, which is up to 0.005 of the smallest ones, of values up to 4."""
STRATEGIES = [name for name in tiny.STRATEGIES if get_strategy(name).network == "base"]
FLOW_NAMES = [name for name in SCHEDULERS.names() if SCHEDULERS.get(name).flow]


class LinearFlow:
    """``v = (x - target) / s``; the target is what the conditioning says."""

    def cells_at_hand(self) -> int:
        return sys.maxsize

    def predict(self, sample, timesteps, conditioning, residuals):
        assert not residuals
        level = (timesteps / 1000).view(-1, 1, 1, 1)
        return (sample - conditioning.tensors["target"]) / level


NETWORK: Any = LinearFlow()
MODEL = FlowMatchEulerDiscreteScheduler(shift=3.0)


def draw(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


ORIGINAL, TARGET = draw(0), draw(1)


def job_for(
    strategy: Any,
    strength_map: torch.Tensor,
    *,
    scheduler: str = "euler",
    strength: float = 1.0,
    x0: torch.Tensor = ORIGINAL,
    guided: bool = False,
    seed: int = 5,
) -> Job:
    schedule = Schedule(fresh_scheduler(scheduler, MODEL), STEPS, strength)
    context = StrategyContext(
        schedule=schedule,
        init_latents=x0,
        noise=draw(seed),
        strength_map=strength_map,
        network="base",
        masked_image_latents=lambda: pytest.fail("a 4-channel strategy asks for no such latents"),
        map_pixels=lambda: pytest.fail("no text-to-image network looks at pixels"),
    )
    branches = {"cond": Conditioning({"target": TARGET})}
    if guided:
        branches = {"uncond": Conditioning({"target": ORIGINAL}), **branches}
    noise_start = strategy.start == "noise"
    return Job(
        name=strategy.name,
        network=NETWORK,
        schedule=schedule,
        strategy=strategy,
        state=strategy.prepare(context),
        latents=schedule.start_from_noise(context.noise)
        if noise_start
        else schedule.start(x0, context.noise),
        branches=branches,
        guidance=Guidance(2.0) if guided else Unguided(),
        generator=torch.Generator().manual_seed(seed),
    )


def finished(*jobs: Job) -> list[torch.Tensor]:
    loop = Loop()
    loop.submit(jobs)
    loop.run()
    for job in jobs:
        if job.error is not None:
            raise job.error
    return [job.latents for job in jobs]


def edited(name: str, strength_map: torch.Tensor, scheduler: str) -> torch.Tensor:
    """All stages of a strategy, each on the result of the one before."""
    latents = ORIGINAL
    for stage in create_strategy(name).stages:
        run: dict[str, Any] = {"scheduler": scheduler, "strength": stage.strength, "x0": latents}
        (latents,) = finished(job_for(stage.strategy, strength_map, **run))
    return latents


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 1, *SHAPE[2:]), value)


@pytest.mark.parametrize("scheduler", FLOW_NAMES)
@pytest.mark.parametrize("name", STRATEGIES)
class TestEveryStrategy:
    def test_a_map_of_ones_ends_at_what_is_asked_for(self, name, scheduler):
        got = edited(name, flat(1.0), scheduler)
        assert torch.allclose(got, TARGET, atol=ROUNDED)

    def test_a_map_of_zeros_ends_at_the_original(self, name, scheduler):
        assert torch.equal(edited(name, flat(0.0), scheduler), ORIGINAL)

    def test_a_soft_map_lies_between_from_the_first_level_on(self, name, scheduler):
        """Alpha is 0 at the first flow level: nothing divides by it."""
        ramp = torch.linspace(0, 1, 4).repeat_interleave(2).expand(1, 1, *SHAPE[2:]).contiguous()
        got = edited(name, ramp, scheduler)
        assert got.isfinite().all()
        assert torch.equal(got[..., 0], ORIGINAL[..., 0])
        assert torch.allclose(got[..., -1], TARGET[..., -1], atol=ROUNDED)


@pytest.mark.parametrize("name", ["blend", "differential", "soft-blend"])
def test_guided_and_batched_is_solo(name):
    """Each row by itself to the network: the same bits with others beside it."""
    strategy = create_strategy(name)
    half = flat(0.0)
    half[..., 4:] = 1.0
    runs: list[dict[str, Any]] = [
        {"guided": True},
        {"scheduler": "heun", "strength": 0.5},
        {"seed": 9},
    ]
    alone = [finished(job_for(strategy, half, **run))[0] for run in runs]
    together = finished(*(job_for(strategy, half, **run) for run in runs))
    for got, want in zip(together, alone, strict=True):
        assert torch.equal(got, want)
    # Twice as far from the original as the target is, which scale 2 asks for.
    want = 2 * TARGET - ORIGINAL
    assert torch.allclose(together[0][..., 4:], want[..., 4:], atol=1e-3)


@pytest.mark.parametrize("scheduler", FLOW_NAMES)
def test_skipped_is_full(scheduler):
    strategy = create_strategy("differential")
    (full,) = finished(job_for(strategy, flat(0.5), scheduler=scheduler))
    job = job_for(strategy, flat(0.5), scheduler=scheduler)
    job.skip_to(job.first_needed())
    assert job.spared > 0
    (quick,) = finished(job)
    assert torch.equal(quick, full)


@pytest.mark.parametrize("scheduler", FLOW_NAMES)
def test_retuned_is_full(scheduler):
    strategy = create_strategy("differential")
    before, after = flat(1.0), flat(1.0)
    before[..., :4], after[..., :4] = 0.3, 0.6
    first = job_for(strategy, before, scheduler=scheduler)
    trace = Trace(first)
    trace.begin(first, None)
    finished(first)
    job = job_for(strategy, after, scheduler=scheduler)
    found = trace.find(job)
    assert found is not None
    Trace(job).begin(job, found)
    assert 0 < job.begin < len(job.schedule)
    (full,) = finished(job_for(strategy, after, scheduler=scheduler))
    (retuned,) = finished(job)
    assert torch.equal(retuned, full)
