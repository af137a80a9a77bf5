"""Stable Diffusion 1.x and 2.x: one text encoder, no added conditioning."""

from __future__ import annotations

from engine.models.base import TEXT, TEXT_MASK, Backbone
from engine.types import Conditioning


class SDBackbone(Backbone):
    """Stable Diffusion 1.x and 2.x and their fine-tunes."""

    family = "sd"

    def _encode_prompt(
        self,
        prompt: str,
        negative_prompt: str | None,
        *,
        guided: bool,
        size: tuple[int, int],
        images: int,
    ) -> tuple[Conditioning, Conditioning | None]:
        embeds, negative = self.pipe.encode_prompt(
            prompt,
            self.device,
            images,
            guided,
            negative_prompt,
        )
        masks = {TEXT: TEXT_MASK}
        uncond = Conditioning({TEXT: negative}, masks) if guided else None
        return Conditioning({TEXT: embeds}, masks), uncond
