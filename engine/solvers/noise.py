"""Draws of noise, as diffusers' schedulers make them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def draw_like(latents: torch.Tensor, generator: Any) -> torch.Tensor:
    """Standard normal noise of the shape, device and type of ``latents`` (b c h w).

    ``generator``: one, a list with one for each row, or None for torch's own; drawn where it lives.
    """
    from diffusers.utils.torch_utils import randn_tensor

    noise: torch.Tensor = randn_tensor(
        latents.shape, generator=generator, device=latents.device, dtype=latents.dtype
    )
    return noise
