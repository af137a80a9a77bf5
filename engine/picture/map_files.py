"""Strength maps and masks from files, Pillow images, arrays and tensors.

This is the only place where polarity is decided: **1 = repaint, 0 = keep**. Everything here is
exact at the two ends: 0 stays 0 and 1 stays 1 through loading and resizing.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from engine.errors import InputError, setting
from engine.picture.arrays import array_of, channels_last
from engine.picture.deep import TURNS
from engine.picture.map_channels import SNAP, AlphaRule, one_channel
from engine.picture.masks import is_hard, resize_map
from engine.picture.opening import name_of, open_image, open_upright
from engine.picture.read import deep_values
from engine.picture.source import OWN_ALPHA, is_own_alpha
from engine.picture.transparency import hole_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from engine.picture.read import Picture

__all__ = [
    "MapLike",
    "check_strength",
    "load_mask",
    "load_strength_map",
    "split_batch",
]

MapLike: TypeAlias = "Image.Image | NDArray[Any] | torch.Tensor | str | os.PathLike[str]"
"""What :func:`load_strength_map` and :func:`load_mask` take."""


WEAK = 0.2
"""A strength map that stays below it is named: most of a run passes before it frees a pixel."""


def load_strength_map(
    source: MapLike,
    size: tuple[int, int],
    *,
    invert: bool = False,
    alpha: AlphaRule = "auto",
    snap: float = SNAP,
    picture: Picture | None = None,
) -> NDArray[np.float32]:
    """Load a strength map for an image of ``size``; white (1) = repaint, black (0) = keep.

    **Values.** Floats are taken as they are and must lie in [0, 1]. 8-bit values are divided by
    255, 16-bit ones by 65535 (uint16 arrays, ``I;16`` and ``I`` images), bool and 1-bit are 0 and
    1. A single-channel integer map that holds no value but 0 and 1 is a mask written with 0 and 1
    (read by its range it would be all but empty). Other integer types only as 0 and 1.

    **Channels.** The value of a colour is its strongest channel, so that red on black is as good as
    white on black; a coloured map without black could mean two things and is refused. Maps with
    transparency (RGBA, LA, palette; 2 or 4 channels in arrays) with ``alpha="auto"``: strokes of
    one colour on an empty layer count by their opacity; where what is visible differs in
    brightness, brightness times opacity is the map (a few transparent pixels change only
    themselves); a photo with a hole counts by its opacity if ``invert`` says that opaque is kept,
    and is refused otherwise. ``"alpha"`` and ``"luminance"`` force one of them.
    ``source="alpha"`` is the transparency of the picture itself: its hole is repainted.

    **Cleaning.** Values within ``snap`` of 0 or 1 become 0 or 1, before resizing.

    **Size.** EXIF orientation is applied. A map of the same aspect ratio (to one pixel of rounding)
    is resized: soft maps by area average when shrinking and bilinearly when growing; hard ones stay
    hard, by maximum when shrinking (a thin stroke never vanishes) and by nearest pixel when
    growing. A JPEG of a hard mask is a soft map with noise around its edges: use :func:`load_mask`
    for those.

    Args:
        source: Path, Pillow image, array (``H W``, ``H W c``, ``1 H W``) or tensor (``h w``,
            ``c h w``, ``1 c h w``), c = 1 to 4.
        size: ``(width, height)`` of the image in px.
        invert: Use ``1 - e``: for maps in which white means keep.
        alpha: Which channel is read, see above.
        snap: In [0, 0.5); 0 takes the values as they are.
        picture: What the map is for, as it was read: ``source="alpha"`` needs it.

    Returns:
        float32 ``(H, W)`` in [0, 1], a new array.

    Raises:
        InputError: The file cannot be read (see :func:`engine.picture.read.load_image`), the
            shape or type is not accepted, values are NaN, infinite or outside [0, 1], the aspect
            ratio is not the image's, or its channels can be read in two ways.
    """
    if is_own_alpha(source):
        return _own_hole(picture, hard=False, invert=invert)
    name = name_of(source, "strength map")
    strength, _ = _load(source, name, alpha, snap, inverted=invert, picture=picture)
    if invert:
        strength = np.float32(1) - strength
    return _fit(strength, size, name, hard=is_hard(strength))


def check_strength(
    strength_map: NDArray[np.float32], name: str = "strength map", *, may_be_empty: bool = False
) -> None:
    """Refuse a map that changes nothing (unless it may be empty), and name one that hardly changes
    anything.

    Raises:
        InputError: It is 0 everywhere.
    """
    peak = float(strength_map.max())
    if peak == 0 and may_be_empty:
        return
    if peak == 0:
        raise InputError(
            f"{name} is empty: nothing to repaint (white, 1 = repaint; "
            f"{setting('invert', True)} if yours is the other way round)"
        )
    if peak < WEAK:
        warnings.warn(
            f"the {name} is weak: its strongest value is {peak:.2g} of 1, so that at most "
            f"{peak:.0%} of the steps repaint anything; spread it up to 1 if that was not meant",
            stacklevel=2,
        )


def load_mask(
    source: MapLike,
    size: tuple[int, int],
    *,
    invert: bool = False,
    threshold: float = 0.5,
    alpha: AlphaRule = "auto",
    picture: Picture | None = None,
    may_be_empty: bool = False,
) -> NDArray[np.float32]:
    """Load a hard mask for an image of ``size``; white (1) = repaint, black (0) = keep.

    Read as :func:`load_strength_map` does, then made hard at the map's own resolution, before any
    resizing, so that thin strokes survive both JPEG and shrinking.

    Args:
        source: See :func:`load_strength_map`.
        size: ``(width, height)`` of the image in px.
        invert: White means keep. Applied after the threshold, so that it flips every pixel.
        threshold: Values >= it are repainted, in (0, 1].
        alpha: See :func:`load_strength_map`.
        picture: See :func:`load_strength_map`.
        may_be_empty: Something else is repainted too, such as new canvas.

    Returns:
        float32 ``(H, W)``, 0 or 1, with at least one of each (of 0, if it may be empty).

    Raises:
        InputError: As :func:`load_strength_map`, or the threshold is outside (0, 1], or the mask
            is empty, or nothing would be kept.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, not {threshold}")
    if is_own_alpha(source):
        return _checked_mask(
            _own_hole(picture, hard=True, invert=invert),
            "mask 'alpha'",
            invert=invert,
            may_be_empty=may_be_empty,
        )
    name = name_of(source, "mask")
    strength, peak = _load(source, name, alpha, SNAP, inverted=invert, picture=picture)
    mask = (strength >= threshold).astype(np.float32)
    if invert:
        mask = np.float32(1) - mask
    return _checked_mask(
        _fit(mask, size, name, hard=True),
        name,
        invert=invert,
        peak=peak,
        threshold=threshold,
        may_be_empty=may_be_empty,
    )


