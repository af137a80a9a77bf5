"""Strength maps: what may change, and how much.

A strength map ``e`` is float32, ``(H, W)``, in [0, 1]: **1 = repaint, 0 = keep**. A mask is a
strength map that holds only 0 and 1. :mod:`engine.picture.map_files` reads them.

Everything here is exact at the two ends: 0 stays 0 and 1 stays 1 through resizing and reduction to
the latent grid, because 0 promises "not a bit of this pixel changes".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["distance_to", "is_hard", "resize_map", "smootherstep", "to_latent_grid"]


def is_hard(strength_map: NDArray[np.floating[Any]]) -> bool:
    """Say whether a strength map, any shape, holds nothing but 0 and 1."""
    return bool(np.all((strength_map == 0) | (strength_map == 1)))


def to_latent_grid(
    strength_map: NDArray[np.float32], factor: int, *, hard: bool | None = None
) -> NDArray[np.float32]:
    """Reduce a strength map to the latent grid: one value for each cell of ``factor`` x ``factor``.

    Hard maps by maximum, so that the thinnest stroke is still repainted; soft ones by average, in
    float64, so that a cell of ones gives exactly 1 and a cell of zeros exactly 0.

    Args:
        strength_map: ``(H, W)`` in [0, 1], H and W multiples of ``factor``.
        factor: Pixels per latent cell (8 for SD and SDXL).
        hard: True = maximum, False = average, None = as :func:`is_hard` finds it.

    Returns:
        float32 ``(H / factor, W / factor)`` in [0, 1].

    Raises:
        InputError: H or W is no multiple of ``factor``, or the map is not two-dimensional.
    """
    if strength_map.ndim != 2:
        raise InputError(f"strength map of shape {strength_map.shape} given; (H, W) is needed")
    height, width = strength_map.shape
    if factor < 1 or height % factor or width % factor or not strength_map.size:
        raise InputError(
            f"a strength map of {width} x {height} px does not divide into cells of {factor} px"
        )
    cells = strength_map.reshape(height // factor, factor, width // factor, factor)
    if is_hard(strength_map) if hard is None else hard:
        reduced = cells.max(axis=(1, 3))
    else:
        reduced = cells.mean(axis=(1, 3), dtype=np.float64)
    return np.asarray(reduced, dtype=np.float32)


def resize_map(
    strength_map: NDArray[np.float32], size: tuple[int, int], *, hard: bool | None = None
) -> NDArray[np.float32]:
    """Resize a map by the rules of :func:`engine.picture.map_files.load_strength_map`; 0 stays 0
    and 1 stays 1.

    Args:
        strength_map: ``(H, W)`` in [0, 1].
        size: ``(width, height)`` in px.
        hard: Keep it hard (maximum, nearest pixel); None = as :func:`is_hard` finds it.
    """
    width, height = size
    own = (strength_map.shape[1], strength_map.shape[0])
    if own == (width, height):
        return strength_map
    shrinks = own[0] * own[1] >= width * height
    if is_hard(strength_map) if hard is None else hard:
        if shrinks:
            covered = cv2.resize(strength_map, (width, height), interpolation=cv2.INTER_AREA)
            return (covered > 0).astype(np.float32)
        grown = cv2.resize(strength_map, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return grown.astype(np.float32, copy=False)
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # Three channels at once: the map, where it is not 0, where it is not 1; the last two give the
    # pixels that saw nothing but 0 or nothing but 1, which must come out exact.
    layers = np.dstack([strength_map, strength_map != 0, strength_map != 1]).astype(np.float32)
    resized = cv2.resize(layers, (width, height), interpolation=filter_)
    result: NDArray[np.float32] = np.clip(resized[:, :, 0], 0, 1).astype(np.float32)
    result[resized[:, :, 1] == 0] = 0
    result[resized[:, :, 2] == 0] = 1
    return result


def smootherstep(t: NDArray[Any]) -> NDArray[np.float32]:
    """``6 t^5 - 15 t^4 + 10 t^3`` for t in [0, 1] (K. Perlin, "Improving Noise", 2002); 0 gives
    exactly 0 and 1 exactly 1.
    """
    smooth = np.clip(t**3 * (t * (t * 6 - 15) + 10), 0, 1)
    return np.where(t == 1, 1, smooth).astype(np.float32)


def distance_to(target: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Measure each pixel's distance in px to the nearest True pixel; infinite if there is none.

    OpenCV's exact transform (Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled
    Functions", 2012). Its last bits differ from call to call; the squares are whole numbers.
    """
    if not target.any():  # OpenCV leaves this undefined: 65536 here, 1.8e19 there
        return np.full(target.shape, np.inf, np.float32)
    away = np.ascontiguousarray(~target).view(np.uint8)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(distance * distance)), np.float32)
