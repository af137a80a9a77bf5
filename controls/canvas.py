"""The pictures of an edit as controls see them, and where control images go on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from controls.annotators import annotate
from engine.errors import InputError
from engine.picture.geometry import Box, crop, pad_to_multiple
from engine.picture.map_files import load_strength_map
from engine.picture.opening import name_of
from engine.picture.read import load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from controls.annotators import Annotator


class Canvas:
    """What controls need to know of an edit's pictures.

    Args:
        size: ``(width, height)`` of the canvas in px, before padding.
        pictures: ``uint8 (H, W, 3)`` each, of that size; None where latents were given.
        strength_maps: float32 ``(H, W)`` each, one for all pictures or one for each.
        align: the model pads pictures to a multiple of this many px; control images follow.
        inner: where the given picture lies on a canvas that was expanded. Control images and
            masks belong to the picture as it was given, and are expanded with it.
    """

    def __init__(
        self,
        size: tuple[int, int],
        pictures: Sequence[NDArray[np.uint8]] | None,
        strength_maps: Sequence[NDArray[np.float32]],
        align: int,
        inner: Box | None = None,
    ) -> None:
        self.size = size
        self.pictures = pictures
        self.strength_maps = strength_maps
        self.align = align
        self.inner = inner or Box(0, 0, *size)
        self._annotated: dict[tuple[int, Any], NDArray[np.uint8]] = {}

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.pictures) if self.pictures is not None else 1

    def annotated(self, annotator: str | Annotator, which: int) -> NDArray[np.uint8]:
        """The control image (``uint8 (H, W, 3)``) of a picture as it was given; made once."""
        key = (which, annotator)
        if key not in self._annotated:
            self._annotated[key] = annotate(crop(self.picture(which), self.inner), annotator)
        return self._annotated[key]

    def with_hole(self, which: int, value: float) -> torch.Tensor:
        """The picture on the padded canvas (1 3 H W in [0, 1]), ``value`` where it is repainted."""
        pixels, _ = self.place(self.picture(which))
        strength_map = self.strength_maps[which % len(self.strength_maps)]
        hole = torch.from_numpy(pad_to_multiple(strength_map, self.align)[0] > 0)
        return torch.where(hole, torch.tensor(value, dtype=pixels.dtype), pixels)

    def picture(self, which: int) -> NDArray[np.uint8]:
        if self.pictures is None:
            raise InputError(
                "a control image cannot be made from latents; give the control an image."
            )
        return self.pictures[which]

    def place(self, source: Any) -> tuple[torch.Tensor, bool]:
        """A control image on the padded canvas: float32 1 3 H W in [0, 1], and whether it covers
        the canvas (or only the picture in it, whose edge pixels are then continued).

        Raises:
            InputError: it cannot be read, or is of another size than the picture.
        """
        pixels = load_image(source).rgb
        size = (pixels.shape[1], pixels.shape[0])
        covers = size == self.size
        if not covers:
            inner = self.inner
            if size != (inner.width, inner.height):
                raise InputError(
                    f"control {name_of(source, 'image')} is {size[0]} x {size[1]} px but the "
                    f"picture is {inner.width} x {inner.height} px; they must be of one size."
                )
            pixels = self._expand(pixels, "edge")
        padded, _ = pad_to_multiple(pixels, self.align)
        scaled = (padded.astype(np.float32) / 255.0)[None]
        return torch.from_numpy(scaled.transpose(0, 3, 1, 2)), covers

    def whole(self) -> torch.Tensor:
        """A mask of the whole padded canvas: float32 1 1 H W of ones."""
        width, height = self.size
        padded, _ = pad_to_multiple(np.ones((height, width), np.float32), self.align)
        return torch.from_numpy(padded)[None, None]

    def place_mask(self, source: Any) -> torch.Tensor:
        """A control's mask on the padded canvas: float32 1 1 H W in [0, 1].

        Raises:
            InputError: as :func:`engine.picture.masks.load_strength_map`, or it is 0 everywhere.
        """
        mask = load_strength_map(source, (self.inner.width, self.inner.height))
        if not mask.any():
            raise InputError(
                f"{name_of(source, 'control mask')} is 0 everywhere: the control would do nothing "
                "(white, 1 = the control holds)."
            )
        padded, _ = pad_to_multiple(self._expand(mask, "constant"), self.align)
        return torch.from_numpy(padded)[None, None]

    def _expand(self, array: NDArray[Any], mode: Any) -> NDArray[Any]:
        """An array (H W or H W C) of the given picture's size on the canvas."""
        width, height = self.size
        around = [
            (self.inner.top, height - self.inner.bottom),
            (self.inner.left, width - self.inner.right),
            (0, 0),
        ]
        return np.pad(array, around[: array.ndim], mode=mode)


def cut(canvas: torch.Tensor, box: Box | None) -> torch.Tensor:
    """``box`` of a padded canvas (b c H W), as the picture is cut; None is all of it."""
    return canvas if box is None else canvas[..., box.top : box.bottom, box.left : box.right]