def split_batch(source: Any, count: int, size: tuple[int, int]) -> list[Any]:
    """Take the maps apart that are meant for several pictures.

    Args:
        source: A list or tuple; an array or tensor with a batch dimension (b c h w, b h w c, or
            b h w, which is b maps if b is the number of pictures); or one map.
        count: How many pictures there are.
        size: ``(width, height)`` of the pictures in px.

    Returns:
        One map, or as many as pictures.

    Raises:
        InputError: Their number does not fit, or three dimensions can be read in two ways.
    """
    shape: tuple[int, ...] = tuple(getattr(source, "shape", ()))
    maps = [source]
    if isinstance(source, (list, tuple)) or (len(shape) == 4 and shape[0] > 1):
        maps = list(source)
    elif len(shape) == 3 and shape[0] > 1 and (_is_tensor(source) or shape[1:] == size[::-1]):
        if shape[0] == count:
            maps = list(source)
        elif not _channels_agree(source):
            raise InputError(
                f"a map of the shape {shape} can be {shape[0]} maps, and there "
                f"{'is one picture' if count == 1 else f'are {count} pictures'}, or one map of "
                f"{shape[0]} channels; give one (h, w) map for each picture, or the channels of "
                "one as (1, c, h, w)"
            )
    if maps and isinstance(maps[0], (list, tuple, int, float)):
        raise InputError(
            "a list of maps is a list of paths, pictures or arrays; numbers are given as an array "
            "(numpy.asarray)"
        )
    if len(maps) not in {1, count}:
        raise InputError(f"{len(maps)} maps for {count} pictures: give one, or one for each.")
    return maps


def _is_tensor(source: Any) -> bool:
    return hasattr(source, "detach")


def _channels_agree(source: Any) -> bool:
    """Whether a map c h w says the same in every channel."""
    return bool((source == source[:1]).all())


def _own_hole(picture: Picture | None, *, hard: bool, invert: bool) -> NDArray[np.float32]:
    """The map that the picture's own transparency is."""
    if picture is None:
        raise InputError(f"{OWN_ALPHA!r} is the picture's own transparency: not of use here")
    hole = hole_of(picture.given or picture, hard=hard)
    return np.float32(1) - hole if invert else hole


