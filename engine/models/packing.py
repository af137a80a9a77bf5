"""Latents as transformers take them: patches of two by two, a token each, with their places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.solvers.shift import dynamic_shift, even_levels

if TYPE_CHECKING:
    import torch

    from engine.picture.geometry import Size

PATCH = 2
"""Latents a side of a token."""


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Tokens (b hw/4 4c) of ``latents`` (b c h w, of even sides): a channel's patch stays together,
    as in Flux.
    """
    rows, channels, height, width = latents.shape
    cut = latents.view(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH**2)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of :func:`packed`: latents (b c ``height`` ``width``)."""
    rows, _, channels = tokens.shape
    cut = tokens.view(rows, height // PATCH, width // PATCH, channels // PATCH**2, PATCH, PATCH)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(rows, channels // PATCH**2, height, width)


def places(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """The position ids (hw 3) of ``height`` x ``width`` tokens of the picture: 0, row, column, of
    the type and on the device of ``like``.
    """
    import torch

    ids = torch.zeros(height, width, 3, device=like.device)
    ids[..., 1] = torch.arange(height, device=like.device)[:, None]
    ids[..., 2] = torch.arange(width, device=like.device)[None, :]
    return ids.reshape(-1, 3).to(like.dtype)


def levels_by_tokens(scheduler: Any, latents: Size, steps: int) -> Mapping[str, Any]:
    """What ``set_timesteps`` is told of ``steps`` for a picture of ``latents`` (height, width): the
    levels, and their shift where the scheduler's goes by the number of tokens.
    """
    tokens = latents.width // PATCH * (latents.height // PATCH)
    return {"sigmas": even_levels(steps), **dynamic_shift(scheduler, tokens)}


def patched(latents: torch.Tensor) -> torch.Tensor:
    """``latents`` (b c h w, of even sides) with a patch's values as channels: b 4c h/2 w/2."""
    rows, channels, height, width = latents.shape
    cut = latents.view(rows, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 1, 3, 5, 2, 4).reshape(
        rows, channels * PATCH**2, height // PATCH, width // PATCH
    )


def unpatched(patches: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`patched`."""
    rows, channels, height, width = patches.shape
    cut = patches.reshape(rows, channels // PATCH**2, PATCH, PATCH, height, width)
    return cut.permute(0, 1, 4, 2, 5, 3).reshape(
        rows, channels // PATCH**2, height * PATCH, width * PATCH
    )
