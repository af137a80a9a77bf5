"""SDXL: two text encoders, and the picture's size as added conditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.models.base import TEXT, TEXT_MASK, Backbone
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch


class SDXLBackbone(Backbone):
    """SDXL base, its fine-tunes and its refiner."""

    family = "sdxl"

    def _encode_prompt(
        self,
        prompt: str,
        negative_prompt: str | None,
        *,
        guided: bool,
        size: tuple[int, int],
        images: int,
    ) -> tuple[Conditioning, Conditioning | None]:
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=prompt,
            device=self.device,
            num_images_per_prompt=images,
            do_classifier_free_guidance=guided,
            negative_prompt=negative_prompt,
        )
        ids, negative_ids = self._time_ids(size, embeds)

        def told(text: torch.Tensor, pooled: torch.Tensor, time_ids: torch.Tensor) -> Conditioning:
            repeated = time_ids.repeat(images, 1)
            tensors = {TEXT: text, "text_embeds": pooled, "time_ids": repeated}
            return Conditioning(tensors, {TEXT: TEXT_MASK})

        uncond = told(negative, negative_pooled, negative_ids) if guided else None
        return told(embeds, pooled, ids), uncond

    def _time_ids(
        self, size: tuple[int, int], like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SDXL's micro-conditioning (section 2.2 of its paper): original size, crop, target size;
        the refiner's has an aesthetic score in place of the target size.
        """
        import torch

        if self.pipe.config.get("requires_aesthetics_score", False):
            ids, negative = [*size, 0, 0, 6.0], [*size, 0, 0, 2.5]
        else:
            ids = negative = [*size, 0, 0, *size]
        rows = torch.tensor([ids, negative], dtype=like.dtype).to(self.device)
        return rows[:1], rows[1:]

    def _unscale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        mean_std = self._latent_statistics(latents)
        if mean_std is None:
            return super()._unscale_latents(latents)
        mean, std = mean_std
        unscaled: torch.Tensor = latents * std / self.pipe.vae.config.scaling_factor + mean
        return unscaled

    def _scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        mean_std = self._latent_statistics(latents)
        if mean_std is None:
            return super()._scale_latents(latents)
        mean, std = mean_std
        scaled: torch.Tensor = (latents - mean) * self.pipe.vae.config.scaling_factor / std
        return scaled

    def _latent_statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Per-channel mean and deviation, for checkpoints (Playground 2.5) that carry them."""
        import torch

        config = self.pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return None
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(like) for v in (mean, std))
        return mean, std
