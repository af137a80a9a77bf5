"""Work that is left out because it cannot change a pixel: skipped = full, retuned = full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import InpaintEngine
from engine.schedule import Schedule, fresh_scheduler, list_schedulers
from tests import tiny

STEPS = 10


@pytest.fixture(scope="module")
def engine() -> InpaintEngine:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline(**tiny.modules())
    return InpaintEngine.from_pipe(pipe, inpaint_unet=tiny.unet(9, seed=1))


def ramp(low: float, high: float) -> np.ndarray:
    """A map from ``low`` on the left to ``high`` on the right."""
    return np.tile(np.linspace(low, high, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))


def edit(engine, **changes):
    generator = torch.Generator().manual_seed(3)
    settings = {
        "image": tiny.picture(),
        "prompt": "a red house",
        "num_inference_steps": STEPS,
        "generator": generator,
        "output_type": "latent",
        **changes,
    }
    return engine.edit(**settings), generator.get_state()


@pytest.mark.parametrize("name", list_schedulers())
class TestLeadingSkip:
    def test_skipped_is_full(self, engine, name):
        arguments = {"strength_map": ramp(0.1, 0.5), "scheduler": name}
        full, drawn = edit(engine, skip=False, **arguments)
        quick, drawn_too = edit(engine, **arguments)
        assert torch.equal(quick.latents, full.latents)
        assert torch.equal(drawn, drawn_too)
        # Freed at step 6, by what step 5 made of them: 5 of 10 calls. Histories take one more
        # (order 2) or three (order 4); Heun's kind makes two calls a step, but for the last.
        calls = dict.fromkeys(("heun", "kdpm2", "kdpm2-a"), 9) | {"lms": 8, "pndm": 8}
        calls |= dict.fromkeys(("dpmpp-2s", "deis", "unipc", "sa-solver"), 6)
        assert quick.model_calls == calls.get(name, 6 if name.startswith("dpmpp") else 5)
        assert full.model_calls == len(schedule_of(engine, name))


def schedule_of(engine, name):
    return Schedule(fresh_scheduler(name, engine.pipe.scheduler), STEPS)


def test_the_callback_sees_what_is_computed(engine):
    seen = []
    arguments = {"strength_map": ramp(0.0, 0.5), "callback": lambda shot: seen.append(shot.index)}
    edit(engine, **arguments)
    assert seen == [5, 6, 7, 8, 9]
    seen.clear()
    edit(engine, skip=False, **arguments)
    assert seen == list(range(10))


def test_nothing_is_skipped_where_a_pixel_is_free_from_the_start(engine):
    result, _ = edit(engine, strength_map=ramp(0.5, 1.1).clip(0, 1))
    assert result.model_calls == STEPS


def test_a_second_stage_skips_too(engine):
    halves = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    halves[:, tiny.SIZE // 2 :] = 0.5
    arguments = {"strength_map": halves, "strategy": "staged"}
    full, _ = edit(engine, skip=False, **arguments)
    quick, _ = edit(engine, **arguments)
    assert full.model_calls == 15
    assert quick.model_calls == 13  # the second stage's five steps: freed at 3, so 2, 3 and 4
    assert torch.equal(quick.latents, full.latents)
