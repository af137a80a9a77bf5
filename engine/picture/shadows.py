"""The shadow at a thing's foot, found on the picture itself.

A shadow lets the ground's colour be and takes light away: beside and below the foot, joined with
the thing, pixels that are darker than the ground around, in all channels by about the same factor
(``examples/benchmarks/measure_maps.py`` says how well it is found).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["shadow_of"]

REACH: Final = 0.25
"""How far from the thing it is looked for, over the thing's longer side."""
FOOT: Final = 1 / 3
"""Share of the thing's height, from below, beside which it may lie."""
DARKER: Final = (0.4, 0.9)
"""Brightness over that of the ground around."""
TINT: Final = 0.15
"""How much a channel's factor may differ from the mean of all."""
SIDE: Final = 256
"""Longer side in px at which a thing is looked at."""


def shadow_of(rgb: NDArray[np.uint8], strength_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where the shadows of what a map covers lie, outside of it: H W, as strong as the map's
    strongest of that thing, 0 elsewhere.

    Args:
        rgb: the picture, H W 3.
        strength_map: H W in [0, 1]; each of its islands is a thing, standing upright.
    """
    found = np.zeros_like(strength_map)
    count, labels = cv2.connectedComponents((strength_map > 0).astype(np.uint8), connectivity=8)
    for number in range(1, count):
        thing = labels == number
        shadow = _of_thing(rgb, thing) & (strength_map == 0)
        found[shadow] = np.maximum(found[shadow], strength_map[thing].max())
    return found


def _of_thing(rgb: NDArray[np.uint8], thing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of one (H W); looked for in a cut-out around it, at a size of :data:`SIDE`."""
    rows, columns = np.flatnonzero(thing.any(axis=1)), np.flatnonzero(thing.any(axis=0))
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    around = side + 4
    top, left = max(0, rows[0] - around), max(0, columns[0] - around)
    cut = np.s_[top : rows[-1] + 1 + around, left : columns[-1] + 1 + around]
    picture, own = rgb[cut], thing[cut]
    scale = min(1.0, SIDE / side)
    size = tuple(max(1, round(each * scale)) for each in own.shape[::-1])
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    standing = cv2.resize(own.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    likely = _likely(small, standing, side * scale).astype(np.float32)
    found = np.zeros_like(thing)
    found[cut] = cv2.resize(likely, own.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return found & ~thing


def _likely(rgb: NDArray[np.float32], thing: NDArray[np.bool_], side: float) -> NDArray[np.bool_]:
    """Where ``rgb`` (H W 3, 0 to 255) is the ground's colour, but darker, and joined with
    ``thing`` (H W), which is ``side`` px long.
    """
    reach = int(REACH * side)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    rows = np.flatnonzero(thing.any(axis=1))
    low = np.arange(len(thing))[:, None] > rows[-1] - FOOT * (rows[-1] - rows[0] + 1)
    zone = (cv2.dilate(thing.astype(np.uint8), disc) > 0) & low
    ground = _ground(rgb, (zone | thing).astype(np.float32), max(2.0, reach / 2))
    factor = cv2.GaussianBlur(rgb + 1, (0, 0), 0.7) / ground
    light = factor.mean(axis=2)
    tint = np.abs(factor / light[..., None] - 1).max(axis=2)
    dark = zone & ~thing & (light > DARKER[0]) & (light < DARKER[1]) & (tint < TINT)
    touching = cv2.dilate(thing.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    _, labels = cv2.connectedComponents((dark | touching).astype(np.uint8), connectivity=8)
    found: NDArray[np.bool_] = dark & np.isin(labels, np.unique(labels[thing]))
    return found


def _ground(
    rgb: NDArray[np.float32], hole: NDArray[np.float32], sigma: float
) -> NDArray[np.float32]:
    """The colours (H W 3, plus 1) on both sides of a hole (H W), row by row: ground changes with
    the distance from who sees it.
    """

    def blurred(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigmaX=4 * sigma, sigmaY=1.0))

    known = 1 - hole
    weight = np.maximum(blurred(known), 1e-4)[..., None]
    return np.maximum(blurred((rgb + 1) * known[..., None]) / weight, 1.0)
