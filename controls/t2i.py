"""T2I-Adapters bound to a job: diffusers' ``T2IAdapter`` (Mou et al. 2023, arXiv 2302.08453).

They read the control image alone, neither latents nor text, so one forward serves all steps; what
they make of it is added to the features of the UNet's way down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from controls.bound import BoundControl
from engine.models.unet import INTRABLOCK

if TYPE_CHECKING:
    from controls.place import Place
    from engine.types import Conditioning, Step

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow makes pictures grey."""


class BoundAdapter(BoundControl):
    """A T2I-Adapter bound to one job."""

    _features: tuple[torch.Tensor, ...] | None = None

    @staticmethod
    def hint(
        net: Any,
        image: torch.Tensor,
        rows: int,
        place: Place,  # noqa: ARG004 - for those that read latents
    ) -> torch.Tensor:
        factor = net.downscale_factor
        if net.config.in_channels == 1:
            image = _grey(image)
        height, width = image.shape[-2:]
        # Its levels round up, as the UNet's do.
        image = F.pad(image, (0, -width % factor, 0, -height % factor), mode="replicate")
        return image.to(next(net.parameters()).device, net.dtype).repeat(rows, 1, 1, 1)

    def residuals(
        self, scaled: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, step: Step
    ) -> Mapping[str, Any]:
        """What the adapter adds to the UNet's features at ``step``; nothing where it is off.

        ``scaled``: B 4 h w; residuals: B c h' w' for each level, and for the middle if it has one.
        """
        active = self._active(step)
        if not active:
            return {}
        (branch,) = active
        if self._features is None:
            # The rows of a batch see the same control image.
            self._features = tuple(self.net(branch.image[:1]))
        count = self._acted_on(scaled).flatten(0, 1).shape[0]
        weight = branch.weights[step.index]
        return {
            INTRABLOCK: tuple(
                self._finish(
                    (each * weight).repeat(count, 1, 1, 1), (each.shape[-2], each.shape[-1]), scaled
                )
                for each in self._features
            )
        }


def features_of(net: Any) -> list[tuple[int, float]]:
    """Channels of what an adapter gives, and the pixels of a side that one of its places covers."""
    side = 2 * net.total_downscale_factor
    parameter = next(net.parameters())
    image = parameter.new_zeros(1, net.config.in_channels, side, side)
    with torch.no_grad():
        return [(each.shape[1], side / each.shape[-1]) for each in net(image)]


def places_of(config: Any, cell: int) -> list[tuple[int, float]]:
    """The same of the places where a UNet takes them: before a level's downsampling if it attends
    to the text, else after it; and in the middle (diffusers' ``UNet2DConditionModel.forward``).
    """
    places, pixels, last = [], float(cell), len(config.block_out_channels) - 1
    for level, channels in enumerate(config.block_out_channels):
        attends = "CrossAttn" in config.down_block_types[level]
        below = pixels if level == last else 2 * pixels
        places.append((channels, pixels if attends else below))
        pixels = below
    return [*places, (config.block_out_channels[-1], pixels)]


def _grey(image: torch.Tensor) -> torch.Tensor:
    """One channel (b 1 H W) of three."""
    first = image[:, :1]
    if bool((image == first).all()):
        return first
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
