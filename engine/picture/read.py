"""Pictures in: files, Pillow images, arrays and tensors become a :class:`Picture`.

What the model sees of a picture is ``uint8``, ``(H, W, 3)``, RGB. What it is beside that, it stays:
opacity, sixteen bits, greyness and what its file says are kept here and go into the result. Sizes
are ``(width, height)`` as in Pillow, array shapes ``(H, W)`` as in numpy.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from engine.errors import InputError
from engine.picture.arrays import array_of, by, channels_last, to_uint8
from engine.picture.deep import KEY, bits_of, deepened, read_deep, shallow
from engine.picture.frame import continued
from engine.picture.geometry import check_canvas
from engine.picture.metadata import kept_info
from engine.picture.opening import DECODE_ERRORS, decode_upright, first_line, name_of, open_image

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8] | NDArray[np.uint16]

__all__ = ["ImageLike", "Picture", "deep_values", "load_image"]

ImageLike: TypeAlias = (
    "Picture | Image.Image | NDArray[Any] | torch.Tensor | str | os.PathLike[str]"
)
"""What :func:`load_image` takes."""

_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        rgb: ``uint8 (H, W, 3)``, 0 to 255, upright (EXIF orientation is already applied).
        alpha: ``uint8 (H, W)``, 255 = opaque, or None where the source has no alpha channel.
        info: What a saved file should keep, see :func:`engine.picture.metadata.kept_info`.
        deep: ``uint16 (H, W, 3)``, or ``(H, W, 4)`` with the opacity, where the source has more
            than 8 bits; ``rgb`` and ``alpha`` are these, rounded.
        grey: The source has no colours: all channels are equal.
        orientation: The source's EXIF orientation, 1 to 8; 1 is upright.
        given: The picture before its invisible pixels got visible colours, where they did.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    info: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    deep: NDArray[np.uint16] | None = None
    grey: bool = False
    orientation: int = 1
    given: Picture | None = None

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in px."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel is not fully opaque."""
        return self.alpha is not None and bool(self.alpha.min() < 255)

    @property
    def deepest(self) -> Pixels:
        """The pixels (H, W, 3) with all the bits that there are: uint16, or uint8."""
        return self.rgb if self.deep is None else self.deep[:, :, :3]

    def grown(self, by_px: tuple[int, int, int, int]) -> Picture:
        """The picture on a larger canvas: (left, top, right, bottom) px more, which mirror the
        picture and are opaque.

        Raises:
            InputError: The canvas would be larger than pictures may be.
        """
        check_canvas(self.size, by_px)
        left, top, right, bottom = by_px
        sides = ((top, bottom), (left, right))
        deep = self.deep
        if deep is not None:
            colours = continued(deep[..., :3], by_px, "symmetric")
            rest = np.pad(deep[..., 3:], (*sides, (0, 0)), mode="symmetric")
            deep = np.concatenate([colours, rest], axis=2)
        alpha = self.alpha
        if alpha is not None:
            alpha = np.pad(alpha, sides, constant_values=255)
            if deep is not None and deep.shape[2] == 4:
                deep[:, :, 3] = np.pad(self.deep[:, :, 3], sides, constant_values=65535)  # type: ignore[index]
        return replace(
            self,
            rgb=continued(self.rgb, by_px, "symmetric"),
            alpha=alpha,
            deep=deep,
            given=None if self.given is None else self.given.grown(by_px),
        )

    def to_pil(
        self, pixels: Pixels | None = None, alpha: NDArray[np.uint8] | None = None
    ) -> Image.Image:
        """Return the picture as a Pillow image with ``info`` attached: RGB or, of a grey picture
        whose pixels are still grey, L; with an alpha channel where the picture has one.

        Args:
            pixels: Other pixels, uint8 or uint16 ``(H, W, 3)`` of this picture's size: how the
                engine returns an edit. 16 bits are carried along, see :mod:`engine.picture.deep`.
            alpha: Another opacity, uint8 ``(H, W)``, of a picture that has one.

        Raises:
            InputError: ``pixels`` has another shape.
        """
        if pixels is None:
            pixels = self.deepest
        if pixels.shape != self.rgb.shape:
            raise InputError(f"pixels of shape {pixels.shape} given for a {by(self.size)} picture")
        grey = self.grey and bool((pixels == pixels[:, :, :1]).all())
        layers: list[NDArray[Any]] = [pixels[:, :, :1] if grey else pixels]
        if self.alpha is not None:
            layers.append(self._opacity(alpha, deep=pixels.dtype == np.uint16)[:, :, None])
        values = np.ascontiguousarray(np.concatenate(layers, axis=2))
        eight = shallow(values) if values.dtype == np.uint16 else values
        image = Image.fromarray(eight[:, :, 0] if eight.shape[2] == 1 else eight)
        image.info.update(self.info)
        if values.dtype == np.uint16:
            image.info[KEY] = values
        return image

    def _opacity(self, alpha: NDArray[np.uint8] | None, *, deep: bool) -> Pixels:
        """``alpha`` or the own one (H W), of 16 bits if ``deep``, to the last bit where it is as it
        was.
        """
        assert self.alpha is not None  # noqa: S101 - the caller has looked
        eight = self.alpha if alpha is None else alpha
        if not deep:
            return eight
        wide = deepened(eight)
        if self.deep is not None and self.deep.shape[2] == 4:
            wide = np.where(eight == self.alpha, self.deep[:, :, 3], wide)
        return wide


