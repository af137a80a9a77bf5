"""Fooocus' inpaint patch (huggingface.co/lllyasviel/fooocus_inpaint), which makes an inpainting
network of any SDXL checkpoint.

``inpaint_v26.fooocus.patch`` holds, by the original layout's names, what is added to each weight:
8-bit values and the two numbers between which they lie, ``(u8 / 255) (max - min) + min``.
``fooocus_inpaint_head.pth`` holds a convolution of mask and masked picture (5 to 320 channels, the
borders repeated), whose output is added to that of the network's first one.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import InputError, ModelError, SoftpaintWarning
from engine.models.formats.original_names import original_names
from engine.models.formats.pickled import read_pickled
from engine.models.header import stranger_in

HEAD = "fooocus_inpaint_head.pth"
"""The head's file, which is looked for beside the patch."""
_PREFIX = "diffusion_model."


@dataclass(frozen=True, eq=False)
class _Headed:
    """The forward of a first convolution with the head beside it: latents, mask and masked picture
    as an inpainting checkpoint's UNet takes them.
    """

    conv: nn.Conv2d
    own: int
    """Channels of the latents; the head's come after them."""

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        latents = F.conv2d(given[:, : self.own], weight[:, : self.own], bias, padding=1)
        edges = F.pad(given[:, self.own :], (1, 1, 1, 1), mode="replicate")
        return latents + F.conv2d(edges, weight[:, self.own :])


def _with_head(conv: nn.Conv2d, head: torch.Tensor) -> nn.Conv2d:
    """``conv`` and the head (out n 3 3) as one. It stays a ``Conv2d``, which LoRAs know."""
    made = nn.Conv2d(conv.in_channels + head.shape[1], conv.out_channels, 3, padding=1)
    joined = torch.cat([conv.weight.detach(), head.to(conv.weight)], dim=1)
    made.weight, made.bias = nn.Parameter(joined, requires_grad=False), conv.bias
    made.forward = _Headed(made, conv.in_channels)  # type: ignore[method-assign, assignment]
    return made


def patched_unet(unet: Any, given: Any) -> Any:
    """A 9-channel inpainting UNet of a 4-channel one, which stays as it is. Norms and biases that
    the patch leaves alone are shared.

    Args:
        unet: SDXL's.
        given: the patch's file, beside which the head lies, or both as (patch, head).

    Raises:
        ModelError: a file is missing, holds something else, or is for another network.
        InputError: ``given`` is no file, or the UNet is an inpainting one already.
    """
    patch, head = _files(given)
    if unet.config.in_channels != unet.config.out_channels:
        raise InputError(
            f"an inpaint patch is for a text-to-image checkpoint; this one takes "
            f"{unet.config.in_channels} channels."
        )
    own = copy.deepcopy(unet, {id(each): each for each in _shared(unet)})
    _add(own, read_pickled(patch), patch)
    weight = read_pickled(head).get("head")
    needed = (own.conv_in.out_channels, unet.config.out_channels + 1, 3, 3)
    if not isinstance(weight, torch.Tensor) or tuple(weight.shape) != needed:
        raise ModelError(
            f"{head} holds no inpaint head for this model: {HEAD} holds a convolution of "
            f"{' x '.join(map(str, needed))} values named head."
        )
    own.conv_in = _with_head(own.conv_in, weight)
    own.register_to_config(in_channels=own.conv_in.in_channels)
    return own.eval()


def _shared(unet: Any) -> list[torch.Tensor]:
    """What no LoRA changes: vectors and buffers."""
    return [each for each in [*unet.parameters(), *unet.buffers()] if each.dim() < 2]


def _files(given: Any) -> tuple[Path, Path]:
    patch, head = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(patch, str | os.PathLike):
        raise InputError(f"an inpaint patch is a file or a (patch, head) pair, not {given!r}.")
    path = Path(patch).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no file {patch}.")
    if told := stranger_in(path):
        raise ModelError(f"{path} is no Fooocus inpaint patch: it {told}")
    beside = path.parent / HEAD if head is None else Path(head).expanduser()
    if not beside.is_file():
        raise ModelError(f"{path} needs its head: there is no file {beside}.")
    return path, beside


def _add(unet: Any, changes: dict[str, Any], path: Path) -> None:
    modules = [name for name, _ in unet.named_modules()]
    originals = original_names(modules, unet.config.layers_per_block)
    names = {f"{_PREFIX}{original}": name for name, original in originals.items()}
    left = []
    for key, change in changes.items():
        module, _, kind = key.rpartition(".")
        if not _is_change(change):
            raise ModelError(f"{path} is no Fooocus inpaint patch: {key!r} holds something else.")
        target = unet.get_submodule(names[module]) if module in names else None
        weight = None if target is None else getattr(target, kind, None)
        values, low, high = change
        if weight is None or values.shape != weight.shape:
            left.append(key)
            continue
        low, high = low.float(), high.float()
        added = (values.float() / 255 * (high - low) + low).to(weight.device)
        changed = (weight.detach().float() + added).to(weight.dtype)
        setattr(target, kind, nn.Parameter(changed, requires_grad=False))
    if len(left) == len(changes):
        raise ModelError(f"{path} is for another network: none of its weights is in this model.")
    if left:
        warnings.warn(
            SoftpaintWarning(
                f"{len(left)} of {len(changes)} weights of {path} fit nothing in this model: "
                f"{', '.join(left[:3])}"
            ),
            stacklevel=2,
        )


def _is_change(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 3
        and all(isinstance(each, torch.Tensor) for each in value)
    )
