"""Rectangles, padding and cropping. Coordinates are integers, always."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.picture.arrays import MAX_PIXELS, by

__all__ = ["Box", "Size", "check_canvas", "crop", "pad_to_multiple"]

_ArrayT = TypeVar("_ArrayT", bound=NDArray[Any])


class Size(NamedTuple):
    """Width and height in px, in Pillow's order; an array's (H, W) is its ``shape``."""

    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), as arrays and tensors have it."""
        return self.height, self.width

    @classmethod
    def of(cls, shape: Sequence[int]) -> Size:
        """That of an array or tensor whose ``shape`` is (H, W)."""
        height, width = shape
        return cls(width, height)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in integer pixel coordinates; right and bottom are exclusive, as in Pillow."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in px."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in px."""
        return self.bottom - self.top

    @property
    def size(self) -> Size:
        """Both."""
        return Size(self.width, self.height)


def pad_to_multiple(array: _ArrayT, multiple: int) -> tuple[_ArrayT, Box]:
    """Pad on the right and at the bottom until both sides are multiples of ``multiple``.

    The picture stays at the origin, so its coordinates hold in the padded one. The new pixels
    mirror the picture without repeating its edge (numpy's ``reflect``); along a side that is too
    short to be mirrored (padding >= side) the edge is repeated.

    Args:
        array: ``(H, W)`` or ``(H, W, C)``, any type.
        multiple: At least 1, in px.

    Returns:
        The padded array (the same object where nothing was to be added) and the box that
        :func:`crop` takes to undo it exactly.

    Raises:
        InputError: Another shape, an empty array, or ``multiple`` below 1.
    """
    if multiple < 1:
        raise InputError(f"multiple must be at least 1, not {multiple}")
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} cannot be padded: (H, W[, C]) is needed")
    height, width = array.shape[:2]
    box = Box(0, 0, width, height)
    for axis, side in enumerate((height, width)):
        amount = -side % multiple
        if amount == 0:
            continue
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, amount)
        array = np.pad(array, widths, mode="reflect" if amount < side else "edge")  # type: ignore[assignment]
    return array, box


def crop(array: _ArrayT, box: Box) -> _ArrayT:
    """Cut ``box`` out of ``array`` (``(H, W)`` or ``(H, W, C)``); a contiguous copy.

    Raises:
        InputError: The box is empty or reaches outside the array.
    """
    height, width = array.shape[:2]
    if not (0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height):
        raise InputError(f"{box} does not lie inside an array of {width} x {height} px")
    return array[box.top : box.bottom, box.left : box.right].copy()  # type: ignore[return-value]


def check_canvas(size: tuple[int, int], by_px: tuple[int, int, int, int] | None) -> tuple[int, int]:
    """The size ``(width, height)`` of a canvas that grows by (left, top, right, bottom) px.

    Raises:
        InputError: It would be larger than pictures may be.
    """
    left, top, right, bottom = by_px or (0, 0, 0, 0)
    grown = (left + size[0] + right, top + size[1] + bottom)
    if grown[0] * grown[1] > MAX_PIXELS:
        raise InputError(
            f"the canvas would grow to {by(grown)} px; up to {MAX_PIXELS / 1e6:.0f} megapixels are "
            "accepted"
        )
    return grown
