"""Diffusers' own processors for pictures, for compatibility with its pipelines."""

from __future__ import annotations

from typing import Any


def image_processors(cell: int) -> tuple[Any, Any]:
    """For pictures and for masks, as diffusers' inpainting pipelines make them; ``cell``: pixels
    per latent along one side.
    """
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor(vae_scale_factor=cell), VaeImageProcessor(
        vae_scale_factor=cell,
        do_normalize=False,
        do_binarize=True,
        do_convert_grayscale=True,
    )


def control_image_processor(cell: int) -> Any:
    """For control images, as diffusers' ControlNet pipelines make it."""
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor(vae_scale_factor=cell, do_convert_rgb=True, do_normalize=False)
