"""Stable Diffusion 1.x and 2.x: one text encoder, no added conditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.models.base import Backbone

if TYPE_CHECKING:
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
        uncond = {"encoder_hidden_states": negative} if guided else None
        return {"encoder_hidden_states": embeds}, uncond
