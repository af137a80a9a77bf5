"""Flux Fill: a transformer that was trained to see the mask and the masked image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.denoise.strategy import Part, StrategyContext

if TYPE_CHECKING:
    import torch

    from engine.types import Step


@dataclass(frozen=True)
class FillTransformer(Part):
    """Widens the model's input: latents, masked image, mask (1 = repaint).

    The layout of Flux.1 Fill. The mask is hard and as fine as the pixels, a channel for each pixel
    under a latent. The known region is not held: the network is trusted to reproduce it, and
    ``fill+differential`` holds it, each position as long as its own strength says.
    """

    network = "fill"

    def prepare(self, context: StrategyContext) -> torch.Tensor:
        import torch

        masked, pixels = context.masked_image_latents(), context.map_pixels()
        rows, (height, width) = context.init_latents.shape[0], masked.shape[-2:]
        cells = pixels.unflatten(3, (width, -1)).unflatten(2, (height, -1))
        mask = (cells > 0).to(masked.dtype).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return torch.cat([each.expand(rows, -1, -1, -1) for each in (masked, mask)], dim=1)

    def model_input(self, state: torch.Tensor, scaled: torch.Tensor, step: Step) -> torch.Tensor:
        import torch

        return torch.cat([scaled, state.to(scaled.dtype)], dim=1)
