"""Which value a map's pixel has: of grey, of colours, of transparency.

One rule where there is one that gives what a person means, else an error that shows the readings:
a few odd pixels never decide how the others are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from engine.errors import InputError
from engine.picture.arrays import unit_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.picture.read import Picture

__all__ = ["SNAP", "AlphaRule", "one_channel"]

AlphaRule: TypeAlias = Literal["auto", "alpha", "luminance"]
"""Which channel of a map with transparency is read, see :func:`load_strength_map`."""

SNAP = 6 / 255
"""Values this close to 0 or 1 become 0 or 1.

Six of 255 levels (0.0235). It covers a brush at 98% opacity (249 or 250, as editors round it) and
the noise of a JPEG of quality 95; and a strength below it frees a pixel for no step at all in runs
of up to 42 steps, so nothing that anybody could see is lost.
"""

_COLOURED = 0.2  # between the strongest and the weakest channel, in [0, 1]; JPEG's tinge is less
_BLACK = 0.1
_FEW = 0.005  # share of pixels that decide nothing
_PALETTE = 48  # coarse colours (of 16 levels a channel) that no hand paints a mask with


def one_channel(
    values: NDArray[Any],
    name: str,
    alpha: AlphaRule,
    *,
    inverted: bool,
    picture: Picture | None,
) -> NDArray[np.float32]:
    """Reduce ``(H, W, C)`` of any accepted type to a new float32 ``(H, W)`` in [0, 1]."""
    channels = values.shape[2]
    if channels == 1:
        return _unit(values[:, :, 0], name, zero_one=True)
    if channels == 3:
        if alpha == "alpha":
            raise InputError(f"{name} has no alpha channel, but alpha='alpha' asks for it")
        return _brightness(_unit(values, name, zero_one=False), name)
    opacity = _unit(values[:, :, -1], name, zero_one=False)
    if alpha == "alpha":
        return opacity
    colours = values[:, :, :1].repeat(3, axis=2) if channels == 2 else values[:, :, :3]
    colour = _unit(colours, name, zero_one=False)
    uniform = bool((opacity == opacity.flat[0]).all()) and opacity.flat[0] > SNAP
    if alpha == "luminance" or uniform:
        return _brightness(colour, name)
    visible = opacity > SNAP
    photo = _is_photo(values, visible, picture)
    if photo and not inverted:
        raise InputError(
            f"{name} is a photo with transparent pixels: if its hole is to be repainted, say "
            "so (mask 'alpha' for the picture's own transparency, or invert it); if its "
            "brightness is the map, give it without transparency"
        )
    if photo or _is_strokes(colour[visible]):
        return opacity
    return _brightness(colour * opacity[:, :, None], name)


def _is_strokes(visible: NDArray[np.float32]) -> bool:
    """Whether what is visible (N 3) of a layer are strokes: of one colour, or of several colours.
    A map in black and white is neither; a tinge that JPEG leaves does not count.
    """
    if not visible.size or np.ptp(visible, axis=0).max() <= 2 * SNAP:
        return True
    return float((np.ptp(visible, axis=1) > _COLOURED).mean()) > _FEW


def _brightness(colour: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """The strongest channel of ``(H, W, 3)``; refused where colours stand on no black."""
    strongest: NDArray[np.float32] = colour.max(axis=2)
    coloured = strongest - colour.min(axis=2) > _COLOURED
    if coloured.mean() > _FEW and (strongest < _BLACK).mean() <= _FEW:
        raise InputError(
            f"{name} is in colours and has no black: what is kept? White (or any colour) on black "
            "is repainted, black is kept"
        )
    return strongest


def _is_photo(values: NDArray[Any], visible: NDArray[np.bool_], picture: Picture | None) -> bool:
    """Whether a map with transparency is a photo: the edited one, or of very many colours."""
    own = None if picture is None else (picture.given or picture)
    if own is not None and values.dtype == np.uint8 and own.rgb.shape[:2] == visible.shape:
        colours = values[:, :, :-1]
        own_colours = own.rgb[visible][:, : colours.shape[2]]
        if own_colours.size and np.array_equal(colours[visible], own_colours):
            return True
    if values.shape[2] == 2:
        return False
    shown = values[visible][:, :3].astype(np.float32)
    if values.dtype.kind in "ui":
        shown *= np.float32(255) / np.float32(np.iinfo(values.dtype).max)
    elif values.dtype.kind == "f":
        shown *= 255
    coarse = (shown // 16).astype(np.int64) @ np.array([1, 16, 256])
    chroma = np.ptp(shown, axis=1)
    return len(np.unique(coarse)) > _PALETTE and float((chroma > 8).mean()) > _FEW


def _unit(values: NDArray[Any], name: str, *, zero_one: bool) -> NDArray[np.float32]:
    """Scale values of one type to [0, 1]; ``zero_one``: integers of only 0 and 1 are a mask."""
    if values.dtype.kind == "f":
        return unit_interval(values, name)
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if zero_one and int(values.min()) >= 0 and int(values.max()) <= 1:
        return values.astype(np.float32)
    if values.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{name} has the type {values.dtype} and values from {values.min()} to {values.max()}; "
            "accepted: bool, uint8 (0 to 255), uint16 (0 to 65535), float (0 to 1), or any integer "
            "type with only 0 and 1"
        )
    scale = np.float32(np.iinfo(values.dtype).max)
    scaled: NDArray[np.float32] = values.astype(np.float32) / scale
    return scaled
