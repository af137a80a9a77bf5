"""Fills without a model: the known colours, continued into the hole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rgb = NDArray[np.uint8]
    Hole = NDArray[np.bool_]


def original(rgb: Rgb, hole: Hole) -> Rgb:  # noqa: ARG001 - a fill takes both
    """Leave what stands there."""
    return rgb


def neutral(rgb: Rgb, hole: Hole) -> Rgb:
    """Mid grey, the VAE's zero."""
    return np.where(hole[..., None], np.uint8(128), rgb)


def noise(rgb: Rgb, hole: Hole) -> Rgb:
    """Each pixel a random one of the known pixels: their colours without any shape. Repeatable."""
    known = rgb[~hole]
    filled = rgb.copy()
    filled[hole] = known[np.random.default_rng(0).integers(len(known), size=int(hole.sum()))]
    return filled


def blur(rgb: Rgb, hole: Hole) -> Rgb:
    """Known colours, averaged into the hole by :func:`push_pull`."""
    return to_pixels(push_pull(rgb.astype(np.float32), ~hole))


def push_pull(values: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[Any]:
    """``values`` (float32, H W 3) where they are ``known`` (bool, H W), continued to everywhere
    else: averaged down a pyramid until no hole is left, then smoothly back up (Gortler et al., "The
    Lumigraph", 1996).
    """
    weight: NDArray[Any] = known.astype(np.float32)
    levels = [(values * weight[..., None], weight)]
    while (levels[-1][1] == 0).any():
        height, width = levels[-1][1].shape
        size = ((width + 1) // 2, (height + 1) // 2)
        values, weight = (
            cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in levels[-1]
        )
        # A coarse pixel with a quarter of its area known is as good as known.
        gain = np.minimum(4, 1 / np.maximum(weight, 1e-6))
        levels.append((values * gain[..., None], weight * gain))
    values, weight = levels.pop()
    filled: NDArray[Any] = values / weight[..., None]
    for values, weight in reversed(levels):
        size = (weight.shape[1], weight.shape[0])
        up = cv2.GaussianBlur(cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR), (5, 5), 0)
        filled = values + (1 - weight)[..., None] * up
    return filled


def to_pixels(values: NDArray[Any]) -> Rgb:
    """``values`` on the scale of 0 to 255, rounded."""
    return values.round().clip(0, 255).astype(np.uint8)


def telea(rgb: Rgb, hole: Hole) -> Rgb:
    """Fast marching (Telea 2004), OpenCV's."""
    return _inpainted(rgb, hole, cv2.INPAINT_TELEA)


def ns(rgb: Rgb, hole: Hole) -> Rgb:
    """Navier-Stokes (Bertalmio et al. 2001), OpenCV's."""
    return _inpainted(rgb, hole, cv2.INPAINT_NS)


def _inpainted(rgb: Rgb, hole: Hole, method: int) -> Rgb:
    filled = cv2.inpaint(np.ascontiguousarray(rgb), hole.astype(np.uint8), 3, method)
    return np.asarray(filled, np.uint8)
