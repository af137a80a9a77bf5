"""Stable Diffusion 1.x and 2.x: one text encoder, no added conditioning."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from engine.models.family import Family
from engine.models.text import ClipText, Prompt
from engine.models.unet import TEXT, TEXT_MASK, UNetNetwork
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch


class SDText(ClipText):
    """CLIP's embeddings, as the pipeline makes them."""

    def encode(
        self, prompt: Prompt, device: torch.device
    ) -> tuple[Conditioning, Conditioning | None]:
        embeds, negative = self.pipe.encode_prompt(
            device=device,
            num_images_per_prompt=prompt.images,
            do_classifier_free_guidance=prompt.guided,
            **self.arguments(prompt),
        )
        masks = {TEXT: TEXT_MASK}
        uncond = Conditioning({TEXT: negative}, masks) if prompt.guided else None
        return Conditioning({TEXT: embeds}, masks), uncond


def _fits(pipe: Any) -> bool:
    parts = all(getattr(pipe, name, None) is not None for name in ("unet", "vae", "text_encoder"))
    return parts and getattr(pipe.unet.config, "addition_embed_type", None) is None


def _marks(tensors: AbstractSet[str]) -> bool:
    unet = any(name.startswith("model.diffusion_model.input_blocks.") for name in tensors)
    return unet and any(name.startswith("cond_stage_model.") for name in tensors)


SD = Family(
    name="sd",
    description="SD 1.x, SD 2.x",
    pipelines=("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
    denoiser="unet",
    network=UNetNetwork,
    text=SDText,
    fits=_fits,
    marks=_marks,
    inpaint_pipeline="StableDiffusionInpaintPipeline",
)
