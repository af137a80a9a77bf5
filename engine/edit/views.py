"""A region of a picture as the model sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.picture.geometry import Box, Size, crop, pad_to_multiple
from engine.picture.masks import resize_map
from engine.picture.pixels import to_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.picture.crop import Region


def resize_pixels(pixels: torch.Tensor, size: Size) -> torch.Tensor:
    """``pixels`` (b c h w) at ``size``, bicubic with antialiasing."""
    if tuple(pixels.shape[-2:]) == size.shape:
        return pixels
    resize = torch.nn.functional.interpolate
    return resize(pixels, size=size.shape, mode="bicubic", antialias=True)


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

    def size_at(self, scale: float, align: int) -> Size:
        """The size at ``scale``, multiples of ``align``."""
        size = Size.of(self.strength_map.shape)
        if scale == 1:
            return size
        return Size(*(max(1, round(side * scale / align)) * align for side in size))

    def map_at(self, scale: float, align: int) -> NDArray[np.float32]:
        """The map at ``scale``; a hard one grows, so that nothing is lost."""
        return resize_map(self.strength_map, self.size_at(scale, align))


def model_pixels(rgb: NDArray[np.uint8], region: Region, align: int) -> torch.Tensor:
    """What is cut out for ``region`` (H W 3), scaled and padded: 1 3 H W in [-1, 1]."""
    if not region.scaled:
        return to_tensor(pad_to_multiple(rgb, align)[0])
    return resize_pixels(to_tensor(rgb), region.size).clamp(-1, 1)
