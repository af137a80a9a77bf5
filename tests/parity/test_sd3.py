"""``compat="diffusers"`` equals diffusers' SD3 inpainting pipeline to the bit: the same modules and
operations on one thread.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3InpaintPipeline, StableDiffusion3Pipeline

from engine import InpaintEngine
from tests.kit import tiny_flow
from tests.kit.tiny import both, difference


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def peer() -> tuple[Any, ...]:
    """diffusers' pipeline, its modules, and the strategy that is its counterpart."""
    return StableDiffusion3InpaintPipeline, tiny_flow.sd3_modules(), "blend"


@pytest.mark.parametrize("scheduler", ["euler", "heun"])
def test_every_strength(peer, scheduler):
    """And .5 of 5 steps, of which SD3's pipeline runs 3 and SDXL's 2."""
    every = ((1.0, 1), (0.6, 2), (0.5, 1), (0.3, 1))
    for strength, images in every if scheduler == "euler" else every[1:2]:
        pair = both(*peer, scheduler=scheduler, strength=strength, num_images=images)
        assert difference(pair) == 0.0, f"strength {strength}, {images} images"


def test_without_guidance_and_with_a_negative_prompt(peer):
    for changes in ({"guidance_scale": 1.0}, {"negative_prompt": "fog"}):
        assert difference(both(*peer, **changes)) == 0.0


def test_with_a_t5_and_levels_that_go_by_size(peer):
    kind, _, strategy = peer
    modules = tiny_flow.sd3_modules(with_t5=True)
    own = type(modules["scheduler"])
    modules["scheduler"] = own(use_dynamic_shifting=True)
    assert difference(both(kind, modules, strategy, strength=0.6)) == 0.0


def test_latents(peer):
    want, got = both(*peer, output_type="latent", strength=0.6)
    assert torch.equal(want, got)


def test_what_the_pipeline_forgets_is_done_in_our_own_mode(peer):
    """It decodes without undoing the shift of the latents: with a large one its pictures are off,
    and ours are what the VAE makes of the picture.
    """
    modules = {**peer[1], "vae": tiny_flow.flow_vae(shift=2.0)}
    engine = InpaintEngine.from_pipe(StableDiffusion3Pipeline(**modules))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = engine.backbone.encode(pixels)
        own, pipelines = (engine.backbone.decode(latents, parity=each) for each in (False, True))
        mode = modules["vae"].encode(pixels).latent_dist.mode()
        wanted = modules["vae"].decode(mode).sample
    torch.testing.assert_close(own, wanted, atol=1e-4, rtol=0)
    assert (pipelines - wanted).abs().max() > 0.01
