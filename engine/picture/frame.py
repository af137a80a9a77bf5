"""Frames: the thin border of one colour that scans, prints and screenshots come with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from engine.picture.deep import shallow

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["continued", "frame_widths"]

_SHARE: Final = 0.03  # of a side, how wide a frame may be
_LEAST, _MOST = 2, 12  # px, whatever the share says
_ONE_COLOUR: Final = 12  # grey levels that a frame's pixels may lie off their median
_CONTRAST: Final = 24  # grey levels between a frame and the picture behind it


def frame_widths(rgb: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """How wide a frame stands at each side of a picture (uint8, H W 3): left, top, right, bottom
    in px, 0 where there is none.

    The outermost rows are a frame if they are all of one colour, few (3% of the side, 2 to 12 px),
    and nearly all of what stands behind them is of another. A row between the two colours, as
    resampling and JPEG leave one, belongs to the frame.
    """
    across = rgb.transpose(1, 0, 2)
    return _width(across), _width(rgb), _width(across[::-1]), _width(rgb[::-1])


def continued(
    rgb: NDArray[Any], by: tuple[int, int, int, int], mode: Literal["edge", "symmetric"]
) -> NDArray[Any]:
    """``rgb`` (uint8 or uint16, H W 3) on a canvas that is larger ``by`` so much (left, top, right,
    bottom), in px, continued by numpy's ``mode`` of padding (``"symmetric"``, ``"edge"``); a frame
    is not.
    """
    eight = rgb if rgb.dtype == np.uint8 else shallow(rgb)
    widths = [wide if side else 0 for wide, side in zip(frame_widths(eight), by, strict=True)]
    height, width = rgb.shape[:2]
    left, top, right, bottom = widths
    scene = rgb[top : height - bottom, left : width - right]
    left, top, right, bottom = (wide + side for wide, side in zip(widths, by, strict=True))
    sides = ((top, bottom), (left, right), (0, 0))
    canvas: NDArray[Any] = np.pad(scene, sides, mode=mode)
    canvas[by[1] : by[1] + height, by[0] : by[0] + width] = rgb
    return canvas


def _width(rows: NDArray[np.uint8]) -> int:
    """The frame's at the first of ``rows``."""
    most = max(_LEAST, min(_MOST, round(_SHARE * len(rows))))
    if len(rows) < 2 * most + 4:
        return 0
    first = rows[: most + 3].astype(np.int16)
    colour = np.median(first[0], axis=0)
    off = np.abs(first - colour).max(axis=2)
    of_it = (off <= _ONE_COLOUR).mean(axis=1) >= 0.98
    width = int(of_it.argmin()) if not of_it.all() else len(of_it)
    if not 0 < width <= most:
        return 0
    behind = off[width + 1]
    if (behind > _CONTRAST).mean() < 0.9 or _is_slope(off.mean(axis=1), width):
        return 0
    between = off[width].mean() < 0.75 * behind.mean()
    return width + int(between)


def _is_slope(off: NDArray[np.float64], width: int) -> bool:
    """Whether the colours only go on in what looks like a frame: it is not flat, or what stands
    behind it goes on as steeply. ``off``: of each row, from the outermost one's colour.
    """
    jump = off[width + 1]
    return bool(off[width - 1] > jump / 4 or off[width + 2] - jump > 0.4 * jump)
