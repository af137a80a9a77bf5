"""Pictures in: files, Pillow images, arrays and tensors become a :class:`Picture`.

A picture is ``uint8``, ``(H, W, 3)``, RGB, with an optional alpha channel ``(H, W)`` that the
engine never touches. Sizes are ``(width, height)`` as in Pillow, array shapes ``(H, W)`` as in
numpy.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import InputError, told
from engine.picture.arrays import MAX_PIXELS, array_of, by, channels_last, limit_text, to_uint8
from engine.picture.source import Source

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "FilePath",
    "ImageLike",
    "Picture",
    "check_file",
    "deep_values",
    "first_line",
    "load_image",
    "name_of",
    "open_image",
    "open_upright",
]

ImageLike: TypeAlias = "Image.Image | NDArray[Any] | torch.Tensor | str | os.PathLike[str]"
"""What :func:`load_image` takes."""

FilePath: TypeAlias = "str | os.PathLike[str]"

# What Pillow raises on damaged files. The first four were seen on 8,400 files (14 formats, some
# cut short, some with bytes changed); the others are what parsers of binary data can end in.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)

# Formats whose further "frames" are not an animation: the second view of a camera's MPO file, the
# layers of a Photoshop file (whose first frame is the merged picture).
_STILL_FORMATS = frozenset({"MPO", "PSD"})

_KEPT_INFO = ("icc_profile", "exif", "dpi")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        rgb: ``uint8 (H, W, 3)``, 0 to 255, upright (EXIF orientation is already applied).
        alpha: ``uint8 (H, W)``, 255 = opaque, or None where the source has no alpha channel.
        info: What a saved file should keep: ``icc_profile`` (bytes), ``exif`` (bytes, without the
            orientation), ``dpi`` (two floats). Any of them may be missing.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    info: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in px."""
        return self.rgb.shape[1], self.rgb.shape[0]

    def to_pil(self, rgb: NDArray[np.uint8] | None = None) -> Image.Image:
        """Return the picture as a Pillow image, RGB or RGBA, with ``info`` attached.

        Args:
            rgb: Other pixels, ``uint8 (H, W, 3)`` of this picture's size, under the same alpha
                channel and info: how the engine returns an edit.

        Raises:
            InputError: ``rgb`` has another shape.
        """
        pixels = self.rgb if rgb is None else rgb
        if pixels.shape != self.rgb.shape:
            raise InputError(f"pixels of shape {pixels.shape} given for a {by(self.size)} picture")
        if self.alpha is not None:
            pixels = np.dstack([pixels, self.alpha])
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.info.update(self.info)
        return image


def load_image(source: ImageLike) -> Picture:
    """Load a picture from a file, a Pillow image, a numpy array or a torch tensor.

    Files and Pillow images: EXIF orientation is applied; the alpha channel (also of palettes and
    of a transparent colour) is kept beside the pixels; greyscale, 1-bit, palette, YCbCr, Lab, HSV
    and CMYK become RGB by Pillow's conversion (without colour management: an ICC profile is kept
    for saving only when it is an RGB one). 16-bit greyscale is rounded to 8 bits,
    ``round(v / 257)``; Pillow decodes 16-bit RGB by dropping the low byte. 32-bit integer images
    are read as 16-bit ones (0 to 65535), float images as [0, 1].

    Arrays: ``(H, W)``, ``(1, H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``, also with a
    leading batch dimension of 1; bool, uint8 (0 to 255), uint16 (0 to 65535) or float in [0, 1],
    which becomes ``round(255 * x)``. Tensors: ``h w``, ``c h w`` or ``1 c h w`` with c = 1, 3 or 4,
    values as for arrays. Floats up to 1e-5 outside [0, 1] are clipped.

    Returns:
        The :class:`Picture`. Nothing in it is shared with the source, and no file stays open.

    Raises:
        InputError: The file is missing, a folder, unreadable, no image, damaged, animated or
            larger than :data:`MAX_PIXELS`; the picture is empty; the array has another shape or
            type; values are NaN, infinite or outside [0, 1].
    """
    name = name_of(source, "image")
    if isinstance(source, (str, os.PathLike, Image.Image)):
        return _from_pil(open_upright(source, name), name)
    values, channels_first = array_of(source, name)
    values = channels_last(values, name, first=channels_first)
    pixels = to_uint8(values, name)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    alpha = pixels[:, :, 3].copy() if pixels.shape[2] == 4 else None
    return Picture(pixels[:, :, :3].copy(), alpha)


# --- files ----------------------------------------------------------------------------------------


def name_of(source: object, what: str) -> str:
    """Say how error messages call a source: its file name, or e.g. ``image (numpy array)``."""
    if isinstance(source, (str, os.PathLike)):
        return f"{what} {os.fspath(source)!r}"
    if isinstance(source, Image.Image):
        file = getattr(source, "filename", "")
        return f"{what} {os.fspath(file)!r}" if file else f"{what} (Pillow image)"
    if isinstance(source, np.ndarray):
        return f"{what} (numpy array)"
    return f"{what} ({type(source).__name__})"


