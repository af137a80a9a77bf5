"""SDXL: two text encoders, and the picture's size as added conditioning."""

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

    from engine.picture.geometry import Size


class SDXLText(ClipText):
    """The embeddings of two CLIPs, one's pooled, and the picture's size."""

    last = 2
    pooled = True

    @property
    def needed(self) -> tuple[str, ...]:  # type: ignore[override]  # the refiner has one of them
        second = self.pipe.text_encoder_2
        width = self.pipe.unet.config.cross_attention_dim
        alone = second is not None and second.config.hidden_size == width
        return ("text_encoder_2",) if alone else ("text_encoder", "text_encoder_2")

    def encode(
        self, prompt: Prompt, device: torch.device
    ) -> tuple[Conditioning, Conditioning | None]:
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            device=device,
            num_images_per_prompt=prompt.images,
            do_classifier_free_guidance=prompt.guided,
            **self.arguments(prompt),
        )
        ids, negative_ids = self._time_ids(prompt.size, embeds.dtype, device)

        def told(text: torch.Tensor, pooled: torch.Tensor, ids: torch.Tensor) -> Conditioning:
            repeated = ids.repeat(prompt.images, 1)
            tensors = {TEXT: text, "text_embeds": pooled, "time_ids": repeated}
            return Conditioning(tensors, {TEXT: TEXT_MASK})

        uncond = told(negative, negative_pooled, negative_ids) if prompt.guided else None
        return told(embeds, pooled, ids), uncond

    def _time_ids(
        self, size: Size, dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SDXL's micro-conditioning (section 2.2 of its paper): original size, crop, target size;
        the refiner's has an aesthetic score in place of the target size.
        """
        import torch

        if self.pipe.config.get("requires_aesthetics_score", False):
            ids, negative = [*size.shape, 0, 0, 6.0], [*size.shape, 0, 0, 2.5]
        else:
            ids = negative = [*size.shape, 0, 0, *size.shape]
        rows = torch.tensor([ids, negative], dtype=dtype).to(device)
        return rows[:1], rows[1:]


def _may_have(index: Mapping[str, Any]) -> bool:
    parts = {name: part[-1] for name, part in index.items() if isinstance(part, list)}
    unet = parts.get("unet") == "UNet2DConditionModel"
    return unet and parts.get("text_encoder_2") == "CLIPTextModelWithProjection"


def _fits(pipe: Any) -> bool:
    names = ("unet", "vae", "text_encoder_2")
    parts = all(getattr(pipe, name, None) is not None for name in names)
    return parts and getattr(pipe.unet.config, "addition_embed_type", None) == "text_time"


def _big_g(prefix: str) -> Text:
    """OpenCLIP's bigG, which gives the pooled embedding too."""
    return Text("text_encoder_2", prefix, "CLIPTextModelWithProjection", pad="!", open_clip=True)


BASE = Layout(
    name="sdxl",
    description="SDXL",
    pipeline="StableDiffusionXLPipeline",
    texts=(
        Text("text_encoder", "conditioner.embedders.0.transformer.", "CLIPTextModel"),
        _big_g("conditioner.embedders.1.model."),
    ),
    configs=CONFIGS / "sdxl",
)
REFINER = Layout(
    name="refiner",
    description="SDXL's refiner",
    pipeline="StableDiffusionXLImg2ImgPipeline",
    texts=(_big_g("conditioner.embedders.0.model."),),
    configs=CONFIGS / "refiner",
    settings=(("requires_aesthetics_score", True), ("force_zeros_for_empty_prompt", False)),
)
SDXL = Family(
    name="sdxl",
    description="SDXL",
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    ),
    denoiser="unet",
    network=unet_of("text_time"),
    text=SDXLText,
    fits=_fits,
    may_have=_may_have,
    layouts=(BASE, REFINER),
    controlnets=UNET_CONTROLNETS,
    inpaint_pipeline="StableDiffusionXLInpaintPipeline",
)
