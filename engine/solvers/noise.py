"""Draws of noise, as diffusers' schedulers make them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def draw_like(latents: torch.Tensor, generator: Any) -> torch.Tensor:
    """Standard normal noise of the shape, device and type of ``latents`` (b c h w).

    ``generator``: one, a list with one for each row, or None for torch's own; drawn where it lives.
    """
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    several = generator if isinstance(generator, list | tuple) else [generator]
    drawn_here = all(each is not None and each.device.type == "cpu" for each in several)
    # On its way to a GPU from memory that is not pinned, the host would wait for all that runs.
    sent = drawn_here and latents.device.type == "cuda"
    noise: torch.Tensor = randn_tensor(
        latents.shape,
        generator=generator,
        device=torch.device("cpu") if sent else latents.device,
        dtype=latents.dtype,
    )
    return noise.pin_memory().to(latents.device, non_blocking=True) if sent else noise
