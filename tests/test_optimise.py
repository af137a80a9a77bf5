"""Whole-model options: they are applied, and the pictures stay the same but for the last bits."""

from __future__ import annotations

import pytest
import torch

from engine import InpaintEngine, InputError
from engine.errors import UnknownNameError
from engine.models.optimise import LEVELS, OPTIONS
from tests import tiny


def fresh() -> InpaintEngine:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline(**tiny.modules())
    return InpaintEngine.from_pipe(pipe, inpaint_unet=tiny.unet(9, seed=1))


def edit(engine):
    return engine.edit(
        image=tiny.picture(),
        mask=tiny.box_mask(),
        prompt="a red house",
        num_inference_steps=3,
        seed=1,
        strategy="inpaint9+blend",
        output_type="latent",
    ).latents


def test_speed_changes_the_last_bits_only():
    engine = fresh()
    want = edit(engine)
    weight = engine.backbone.network("inpaint").unet.conv_in.weight
    assert not weight.is_contiguous(memory_format=torch.channels_last)
    assert engine.optimise() is engine
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(edit(engine), want, atol=5e-4, rtol=5e-4)


def test_fused_projections_change_the_last_bits_only():
    engine = fresh()
    want = edit(engine)
    engine.optimise("fused-qkv")
    assert any("to_qkv" in name for name, _ in engine.pipe.unet.named_modules())
    assert torch.allclose(edit(engine), want, atol=5e-4, rtol=5e-4)


def test_tiles_keep_the_shape():
    engine = fresh()
    want = edit(engine)
    engine.optimise("vae-tiling")
    assert engine.pipe.vae.use_tiling
    assert edit(engine).shape == want.shape  # a random VAE's tiles have nothing in common


def test_every_block_of_a_kind_is_compiled_once():
    engine = fresh()
    engine.optimise("compile")
    blocks = [
        module
        for module in engine.pipe.unet.modules()
        if type(module).__name__ == "BasicTransformerBlock"
    ]
    assert blocks
    assert all(module._compiled_call_impl is not None for module in blocks)


def test_what_cannot_be_had_is_refused():
    engine = fresh()
    with pytest.raises(UnknownNameError, match="channels-last"):
        engine.optimise("channels-lost")
    with pytest.raises(InputError, match="second network"):
        engine.optimise("memory")


def test_levels_are_made_of_options():
    assert {name for level in LEVELS.values() for name in level} == set(OPTIONS)
