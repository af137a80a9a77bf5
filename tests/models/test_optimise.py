"""Whole-model options: they are applied, and the pictures stay the same but for the last bits."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from engine import InpaintEngine, InputError
from engine.errors import UnknownNameError
from engine.models.speed.optimise import OPTIMISATIONS
from engine.pocket import world
from tests.kit import tiny


def fresh() -> InpaintEngine:
    return tiny.engine()


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
    weight = engine.backbone.network("inpaint").module.conv_in.weight
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


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch needs a C++ compiler"
)
def test_compiled_blocks_change_the_last_bits_only():
    engine = fresh()
    want = edit(engine)
    engine.optimise("compile")
    assert torch.allclose(edit(engine), want, atol=5e-4, rtol=5e-4)


def painted(engine: InpaintEngine) -> np.ndarray:
    scene = world.sample_edits()[0]
    made = engine.edit(
        image=scene.image, mask=scene.mask, prompt=scene.prompt, num_inference_steps=4, seed=1
    )
    return np.asarray(made.images[0]).astype(int)


@pytest.mark.parametrize("option", ["channels-last", "fused-qkv", "vae-tiling"])
def test_what_an_option_does_to_a_picture(pocket, option):
    other = InpaintEngine.from_pretrained(device="cpu").optimise(option)
    apart = np.abs(painted(other) - painted(pocket))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.001


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_on_a_cpu(pocket, dtype):
    other = InpaintEngine.from_pretrained(device="cpu", dtype=dtype)
    assert other.backbone.dtype == getattr(torch, dtype)
    apart = np.abs(painted(other) - painted(pocket))
    assert 0 < apart.mean() < 1
    assert (
        other.edit(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            prompt="",
            num_inference_steps=1,
            callback=lambda shot: shot.preview() and None,
        ).settings["dtype"]
        == dtype
    )


def test_every_option_says_what_it_does():
    for info in OPTIMISATIONS:
        assert info.description
        assert info.includes or all((info.apply, info.costs, info.pixels))


def test_what_cannot_be_had_is_refused():
    engine = fresh()
    with pytest.raises(UnknownNameError, match="channels-last"):
        engine.optimise("channels-lost")
    with pytest.raises(InputError, match="second network"):
        engine.optimise("memory")


def test_levels_are_made_of_options():
    single = {info.name for info in OPTIMISATIONS if info.apply}
    alone = {"same-bits"}  # it makes nothing faster or smaller
    assert {name for info in OPTIMISATIONS for name in info.includes} == single - alone
