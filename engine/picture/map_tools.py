"""Tools that make strength maps and change them.

Every tool takes and returns float32 maps ``(H, W)`` in [0, 1], 1 = repaint, and changes none in
place. Lengths are in px, points are ``(x, y)`` from the top left corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

from engine.errors import InputError, UnknownNameError
from engine.picture.masks import distance_to, smootherstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map = NDArray[np.float32]

Point = tuple[float, float]


# --- changing a map ------------------------------------------------------------------------------


def grow(strength_map: Map, radius: float) -> Map:
    """Spread every strength ``radius`` px outward (a disc's maximum)."""
    return _filtered(strength_map, radius, cv2.dilate, 0)


def shrink(strength_map: Map, radius: float) -> Map:
    """Take ``radius`` px off every edge (a disc's minimum). The picture's border is no edge."""
    return _filtered(strength_map, radius, cv2.erode, 1)


def feather(strength_map: Map, width: float, *, outward: bool = False) -> Map:
    """Soften edges over ``width`` px: a Gaussian whose ramp from 2% to 98% is that wide.

    Args:
        outward: only raise the map, by a ramp that starts at its edges: what was repainted wholly
            stays so, and nothing further than ``width`` from it is touched.
    """
    check_length("width", width)
    if width == 0:
        return strength_map.copy()
    sigma = max(width / 4.1, 1e-3)  # the normal distribution has 2% below -2.05 sigma
    if not outward:
        soft = cv2.GaussianBlur(strength_map, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(soft, np.float32).clip(0, 1)
    # The ramp lies between the edge and `width` outside it: soften what was grown by half of it.
    reach = width / 2
    wide = grow(strength_map, reach)
    soft = cv2.GaussianBlur(wide, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    soft = np.where(grow(strength_map, width) > 0, soft, 0)
    return np.maximum(strength_map, soft).astype(np.float32).clip(0, 1)


def falloff(mask: Map, width: float) -> Map:
    """1 on the mask (where it is above 0), falling to 0 over exactly ``width`` px around it, by a
    smootherstep of the distance.
    """
    check_length("width", width)
    inside = mask > 0
    if not inside.any() or width == 0:
        return inside.astype(np.float32)
    return smootherstep(np.clip(1 - distance_to(inside) / max(width, 1e-3), 0, 1))


def fill_holes(strength_map: Map) -> Map:
    """Close what is enclosed: pixels of 0 that do not reach the border become 1."""
    support = strength_map > 0
    return np.where(binary_fill_holes(support) & ~support, 1, strength_map).astype(np.float32)


def invert(strength_map: Map) -> Map:
    """``1 - e``."""
    return np.float32(1) - strength_map


def scale(strength_map: Map, factor: float) -> Map:
    """Every strength times ``factor`` (from 0), at most 1."""
    check_length("factor", factor)
    return (strength_map * np.float32(factor)).clip(0, 1).astype(np.float32)


_COMBINE: dict[str, Callable[[Map, Map], Any]] = {
    "max": np.maximum,
    "min": np.minimum,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
}


def combine(one: Map, two: Map, how: str = "max") -> Map:
    """Two maps of one size by ``max``, ``min``, ``add``, ``subtract`` or ``multiply``, clipped.

    Raises:
        UnknownNameError: another ``how``.
        InputError: the sizes differ.
    """
    if how not in _COMBINE:
        raise UnknownNameError("way to combine maps", how, _COMBINE)
    if one.shape != two.shape:
        raise InputError(f"maps of {_size(one)} and {_size(two)} px cannot be combined.")
    return np.asarray(_COMBINE[how](one, two), np.float32).clip(0, 1)


# --- making one ----------------------------------------------------------------------------------


def gradient(
    size: tuple[int, int], start: Point, end: Point, levels: tuple[float, float] = (0.0, 1.0)
) -> Map:
    """A linear gradient over a picture of ``size`` (width, height), constant before ``start`` and
    after ``end``.

    Raises:
        InputError: the points are one, or a level lies outside [0, 1].
    """
    for level in levels:
        _level(level)
    along = np.subtract(end, start)
    length = float(along @ along)
    if length == 0:
        raise InputError("a gradient needs two different points.")
    y, x = np.mgrid[: size[1], : size[0]]
    share = ((x + 0.5 - start[0]) * along[0] + (y + 0.5 - start[1]) * along[1]) / length
    low, high = levels
    return np.asarray(low + (high - low) * share.clip(0, 1), np.float32)


def select_colours(
    rgb: NDArray[np.uint8], colours: Sequence[tuple[int, int, int]], tolerance: float = 10.0
) -> Map:
    """Where a picture (uint8, H W 3) has one of ``colours``: 1 up to the tolerance, in Delta-E 2000
    (1 is just noticeable, 100 is black to white), falling to 0 at one and a half times it.

    Raises:
        InputError: no colour, one outside 0 to 255, or a tolerance that is not above 0.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    if not colours or any(not 0 <= value <= 255 for colour in colours for value in colour):
        raise InputError("colours are needed as three numbers from 0 to 255 each.")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance must be above 0, not {tolerance}.")
    lab = rgb2lab(rgb)
    wanted = rgb2lab(np.array(colours, np.uint8)[None])[0]
    nearest = np.min([deltaE_ciede2000(lab, each[None, None]) for each in wanted], axis=0)
    return np.asarray(np.clip(3 - 2 * nearest / tolerance, 0, 1), np.float32)


def paint(strength_map: Map, shape: str, points: Sequence[float], level: float = 1.0) -> Map:
    """Paint a shape of one level over a map.

    Args:
        shape: ``"rectangle"`` or ``"ellipse"`` (``points`` are left, top, right and bottom of its
            box), or ``"polygon"`` (``points`` are x and y of three corners or more).
        level: in [0, 1]; it replaces what is there.

    Raises:
        UnknownNameError: another shape.
        InputError: the points are too few, or the level is outside [0, 1].
    """
    _level(level)
    shapes = ("rectangle", "ellipse", "polygon")
    if shape not in shapes:
        raise UnknownNameError("shape", shape, shapes)
    polygon = shape == "polygon"
    if (polygon and (len(points) < 6 or len(points) % 2)) or (not polygon and len(points) != 4):
        needed = "x,y of at least three corners" if polygon else "left,top,right,bottom"
        raise InputError(f"{shape}: {needed} are needed, not {len(points)} numbers.")
    if not np.isfinite(points).all():
        raise InputError(f"{shape}: the points must be finite numbers.")
    y, x = np.mgrid[: strength_map.shape[0], : strength_map.shape[1]] + 0.5
    if polygon:
        from skimage.draw import polygon2mask

        corners = np.reshape(points, (-1, 2))[:, ::-1] - 0.5
        inside = polygon2mask(strength_map.shape, corners)
    else:
        left, top, right, bottom = points
        if right <= left or bottom <= top:
            raise InputError(f"{shape}: right and bottom lie beyond left and top.")
        if shape == "rectangle":
            inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        else:
            across = (2 * x - left - right) / (right - left)
            down = (2 * y - top - bottom) / (bottom - top)
            inside = across**2 + down**2 <= 1
    return np.where(inside, np.float32(level), strength_map).astype(np.float32)


# --- helpers -------------------------------------------------------------------------------------


def _filtered(strength_map: Map, radius: float, act: Callable[..., Any], outside: int) -> Map:
    check_length("radius", radius)
    reach = math.ceil(radius)
    if reach == 0:
        return strength_map.copy()
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.uint8)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": outside}
    return np.asarray(act(strength_map, disc, **border), np.float32)


def check_length(name: str, value: float) -> None:
    """Refuse a length in px, or a factor, that no tool takes.

    Args:
        name: what the message calls it.

    Raises:
        InputError: it is not from 0 to 4096.
    """
    if not (math.isfinite(value) and 0 <= value <= 4096):
        raise InputError(f"{name} must be from 0 to 4096, not {value:g}.")


def _level(value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"a level must be from 0 to 1, not {value}.")


def _size(strength_map: Map) -> str:
    return f"{strength_map.shape[1]} x {strength_map.shape[0]}"
