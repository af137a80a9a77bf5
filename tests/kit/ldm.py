"""Tiny models as one file in the names of CompVis' latent diffusion: what people have on disk.

The other way round than diffusers' converters: modules by diffusers' names to a file's tensors.
Works for modules on the meta device too, for the names and shapes of full-size models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

if TYPE_CHECKING:
    from engine.models.layout import Layout

Tensors = dict[str, torch.Tensor]
SMALL, LARGE = 32, 64
"""Widths of the tokens of OpenAI's CLIP and of open_clip's."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_tensors(unet: Any, prefix: str = "model.diffusion_model.") -> Tensors:
    each_level = unet.config.layers_per_block + 1
    attends = ["CrossAttn" in kind for kind in unet.config.up_block_types]

    def renamed(name: str) -> str:
        if (outer := _replaced(name, _UNET)) != name:
            return outer
        return in_the_middle(name) if name.startswith("mid_block.") else in_a_level(name)

    def in_a_level(name: str) -> str:
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            side, block, kind, place, rest = found.groups()
            index = int(block) * each_level + int(place) + (side == "down")
            where = f"{'input' if side == 'down' else 'output'}_blocks.{index}"
            if kind == "attentions":
                return f"{where}.1.{rest}"
            return f"{where}.0.{_replaced(rest, _RESNET)}"
        if found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            return f"input_blocks.{(int(found[1]) + 1) * each_level}.0.op.{found[2]}"
        found = re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name)
        assert found is not None, name
        index = int(found[1]) * each_level + each_level - 1
        return f"output_blocks.{index}.{1 + attends[int(found[1])]}.conv.{found[2]}"

    def in_the_middle(name: str) -> str:
        if found := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
            return f"middle_block.{2 * int(found[1])}.{_replaced(found[2], _RESNET)}"
        found = re.match(r"mid_block\.attentions\.0\.(.*)", name)
        assert found is not None, name
        return f"middle_block.1.{found[1]}"

    return {prefix + renamed(name): each for name, each in unet.state_dict().items()}


