"""A tiny real model of every family, by the family's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import (
    ChromaPipeline,
    Flux2KleinPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)

from tests.kit import tiny, tiny_flow, tiny_flux, tiny_qwen

TINY: dict[str, Callable[[], Any]] = {
    "sd": lambda: StableDiffusionPipeline(**tiny.modules(sdxl=False)),
    "sdxl": lambda: StableDiffusionXLPipeline(**tiny.modules()),
    "sd3": tiny_flow.sd3,
    "flux": lambda: FluxPipeline(**tiny_flux.modules()),
    "flux-kontext": lambda: FluxKontextPipeline(**tiny_flux.modules()),
    "chroma": lambda: ChromaPipeline(**tiny_flux.chroma_modules()),
    "flux2": lambda: Flux2KleinPipeline(**tiny_flux.flux2_modules(reads=True)),
    "z-image": lambda: ZImagePipeline(**tiny_qwen.z_image()),
    "qwen-image": lambda: QwenImagePipeline(**tiny_qwen.qwen_image()),
    "qwen-image-edit": lambda: QwenImageEditPlusPipeline(**tiny_qwen.qwen_edit()),
}
"""Makers of loaded pipelines that read prompts of single characters."""
