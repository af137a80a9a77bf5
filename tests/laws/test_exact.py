"""The same pixels for less work: shared calls, steps left out and steps gone on from. For every
scheduler with two strategies, and so for every strategy with a quarter of the schedulers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.denoise.loop import Loop
from engine.request.request import EditRequest
from engine.solvers.names import list_schedulers
from tests.kit import tiny
from tests.kit.jobs import jobs_of

STEPS = 3
STRATEGIES = [*tiny.STRATEGIES, "inpaint9+differential"]
SOME = [
    pytest.param(
        name,
        [STRATEGIES[(2 * i + j) % len(STRATEGIES)] for j in range(2)],
        id=name,
        marks=[pytest.mark.processors] if name == "dpmpp-2m" else [],
    )
    for i, name in enumerate(list_schedulers())
]
pytestmark = pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")
SCHEDULERS = pytest.mark.parametrize(("scheduler", "strategies"), SOME)


def soft(low: float, high: float) -> np.ndarray:
    """A map from ``low`` on the left to ``high`` on the right, in four strengths."""
    strengths = np.linspace(low, high, 4, dtype=np.float32)
    return np.tile(np.repeat(strengths, tiny.SIZE // 4), (tiny.SIZE, 1))


def settings(scheduler: str, **changes):
    return {
        "image": tiny.picture(),
        "prompt": "a red house",
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "scheduler": scheduler,
        "seed": 3,
        "output_type": "latent",
        **changes,
    }


def finished(engine, several):
    """The latents of strategies' jobs that went through one loop."""
    firsts = []
    for number, (strategy, name) in enumerate(several):
        request = EditRequest(**settings(name, seed=number, strength_map=soft(0, 1)))
        firsts += jobs_of(engine, request, [strategy])
    loop = Loop()
    loop.submit(firsts)
    loop.run()
    assert not any(each.error for job in firsts for each in job.chain)
    return [job.chain[-1].latents for job in firsts]


@SCHEDULERS
def test_batched_is_solo(engine, scheduler, strategies):
    """Each strategy beside the others, and one under another scheduler."""
    several = [*((strategy, scheduler) for strategy in strategies), ("blend", "euler")]
    together = finished(engine, several)
    for number, (strategy, name) in enumerate(several):
        job = {"strength_map": soft(0, 1), "seed": number, "strategy": strategy}
        want = engine.edit(**settings(name, **job)).latents
        assert torch.allclose(together[number], want, atol=5e-4, rtol=5e-4), strategy


@SCHEDULERS
def test_skipped_is_full(engine, scheduler, strategies):
    for strategy in strategies:
        arguments = settings(scheduler, strategy=strategy, strength_map=soft(0, 0.5))
        quick, full = engine.edit(**arguments), engine.edit(**arguments, skip=False)
        assert torch.equal(quick.latents, full.latents), strategy
        if "differential" in strategy:
            assert quick.skipped_calls + quick.model_calls == full.model_calls


@SCHEDULERS
def test_retuned_is_full(engine, scheduler, strategies):
    before, after = soft(0, 1), soft(0, 1)
    after[16:32, 8:24] = 0.4
    for strategy in strategies:
        arguments = settings(scheduler, strategy=strategy)
        session = engine.session(**arguments)
        session.render(strength_map=before)
        retuned = session.render(strength_map=after)
        full = engine.edit(**arguments, strength_map=after)
        assert torch.equal(retuned.latents, full.latents), strategy