def open_upright(source: Image.Image | str | os.PathLike[str], name: str) -> Image.Image:
    """Decode a still image completely and turn it upright by its EXIF orientation.

    Args:
        source: A path or a Pillow image, which is not changed.
        name: What error messages call it.

    Returns:
        A Pillow image of any mode; the file is closed.

    Raises:
        InputError: As for :func:`load_image`.
    """
    if isinstance(source, Image.Image):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in open_image
            return _decode(source, name)
    with open_image(source, name) as image:
        return _decode(image, name)


@contextmanager
def open_image(path: str | os.PathLike[str], name: str) -> Iterator[Image.Image]:
    """Open an image file for the time of a ``with`` block; nothing is decoded yet.

    Args:
        path: The file, or the :class:`~engine.picture.source.Source` that holds its bytes.
        name: What error messages call it.

    Raises:
        InputError: The file is missing, a folder, unreadable, no image or too large; or it turned
            out to be damaged inside the block.
    """
    file: Path | BytesIO = Path(path)
    if isinstance(path, Source):
        if not path.data:
            raise InputError(f"{name} is an empty file")
        file = BytesIO(path.data)
    elif isinstance(file, Path):
        check_file(file, name)
    with warnings.catch_warnings():
        # Pillow warns of what is refused here with an error (size), or of what is harmless
        # (broken EXIF blocks, palettes with transparency).
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                yield image
        except UnidentifiedImageError:
            raise InputError(
                f"{name} is not an image that Pillow can read (PNG, JPEG, WebP, TIFF, BMP, ...)"
            ) from None
        except Image.DecompressionBombError as error:
            raise InputError(f"{name} is refused: {limit_text()} ({error})") from None
        except InputError:
            raise
        except _DECODE_ERRORS as error:
            raise InputError(f"{name} cannot be read: {first_line(error)}") from error


def check_file(path: Path, name: str, *, empty: bool = False) -> None:
    """Say plainly what is wrong with a path before anything opens it.

    Args:
        path: Where a file should be.
        name: What error messages call it.
        empty: Whether a file of 0 bytes is accepted.

    Raises:
        InputError: Missing, a folder, no regular file, empty, or not to be looked at.
    """
    try:
        if path.is_dir():
            raise InputError(f"{name} is a folder; an image file is needed")
        if not path.exists():
            raise InputError(f"{name} does not exist")
        if not path.is_file():
            raise InputError(f"{name} is not a regular file")
        if not empty and path.stat().st_size == 0:
            raise InputError(f"{name} is an empty file")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot be read: {first_line(error)}") from None


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Check an opened image, decode it, turn it upright."""
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{name} is empty: {by(image.size)} px")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} is refused: {limit_text()}, this one is {by(image.size)}")
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format not in _STILL_FORMATS:
        raise InputError(
            f"{name} has {frames} frames or pages, and one picture is edited; take one out first, "
            + told(
                python="for instance with Pillow: image.seek(n); image.copy()",
                command="for instance with ImageMagick: magick 'FILE[0]' frame.png",
            )
        )
    try:
        image.load()
    except _DECODE_ERRORS as error:
        raise InputError(f"{name} is damaged or truncated: {first_line(error)}") from error
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:  # a broken EXIF block says nothing about the pixels
        upright = image.copy()
        upright.info.pop("exif", None)
        return upright


def _from_pil(image: Image.Image, name: str) -> Picture:
    """Turn a decoded, upright Pillow image into a :class:`Picture`."""
    info = _kept_info(image)
    mode = image.mode
    alpha: NDArray[np.uint8] | None = None
    if mode == "F" or mode.startswith("I"):
        grey = to_uint8(deep_values(image, name), name)
        rgb = np.repeat(grey[:, :, None], 3, axis=2)
    else:
        try:
            if mode in {"La", "RGBa"}:  # premultiplied alpha
                image = image.convert("LA" if mode == "La" else "RGBA")
            if image.has_transparency_data:
                rgba = np.array(image.convert("RGBA"))
                rgb, alpha = rgba[:, :, :3].copy(), rgba[:, :, 3].copy()
            else:
                rgb = np.array(image.convert("RGB"))
        except _DECODE_ERRORS as error:
            raise InputError(
                f"{name} has the mode {mode!r}, which cannot become RGB: {first_line(error)}"
            ) from error
    return Picture(rgb, alpha, info)


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


def _kept_info(image: Image.Image) -> Mapping[str, Any]:
    """Pick what of ``image.info`` a saved edit should carry on."""
    info = {key: image.info[key] for key in _KEPT_INFO if image.info.get(key)}
    profile = info.get("icc_profile")
    # Bytes 16 to 19 of an ICC header name the colour space (ICC.1:2022, 7.2.6): a profile for
    # grey or CMYK values would be wrong on the RGB pixels that are saved.
    if profile is not None and bytes(profile[16:20]) != b"RGB ":
        del info["icc_profile"]
    dpi = info.get("dpi")
    if dpi is not None:
        try:
            info["dpi"] = (float(dpi[0]), float(dpi[1]))
        except (TypeError, ValueError, IndexError, ArithmeticError):
            del info["dpi"]
    return MappingProxyType(info)


def first_line(error: BaseException) -> str:
    """Give an error's message in one line."""
    strerror = error.strerror if isinstance(error, OSError) else None
    text = strerror or str(error) or type(error).__name__
    return text.strip().splitlines()[0]