def load_image(source: ImageLike) -> Picture:
    """Load a picture from a file, a Pillow image, a numpy array or a torch tensor; one that is
    loaded stays as it is.

    Files and Pillow images: EXIF orientation is applied; the alpha channel (also of palettes and
    of a transparent colour) is kept beside the pixels; palette, YCbCr, Lab, HSV and CMYK become RGB
    by Pillow's conversion, without colour management. Of 16-bit grey pictures and of 16-bit RGB
    files the 8 bits that the model sees are rounded, ``round(v / 257)``, and all 16 are kept.
    32-bit integer images are read as 16-bit ones (0 to 65535), float images as [0, 1].

    Arrays: ``(H, W)``, ``(1, H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``, also with a
    leading batch dimension of 1; bool, uint8 (0 to 255), uint16 (0 to 65535) or float in [0, 1],
    which becomes ``round(255 * x)``. Tensors: ``h w``, ``c h w`` or ``1 c h w`` with c = 1, 3 or 4,
    values as for arrays. Floats up to 1e-5 outside [0, 1] are clipped.

    Returns:
        The :class:`Picture`. Nothing in it is shared with the source, and no file stays open.

    Raises:
        InputError: The file is missing, a folder, unreadable, no image, damaged, animated or
            larger than :data:`engine.picture.arrays.MAX_PIXELS`; the picture is empty; the array
            has another shape or type; values are NaN, infinite or outside [0, 1].
    """
    if isinstance(source, Picture):
        return source
    name = name_of(source, "image")
    if isinstance(source, Image.Image):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in open_image
            lay = _orientation(source)  # of a TIFF that is not decoded yet; see _from_file
            picture = _from_pil(source, decode_upright(source, name), name, None)
            picture = replace(picture, orientation=max(lay, picture.orientation))
        return _told_if_dark(picture, name)
    if isinstance(source, (str, os.PathLike)):
        return _told_if_dark(_from_file(source, name), name)
    values, channels_first = array_of(source, name)
    values = channels_last(values, name, first=channels_first)
    pixels = to_uint8(values, name)
    grey = pixels.shape[2] == 1
    if grey:
        pixels = np.repeat(pixels, 3, axis=2)
    deep = None
    if values.dtype == np.uint16:
        deep = np.repeat(values, 3, axis=2) if grey else values.copy()
    alpha = pixels[:, :, 3].copy() if pixels.shape[2] == 4 else None
    return _told_if_dark(Picture(pixels[:, :, :3].copy(), alpha, deep=deep, grey=grey), name)


