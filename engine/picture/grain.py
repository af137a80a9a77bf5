"""Grain: the noise of a photograph, which an edit lacks and gets back.

A decoder paints smoothly, so an edit in a grainy picture shows as a clean patch. The noise around
it is measured and added to it: by frequency band (a film's grain is coarse, a sensor's fine, and
JPEG takes the finest), by brightness (a sensor's grows with light) and by opponent colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from engine.errors import InputError
from engine.picture.masks import distance_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.float32]

__all__ = ["match_grain"]

_SIGMAS: Final = (1.0, 2.0, 4.0)  # px; bands lie between one Gaussian and the next
_LEVELS: Final = (32.0, 96.0, 160.0, 224.0)  # grey levels at which noise is measured
_BLOCK: Final = 16  # px, side of the squares whose variances are compared
_FLATTEST: Final = 0.25  # quantile of those: structure makes squares rougher, never smoother
_REACH: Final = 96  # px around the edit that are measured
_LEAST: Final = 0.75  # grey levels; below it a picture has no grain but its rounding
_ENOUGH: Final = 8  # squares, below which a level's noise is that of all levels
_OPPONENT: Final = np.array(
    [[3**-0.5] * 3, [2**-0.5, -(2**-0.5), 0], [6**-0.5, 6**-0.5, -2 * 6**-0.5]], np.float32
)
"""Brightness, red against green, yellow against blue; orthonormal."""


def match_grain(
    edited: NDArray[np.uint8],
    original: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    seed: int | Sequence[int],
) -> NDArray[np.uint8]:
    """Add the grain that ``original`` has around the edit and ``edited`` has not.

    Noise is measured as the variance of the flattest squares near the edit, in each band, colour
    and brightness; what the edit has of it already is taken off. Where the edit will be laid over
    the original thinly the noise is raised by ``sqrt(2 / alpha - 1)``, so that both together are
    as grainy as either.

    Args:
        edited: ``uint8 (H, W, 3)``.
        original: ``uint8 (H, W, 3)``.
        alpha: ``(H, W)`` in [0, 1], how opaque the edit will be laid over the original.
        seed: The noise's own, one or several numbers from 0. The same gives the same grain.

    Returns:
        ``uint8 (H, W, 3)``; ``edited`` itself where the surroundings have no grain, and where
        there are none.

    Raises:
        InputError: shapes do not fit.
    """
    if edited.shape != original.shape or alpha.shape != edited.shape[:2]:
        raise InputError(
            f"shapes do not fit: edited {edited.shape}, original {original.shape}, "
            f"alpha {alpha.shape}"
        )
    inside = alpha > 0
    around = ~inside & (distance_to(inside) <= _REACH)
    if not inside.any() or not around.any():
        return edited
    box = _around(inside | around)
    inside, around, alpha = inside[box], around[box], alpha[box]
    wanted = _measured(original[box], around)
    if np.sqrt(wanted[:2, :, 0].sum(axis=0).max()) < _LEAST * np.sqrt(3):
        return edited
    lacking = np.maximum(wanted - _measured(edited[box], inside), 0)
    _, light = _split(edited[box])
    grain = np.zeros((*light.shape, 3), np.float32)
    rng = np.random.default_rng(seed)
    for number, variance in enumerate(_mixed(lacking)):
        # Each band from noise of its own, so that their variances add up.
        noise: _Floats = np.asarray(rng.standard_normal(grain.shape), np.float32)
        band = _bands(noise)[number]
        for colour in range(3):
            strength = np.interp(light, _LEVELS, np.sqrt(variance[:, colour]))
            grain[..., colour] += band[..., colour] * strength.astype(np.float32)
    raised = np.sqrt(2 / np.maximum(alpha, 1e-3) - 1) * inside
    result = edited.copy()
    added = edited[box] + raised[..., None] * (grain @ _OPPONENT)
    result[box] = np.where(inside[..., None], added.round().clip(0, 255), edited[box])
    return result


def _measured(picture: NDArray[np.uint8], where: NDArray[np.bool_]) -> _Floats:
    """Noise variances of what lies in ``where``: ``(band, level, colour)``, in grey levels."""
    bands, light = _split(picture)
    known = where.astype(np.float32)
    size = (_BLOCK, _BLOCK)
    share = np.asarray(cv2.blur(known, size, borderType=cv2.BORDER_CONSTANT))
    centres = np.zeros_like(where)
    centres[:: _BLOCK // 4, :: _BLOCK // 4] = True
    centres &= where & (share >= 0.5)
    result = np.zeros((len(_SIGMAS), len(_LEVELS), 3), np.float32)
    if not centres.any():
        return result
    nearest = np.abs(light[centres][:, None] - np.array(_LEVELS)).argmin(axis=1)
    for number, band in enumerate(bands):
        squares = band * band * known[..., None]
        blurred = np.asarray(cv2.blur(squares, size, borderType=cv2.BORDER_CONSTANT))
        variance = blurred[centres] / share[centres][:, None]
        overall = np.quantile(variance, _FLATTEST, axis=0)
        for level in range(len(_LEVELS)):
            own = variance[nearest == level]
            enough = len(own) >= _ENOUGH
            result[number, level] = np.quantile(own, _FLATTEST, axis=0) if enough else overall
    return result


def _split(picture: NDArray[np.uint8]) -> tuple[list[_Floats], _Floats]:
    """The bands of a picture in opponent colours, and its smooth brightness in grey levels."""
    colours = picture.astype(np.float32) @ _OPPONENT.T
    light = np.asarray(cv2.GaussianBlur(colours[..., 0], (0, 0), _SIGMAS[-1])) / np.float32(3**0.5)
    return _bands(colours), np.asarray(light, np.float32)


def _bands(values: _Floats) -> list[_Floats]:
    """Differences of Gaussians, finest first; what is coarser than the last is no grain."""
    smooth = [values, *(cv2.GaussianBlur(values, (0, 0), sigma) for sigma in _SIGMAS)]
    return [np.asarray(fine - coarse, np.float32) for fine, coarse in pairwise(smooth)]


def _mixed(variances: _Floats) -> _Floats:
    """Variances of white noise in each band that together measure as ``variances`` (``(band, level,
    colour)``): bands overlap, and the flattest squares have less than the mean.
    """
    from scipy.optimize import nnls

    flat = variances.reshape(len(_SIGMAS), -1).T
    mixed = np.array([nnls(_of_white(), each)[0] for each in flat.astype(np.float64)])
    return np.asarray(mixed.T.reshape(variances.shape), np.float32)


@cache
def _of_white() -> NDArray[np.float64]:
    """What a band (row) measures of white noise of variance 1 in each band (column)."""
    noise = np.random.default_rng(0).standard_normal(size=(256, 256), dtype=np.float32)
    size = (_BLOCK, _BLOCK)
    middle = slice(_BLOCK, -_BLOCK, _BLOCK // 4)
    return np.array(
        [
            [
                np.quantile(np.asarray(cv2.blur(seen * seen, size))[middle, middle], _FLATTEST)
                for seen in _bands(band)
            ]
            for band in _bands(noise)
        ]
    ).T


def _around(area: NDArray[Any]) -> tuple[slice, slice]:
    """The smallest box around ``area``."""
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
