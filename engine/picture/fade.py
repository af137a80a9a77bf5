"""How an edit fades in: the opacity with which it is laid over the original.

:mod:`engine.picture.paste` lays it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.errors import InputError
from engine.picture.fill import find_prefill, prefilled
from engine.picture.masks import distance_to, smootherstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fade_over", "paste_alpha"]

_FOREIGN = np.float32(4)  # Delta-E 1976; what is let through of it by a wider fade no eye sees
_LIKE = np.float32(8)  # Delta-E at which an edit no longer looks like its original
_AROUND = 16  # px around the support from which its surroundings are continued


def paste_alpha(
    strength_map: NDArray[np.float32],
    feather: float,
    original: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Compute the opacity with which edited pixels are pasted over the original ones.

    The support is where the map is above 0. Outside it alpha is exactly 0, so those pixels stay
    untouched to the bit. Inside, with d the Euclidean distance to the nearest pixel outside, in px,

        ``alpha = smootherstep(min(d / w, 1))``,  ``smootherstep(t) = 6 t^5 - 15 t^4 + 10 t^3``

    (:func:`smootherstep`), with ``w = feather``: alpha is exactly 1 from ``feather``
    px inside on. The border of the picture is no edge: a mask that touches it stays opaque there.

    Where the support is thinner than two feathers that ramp would leave next to nothing of the
    edit, so it is narrowed there: w is the largest width t (of a geometric series up to
    ``feather``) for which some pixel with ``d >= t`` lies within 1.5 t, i.e. the half thickness of
    the support around the pixel; it grows by no more than half a pixel per pixel, so that the ramps
    of thin and thick parts meet without a step. (Within 1.5 t, because the corner of a square is
    sqrt(2) t away from the square's core and must not count as thin.) The centre line of every part
    is opaque (to 1e-3); a mask of one pixel has alpha 1.

    Where ``original`` goes on inside the support as it is outside (:func:`surroundings`), the ramp
    is up to twice as wide: an edit that ends at the mask's border, as a thing does that was painted
    too large, fades away in place of being cut off. Around a thing that is kept with little margin
    it stays as it is. What is foreign there shows through neither way: see :func:`fade_over`.

    Args:
        strength_map: ``(H, W)`` in [0, 1].
        feather: Width of the ramp in px, >= 0; 0 (and anything up to 1) is a hard cut.
        original: uint8 ``(H, W, 3)``, what will be pasted over. None: the ramp is as wide as
            ``feather`` everywhere.

    Returns:
        float32 ``(H, W)`` in [0, 1], above 0 wherever the map is.

    Raises:
        InputError: ``feather`` is negative or not finite, the map is not two-dimensional, or the
            original is not of its size.
    """
    _check(strength_map, feather, original)
    support = strength_map > 0
    alpha = support.astype(np.float32)
    if feather <= 1 or support.all() or not support.any():
        return alpha
    # Work on the support's bounding box and what counts around it.
    near = min(float(feather), 16.0)
    reach = 1 if original is None else 1 + ceil(2 * near)
    rows, columns = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
    window = (
        slice(max(rows[0] - reach, 0), rows[-1] + 1 + reach),
        slice(max(columns[0] - reach, 0), columns[-1] + 1 + reach),
    )
    depth = distance_to(~support[window])
    alpha[window] = _ramp(depth, float(feather))
    if original is not None:
        given_up = alpha[window] - np.minimum(_ramp(depth, 2.0 * feather), alpha[window])
        original, support = original[window], support[window]
        for around, inner, tile in _tiles(given_up > 0, ceil(2 * feather + 6 * near)):
            off, even = surroundings(original[around], support[around], near)
            given_up[tile] *= _goes_on(off, even, near)[inner]
        alpha[window] -= given_up
    return alpha


def _check(
    strength_map: NDArray[np.float32], feather: float, original: NDArray[np.uint8] | None
) -> None:
    if not (np.isfinite(feather) and feather >= 0):
        raise InputError(f"feather must be a number of pixels >= 0, not {feather}")
    if strength_map.ndim != 2:
        raise InputError(f"strength map of shape {strength_map.shape} given; (H, W) is needed")
    if original is not None and original.shape != (*strength_map.shape, 3):
        raise InputError(f"original {original.shape} does not fit the map {strength_map.shape}")