def vae_tensors(vae: Any, prefix: str = "first_stage_model.") -> Tensors:
    last = len(vae.config.block_out_channels) - 1

    def renamed(name: str) -> str:
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{last - int(found[1])}", name)
        name = name.replace(".resnets.", ".block.").replace(".upsamplers.0.", ".upsample.")
        name = re.sub(r"mid_block\.block\.(\d)", lambda f: f"mid.block_{int(f[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        return re.sub(r"\.to_(q|k|v)\.", r".\1.", name).replace(".to_out.0.", ".proj_out.")

    tensors = {}
    for name, each in vae.state_dict().items():
        is_product = ".attentions." in name and each.ndim == 2  # LDM has 1 x 1 convolutions there
        tensors[prefix + renamed(name)] = each[:, :, None, None] if is_product else each
    return tensors


def clip_tensors(encoder: Any, prefix: str) -> Tensors:
    state = _text_state(encoder)
    return {f"{prefix}text_model.{name}": each for name, each in state.items()}


def open_clip_tensors(encoder: Any, prefix: str, *, one_more: bool = False) -> Tensors:
    """``one_more``: with a last layer that the model leaves out, as SD 2's files have."""
    state = _text_state(encoder)
    projection = state.pop("text_projection.weight", None)
    tensors = {
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
    }
    width = tensors["ln_final.weight"].shape[0]
    tensors["text_projection"] = (
        projection.T if projection is not None else torch.empty(width, width, device="meta")
    )
    if tensors["text_projection"].is_meta and not tensors["ln_final.weight"].is_meta:
        tensors["text_projection"] = torch.eye(width)
    count = encoder.config.num_hidden_layers
    for layer in range(count + one_more):
        own = {
            name.removeprefix(f"encoder.layers.{min(layer, count - 1)}."): each
            for name, each in state.items()
            if name.startswith(f"encoder.layers.{min(layer, count - 1)}.")
        }
        where = f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [own.pop(f"self_attn.{each}_proj.{kind}") for each in "qkv"]
            tensors[f"{where}attn.in_proj_{kind}"] = torch.cat(parts)
        tensors |= {where + _replaced(name, _OPEN_CLIP): each for name, each in own.items()}
    return {prefix + name: each for name, each in tensors.items()}


def tensors_of(layout: Layout, parts: Mapping[str, Any]) -> Tensors:
    """All tensors of a whole model of ``layout``; its modules are ``parts`` by diffusers' names."""
    tensors = unet_tensors(parts["unet"]) | vae_tensors(parts["vae"])
    for text in layout.texts:
        if text.open_clip:
            more = open_clip_tensors(parts[text.part], text.prefix, one_more=text.unused > 0)
        else:
            more = clip_tensors(parts[text.part], text.prefix)
        tensors |= more
    return tensors


def _text_state(encoder: Any) -> Tensors:
    state = {name.removeprefix("text_model."): each for name, each in encoder.state_dict().items()}
    return {name: each for name, each in state.items() if "position_ids" not in name}


def _replaced(name: str, table: Mapping[str, str]) -> str:
    for own, theirs in table.items():
        if name.startswith(own):
            return name.replace(own, theirs, 1)
    return name


# Tiny modules of the real layouts -----------------------------------------------------------------


def _unet(seed: int, channels: int, **config: Any) -> Any:
    torch.manual_seed(seed)
    shared = {"sample_size": 8, "layers_per_block": 2, "in_channels": channels}
    unet: Any = UNet2DConditionModel(**shared, **config)
    return unet.eval()


def sd1_unet(channels: int = 4, seed: int = 0, **config: Any) -> Any:
    heads = {"attention_head_dim": 8, "cross_attention_dim": SMALL, **config}
    return _unet(seed, channels, block_out_channels=(32, 32, 32, 32), **heads)


def sd2_unet(channels: int = 4, seed: int = 0) -> Any:
    return sd1_unet(
        channels,
        seed,
        attention_head_dim=(1, 1, 1, 1),
        cross_attention_dim=LARGE,
        use_linear_projection=True,
        upcast_attention=True,
    )


def sdxl_unet(channels: int = 4, seed: int = 0, *, refiner: bool = False) -> Any:
    ends = ["DownBlock2D"] if refiner else []
    down = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", *ends]
    depths = [1, 1, 2, 2] if refiner else [1, 1, 2]
    return _unet(
        seed,
        channels,
        block_out_channels=(32, 64, 64, 64)[: len(down)],
        down_block_types=down,
        up_block_types=[each.replace("Down", "Up") for each in down[::-1]],
        transformer_layers_per_block=depths,
        attention_head_dim=[1] * len(down),
        cross_attention_dim=LARGE if refiner else SMALL + LARGE,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=LARGE + (5 if refiner else 6) * 256,
    )


def vae(seed: int = 0, **config: Any) -> Any:
    torch.manual_seed(seed)
    made: Any = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=4,
        **config,
    )
    return made.eval()


def text_encoder(kind: Any, width: int, act: str, words: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=1,
        projection_dim=width,
        hidden_act=act,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    return kind(config).eval()


def tiny_parts(
    layout: Layout, channels: int = 4, seed: int = 0, words: int = 512
) -> dict[str, Any]:
    """Tiny modules of a layout by diffusers' names. To read prompts they need all of CLIP's 49,408
    ``words``.
    """
    unets: dict[str, Callable[..., Any]] = {"sd1": sd1_unet, "sd2": sd2_unet, "sdxl": sdxl_unet}
    scaling = 0.13025 if layout.name in {"sdxl", "refiner"} else 0.18215
    is_refiner = layout.name == "refiner"
    parts = {
        "unet": sdxl_unet(channels, seed, refiner=True)
        if is_refiner
        else unets[layout.name](channels, seed),
        "vae": vae(seed, scaling_factor=scaling),
    }
    for number, text in enumerate(layout.texts):
        kind = CLIPTextModel if text.kind == "CLIPTextModel" else CLIPTextModelWithProjection
        width, act = (LARGE, "gelu") if text.open_clip else (SMALL, "quick_gelu")
        parts[text.part] = text_encoder(kind, width, act, words, seed + number)
    return parts


def write(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A file of ``tensors``, those of floating point as ``dtype``."""
    saved = {
        name: (each.to(dtype) if dtype and each.is_floating_point() else each).contiguous().clone()
        for name, each in tensors.items()
    }
    save_file(saved, path, metadata)
    return path
