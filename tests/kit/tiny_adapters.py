"""Files of adapters in the layouts that people have, random weights for :mod:`tiny`'s models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.models.formats.original_names import original_names

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def shapes(unet: Any, *, convolutions: bool = False) -> dict[str, torch.Size]:
    """The weights of a UNet's attentions, and its convolutions, by module."""
    kinds = (torch.nn.Conv2d,) if convolutions else ()
    return {
        name: each.weight.shape
        for name, each in unet.named_modules()
        if (name.endswith(ATTENTION) and isinstance(each, torch.nn.Linear))
        or isinstance(each, kinds)
    }


def text_shapes(encoder: Any) -> dict[str, torch.Size]:
    """Those of a text encoder's attentions and their MLPs, by the names that files give them."""
    ends = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    found = {n: m.weight.shape for n, m in encoder.named_modules() if n.endswith(ends)}
    return {f"text_model.{name.removeprefix('text_model.')}": s for name, s in found.items()}


def kohya(pipe: Any, *, convolutions: bool = False, original: bool = True) -> dict[str, torch.Size]:
    """kohya's names of the modules of a pipeline, with their weights' shapes. SDXL's UNet has the
    original layout's names there.
    """
    sdxl = getattr(pipe, "text_encoder_2", None) is not None
    named = {}
    own = shapes(pipe.unet, convolutions=convolutions)
    names = original_names(
        [n for n, _ in pipe.unet.named_modules()], pipe.unet.config.layers_per_block
    )
    for name, shape in own.items():
        named["lora_unet_" + (names[name] if original else name).replace(".", "_")] = shape
    for prefix, part in (
        ("lora_te1_" if sdxl else "lora_te_", pipe.text_encoder),
        ("lora_te2_", getattr(pipe, "text_encoder_2", None)),
    ):
        if part is not None:
            for name, shape in text_shapes(part).items():
                named[prefix + name.replace(".", "_")] = shape
    return named


def lora(named: Mapping[str, torch.Size], *, rank: int = 2, alpha: float | None = 1.0) -> Any:
    """A LoRA (of convolutions a LoCon) in kohya's parts."""
    torch.manual_seed(11)
    state = {}
    for name, shape in named.items():
        ends = (1,) * (len(shape) - 2)
        state[f"{name}.lora_down.weight"] = torch.randn(rank, *shape[1:]) * 0.2
        state[f"{name}.lora_up.weight"] = torch.randn(shape[0], rank, *ends) * 0.2
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
    return state


def loha(named: Mapping[str, torch.Size], *, rank: int = 2) -> Any:
    """LyCORIS' LoHa."""
    torch.manual_seed(12)
    state = {}
    for name, shape in named.items():
        for number in (1, 2):
            state[f"{name}.hada_w{number}_a"] = torch.randn(shape[0], rank) * 0.3
            state[f"{name}.hada_w{number}_b"] = torch.randn(rank, shape[1:].numel()) * 0.3
        state[f"{name}.alpha"] = torch.tensor(1.0)
    return state


def lokr(named: Mapping[str, torch.Size], *, rank: int = 2, factor: int = 4) -> Any:
    """LyCORIS' LoKr, its second factor of a low rank."""
    torch.manual_seed(13)
    state = {}
    for name, shape in named.items():
        state[f"{name}.lokr_w1"] = torch.randn(factor, factor) * 0.3
        state[f"{name}.lokr_w2_a"] = torch.randn(shape[0] // factor, rank) * 0.3
        state[f"{name}.lokr_w2_b"] = torch.randn(rank, shape[1] // factor, *shape[2:]) * 0.3
        state[f"{name}.alpha"] = torch.tensor(1.0)
    return state


def saved(state: Mapping[str, torch.Tensor], path: Path, **metadata: str) -> Path:
    save_file({key: each.contiguous() for key, each in state.items()}, path, metadata or None)
    return path


def diffusers_metadata(modules: Iterable[str], rank: int, alpha: int) -> dict[str, str]:
    """What diffusers' ``save_lora_weights`` writes beside a UNet's tensors."""
    table = {"r": rank, "lora_alpha": alpha, "target_modules": list(modules)}
    return {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in table.items()})}


def embeddings(pipe: Any, count: int = 2) -> dict[str, torch.Tensor]:
    """Vectors for each text encoder, by SDXL's names in files."""
    torch.manual_seed(14)
    parts = {"clip_l": pipe.text_encoder, "clip_g": getattr(pipe, "text_encoder_2", None)}
    return {
        name: torch.randn(count, part.get_input_embeddings().weight.shape[1])
        for name, part in parts.items()
        if part is not None
    }
