"""Pixels in and out: load pictures, pad and crop them, hand them to the model, paste results back.

A picture is ``uint8``, ``(H, W, 3)``, RGB, with an optional alpha channel ``(H, W)`` that the
engine never touches. Sizes are ``(width, height)`` as in Pillow, array shapes ``(H, W)`` as in
numpy. Coordinates are integers, always.
"""

from __future__ import annotations

import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_PIXELS",
    "Box",
    "ImageLike",
    "Picture",
    "array_of",
    "channels_last",
    "check_file",
    "crop",
    "deep_values",
    "first_line",
    "load_image",
    "name_of",
    "open_image",
    "open_upright",
    "pad_to_multiple",
    "paste",
    "to_pixels",
    "to_tensor",
    "unit_interval",
]

ImageLike: TypeAlias = "Image.Image | NDArray[Any] | torch.Tensor | str | os.PathLike[str]"
"""What :func:`load_image` takes."""

MAX_PIXELS = 89_478_485
"""Largest picture that is read, in pixels (about 9459 x 9459).

Pillow's own default limit. Pillow only warns between one and two times the limit; Softpaint
refuses everything above it, before a pixel is decoded.
"""

_TOLERANCE = 1e-5
"""Floats this far outside [0, 1] are rounding noise of a resize or a colour conversion: clipped."""

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

