"""``compat="diffusers"`` equals diffusers' own inpainting pipelines to the bit.

The same module objects, CPU, float32, one thread: the same operations in the same order give the
same bits, so the tolerance is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline

from engine import InpaintEngine
from engine.schedule import fresh_scheduler, list_schedulers
from tests import tiny

EXACT = [name for name in list_schedulers() if name != "sa-solver"]
STEPS = 5


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(pipeline: Any, channels: int) -> tuple[Any, InpaintEngine]:
    pipe = pipeline(**tiny.modules(channels, sdxl=pipeline is StableDiffusionXLInpaintPipeline))
    pipe.set_progress_bar_config(disable=True)
    return pipe, InpaintEngine.from_pipe(pipe)


@pytest.fixture(scope="module", params=["sdxl-4", "sdxl-9", "sd-4", "sd-9"])
def peer(request: pytest.FixtureRequest) -> tuple[Any, InpaintEngine, str]:
    family, channels = request.param.split("-")
    pipeline = (
        StableDiffusionXLInpaintPipeline if family == "sdxl" else StableDiffusionInpaintPipeline
    )
    pipe, engine = build(pipeline, int(channels))
    return pipe, engine, "blend" if channels == "4" else "inpaint9"


def both(peer: tuple[Any, InpaintEngine, str], scheduler: str, **changes: Any) -> tuple[Any, Any]:
    """diffusers' result and ours for the same request."""
    pipe, engine, strategy = peer
    request: dict[str, Any] = {
        "image": tiny.picture(),
        "prompt": "a red house",
        "strength": 1.0,
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "output_type": "np",
        **changes,
    }
    images = request.pop("num_images", 1)
    own_scheduler = pipe.scheduler
    pipe.scheduler = fresh_scheduler(scheduler, own_scheduler)
    try:
        want = pipe(
            **request,
            mask_image=tiny.box_mask(),
            height=tiny.SIZE,
            width=tiny.SIZE,
            generator=torch.Generator().manual_seed(3),
            num_images_per_prompt=images,
        ).images
    finally:
        pipe.scheduler = own_scheduler
    got = engine.edit(
        **request,
        mask=tiny.box_mask(),
        seed=3,
        num_images=images,
        scheduler=scheduler,
        strategy=strategy,
        compat="diffusers",
    ).images
    return want, got


@pytest.mark.parametrize("scheduler", EXACT)
def test_every_scheduler_at_every_strength(peer, scheduler):
    for strength, images in ((1.0, 1), (0.9999, 2), (0.6, 2), (0.3, 1)):
        want, got = both(peer, scheduler, strength=strength, num_images=images)
        assert want.shape == got.shape
        assert np.abs(want - got).max() == 0.0, f"strength {strength}, {images} images"


@pytest.mark.parametrize("scheduler", ["euler", "ddim"])
def test_without_guidance_and_with_a_negative_prompt(peer, scheduler):
    for changes in ({"guidance_scale": 1.0}, {"negative_prompt": "fog"}):
        want, got = both(peer, scheduler, **changes)
        assert np.abs(want - got).max() == 0.0


def test_guidance_rescale_of_sdxl():
    pipe, engine = build(StableDiffusionXLInpaintPipeline, 4)
    want, got = both((pipe, engine, "blend"), "ddim", guidance_rescale=0.7)
    assert np.abs(want - got).max() == 0.0


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "heun", "dpmpp-2m"])
def test_denoising_start_and_end_of_sdxl(scheduler):
    """The first part of a run, and the second part from the latents that it leaves."""
    pipe, engine = build(StableDiffusionXLInpaintPipeline, 4)
    peer = (pipe, engine, "blend")
    want, got = both(peer, scheduler, denoising_end=0.5, output_type="latent")
    assert torch.equal(want, got)
    want, got = both(peer, scheduler, denoising_start=0.5, image=want, output_type="latent")
    assert torch.equal(want, got)


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "dpmpp-2m-karras", "lcm"])
def test_v_prediction(scheduler):
    pipe, engine = build(StableDiffusionXLInpaintPipeline, 4)
    config = {**pipe.scheduler.config, "prediction_type": "v_prediction"}
    pipe.register_modules(scheduler=type(pipe.scheduler).from_config(config))
    want, got = both((pipe, engine, "blend"), scheduler, strength=0.6)
    assert np.abs(want - got).max() == 0.0


def test_latents_and_pil_output():
    pipe, engine = build(StableDiffusionXLInpaintPipeline, 4)
    want, got = both((pipe, engine, "blend"), "euler", output_type="latent", strength=0.6)
    assert torch.equal(want, got)
    want, got = both((pipe, engine, "blend"), "euler", output_type="pil", strength=0.6)
    assert np.array_equal(np.asarray(want[0]), np.asarray(got[0]))


def test_sa_solver_differs_by_rounding_only():
    """Its add_noise reads alphas_cumprod where its steps read sigmas; we read the sigmas."""
    pipe, engine = build(StableDiffusionXLInpaintPipeline, 4)
    want, got = both((pipe, engine, "blend"), "sa-solver", strength=0.6)
    assert np.abs(want - got).max() < 1e-5


def test_a_list_of_generators():
    pipe, engine = build(StableDiffusionXLInpaintPipeline, 4)
    request: dict[str, Any] = {
        "image": tiny.picture(),
        "prompt": "a boat",
        "num_inference_steps": STEPS,
    }
    want = pipe(
        **request,
        mask_image=tiny.box_mask(),
        height=tiny.SIZE,
        width=tiny.SIZE,
        strength=0.6,
        guidance_scale=5.0,
        num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
        output_type="np",
    ).images
    got = engine.edit(
        **request,
        mask=tiny.box_mask(),
        strength=0.6,
        num_images=2,
        strategy="blend",
        compat="diffusers",
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
        output_type="np",
    ).images
    assert np.abs(want - got).max() == 0.0