def _checked_mask(
    mask: NDArray[np.float32],
    name: str,
    *,
    invert: bool,
    peak: float = 1.0,
    threshold: float = 0.5,
    may_be_empty: bool = False,
) -> NDArray[np.float32]:
    """The mask, which must repaint something (unless it may be empty) and keep something."""
    if not (mask.any() or may_be_empty):
        faint = ""
        if 0 < peak < threshold:
            faint = (
                f"; its strongest value is {peak:.3g} of 1, and a mask repaints from {threshold:g} "
                "on: spread it up to white, or give it as a strength map"
            )
        raise InputError(
            f"{name} is empty: nothing to repaint (white = repaint; "
            f"{'leave out' if invert else 'use'} {setting('invert', True)} if yours is the other "
            f"way round){faint}"
        )
    if mask.all():
        raise InputError(
            f"{name} covers the whole picture: nothing would be kept; give it as "
            f"{setting('strength_map')} for image-to-image over the whole picture"
        )
    return mask


# --- loading --------------------------------------------------------------------------------------


def _load(
    source: MapLike,
    name: str,
    alpha: AlphaRule,
    snap: float,
    *,
    inverted: bool = False,
    picture: Picture | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Read any source as float32 ``(H, W)`` in [0, 1] at its own size, snapped, and its largest
    value before that.
    """
    if alpha not in ("auto", "alpha", "luminance"):
        raise InputError(f"alpha must be 'auto', 'alpha' or 'luminance', not {alpha!r}")
    if not 0 <= snap < 0.5:
        raise InputError(f"snap must be at least 0 and below 0.5, not {snap}")
    if isinstance(source, (str, os.PathLike, Image.Image)):
        upright = open_upright(source, name)
        values = _pil_values(upright, name)
    else:
        values, channels_first = array_of(source, name)
        values = channels_last(values, name, first=channels_first, channels=(1, 2, 3, 4))
    strength = one_channel(values, name, alpha, inverted=inverted, picture=picture)
    peak = float(strength.max())
    if peak and values.dtype.kind in "ui" and values.itemsize > 1 and values.max() in range(2, 256):
        raise InputError(
            f"{name} is all but black: its values go up to {values.max()} of 65535; if it holds 8 "
            "bits a value, save it so, or multiply it by 257"
        )
    # Half a 16-bit level of slack: 249 / 255 and 6 / 255 in float32 must fall on the snapped side.
    limit = np.float32(snap + 1 / 131072) if snap else np.float32(0)
    strength[strength <= limit] = 0
    strength[strength >= 1 - limit] = 1
    if isinstance(source, (str, os.PathLike)):
        _warn_if_turned(source, strength, name, picture)
    return strength, peak


def _pil_values(image: Image.Image, name: str) -> NDArray[Any]:
    """Turn a decoded Pillow image into ``(H, W, C)``, C = 1 (grey), 3 (RGB) or 4 (RGBA)."""
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return deep_values(image, name)[:, :, None]
    if mode in {"1", "L"} and not image.has_transparency_data:
        return np.array(image)[:, :, None]
    try:
        if mode == "La":
            image = image.convert("LA")
        return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (ValueError, OSError) as error:
        raise InputError(f"{name} has the mode {mode!r}, which cannot be read: {error}") from error


def _warn_if_turned(
    source: str | os.PathLike[str],
    strength: NDArray[np.float32],
    name: str,
    picture: Picture | None,
) -> None:
    """Name a map whose size does not tell whether it was painted on the photo as it is stored or
    as it is shown.
    """
    if picture is None or picture.orientation == 1:
        return
    turned = TURNS[picture.orientation](strength)
    if turned.shape != strength.shape or np.array_equal(turned, strength):
        return
    with open_image(source, name) as image:
        if image.getexif().get(0x0112, 1) != 1:
            return
    warnings.warn(
        f"the photo was turned by its EXIF orientation, and {name} has none: it is taken as "
        "painted on the upright photo",
        stacklevel=4,
    )


# --- fitting --------------------------------------------------------------------------------------


def _fit(
    strength: NDArray[np.float32], size: tuple[int, int], name: str, *, hard: bool
) -> NDArray[np.float32]:
    """Resize a map to the image's size by the rules of :func:`load_strength_map`."""
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"image size must be positive, not {width} x {height}")
    own = (strength.shape[1], strength.shape[0])
    if own == (width, height):
        return strength
    if not _same_aspect(own, (width, height)):
        turned = " (it looks turned by 90 degrees)" if own == (height, width) else ""
        raise InputError(
            f"{name} is {own[0]} x {own[1]} px but the image is {width} x {height} px; give a map "
            f"of that size or of the same aspect ratio{turned}"
        )
    return resize_map(strength, size, hard=hard)


def _same_aspect(own: tuple[int, int], other: tuple[int, int]) -> bool:
    """Say whether two sizes have one aspect ratio, to one pixel of the smaller of them."""
    small, large = sorted((own, other))
    long, short = (0, 1) if large[0] >= large[1] else (1, 0)
    expected = large[short] * small[long] / large[long]
    off = abs(small[short] - expected)
    return off < 1 or (off == 1 and off <= 0.02 * expected)
