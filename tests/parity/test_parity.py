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

from engine.solvers.names import list_schedulers
from tests.kit import tiny
from tests.kit.tiny import both, difference

EXACT = [name for name in list_schedulers() if name != "sa-solver"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sdxl() -> tuple[Any, ...]:
    """diffusers' pipeline, its modules, and the strategy that is its counterpart."""
    return StableDiffusionXLInpaintPipeline, tiny.modules(4), "blend"


@pytest.fixture(scope="module", params=["sdxl-4", "sdxl-9", "sd-4", "sd-9"])
def peer(request: pytest.FixtureRequest, sdxl: tuple[Any, ...]) -> tuple[Any, ...]:
    family, channels = request.param.split("-")
    if request.param == "sdxl-4":
        return sdxl
    kind = StableDiffusionXLInpaintPipeline if family == "sdxl" else StableDiffusionInpaintPipeline
    modules = tiny.modules(int(channels), sdxl=family == "sdxl")
    return kind, modules, "blend" if channels == "4" else "inpaint9"


@pytest.mark.parametrize("scheduler", EXACT)
def test_every_scheduler_at_every_strength(peer, scheduler):
    for strength, images in ((1.0, 1), (0.9999, 2), (0.6, 2), (0.3, 1)):
        pair = both(*peer, scheduler=scheduler, strength=strength, num_images=images)
        assert difference(pair) == 0.0, f"strength {strength}, {images} images"


@pytest.mark.processors
@pytest.mark.parametrize("scheduler", ["euler", "ddim"])
def test_without_guidance_and_with_a_negative_prompt(peer, scheduler):
    for changes in ({"guidance_scale": 1.0}, {"negative_prompt": "fog"}):
        assert difference(both(*peer, scheduler=scheduler, **changes)) == 0.0


def test_guidance_rescale_of_sdxl(sdxl):
    assert difference(both(*sdxl, scheduler="ddim", guidance_rescale=0.7)) == 0.0


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "heun", "dpmpp-2m"])
def test_denoising_start_and_end_of_sdxl(sdxl, scheduler):
    """The first part of a run, and the second part from the latents that it leaves."""
    run = {"scheduler": scheduler, "output_type": "latent"}
    want, got = both(*sdxl, **run, denoising_end=0.5)
    assert torch.equal(want, got)
    want, got = both(*sdxl, **run, denoising_start=0.5, image=want)
    assert torch.equal(want, got)


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "dpmpp-2m-karras", "lcm"])
def test_v_prediction(sdxl, scheduler):
    kind, modules, strategy = sdxl
    own = modules["scheduler"]
    own = type(own).from_config({**own.config, "prediction_type": "v_prediction"})
    pair = both(kind, {**modules, "scheduler": own}, strategy, scheduler=scheduler, strength=0.6)
    assert difference(pair) == 0.0


@pytest.mark.processors
def test_latents_and_pil_output(sdxl):
    want, got = both(*sdxl, output_type="latent", strength=0.6)
    assert torch.equal(want, got)
    want, got = both(*sdxl, output_type="pil", strength=0.6)
    assert np.array_equal(np.asarray(want[0]), np.asarray(got[0]))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_truth_values_are_a_mask(sdxl, kind):
    """diffusers cannot resize them, so it is given the picture of the same mask."""
    mask = np.asarray(tiny.box_mask()) > 0
    pair = both(*sdxl, strength=0.6, ours={"mask": kind(mask)})
    assert difference(pair) == 0.0


def test_sa_solver_differs_by_rounding_only(sdxl):
    """Its add_noise reads alphas_cumprod where its steps read sigmas; we read the sigmas."""
    assert 0 < difference(both(*sdxl, scheduler="sa-solver", strength=0.6)) < 1e-5


def test_a_list_of_generators(sdxl):
    def drawn() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(2)]

    pair = both(
        *sdxl,
        strength=0.6,
        num_images=2,
        theirs={"generator": drawn()},
        ours={"generator": drawn(), "seed": None},
    )
    assert difference(pair) == 0.0
