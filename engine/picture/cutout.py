"""What a rough guess or a few points mean in a picture: the thing there, along its own edges.

GrabCut (Rother et al. 2004), OpenCV's, with the same random draws at every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

from engine.errors import InputError
from engine.picture.masks import resize_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

SIDE: Final = 512
"""Longest side in px at which it is cut; what is found is brought back to the picture's size."""
SURE: Final = 0.97
"""Share of a guess's peak from which on it is the thing."""
MAYBE: Final = 0.4
"""Share from which on it may be, at first."""
REACH: Final = 0.2
"""Share from which on it may be, once its colours are known."""
ROUNDS: Final = 3
ALIKE: Final = 12
"""How far a colour may be (levels of each channel in Lab) from its neighbour's to be one thing."""


def cut_out(rgb: Pixels, likely: Map) -> Map:
    """The thing (H W, 0 and 1) in a picture (H W 3) that a guess (H W in [0, 1]) points at.

    What is sure in the guess is the thing, what is unlikely is not, and between them the picture's
    colours decide: first near the guess's peak, then, with the colours that were found there, as
    far as it reaches. What the thing encloses is part of it.
    """
    small, guess = _small(rgb), resize_map(likely, _small_size(rgb), hard=False)
    peak = float(guess.max())
    if peak <= 0:
        return np.zeros(likely.shape, np.float32)
    guess = guess / peak
    kinds = np.full(guess.shape, cv2.GC_BGD, np.uint8)
    kinds[guess > MAYBE] = cv2.GC_PR_BGD
    kinds[guess > (SURE + MAYBE) / 2] = cv2.GC_PR_FGD
    kinds[guess >= SURE] = cv2.GC_FGD
    found = _grabbed(small, kinds)
    kinds = np.where(guess > REACH, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    kinds[found] = cv2.GC_PR_FGD
    kinds[guess >= SURE] = cv2.GC_FGD
    filled = np.asarray(binary_fill_holes(_grabbed(small, kinds)), bool)
    return _grown_back(filled, likely.shape)


def cut_out_at(
    rgb: Pixels,
    inside: Sequence[tuple[float, float]],
    outside: Sequence[tuple[float, float]] = (),
) -> Map:
    """The thing (H W, 0 and 1) in a picture (H W 3) that points (x, y in px) lie on; ``outside``
    are on none of it.

    Raises:
        InputError: no point, or one beside the picture.
    """
    check_points(rgb, inside, outside)
    small = _small(rgb)
    scale = small.shape[1] / rgb.shape[1]
    kinds = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    radius = max(2, round(max(small.shape) / 64))
    for x, y in inside:
        place = (int(x * scale), int(y * scale))
        flooded = np.zeros((small.shape[0] + 2, small.shape[1] + 2), np.uint8)
        flags = 4 | (1 << 8) | cv2.FLOODFILL_MASK_ONLY
        cv2.floodFill(lab.copy(), flooded, place, (0, 0, 0), (ALIKE,) * 3, (ALIKE,) * 3, flags)
        kinds[flooded[1:-1, 1:-1] > 0] = cv2.GC_PR_FGD
    for points, kind in ((inside, cv2.GC_FGD), (outside, cv2.GC_BGD)):
        for x, y in points:
            cv2.circle(kinds, (int(x * scale), int(y * scale)), radius, int(kind), -1)
    return _grown_back(_grabbed(small, kinds), rgb.shape[:2])


def check_points(
    rgb: Pixels,
    inside: Sequence[tuple[float, float]],
    outside: Sequence[tuple[float, float]],
) -> None:
    """Raise ``InputError`` for points that cannot be meant."""
    if not inside:
        raise InputError("a click needs a point on the thing: X,Y in pixels.")
    height, width = rgb.shape[:2]
    for point in [*inside, *outside]:
        pair: object = point
        numbers = isinstance(pair, tuple | list) and [isinstance(each, Real) for each in pair]
        if numbers != [True, True]:
            raise InputError(f"points are pairs (x, y) of pixels in a list, not {pair!r}.")
        x, y = point
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"the point {x:g},{y:g} lies beside the {width} x {height} px picture."
            )


def _small_size(rgb: Pixels) -> tuple[int, int]:
    height, width = rgb.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _small(rgb: Pixels) -> Pixels:
    size = _small_size(rgb)
    if size == (rgb.shape[1], rgb.shape[0]):
        return np.ascontiguousarray(rgb)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _grabbed(rgb: Pixels, kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """GrabCut's answer to what each pixel is likely to be."""
    known = {int(kind) for kind in np.unique(kinds)}
    things, rest = {cv2.GC_FGD, cv2.GC_PR_FGD}, {cv2.GC_BGD, cv2.GC_PR_BGD}
    if known & things and known & rest:
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(rgb, kinds, (0, 0, 1, 1), *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(kinds, list(things))


def _grown_back(found: NDArray[np.bool_], shape: tuple[int, ...]) -> Map:
    return resize_map(found.astype(np.float32), (shape[1], shape[0]), hard=True)
