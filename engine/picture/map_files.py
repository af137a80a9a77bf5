"""Strength maps and masks from files, Pillow images, arrays and tensors.

This is the only place where polarity is decided: **1 = repaint, 0 = keep**. Everything here is
exact at the two ends: 0 stays 0 and 1 stays 1 through loading and resizing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from engine.errors import InputError, setting
from engine.picture.arrays import array_of, channels_last, unit_interval
from engine.picture.masks import is_hard, resize_map
from engine.picture.read import deep_values, name_of, open_upright

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["SNAP", "AlphaRule", "MapLike", "load_mask", "load_strength_map"]

MapLike: TypeAlias = "Image.Image | NDArray[Any] | torch.Tensor | str | os.PathLike[str]"
"""What :func:`load_strength_map` and :func:`load_mask` take."""

AlphaRule: TypeAlias = Literal["auto", "alpha", "luminance"]
"""Which channel of a map with transparency is read, see :func:`load_strength_map`."""

SNAP = 6 / 255
"""Values this close to 0 or 1 become 0 or 1.

Six of 255 levels (0.0235). It covers a brush at 98% opacity (249 or 250, as editors round it) and
the noise of a JPEG of quality 95; and a strength below it frees a pixel for no step at all in runs
of up to 42 steps, so nothing that anybody could see is lost.
"""

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's convert("L")


def load_strength_map(
    source: MapLike,
    size: tuple[int, int],
    *,
    invert: bool = False,
    alpha: AlphaRule = "auto",
    snap: float = SNAP,
) -> NDArray[np.float32]:
    """Load a strength map for an image of ``size``; white (1) = repaint, black (0) = keep.

    **Values.** Floats are taken as they are and must lie in [0, 1]. 8-bit values are divided by
    255, 16-bit ones by 65535 (uint16 arrays, ``I;16`` and ``I`` images), bool and 1-bit are 0 and
    1. A single-channel integer map that holds no value but 0 and 1 is a mask written with 0 and 1
    (read by its range it would be all but empty). Other integer types only as 0 and 1.

    **Channels.** RGB and palette maps are read by luminance (ITU-R BT.601). Maps with transparency
    (RGBA, LA, palette; 2 or 4 channels in arrays) with ``alpha="auto"``: the alpha channel is the
    map when any pixel of it is transparent, i.e. strokes painted on an empty layer, opaque =
    repaint; otherwise, and when it has the same non-zero value all over, luminance. ``"alpha"``
    and ``"luminance"`` force one of them. (Pictures with a hole erased where they are to be
    repainted, as some web services take them, want ``invert=True``.)

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

    Returns:
        float32 ``(H, W)`` in [0, 1], a new array.

    Raises:
        InputError: The file cannot be read (see :func:`engine.picture.read.load_image`), the
            shape or type is not accepted, values are NaN, infinite or outside [0, 1], or the aspect
            ratio is not the image's.
    """
    name = name_of(source, "strength map")
    strength = _load(source, name, alpha, snap)
    if invert:
        strength = np.float32(1) - strength
    return _fit(strength, size, name, hard=is_hard(strength))


def load_mask(
    source: MapLike,
    size: tuple[int, int],
    *,
    invert: bool = False,
    threshold: float = 0.5,
    alpha: AlphaRule = "auto",
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

    Returns:
        float32 ``(H, W)``, 0 or 1, with at least one of each.

    Raises:
        InputError: As :func:`load_strength_map`, or the threshold is outside (0, 1], or the mask
            is empty, or nothing would be kept.
    """
    name = name_of(source, "mask")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, not {threshold}")
    strength = _load(source, name, alpha, SNAP)
    mask = (strength >= threshold).astype(np.float32)
    if invert:
        mask = np.float32(1) - mask
    mask = _fit(mask, size, name, hard=True)
    if not mask.any():
        raise InputError(
            f"{name} is empty: nothing to repaint (white = repaint; "
            f"{'leave out' if invert else 'use'} {setting('invert', True)} if yours is the other "
            "way round)"
        )
    if mask.all():
        raise InputError(
            f"{name} covers the whole picture: nothing would be kept; give it as "
            f"{setting('strength_map')} for image-to-image over the whole picture"
        )
    return mask


# --- loading --------------------------------------------------------------------------------------


def _load(source: MapLike, name: str, alpha: AlphaRule, snap: float) -> NDArray[np.float32]:
    """Read any source as float32 ``(H, W)`` in [0, 1] at its own size, snapped."""
    if alpha not in ("auto", "alpha", "luminance"):
        raise InputError(f"alpha must be 'auto', 'alpha' or 'luminance', not {alpha!r}")
    if not 0 <= snap < 0.5:
        raise InputError(f"snap must be at least 0 and below 0.5, not {snap}")
    if isinstance(source, (str, os.PathLike, Image.Image)):
        values = _pil_values(open_upright(source, name), name)
    else:
        values, channels_first = array_of(source, name)
        values = channels_last(values, name, first=channels_first, channels=(1, 2, 3, 4))
    strength = _one_channel(values, name, alpha)
    # Half a 16-bit level of slack: 249 / 255 and 6 / 255 in float32 must fall on the snapped side.
    limit = np.float32(snap + 1 / 131072) if snap else np.float32(0)
    strength[strength <= limit] = 0
    strength[strength >= 1 - limit] = 1
    return strength


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


def _one_channel(values: NDArray[Any], name: str, alpha: AlphaRule) -> NDArray[np.float32]:
    """Reduce ``(H, W, C)`` of any accepted type to a new float32 ``(H, W)`` in [0, 1]."""
    channels = values.shape[2]
    if channels == 1:
        return _unit(values[:, :, 0], name, zero_one=True)
    if channels in (2, 4):
        opacity = _unit(values[:, :, -1], name, zero_one=False)
        varies = bool((opacity != opacity.flat[0]).any()) or opacity.flat[0] == 0
        if alpha == "alpha" or (alpha == "auto" and varies):
            return opacity
    elif alpha == "alpha":
        raise InputError(f"{name} has no alpha channel, but alpha='alpha' asks for it")
    if channels == 2:
        return _unit(values[:, :, 0], name, zero_one=False)
    colour = _unit(values[:, :, :3], name, zero_one=False)
    luminance: NDArray[np.float32] = (colour.astype(np.float64) @ _LUMA).astype(np.float32)
    # Greys are exact: the weights add up to 1 only to the last bit.
    grey = (colour[:, :, 0] == colour[:, :, 1]) & (colour[:, :, 0] == colour[:, :, 2])
    return np.clip(np.where(grey, colour[:, :, 0], luminance), 0, 1).astype(np.float32)


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
