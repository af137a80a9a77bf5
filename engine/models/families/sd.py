"""Stable Diffusion 1.x and 2.x: one text encoder, no added conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.models.family import Family
from engine.models.layout import CONFIGS, Layout, Text
from engine.models.text import ClipText, Prompt
from engine.models.unet import TEXT, TEXT_MASK, UNET_CONTROLNETS, unet_of
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


def _may_have(index: Mapping[str, Any]) -> bool:
    parts = {name: part[-1] for name, part in index.items() if isinstance(part, list)}
    unet = parts.get("unet") == "UNet2DConditionModel"
    return unet and parts.get("text_encoder") == "CLIPTextModel"


def _fits(pipe: Any) -> bool:
    parts = all(getattr(pipe, name, None) is not None for name in ("unet", "vae", "text_encoder"))
    return parts and getattr(pipe.unet.config, "addition_embed_type", None) is None


_UNCHECKED = (
    ("safety_checker", None),
    ("feature_extractor", None),
    ("requires_safety_checker", False),
)
SD1 = Layout(
    name="sd1",
    description="SD 1.x",
    pipeline="StableDiffusionPipeline",
    texts=(Text("text_encoder", "cond_stage_model.transformer.", "CLIPTextModel"),),
    configs=CONFIGS / "sd1",
    settings=_UNCHECKED,
)
SD2 = Layout(
    name="sd2",
    description="SD 2.x",
    pipeline="StableDiffusionPipeline",
    texts=(
        Text(
            "text_encoder",
            "cond_stage_model.model.",
            "CLIPTextModel",
            pad="!",
            open_clip=True,
            unused=1,
        ),
    ),
    configs=CONFIGS / "sd2",
    settings=_UNCHECKED,
    measured=True,
)
SD = Family(
    name="sd",
    description="SD 1.x, SD 2.x",
    pipelines=("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
    denoiser="unet",
    network=unet_of(None),
    text=SDText,
    fits=_fits,
    may_have=_may_have,
    layouts=(SD2, SD1),
    controlnets=UNET_CONTROLNETS,
    inpaint_pipeline="StableDiffusionInpaintPipeline",
)