_ArrayT = TypeVar("_ArrayT", bound=NDArray[Any])


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in integer pixel coordinates; right and bottom are exclusive, as in Pillow."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in px."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in px."""
        return self.bottom - self.top


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
            raise InputError(f"pixels of shape {pixels.shape} given for a {_by(self.size)} picture")
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
    pixels = _to_uint8(values, name)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    alpha = pixels[:, :, 3].copy() if pixels.shape[2] == 4 else None
    return Picture(pixels[:, :, :3].copy(), alpha)


# --- reading -------------------------------------------------------------------------------------


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
        path: The file.
        name: What error messages call it.

    Raises:
        InputError: The file is missing, a folder, unreadable, no image or too large; or it turned
            out to be damaged inside the block.
    """
    file = Path(path)
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
            raise InputError(f"{name} is refused: {_limit_text()} ({error})") from None
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
        raise InputError(f"{name} is empty: {_by(image.size)} px")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} is refused: {_limit_text()}, this one is {_by(image.size)}")
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format not in _STILL_FORMATS:
        raise InputError(
            f"{name} has {frames} frames or pages; extract one first, for instance with Pillow: "
            "image.seek(n); image.copy()"
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
        grey = _to_uint8(deep_values(image, name), name)
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


def array_of(source: object, name: str) -> tuple[NDArray[Any], bool]:
    """View an array or a tensor as a numpy array, and say whether its channels come first.

    Tensors of any float type come back as float32 on the CPU; their layout is ``c h w``.

    Raises:
        InputError: Neither a numpy array nor a torch tensor, or not numeric, or empty.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        tensor: Any = source.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
        values: NDArray[Any] = tensor.numpy()
        channels_first = True
    elif isinstance(source, np.ndarray):
        values, channels_first = source, False
    else:
        raise InputError(
            f"{name} is not accepted: give a path, a Pillow image, a numpy array or a torch tensor"
        )
    if values.size == 0:
        raise InputError(f"{name} is empty: shape {values.shape}")
    if values.dtype.kind not in "buif":
        raise InputError(f"{name} has the type {values.dtype}; numbers are needed")
    return values, channels_first


def channels_last(
    values: NDArray[Any], name: str, *, first: bool, channels: Sequence[int] = (1, 3, 4)
) -> NDArray[Any]:
    """Arrange one picture or map as ``(H, W, C)``.

    Args:
        values: ``(H, W)``, ``(H, W, C)`` or ``(1, H, W)``, or ``c h w`` if ``first``; also with a
            leading batch dimension of 1.
        name: What error messages call it.
        first: Channels come first, as in tensors.
        channels: The numbers of channels that are accepted.

    Raises:
        InputError: Another shape, or more than :data:`MAX_PIXELS`.
    """
    shape = values.shape
    if values.ndim == 4 and shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[:, :, None]
    elif values.ndim == 3 and (first or (shape[-1] not in channels and shape[0] == 1)):
        values = np.moveaxis(values, 0, 2)
    if values.ndim != 3 or values.shape[2] not in channels:
        accepted = "h w, c h w or 1 c h w" if first else "(H, W), (H, W, c) or (1, H, W)"
        count = f"{', '.join(map(str, channels[:-1]))} or {channels[-1]}"
        raise InputError(
            f"{name} has the shape {shape}; accepted: one picture or map as {accepted}, c = {count}"
        )
    if values.shape[0] * values.shape[1] > MAX_PIXELS:
        height, width = values.shape[:2]
        raise InputError(f"{name} is refused: {_limit_text()}, this one is {_by((width, height))}")
    return values


def _to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale bool, uint8, uint16 or float in [0, 1] to 0 to 255, rounded."""
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "f":
        pixels: NDArray[np.uint8] = (unit_interval(values, name) * 255).round().astype(np.uint8)
        return pixels
    if values.dtype == np.uint8:
        return values.astype(np.uint8)
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise InputError(
        f"{name} has the type {values.dtype}; accepted: bool, uint8 (0 to 255), "
        "uint16 (0 to 65535), float (0 to 1)"
    )


def unit_interval(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Check floats in [0, 1], return float32; rounding noise up to 1e-5 outside is clipped.

    Raises:
        InputError: NaN, infinite, or outside [0, 1]; says what was found.
    """
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise InputError(f"{name} holds {bad} values that are NaN or infinite; 0 to 1 is accepted")
    low, high = float(values.min()), float(values.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        hint = "; 8-bit values belong in a uint8 array" if high > 2 and low >= 0 else ""
        if low < 0 and low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE:
            hint = "; is it in [-1, 1]? Give x / 2 + 0.5"
        raise InputError(
            f"{name} holds floats from {low:.6g} to {high:.6g}; 0 to 1 is accepted{hint}"
        )
    clipped: NDArray[np.float32] = np.clip(values, 0, 1).astype(np.float32)
    return clipped


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _limit_text() -> str:
    return f"pictures up to {MAX_PIXELS / 1e6:.0f} megapixels are accepted"


def first_line(error: BaseException) -> str:
    """Give an error's message in one line."""
    strerror = error.strerror if isinstance(error, OSError) else None
    text = strerror or str(error) or type(error).__name__
    return text.strip().splitlines()[0]


# --- padding and cropping ------------------------------------------------------------------------


def pad_to_multiple(array: _ArrayT, multiple: int) -> tuple[_ArrayT, Box]:
    """Pad on the right and at the bottom until both sides are multiples of ``multiple``.

    The picture stays at the origin, so its coordinates hold in the padded one. The new pixels
    mirror the picture without repeating its edge (numpy's ``reflect``); along a side that is too
    short to be mirrored (padding >= side) the edge is repeated.

    Args:
        array: ``(H, W)`` or ``(H, W, C)``, any type.
        multiple: At least 1, in px.

    Returns:
        The padded array (the same object where nothing was to be added) and the box that
        :func:`crop` takes to undo it exactly.

    Raises:
        InputError: Another shape, an empty array, or ``multiple`` below 1.
    """
    if multiple < 1:
        raise InputError(f"multiple must be at least 1, not {multiple}")
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} cannot be padded: (H, W[, C]) is needed")
    height, width = array.shape[:2]
    box = Box(0, 0, width, height)
    for axis, side in enumerate((height, width)):
        amount = -side % multiple
        if amount == 0:
            continue
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, amount)
        array = np.pad(array, widths, mode="reflect" if amount < side else "edge")  # type: ignore[assignment]
    return array, box


def crop(array: _ArrayT, box: Box) -> _ArrayT:
    """Cut ``box`` out of ``array`` (``(H, W)`` or ``(H, W, C)``); a contiguous copy.

    Raises:
        InputError: The box is empty or reaches outside the array.
    """
    height, width = array.shape[:2]
    if not (0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height):
        raise InputError(f"{box} does not lie inside an array of {width} x {height} px")
    return array[box.top : box.bottom, box.left : box.right].copy()  # type: ignore[return-value]


