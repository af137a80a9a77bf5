"""Image files opened: found, known, decoded, turned upright, or refused in one line."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import InputError, told
from engine.picture.arrays import MAX_PIXELS, by, limit_text
from engine.picture.source import Source, opened

__all__ = [
    "DECODE_ERRORS",
    "FilePath",
    "check_file",
    "decode_upright",
    "first_line",
    "name_of",
    "open_image",
    "open_upright",
]

FilePath: TypeAlias = "str | os.PathLike[str]"

# What Pillow raises on damaged files. The first four were seen on 8,400 files (14 formats, some
# cut short, some with bytes changed); the others are what parsers of binary data can end in.
DECODE_ERRORS = (
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

_PNG = b"\x89PNG\r\n\x1a\n"
_PIECE = 1 << 20
"""Bytes that are read at a time."""

# Formats whose further "frames" are not an animation: the second view of a camera's MPO file, the
# layers of a Photoshop file (whose first frame is the merged picture).
_STILL_FORMATS = frozenset({"MPO", "PSD"})


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
        InputError: As for :func:`engine.picture.read.load_image`.
    """
    if isinstance(source, Image.Image):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in open_image
            return decode_upright(source, name)
    with open_image(source, name) as image:
        return decode_upright(image, name)


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
    if not os.fspath(path):
        raise InputError(f"{name} is no file's name")
    if not isinstance(path, Source):
        check_file(Path(path), name)
    elif not path.data:
        raise InputError(f"{name} is an empty file")
    with warnings.catch_warnings():
        # Pillow warns of what is refused here with an error (size), or of what is harmless
        # (broken EXIF blocks, palettes with transparency).
        warnings.simplefilter("ignore")
        try:
            with opened(path) as file:
                head = file.read(12)
                if head[:8] == _PNG:
                    _check_png(file, name)
                heic = _is_heic(head)
                if heic and find_spec("pi_heif"):
                    import_module("pi_heif").register_heif_opener()
            place = BytesIO(path.data) if isinstance(path, Source) else Path(path)
            with Image.open(place) as image:
                yield image
        except UnidentifiedImageError:
            if heic:
                raise InputError(
                    f"{name} is a HEIC picture; the package pi-heif reads them "
                    "(pip install 'softpaint[heic]')"
                ) from None
            if head[:4] in {b"II*\0", b"MM\0*"}:
                raise InputError(
                    f"{name} is a TIFF or camera file of a kind that Pillow cannot read, 32-bit "
                    "floats in colour say; convert it to a TIFF or PNG of 16 bits first"
                ) from None
            raise InputError(
                f"{name} is not an image that Pillow can read (PNG, JPEG, WebP, TIFF, AVIF, ...)"
            ) from None
        except Image.DecompressionBombError:
            raise InputError(f"{name} is refused: {limit_text()}, this one has more") from None
        except InputError:
            raise
        except DECODE_ERRORS as error:
            raise InputError(f"{name} cannot be read: {first_line(error)}") from error


def _check_png(file: IO[bytes], name: str) -> None:
    """Raise ``InputError`` where a PNG's pixels do not have their checksum: Pillow would show what
    they have become. A file that ends too early is left to Pillow.
    """
    file.seek(len(_PNG))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != b"IDAT":
            file.seek(length + 4, os.SEEK_CUR)
            continue
        found = zlib.crc32(kind)
        for start in range(0, length, _PIECE):
            found = zlib.crc32(file.read(min(_PIECE, length - start)), found)
        tail = file.read(4)
        if len(tail) == 4 and int.from_bytes(tail, "big") != found:
            raise InputError(f"{name} is damaged: its pixels do not match their checksum")


def _is_heic(head: bytes) -> bool:
    """Whether a file begins as HEIC does (ISO/IEC 23008-12, 10.4): a box with a brand of it."""
    return head[4:8] == b"ftyp" and head[8:] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}


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
            raise InputError(
                f"{name} is a folder; an image file is needed (softpaint batch edits folders)"
            )
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


def decode_upright(image: Image.Image, name: str) -> Image.Image:
    """Check an opened image, decode it, turn it upright (a copy)."""
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
    except DECODE_ERRORS as error:
        raise InputError(f"{name} is damaged or truncated: {first_line(error)}") from error
    try:
        return ImageOps.exif_transpose(image)
    except DECODE_ERRORS:  # a broken EXIF block says nothing about the pixels
        upright = image.copy()
        upright.info.pop("exif", None)
        return upright


def first_line(error: BaseException) -> str:
    """Give an error's message in one line."""
    strerror = error.strerror if isinstance(error, OSError) else None
    text = strerror or str(error) or type(error).__name__
    return text.strip().splitlines()[0]