def _told_if_dark(picture: Picture, name: str) -> Picture:
    """Warn of 16-bit values that fill so little of their range as those of fewer bits would."""
    peak = 0 if picture.deep is None else int(picture.deep[:, :, :3].max())
    bits = next((bits for bits in (8, 10, 12) if peak < 2**bits), None)
    if peak and bits is not None:
        warnings.warn(
            f"the {name} is all but black: its 16-bit values go up to {peak} of 65535; if it holds "
            f"{bits} bits a value, multiply it by {65535 // (2**bits - 1)}",
            stacklevel=5,
        )
    return picture


def _from_file(path: str | os.PathLike[str], name: str) -> Picture:
    """Read a file, with all its bits."""
    with open_image(path, name) as image:
        bits = bits_of(path, image)
        turned = image.format == "TIFF"  # Pillow and OpenCV turn it while it is decoded
        # Pillow has no mode for PNG's grey with opacity of 16 bits and makes it RGBA
        grey = any(str(tile.args).startswith("LA;16") for tile in getattr(image, "tile", ()))
        lay = _orientation(image) if turned else 1
        picture = _from_pil(image, decode_upright(image, name), name, path)
    if grey:
        picture = replace(picture, grey=True)
    if turned:
        picture = replace(picture, orientation=lay)
    if bits <= 8 or picture.deep is not None:
        return picture
    deep = read_deep(path, 1 if turned else picture.orientation, picture.rgb)
    if deep is None:
        warnings.warn(f"{name} has {bits} bits a channel; 8 of them are read", stacklevel=4)
        return picture
    alpha = picture.alpha
    if deep.shape[2] == 4 and alpha is not None:
        alpha = shallow(deep[:, :, 3])
    return replace(picture, rgb=shallow(deep[:, :, :3]), alpha=alpha, deep=deep)


def _from_pil(
    image: Image.Image, upright: Image.Image, name: str, file: str | os.PathLike[str] | None
) -> Picture:
    """Turn a decoded Pillow image, as it is and upright, into a :class:`Picture`."""
    mode = upright.mode
    deep = alpha = None
    if mode == "F" or mode.startswith("I"):
        values = deep_values(upright, name)
        rgb = np.repeat(to_uint8(values, name)[:, :, None], 3, axis=2)
        if mode == "F":
            values = np.round(np.clip(values, 0, 1) * 65535.0).astype(np.uint16)
        deep = np.repeat(values[:, :, None], 3, axis=2)
    else:
        try:
            if mode in {"La", "RGBa"}:  # premultiplied alpha
                upright = upright.convert("LA" if mode == "La" else "RGBA")
            if upright.has_transparency_data:
                rgba = np.array(upright.convert("RGBA"))
                rgb, alpha = rgba[:, :, :3].copy(), rgba[:, :, 3].copy()
            else:
                rgb = np.array(upright.convert("RGB"))
        except DECODE_ERRORS as error:
            raise InputError(
                f"{name} has the mode {mode!r}, which cannot become RGB: {first_line(error)}"
            ) from error
    return Picture(
        rgb,
        alpha,
        kept_info(image, upright, file),
        deep,
        grey=deep is not None or mode in {"1", "L", "LA", "La"} or _is_grey_palette(mode, rgb),
        orientation=_orientation(image),
    )


def _is_grey_palette(mode: str, rgb: NDArray[np.uint8]) -> bool:
    """Whether it is a palette's picture without colours, as a GIF of a grey one is."""
    return mode in {"P", "PA"} and bool((rgb == rgb[:, :, :1]).all())


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except DECODE_ERRORS:  # a broken EXIF block, which decode_upright left alone too
        return 1
    return found if found in range(1, 9) else 1


def deep_values(image: Image.Image, name: str) -> NDArray[Any]:
    """Return the values of an ``I``, ``I;16*`` (uint16) or ``F`` (float32) image, ``(H, W)``.

    Raises:
        InputError: Integers outside 0 to 65535.
    """
    values = np.array(image)
    if image.mode == "F":
        return values
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"{name} holds 32-bit integers from {low} to {high}; 16-bit values (0 to 65535) are "
            "accepted"
        )
    return values.astype(np.uint16)
