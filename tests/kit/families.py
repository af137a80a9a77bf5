"""A tiny real model of every family, by the family's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import (
    QwenImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)

from tests.kit import tiny, tiny_flow, tiny_qwen

TINY: dict[str, Callable[[], Any]] = {
    "sd": lambda: StableDiffusionPipeline(**tiny.modules(sdxl=False)),
    "sdxl": lambda: StableDiffusionXLPipeline(**tiny.modules()),
    "sd3": tiny_flow.sd3,
    "z-image": lambda: ZImagePipeline(**tiny_qwen.z_image()),
    "qwen-image": lambda: QwenImagePipeline(**tiny_qwen.qwen_image()),
}
"""Makers of loaded pipelines that read prompts of single characters."""