# --- to the model and back -----------------------------------------------------------------------


def to_tensor(rgb: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels for the VAE, bit for bit (and stride for stride) as diffusers prepares them.

    ``2 * (x / 255) - 1`` in float32, with the operations and the memory layout (channels last) of
    diffusers' ``VaeImageProcessor`` (``pil_to_numpy``, ``numpy_to_pt``, ``normalize``), because
    convolutions may differ in the last bits between layouts.

    Args:
        rgb: ``uint8 (H, W, 3)``.

    Returns:
        float32 ``1 3 H W`` in [-1, 1] on the CPU.

    Raises:
        InputError: Another shape or type.
    """
    import torch

    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(f"uint8 (H, W, 3) is needed, not {rgb.dtype} {rgb.shape}")
    scaled = (rgb.astype(np.float32) / 255.0)[None]
    return 2.0 * torch.from_numpy(scaled.transpose(0, 3, 1, 2)) - 1.0


def to_pixels(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """Turn decoded pictures into pixels, rounded as diffusers' ``VaeImageProcessor`` does.

    ``round(255 * clamp(x / 2 + 0.5, 0, 1))`` (``denormalize``, ``pt_to_numpy``, ``numpy_to_pil``).

    Args:
        tensor: ``b 3 h w``, nominally in [-1, 1], any float type and device.

    Returns:
        ``uint8 (b, H, W, 3)``.

    Raises:
        InputError: Another shape.
        ModelError: The tensor holds NaN: the VAE overflowed, as SDXL's does in float16.
    """
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise InputError(f"b 3 h w is needed, not {tuple(tensor.shape)}")
    unit = (tensor.detach() * 0.5 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
    if np.isnan(unit).any():
        raise ModelError("the VAE returned NaN; run it in float32 or bfloat16 (SDXL's overflows)")
    pixels: NDArray[np.uint8] = (unit * 255).round().astype(np.uint8)
    return pixels


def paste(
    original: NDArray[np.uint8], edited: NDArray[Any], alpha: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Lay edited pixels over the original ones.

    ``round(original + alpha * (edited - original))`` in float64, in sRGB values as they are (not
    in linear light, so that a fade between two equal greys stays that grey). Where alpha is 0 the
    result is the original to the bit, where it is 1 it is the edit (floats rounded).

    Args:
        original: ``uint8 (H, W, 3)``.
        edited: ``(H, W, 3)``, uint8, or float in [0, 1] (clipped).
        alpha: ``(H, W)`` in [0, 1].

    Returns:
        ``uint8 (H, W, 3)``, a new array.

    Raises:
        InputError: Shapes or types do not fit, floats are NaN, or alpha is outside [0, 1].
    """
    if original.dtype != np.uint8 or original.ndim != 3 or original.shape[2] != 3:
        raise InputError(f"original: uint8 (H, W, 3) needed, not {original.dtype} {original.shape}")
    if edited.shape != original.shape or alpha.shape != original.shape[:2]:
        raise InputError(
            f"shapes do not fit: original {original.shape}, edited {edited.shape}, "
            f"alpha {alpha.shape}"
        )
    weights = unit_interval(alpha.astype(np.float32, copy=False), "alpha")
    if edited.dtype.kind != "f" and edited.dtype != np.uint8:
        raise InputError(f"edited: uint8 or float needed, not {edited.dtype}")
    result = original.copy()
    inside = weights > 0
    over = edited[inside].astype(np.float64)
    if edited.dtype.kind == "f":
        if np.isnan(over).any():
            raise InputError("edited: holds NaN; 0 to 1 is accepted")
        over = np.clip(over, 0, 1) * 255
    under = original[inside].astype(np.float64)
    weight = weights[inside].astype(np.float64)[:, None]
    result[inside] = (under * (1 - weight) + over * weight).round().astype(np.uint8)
    return result