def fade_over(
    original: NDArray[np.uint8],
    edited: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    feather: float,
    *,
    deep: bool = False,
) -> NDArray[np.uint8]:
    """What an edit is faded in over: the original, but for what in it was to go.

    Inside the support, what is foreign to the surroundings (:func:`surroundings`) may be on its way
    out, and a fade over it would leave its outline. Where that is so for some way along the border
    and the edit does not look like it any more, the edit is faded in over the surroundings,
    continued smoothly.

    Args:
        original: ``uint8 (H, W, 3)``.
        edited: ``uint8 (H, W, 3)``.
        alpha: ``(H, W)`` in [0, 1], how opaque the edit is laid over the original; above 0 is its
            support.
        feather: The fade's width in px, >= 0.
        deep: Look at what is covered wholly too, for a blend that sees it.

    Returns:
        ``uint8 (H, W, 3)``, the original outside the support.
    """
    support = alpha > 0
    seen = support if deep else support & (alpha < 1)
    near = min(max(float(feather), 2.0), 16.0)
    # The outermost pixel of what was to go is often half outside.
    hole = cv2.dilate(support.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if not seen.any() or hole.all():
        return original
    foreign = _foreign(original, support, seen, feather, near)
    if not foreign.any():
        return original
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    box = (
        slice(max(rows[0] - _AROUND, 0), rows[-1] + 1 + _AROUND),
        slice(max(columns[0] - _AROUND, 0), columns[-1] + 1 + _AROUND),
    )
    before = original[box]
    changed = _blurred(np.linalg.norm(_lab(edited[box]) - _lab(before), axis=2), 1.0)
    outline = foreign[box]
    if not deep:
        outline = outline * _all_along(outline, support[box], float(feather))
    gone = outline * (1 - np.exp(-((changed / _LIKE) ** 4)))
    continued = prefilled(find_prefill("blur"), before, hole[box]).astype(np.float32)
    under = original.copy()
    under[box] = (before + gone[..., None] * (continued - before)).round().clip(0, 255)
    return under


def _foreign(
    original: NDArray[np.uint8],
    support: NDArray[np.bool_],
    seen: NDArray[np.bool_],
    feather: float,
    near: float,
) -> NDArray[np.float32]:
    """From 0 to 1 how foreign pixels are to what surrounds the support, where they are ``seen``."""
    foreign = np.zeros(support.shape, np.float32)
    for around, inner, tile in _tiles(seen, ceil(2 * feather + 6 * near)):
        if support[around].all():
            foreign[tile] = 1  # far from everything that stays
            continue
        # What touches the support may be half of what it covers.
        off, _ = surroundings(original[around], support[around], near, beyond=1.45)
        if not (seen[tile] & (off[inner] > 0.5 * _FOREIGN)).any():
            continue
        off = _nowhere_near(off, original[around], support[around], 1.5 * near)
        share = np.clip(2 * off / _FOREIGN - 1, 0, 1)
        foreign[tile] = np.maximum(share, _blurred(share, 0.6))[inner]
    foreign[~seen] = 0
    return foreign


def _all_along(
    foreign: NDArray[np.float32], support: NDArray[np.bool_], feather: float
) -> NDArray[np.float32]:
    """From 0 to 1 (H W) whether most of the fade is foreign for some way along the border, as it is
    where a mask fits tightly to what is to go. What crosses a border, a ridge or the outline of a
    cloud, is foreign in places, and there the original is what an edit best fades in over.
    """
    zone = support & (distance_to(~support) <= max(feather, 1.0))
    height, width = support.shape
    cell = max(1, min(round(feather), height // 8, width // 8))
    reach = feather or 1.0  # without a fade opacities of one's own may show the original
    coarse = -(-width // cell), -(-height // cell)
    part, whole = (
        _blurred(cv2.resize(each, coarse, interpolation=cv2.INTER_AREA), 4.0 * reach / cell)
        for each in (np.where(zone, foreign, np.float32(0)), zone.astype(np.float32))
    )
    share = np.clip((part / np.maximum(whole, np.float32(1e-6)) - 0.4) / 0.2, 0, 1)
    return np.asarray(cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR))


def _tiles(
    where: NDArray[np.bool_], margin: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """The squares of a picture that hold any of ``where`` (a border crosses few of them): with
    ``margin`` px around, the square's place in that, and its place in the picture.
    """
    side = max(256, 4 * margin)
    for top, left in product(*(range(0, length, side) for length in where.shape)):
        tile = slice(top, top + side), slice(left, left + side)
        if where[tile].any():
            first = max(top - margin, 0), max(left - margin, 0)
            yield (
                (slice(first[0], top + side + margin), slice(first[1], left + side + margin)),
                (
                    slice(top - first[0], top - first[0] + side),
                    slice(left - first[1], left - first[1] + side),
                ),
                tile,
            )


def surroundings(
    original: NDArray[np.uint8], support: NDArray[np.bool_], near: float, *, beyond: float = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compare each pixel with what lies just outside ``support`` next to it, both ``(H, W)``.

    By how much its CIELAB values (Delta-E 1976) are more than two standard deviations (of a
    texture, say) off the mean there; and from 1 to 0 whether that goes on ``near`` px (to twice
    that) outside, or something else begins, as around a thing that is kept with a margin. The
    support has a border in the picture. What counts as just outside begins ``beyond`` px from it.
    """
    lab, away = _lab(original), distance_to(support)
    edge = (away > beyond) & (away <= beyond + max(1.5, 0.5 * near))
    ring = (away > 0) & (away < 1.5)
    if not edge.any():
        edge = ring
    share = np.maximum(_blurred(edge, 0.375 * near), np.float32(1e-6))[..., None]
    mean, square = (_blurred(x * edge[..., None], 0.375 * near) / share for x in (lab, lab * lab))
    spread = 2 * np.sqrt(np.maximum(square - mean * mean, 0))
    # Each pixel of the ring around the support has a label, shared by those that it is nearest to.
    _, label = cv2.distanceTransformWithLabels(
        (~ring).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    places = np.flatnonzero(ring)
    place = np.zeros(places.size + 1, np.intp)
    place[label.ravel()[places]] = places
    nearest = place[label]
    mean, spread = (each.reshape(-1, 3)[nearest] for each in (mean, spread))
    off: NDArray[np.float32] = np.linalg.norm(np.maximum(abs(lab - mean) - spread, 0), axis=2)
    behind = (away > 0.75 * near) & (away <= 2 * near)
    weight = _blurred(behind, near)
    same = np.clip(2 - off / (2 * _FOREIGN), 0, 1)  # a slope may change slowly
    even = np.where(weight > 1e-4, _blurred(behind * same, near) / np.maximum(weight, 1e-6), 1)
    even = np.clip((even - 0.5) / 0.4, 0, 1).ravel()[nearest]
    return off, np.asarray(even, np.float32)


def _nowhere_near(
    off: NDArray[np.float32],
    original: NDArray[np.uint8],
    support: NDArray[np.bool_],
    reach: float,
) -> NDArray[np.float32]:
    """``off`` of :func:`surroundings`, at most the Delta-E to any pixel outside within ``reach``
    px: what crosses the border aslant, a horizon, say, is like none just outside but like others.
    """
    height, width = off.shape
    rows, columns = np.nonzero(support & (off > 0.5 * _FOREIGN) & (distance_to(~support) <= reach))
    lab, outside = _lab(original), distance_to(support) >= 1.5
    least = off[rows, columns]
    span = np.arange(-int(reach), int(reach) + 1, max(1, int(reach) // 3))
    for down, across in product(span, span):
        if down * down + across * across <= reach * reach:
            y, x = (rows + down).clip(0, height - 1), (columns + across).clip(0, width - 1)
            away = np.linalg.norm(lab[y, x] - lab[rows, columns], axis=1)
            np.minimum(least, np.where(outside[y, x], away, np.inf), out=least)
    result = off.copy()
    result[rows, columns] = least
    return result


def _goes_on(
    off: NDArray[np.float32], even: NDArray[np.float32], near: float
) -> NDArray[np.float32]:
    """How far a wider fade may rely on the original, ``(H, W)``: not from :data:`_FOREIGN` on, nor
    where the margin of a thing would grow. Close to what is foreign it falls to half.
    """
    alike = np.clip(1 - off / _FOREIGN, 0, 1)
    return np.asarray(np.minimum(alike, _blurred(alike, 0.25 * near)) * even, np.float32)


def _blurred(values: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma), np.float32)


def _lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2LAB))


def _ramp(depth: NDArray[np.float32], feather: float) -> NDArray[np.float32]:
    """The opacity of :func:`paste_alpha` for each pixel's distance to the outside."""
    return smootherstep(np.minimum(depth / _ramp_width(depth, feather), np.float32(1)))


def _ramp_width(depth: NDArray[np.float32], feather: float) -> NDArray[np.float32]:
    """Find the width w of :func:`paste_alpha` for each pixel from its distance to the outside."""
    inside = depth > 0
    if (distance_to(depth >= feather)[inside] <= 1.5 * feather).all():  # thick all over
        return np.full_like(depth, feather)
    width = np.ones_like(depth)
    levels = [1.0]
    while levels[-1] < feather:
        levels.append(min(max(levels[-1] + 1, levels[-1] * 1.4), feather))
    for level in levels[1:]:
        core = depth >= level
        if core.any():
            width[distance_to(core) <= 1.5 * level] = level
    # Let the width grow by at most half a pixel per pixel: a lower envelope of cones.
    slope, smooth = np.float32(0.5), width.copy()
    for level in levels[:-1]:
        thin = inside & (width <= level)
        if thin.any():
            np.minimum(smooth, np.float32(level) + slope * distance_to(thin), out=smooth)
    return smooth
