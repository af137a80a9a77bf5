"""What diffusers' own inpainting pipelines do differently from family to family.

All of them take the same way, which :mod:`engine.edit.parity` takes too; a family whose pipeline
turns off it somewhere has a :class:`Peer` of its own that says where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Peer:
    """A family's inpainting pipeline of diffusers', as SD's is unless it says otherwise."""

    patch: int = 1
    """Pictures are resized to a multiple of so many latents a side."""
    apart: bool = False
    """The network is called for each branch of guidance by itself: one call for both has other last
    bits."""
    shows: bool = False
    """The network is shown the picture, by ``with_reference``."""
    guides_by_negative: bool = False
    """Without a negative prompt it does not guide, whatever the scale."""
    latents: int | None = None
    """How many latent channels the pipeline insists on, though it runs with any."""

    def guides(self, pipe: Any) -> bool:
        """Whether a scale has it guide by a second prediction, where the network knows none."""
        return True

    def processors(self, cell: int) -> tuple[Any, Any, Any]:
        """Diffusers' processors for pictures, masks and control images; ``cell``: pixels per latent
        along one side.
        """
        from diffusers.image_processor import VaeImageProcessor

        side = cell * self.patch
        masks = VaeImageProcessor(
            vae_scale_factor=side,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        controls = VaeImageProcessor(vae_scale_factor=side, do_convert_rgb=True, do_normalize=False)
        return VaeImageProcessor(vae_scale_factor=side), masks, controls

    def grid(self, mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The binary ``mask`` (1 1 H W) on the latent grid: 1 1 h w, ``size`` is (h, w)."""
        from torch.nn import functional

        return functional.interpolate(mask, size=size)

    def noise(
        self, shape: Sequence[int], generator: Any, device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        """The noise of all pictures (b c h w), drawn in the pipeline's order."""
        from diffusers.utils.torch_utils import randn_tensor

        drawn: torch.Tensor = randn_tensor(
            tuple(shape), generator=generator, device=device, dtype=dtype
        )
        return drawn
