"""A tiny real model of every family, by the family's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    Flux2KleinPipeline,
    FluxPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)

from tests.kit import tiny, tiny_flow, tiny_flux, tiny_qwen


class EmbeddedFlux2(Flux2KleinPipeline):
    """Klein with embeddings in its language model's place: one for each length of a prompt."""

    def encode_prompt(self, prompt: Any, num_images_per_prompt: int = 1, **_: Any) -> Any:
        embeds = tiny_flux.embedded(seed=len(prompt))
        return embeds.repeat(num_images_per_prompt, 1, 1), None


def flux2() -> Any:
    """A tiny Klein that reads prompts."""
    modules = tiny_flux.flux2_modules()
    return EmbeddedFlux2(**{**modules, "text_encoder": torch.nn.Linear(1, 1)})


TINY: dict[str, Callable[[], Any]] = {
    "sd": lambda: StableDiffusionPipeline(**tiny.modules(sdxl=False)),
    "sdxl": lambda: StableDiffusionXLPipeline(**tiny.modules()),
    "sd3": tiny_flow.sd3,
    "flux": lambda: FluxPipeline(**tiny_flux.modules()),
    "flux2": flux2,
    "z-image": lambda: ZImagePipeline(**tiny_qwen.z_image()),
    "qwen-image": lambda: QwenImagePipeline(**tiny_qwen.qwen_image()),
    "qwen-image-edit": lambda: QwenImageEditPlusPipeline(**tiny_qwen.qwen_edit()),
}
"""Makers of loaded pipelines that read prompts of single characters."""
