"""A region of a picture as the model sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.picture.geometry import Box, crop, pad_to_multiple
from engine.picture.masks import resize_map
from engine.picture.pixels import to_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.picture.crop import Region


def resize_pixels(pixels: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """``pixels`` (b c h w) at ``size`` (height, width), bicubic with antialiasing."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)


@dataclass(frozen=True, eq=False)
class View:
    """A region of a picture as the model sees it."""

    source: int
    """Which of the request's pictures it is of."""
    region: Region
    strength_map: NDArray[np.float32]
    """H W in [0, 1], scaled and padded."""
    pixels: torch.Tensor
    """1 3 H W in [-1, 1], scaled and padded; empty where latents were given."""

    @classmethod
    def of(
        cls,
        source: int,
        region: Region,
        strength_map: NDArray[np.float32],
        rgb: NDArray[np.uint8] | None,
        align: int,
    ) -> View:
        """Cut ``region`` out of a picture (H W 3; None for latents) and its map (H W)."""
        cut = crop(strength_map, region.box)
        padded = pad_to_multiple(resize_map(cut, region.size), align)[0]
        pixels = torch.empty(0)
        if rgb is not None:
            pixels = model_pixels(crop(rgb, region.box), region, align)
        return cls(source, region, padded, pixels)

    @property
    def box(self) -> Box:
        """What the view covers of the picture's padded canvas."""
        box, (height, width) = self.region.box, self.strength_map.shape
        if self.region.scaled:
            return box
        return Box(box.left, box.top, box.left + width, box.top + height)

    def size_at(self, scale: float, align: int) -> tuple[int, int]:
        """(height, width) at ``scale``, multiples of ``align``."""
        height, width = self.strength_map.shape
        if scale == 1:
            return height, width
        return max(1, round(height * scale / align)) * align, max(
            1, round(width * scale / align)
        ) * align

    def map_at(self, scale: float, align: int) -> NDArray[np.float32]:
        """The map at ``scale``; a hard one grows, so that nothing is lost."""
        height, width = self.size_at(scale, align)
        return resize_map(self.strength_map, (width, height))


def model_pixels(rgb: NDArray[np.uint8], region: Region, align: int) -> torch.Tensor:
    """What is cut out for ``region`` (H W 3), scaled and padded: 1 3 H W in [-1, 1]."""
    if not region.scaled:
        return to_tensor(pad_to_multiple(rgb, align)[0])
    return resize_pixels(to_tensor(rgb), region.size[::-1]).clamp(-1, 1)
