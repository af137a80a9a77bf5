"""LoRAs of transformers: diffusers' own loaders, recorded and repeated by the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, QwenImagePipeline, ZImagePipeline
from peft import LoraConfig, get_peft_model_state_dict

from engine import InpaintEngine, Region
from engine.errors import InputError, ModelError
from tests.kit import ldm, tiny, tiny_flux, tiny_qwen

MAKERS: dict[str, Any] = {
    "flux": (FluxPipeline, tiny_flux.modules),
    "qwen-image": (QwenImagePipeline, tiny_qwen.qwen_image),
    "z-image": (ZImagePipeline, tiny_qwen.z_image),
}


def edited(engine) -> torch.Tensor:
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "region": "full"}
    latents: torch.Tensor = tiny.edited(engine, **settings).latents
    return latents


@pytest.fixture(scope="module", params=sorted(MAKERS))
def model(request, tmp_path_factory):
    """A pipeline, and a LoRA for it as diffusers saves one."""
    kind, modules = MAKERS[request.param]
    pipe = kind(**modules())
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    layers = get_peft_model_state_dict(pipe.transformer)
    pipe.unload_lora_weights()
    folder = tmp_path_factory.mktemp(request.param)
    kind.save_lora_weights(folder, transformer_lora_layers=layers)
    return SimpleNamespace(pipe=pipe, kind=kind, file=folder / "pytorch_lora_weights.safetensors")


def test_a_file_at_a_weight_and_out_again(model):
    engine = InpaintEngine.from_pipe(model.pipe)
    plain = edited(engine)
    name = engine.load_lora(f"{model.file}:0.5")
    half = edited(engine)
    assert not torch.allclose(half, plain, atol=1e-4)
    assert engine.adapters.recorded() == {"lora": [f"{model.file}:0.5"]}
    engine.unload_lora(name)
    assert torch.equal(edited(engine), plain)
    model.pipe.load_lora_weights(model.file.parent, adapter_name="own")
    model.pipe.set_adapters(["own"], [0.5])
    assert torch.equal(edited(InpaintEngine.from_pipe(model.pipe)), half)
    model.pipe.unload_lora_weights()


def test_a_region_has_its_own(model):
    """Of two regions of one picture, as if the whole edit had it, whether or not another region's
    rows share the call; where they touch, each has its own at its positions.
    """
    engine = InpaintEngine.from_pipe(model.pipe)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    left, right = np.zeros((2, 64, 64), np.float32)
    left[:, :16], right[:, 48:] = 1, 1
    rest, every = 1 - left, np.ones_like(left)

    def latents(*regions, steps=2):
        """After so many of two steps."""
        settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0, "seed": 3}
        seen: list[Any] = []
        engine.edit(
            image=photo,
            regions=list(regions),
            prompt="a",
            region="full",
            callback=seen.append,
            **settings,
        )
        return torch.cat([shot.latents for shot in seen if shot.index == steps - 1])

    plain, bare = latents(Region(left), Region(right)), latents(Region(every), steps=1)
    name = engine.load_lora(f"{model.file}:0.5")
    whole, full = latents(Region(left), Region(right)), latents(Region(every), steps=1)
    engine.load_lora(model.file, 0.0, name=name)
    one = latents(Region(left), Region(right, lora=f"{name}:0.5"))
    both = latents(Region(left, lora=[]), Region(right, lora=f"{name}:0.5"))
    touching = latents(Region(left, lora=f"{name}:0.5"), Region(rest), steps=1)
    engine.unload_lora()
    near = 2e-5  # rows of other calls
    assert (one[0] - plain[0]).abs().max() < near
    assert (one[1] - whole[1]).abs().max() < near
    assert (both[0] - plain[0]).abs().max() < near
    assert (both[1] - whole[1]).abs().max() < near
    assert (whole[1] - plain[1]).abs().max() > 10 * near
    here = torch.from_numpy(left[::8, ::8] > 0)
    assert (touching - full.where(here, bare)).abs().max() < near
    assert (full - bare).abs().max() > 10 * near


def test_one_of_another_family_is_refused(model, tmp_path):
    engine = InpaintEngine.from_pipe(model.pipe)
    other = {"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": torch.ones(2, 8)}
    other["unet.down_blocks.0.attentions.0.proj_in.lora_B.weight"] = torch.ones(8, 2)
    file = ldm.write(tmp_path / "sdxl.safetensors", other)
    with pytest.raises(ModelError, match=r"a LoRA of another|is a LoRA of another family"):
        engine.load_lora(file)
    assert engine.adapters.recorded() == {}
    wrong = ldm.write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": torch.ones(1)})
    with pytest.raises(ModelError, match="is a VAE, not a LoRA"):
        engine.load_lora(wrong)


def test_a_pipeline_without_a_loader_says_so(model):
    engine = InpaintEngine.from_pipe(model.pipe)
    engine.adapters.pipe = SimpleNamespace(get_list_adapters=dict)
    with pytest.raises(InputError, match="takes no LoRAs here"):
        engine.load_lora(model.file)
