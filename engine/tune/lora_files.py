"""LoRAs as files that other programs read too.

UNets' have kohya's names, which diffusers, ComfyUI and A1111 know: SDXL's those of the original
layout behind ``lora_unet_``, SD's diffusers' own. Other denoisers' have diffusers' names, with the
pipeline's part before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.models.formats.original_names import original_names
from engine.picture.commit import Commit

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Pair:
    """The change of one module: ``up @ down``."""

    down: torch.Tensor
    """r in, or r in k k of a convolution."""
    up: torch.Tensor
    """out r, or out r 1 1."""


def lora_tensors(module: Any, pairs: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """The tensors of a file by their names there.

    Args:
        module: the denoiser that the pairs change.
        pairs: by the names of its modules.
    """
    import torch

    if type(module).__name__ != "UNet2DConditionModel":
        parts = ("lora_A.weight", "lora_B.weight")
        return {
            f"transformer.{name}.{part}": tensor.contiguous()
            for name, pair in pairs.items()
            for part, tensor in zip(parts, (pair.down, pair.up), strict=True)
        }
    names = {name: name for name in pairs}
    if module.config.addition_embed_type == "text_time":
        every = [name for name, _ in module.named_modules()]
        names |= original_names(every, module.config.layers_per_block)
    tensors = {}
    for name, pair in pairs.items():
        stem = "lora_unet_" + names[name].replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = pair.down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = pair.up.contiguous()
        # Alpha over rank is the scale, which is in the factors.
        tensors[f"{stem}.alpha"] = torch.tensor(float(pair.down.shape[0]))
    return tensors


def write_lora(
    path: Path, module: Any, pairs: Mapping[str, Pair], metadata: Mapping[str, str]
) -> None:
    """Write a LoRA, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save

    data = save(lora_tensors(module, pairs), {"format": "pt", **metadata})
    with Commit() as together:
        together.write(path, partial(_fill, data))


def _fill(data: bytes, file: IO[bytes]) -> None:
    file.write(data)
