"""Transparency takes part in an edit.

Invisible pixels (opacity 0) have colours that nobody sees, often black. They are no context, and
nothing to fade over: :func:`with_visible_colours` fills them from the visible ones before anything
looks at them. What is painted into a hole becomes visible: :func:`opacity_after`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError
from engine.picture.deep import deepened
from engine.picture.fade import paste_alpha
from engine.picture.fill import find_prefill, prefilled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.picture.read import Picture

__all__ = ["hole_of", "opacity_after", "settled", "with_visible_colours"]

_OPAQUE = 249  # of 255; from here on a pixel counts as opaque, as a brush of 98% does


def hole_of(picture: Picture, *, hard: bool) -> NDArray[np.float32]:
    """The strength map that a picture's own transparency is: float32 ``(H, W)``, 1 = repaint.

    Args:
        picture: As it was read.
        hard: Repaint whatever is not opaque; else each pixel as strongly as it is transparent.

    Raises:
        InputError: The picture has no transparent pixel.
    """
    if picture.alpha is None or picture.alpha.min() >= _OPAQUE:
        raise InputError(
            "'alpha' repaints where the picture is transparent, and this picture has no "
            "transparent pixel"
        )
    if hard:
        return (picture.alpha < _OPAQUE).astype(np.float32)
    hole: NDArray[np.float32] = 1 - picture.alpha.astype(np.float32) / np.float32(255)
    hole[picture.alpha >= _OPAQUE] = 0
    return hole


def with_visible_colours(picture: Picture) -> Picture:
    """The picture with the colours of its visible pixels continued under the invisible ones.

    The picture itself where every pixel is visible, or none. The result remembers the colours that
    were hidden.
    """
    if picture.alpha is None or picture.alpha.all() or not picture.alpha.any():
        return picture
    hidden = picture.alpha == 0
    rgb = prefilled(find_prefill("blur"), picture.rgb, hidden)
    deep = picture.deep
    if deep is not None:
        deep = deep.copy()
        deep[hidden, :3] = deepened(rgb[hidden])
    return replace(picture, rgb=rgb, deep=deep, given=picture)


def opacity_after(
    alpha: NDArray[np.uint8],
    strength_map: NDArray[np.float32],
    feather: float,
    paste_mask: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """The opacity of an edited picture, ``(H, W)``, 0 to 255.

    It grows by the strength times the opacity with which the edit is laid there: a hole that is
    repainted wholly becomes opaque, half transparent glass under a map of a half too. Towards what
    stays invisible it fades over ``feather``; towards the visible picture it need not.

    Args:
        alpha: The picture's opacity, 0 to 255.
        strength_map: ``(H, W)`` in [0, 1].
        feather: In px.
        paste_mask: The paste's opacity where that was given, ``(H, W)`` in [0, 1].
    """
    painted = strength_map > 0
    if alpha.all() and alpha[painted].min(initial=255) == 255:
        return alpha
    laid = paste_mask
    if laid is None:
        laid = paste_alpha((painted | (alpha > 0)).astype(np.float32), feather)
    grown = alpha + (255 * laid * strength_map).astype(np.float64)
    after: NDArray[np.uint8] = np.minimum(grown, 255).round().astype(np.uint8)
    return np.where(painted, after, alpha)


def settled(
    picture: Picture,
    pixels: NDArray[Any],
    strength_map: NDArray[np.float32],
    feather: float,
    paste_mask: NDArray[np.float32] | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """A finished picture's pixels and opacity (None where the picture has none).

    What is still invisible has the colours that it had.

    Args:
        picture: What was edited, of :func:`with_visible_colours`.
        pixels: Of the edit, ``(H, W, 3)``, uint8 or uint16.
        strength_map: See :func:`opacity_after`, as the others.
    """
    if picture.alpha is None:
        return pixels, None
    alpha = opacity_after(picture.alpha, strength_map, feather, paste_mask)
    if picture.given is None:
        return pixels, alpha
    given = picture.given
    colours = given.rgb if pixels.dtype == np.uint8 else given.deepest
    return np.where((alpha == 0)[:, :, None], colours, pixels), alpha
