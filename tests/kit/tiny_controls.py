"""Tiny real ControlNets and IP-Adapters with random weights, for :mod:`tiny`'s UNets."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from engine.models.formats.original_names import original_names


def _made(kind: Any, unet: Any, seed: int, **changes: Any) -> Any:
    """Zero convolutions have to be anything but zero here."""
    torch.manual_seed(seed)
    config = ControlNetModel.from_unet(unet, load_weights_from_unet=False).config
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    small = {"in_channels": 4, "conditioning_embedding_out_channels": (8, 8, 8, 8)}
    net = kind.from_config({**known, **small, **changes})
    for name, parameter in net.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1 if "bias" in name else 0.05)
    return net.eval()


def controlnet(unet: Any, seed: int = 1, **changes: Any) -> Any:
    return _made(ControlNetModel, unet, seed, **changes)


def original_layout(net: Any) -> dict[str, torch.Tensor]:
    """A ControlNet's weights as its authors' files name them."""
    names = original_names([n for n, _ in net.named_modules()], net.config.layers_per_block)
    count = len(net.controlnet_cond_embedding.blocks)
    names |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(20)}
    names |= {
        f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}"
        for i in range(count)
    }
    names |= {
        "controlnet_mid_block": "middle_block_out.0",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * count + 2}",
    }
    state = {}
    for key, each in net.state_dict().items():
        module, _, kind = key.rpartition(".")
        state[f"control_model.{names[module]}.{kind}"] = each
    return state


def small(unet: Any, seed: int = 6) -> Any:
    """A ControlNet that attends to no text, such as diffusers' small ones for SDXL."""
    levels = len(unet.config.block_out_channels)
    return _made(
        ControlNetModel,
        unet,
        seed,
        down_block_types=["DownBlock2D"] * levels,
        mid_block_type="UNetMidBlock2D",
    )


def union(unet: Any, seed: int = 2) -> Any:
    width = unet.config.block_out_channels[0]
    sizes = {"num_trans_channel": width, "num_proj_channel": width, "num_trans_head": 2}
    return _made(ControlNetUnionModel, unet, seed, num_control_type=8, **sizes)


def ip_adapter(unet: Any, seed: int = 3, width: int = 24) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter's weights, in the layout of its authors, for image embeddings of ``width``."""
    torch.manual_seed(seed)
    text = unet.config.cross_attention_dim
    layers = {}
    for number, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for each in ("to_k_ip", "to_v_ip"):
                layers[f"{number}.{each}.weight"] = torch.randn(hidden, text) * 0.3
    projection = {
        "proj.weight": torch.randn(4 * text, width) * 0.3,
        "proj.bias": torch.randn(4 * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.randn(text) * 0.1,
    }
    return {"image_proj": projection, "ip_adapter": layers}


def ip_adapter_plus(unet: Any, hidden: int = 32) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter Plus, whose projection is a resampler, for hidden states of that width."""
    torch.manual_seed(5)
    text, width = unet.config.cross_attention_dim, 64
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, 4, width),
        "proj_in.weight": (width, hidden),
        "proj_in.bias": (width,),
        "proj_out.weight": (text, width),
        "proj_out.bias": (text,),
        "norm_out.weight": (text,),
        "norm_out.bias": (text,),
    }
    for layer in range(4):
        for name in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{layer}.{name}.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= {
            f"layers.{layer}.0.to_q.weight": (width, width),
            f"layers.{layer}.0.to_kv.weight": (2 * width, width),
            f"layers.{layer}.0.to_out.weight": (width, width),
            f"layers.{layer}.1.1.weight": (4 * width, width),
            f"layers.{layer}.1.3.weight": (width, 4 * width),
        }
    projection = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    return {"image_proj": projection, "ip_adapter": ip_adapter(unet)["ip_adapter"]}


def image_reader(width: int = 24) -> dict[str, Any]:
    """What reads an IP-Adapter's pictures, by diffusers' component names."""
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    return {
        "image_encoder": CLIPVisionModelWithProjection(config).eval(),
        "feature_extractor": CLIPImageProcessor(size=32, crop_size=32),
    }


def t2i_adapter(unet: Any, kind: str = "full_adapter_xl", seed: int = 7, inputs: int = 3) -> Any:
    """A T2I-Adapter for a UNet, whose zero biases are anything but zero."""
    torch.manual_seed(seed)
    channels = list(unet.config.block_out_channels)
    # A light one has a last level beside those that it is told, as wide as the one before.
    told = channels[:-1] if kind == "light_adapter" else channels
    net: Any = T2IAdapter(
        in_channels=inputs,
        channels=told,
        num_res_blocks=4 if kind == "light_adapter" else 2,
        downscale_factor=16 if kind == "full_adapter_xl" else 8,
        adapter_type=kind,
    )
    return net.eval()


def t2i_original(net: Any) -> dict[str, torch.Tensor]:
    """A T2I-Adapter's weights as TencentARC's files name them."""
    state = {}
    for name, each in net.state_dict().items():
        own = name.removeprefix("adapter.")
        if net.config.adapter_type == "light_adapter":
            own = own.replace(".resnets.", ".body.")
        elif own.startswith("body."):
            _, level, kind, *rest = own.split(".")
            block = 2 * int(level) + (int(rest.pop(0)) if kind == "resnets" else 0)
            own = ".".join(["body", str(block), *([] if kind == "resnets" else [kind]), *rest])
        state[own] = each
    return state
