"""Families whose denoiser is a transformer are taught as UNets are, and their LoRAs load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
from safetensors.torch import load_file

from engine import InpaintEngine
from engine.errors import ModelError
from engine.tune.content import Teaching, teach
from engine.tune.photos import Photo
from engine.tune.recipe import Recipe
from tests.kit import tiny, tiny_adapters, tiny_flow, tiny_flux, tiny_qwen

FAMILIES: dict[str, Callable[[], Any]] = {
    "sd3": tiny_flow.sd3,
    "flux": lambda: diffusers.FluxPipeline(**tiny_flux.modules()),
    "z_image": lambda: diffusers.ZImagePipeline(**tiny_qwen.z_image()),
    "qwen_image": lambda: diffusers.QwenImagePipeline(**tiny_qwen.qwen_image()),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_and_its_lora_loads(family, tmp_path):
    engine = InpaintEngine.from_pipe(FAMILIES[family]())
    pixels = np.asarray(tiny.picture())
    boat = Photo("a.png", pixels, "a boat", np.zeros(pixels.shape[:2], bool))
    during = []

    def painted() -> np.ndarray:
        return np.asarray(tiny.edited(engine, num_inference_steps=2).images)

    def look(progress):
        if progress.step == 2:
            during.append(painted())

    recipe = Recipe(steps=2, rate=1e-2, rank=2, size=64, sample_every=0)
    asked = Teaching(photos=[boat], output=tmp_path / "boat.safetensors", recipe=recipe)
    written = teach(engine, asked, told=look)
    assert all(name.startswith("transformer.") for name in load_file(written))
    before = painted()
    engine.load_lora(written)
    after = painted()
    engine.unload_lora()
    assert np.abs(after - before).max() > 1e-4
    assert np.abs(after - during[0]).max() < 1e-4
    assert np.array_equal(painted(), before)


def test_a_unets_lora_is_refused(tmp_path):
    unet = tiny.modules()["unet"]
    named = {
        "lora_unet_" + name.replace(".", "_"): shape
        for name, shape in tiny_adapters.shapes(unet).items()
    }
    path = tiny_adapters.saved(tiny_adapters.lora(named), tmp_path / "unet.safetensors")
    engine = InpaintEngine.from_pipe(tiny_flow.sd3())
    with pytest.raises(ModelError, match=r"unet\.safetensors"):
        engine.load_lora(path)
    assert not engine.adapters.loras
