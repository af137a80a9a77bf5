"""The 9-channel baseline: a UNet that was trained to see the mask and the masked image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.denoise.strategy import Part, StrategyContext

if TYPE_CHECKING:
    import torch

    from engine.types import Step


@dataclass(frozen=True)
class InpaintUNet(Part):
    """Widens the model's input to 9 channels: latents, mask (1 = repaint), masked image.

    The layout of the Stable Diffusion and SDXL inpainting checkpoints. The known region is not
    held: the network is trusted to reproduce it. The run starts from the noised original, since
    SDXL-inpaint 0.1 breaks when it starts from pure noise.
    """

    network = "inpaint"

    def prepare(self, context: StrategyContext) -> torch.Tensor:
        import torch

        masked = context.masked_image_latents()
        mask = (context.strength_map > 0).to(masked.dtype)
        rows = context.init_latents.shape[0]
        return torch.cat([mask.expand(rows, -1, -1, -1), masked.expand(rows, -1, -1, -1)], dim=1)

    def model_input(self, state: torch.Tensor, scaled: torch.Tensor, step: Step) -> torch.Tensor:
        import torch

        return torch.cat([scaled, state.to(scaled.dtype)], dim=1)
