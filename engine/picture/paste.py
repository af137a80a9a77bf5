"""Laying an edit over its original.

Every way keeps pixels where alpha is 0 equal to the bit, and fades the edit in over alpha's ramp.
They differ in what is faded in. To add one, register a :class:`PasteInfo`, or name it as an entry
point of the group ``softpaint.pastes``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.picture.deep import deepened, shallow
from engine.picture.masks import smootherstep
from engine.picture.pixels import paste, unit
from engine.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rgb = NDArray[np.uint8]
    Alpha = NDArray[np.float32]


@dataclass(frozen=True)
class PasteInfo:
    """A way to lay an edit over its original, by name."""

    name: str
    description: str
    run: Callable[[Any, Rgb, Alpha], Any]
    """Of the original, the edit and its opacity; the result is of the original's type."""
    deep: bool = False
    """Takes originals of 16 bits (uint16) too. Without it they are pasted in 8, and their lower 8
    bits fade out under the edit."""
    covered: bool = False
    """What the original holds where the edit is opaque has a say too."""


PASTES = Registry("paste", PasteInfo, "softpaint.pastes")

CHANGE = 6.0
"""Change (Delta-E 1976 in Lab, smoothed) at which the adaptive paste is half opaque: about twice
what a VAE's round trip changes."""


def stitch(rule: str, original: NDArray[Any], edited: Rgb, alpha: Alpha) -> NDArray[Any]:
    """Lay ``edited`` (uint8, H W 3) over ``original`` by ``rule``, a name of :func:`list_pastes`.

    An original of 16 bits (uint16) keeps them.

    Args:
        alpha: H W in [0, 1].

    Raises:
        UnknownNameError: no such rule.
    """
    info = PASTES.get(rule)
    if original.dtype == np.uint8 or info.deep:
        return np.asarray(info.run(original, edited, alpha))
    eight = shallow(original)
    lower = (original - deepened(eight).astype(np.float64)) * (1 - alpha[..., None])
    pasted = deepened(info.run(eight, edited, alpha)) + lower
    return pasted.round().clip(0, 65535).astype(np.uint16)


def _adaptive(original: Rgb, edited: Rgb, alpha: Alpha) -> Rgb:
    return paste(original, edited, alpha * changed(original, edited))


def changed(original: Rgb, edited: Rgb) -> Alpha:
    """How much really changed, from 0 to 1 (H W): ``1 - smootherstep(1 / (1 + (D / h) ** 2))`` with
    D the colour difference in Lab, smoothed over a few pixels, and h = :data:`CHANGE`. The formula
    is that of A1111's soft inpainting, which applies it to latents.
    """
    one, two = (cv2.cvtColor(unit(each), cv2.COLOR_RGB2LAB) for each in (original, edited))
    distance = np.linalg.norm(one - two, axis=2)
    smooth = cv2.GaussianBlur(distance, (0, 0), 3, borderType=cv2.BORDER_REFLECT)
    kept = 1 / (1 + (smooth / CHANGE) ** 2)
    return np.float32(1) - smootherstep(kept)


def _multiband(original: Rgb, edited: Rgb, alpha: Alpha) -> Rgb:
    return paste(original, multiband(original, edited, alpha), alpha)


def multiband(original: Rgb, edited: Rgb, alpha: Alpha) -> NDArray[np.float32]:
    """Blend by Laplacian pyramids (Burt and Adelson, "A Multiresolution Spline", 1983): coarse
    structure, and with it colour, changes over a wide zone, fine structure over a narrow one.

    Returns float32 (H W 3) in [0, 1].
    """
    levels = max(0, int(np.log2(min(alpha.shape))) - 3)
    one, two = (_laplacian(unit(each), levels) for each in (original, edited))
    weights = _gaussian(alpha.astype(np.float32), levels)
    blended = [a + w[..., None] * (b - a) for a, b, w in zip(one, two, weights, strict=True)]
    result = blended.pop()
    while blended:
        band = blended.pop()
        result = band + cv2.pyrUp(result, dstsize=(band.shape[1], band.shape[0]))
    return np.asarray(result, np.float32).clip(0, 1)


def _gaussian(picture: NDArray[np.float32], levels: int) -> list[NDArray[np.float32]]:
    pyramid = [picture]
    for _ in range(levels):
        pyramid.append(np.asarray(cv2.pyrDown(pyramid[-1]), np.float32))
    return pyramid


def _laplacian(picture: NDArray[np.float32], levels: int) -> list[NDArray[np.float32]]:
    pyramid = _gaussian(picture, levels)
    return [
        *(
            fine - cv2.pyrUp(coarse, dstsize=(fine.shape[1], fine.shape[0]))
            for fine, coarse in pairwise(pyramid)
        ),
        pyramid[-1],
    ]


def _poisson(original: NDArray[Any], edited: Rgb, alpha: Alpha) -> Rgb:
    eight = shallow(original) if original.dtype == np.uint16 else original
    return paste(original, poisson(eight, edited, alpha > 0), alpha)


def poisson(original: Rgb, edited: Rgb, inside: NDArray[np.bool_]) -> Rgb:
    """The edit's gradients inside, the original's colours on the border (Perez et al., "Poisson
    Image Editing", 2003; OpenCV's ``seamlessClone``). Where the edit ends with the picture, there
    is no original colour to meet, and the edit keeps its own.
    """
    # OpenCV solves for the pixels that have all their neighbours inside.
    if inside.all() or not cv2.erode(inside.astype(np.uint8), np.ones((3, 3))).any():
        return edited
    # OpenCV solves over the mask's bounding box and takes the edit's gradients from its fourth
    # pixel inwards; a mask that touches the frame it moves. So both get a frame of the edit's
    # colours, which the mask reaches into where the edit goes on to the picture's end.
    reach = 4
    mask = np.pad(np.pad(inside.astype(np.uint8) * 255, reach, mode="edge"), 1)
    frame = np.pad(edited, (*[(reach + 1, reach + 1)] * 2, (0, 0)), mode="edge")
    under = frame.copy()
    middle = slice(reach + 1, -reach - 1)
    under[middle, middle] = original
    left, top, width, height = cv2.boundingRect(mask)
    centre = (left + width // 2, top + height // 2)
    cloned = cv2.seamlessClone(frame, under, mask, centre, cv2.NORMAL_CLONE)
    return np.asarray(cloned[middle, middle], np.uint8)


for _info in (
    PasteInfo("alpha", "the edit itself, faded in", paste, deep=True),
    PasteInfo(
        "adaptive",
        "the more transparent, the less really changed",
        _adaptive,
        deep=True,
        covered=True,
    ),
    PasteInfo(
        "multiband", "blended into the original band by band", _multiband, deep=True, covered=True
    ),
    PasteInfo(
        "poisson",
        "the edit's gradients in the original's colours",
        _poisson,
        deep=True,
        covered=True,
    ),
):
    PASTES.register(_info)


def list_pastes() -> list[str]:
    """The names that ``paste=`` accepts.

    Example:
        >>> "poisson" in list_pastes()
        True
    """
    return PASTES.names()
