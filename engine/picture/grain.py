"""Grain: the noise of a photograph, which an edit lacks and gets back.

A decoder paints smoothly, so an edit in a grainy picture shows as a clean patch. The noise around
it is measured and added to it: by frequency band (a film's grain is coarse, a sensor's fine, and
JPEG takes the finest), by brightness (a sensor's grows with light) and by opponent colour.
"""

from __future__ import annotations

from functools import cache
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
    seed: int,
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
        seed: The noise's own, at least 0. The same seed gives the same grain.

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
    lacking = np.maximum(wanted - _measured(edited[box], inside), 0) / _of_white()[:, None, None]
    bands, _ = _split(edited[box])
    noise = np.random.default_rng(seed).standard_normal(bands[0].shape, np.float32)
    light = edited[box].mean(axis=2, dtype=np.float32)
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), _SIGMAS[-1]), np.float32)
    grain = np.zeros_like(noise)
    for band, variance in zip(_bands(noise), lacking, strict=True):
        for channel in range(3):
            strength = np.interp(light, _LEVELS, np.sqrt(variance[:, channel]))
            grain[..., channel] += band[..., channel] * strength.astype(np.float32)
    raised = np.sqrt(2 / np.maximum(alpha, 1e-3) - 1) * inside
    result = edited.copy()
    added = edited[box] + raised[..., None] * (grain @ _OPPONENT)
    result[box] = np.where(inside[..., None], added.round().clip(0, 255), edited[box])
    return result
