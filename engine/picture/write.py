"""Files out, by :mod:`engine.picture.commit`: whole or not at all."""

from __future__ import annotations

import stat
import struct
import warnings
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, features

from engine.errors import InputError, OutputError
from engine.picture.arrays import by
from engine.picture.commit import Commit, try_out
from engine.picture.deep import KEY, png_rows, sixteen_bits
from engine.picture.embed import Beside, beside
from engine.picture.metadata import FORMATS
from engine.picture.opening import FilePath, first_line
from engine.picture.tiff import write_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "check_fits",
    "check_writable",
    "is_transparent",
    "save_image",
    "write_image",
    "write_text",
]

_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA")
_OPAQUE: Final = frozenset({"JPEG"})
_LONGEST: Final[Mapping[str, int]] = {"JPEG": 65500, "WEBP": 16383, "AVIF": 32768}
"""The longest side in px: libjpeg's, WebP's, and what libavif reads back."""
_QUALITY: Final[Mapping[str, Mapping[str, Any]]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
_QUICK: Final[Mapping[str, Any]] = {"compress_level": 1}
_WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def save_image(
    image: Image.Image,
    path: FilePath,
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
    commit: Commit | None = None,
) -> None:
    """Write an image, whole or not at all; the suffix decides the format.

    PNG, TIFF and WebP are lossless and keep alpha (WebP also the colours under transparent pixels);
    PNG and TIFF hold the 16 bits of a picture that has them. JPEG and AVIF are written at quality
    95 without chroma subsampling: pixels that an edit left untouched change by a few levels there,
    as they do in any of them.

    What ``image.info`` carries of the photo's own (:func:`engine.picture.metadata.kept_info`) and
    ``metadata`` are written as far as the format has a place for them; what it has none for is left
    out, and named in one warning.

    Args:
        image: Mode 1, L, LA, P, RGB or RGBA, upright.
        path: Ends in one of :data:`FORMATS`; the folder exists. A symbolic link is followed. An
            existing file keeps its permissions.
        metadata: Text to be read back by :func:`engine.picture.metadata.read_metadata`. PNG: one
            iTXt chunk (UTF-8) for each entry, keyword ``softpaint:<key>``. JPEG: JSON in segments
            APP10. WebP, TIFF, AVIF: JSON in EXIF's ImageHistory.
        overwrite: False = an existing file is an error.
        commit: Files that take their places together; the image is one of them.

    Raises:
        OutputError: The suffix is unknown, the folder is missing or cannot be written, the path is
            a folder or write-protected, the file exists and ``overwrite`` is False, the format
            cannot hold the image, or writing failed (disk full). No partial file is left behind.
    """
    target = Path(path)
    _check_target(target, suffixes=True, overwrite=overwrite, error=OutputError)
    format_ = FORMATS[target.suffix.lower()]
    with Commit() if commit is None else nullcontext(commit) as together:
        together.write(
            target, lambda file: write_image(file, image, format_, metadata=metadata, name=target)
        )


def write_image(
    file: IO[bytes],
    image: Image.Image,
    format_: str,
    *,
    metadata: Mapping[str, str] | None = None,
    name: FilePath,
    warn: bool = True,
    quick: bool = False,
    quality: int | None = None,
) -> None:
    """Write an image into an open file, as :func:`save_image` does into one of a path.

    Args:
        file: Open for writing and seekable.
        image: Mode 1, L, LA, P, RGB or RGBA, upright.
        format_: One of the values of :data:`FORMATS`.
        metadata: See :func:`save_image`.
        name: What error messages call the file.
        warn: Name what the format has no place for.
        quick: A larger PNG, sooner: for who sends it and keeps the pixels.
        quality: 0 to 100, of the formats that lose something for it; None is 95, and WebP lossless.

    Raises:
        OutputError: The format cannot hold the image or the metadata.
    """
    if image.mode not in _MODES:
        raise OutputError(
            f"cannot write {str(name)!r}: an image of mode {image.mode!r} is none of "
            f"{', '.join(_MODES)}"
        )
    if format_ in _OPAQUE and is_transparent(image):
        raise OutputError(_no_alpha(name))
    _check_size(name, format_, image.size, error=OutputError)
    deep = sixteen_bits(image) if format_ in {"PNG", "TIFF"} else None
    if format_ in _OPAQUE and image.mode in {"LA", "P", "RGBA"}:
        image = _of_mode(image, "L" if image.mode == "LA" else "RGB")  # nothing is transparent
    elif format_ == "TIFF" and image.mode in {"1", "P"}:
        image = _of_mode(image, "RGBA" if image.has_transparency_data else "RGB")
    written = beside(image, format_, metadata or {})
    if KEY in image.info and format_ not in {"PNG", "TIFF"}:
        written.lost.append("the lower 8 of its 16 bits a channel (.png and .tiff hold them)")
    if format_ == "TIFF":
        pixels = np.asarray(image) if deep is None else deep
        pixels = pixels.reshape(image.height, image.width, -1)
        write_tiff(file, pixels, written, image.info.get("dpi"))
    elif deep is not None:
        file.write(_deep_png(deep, written))
    else:
        how = _QUICK if quick and format_ == "PNG" else _QUALITY[format_]
        if quality is not None and format_ != "PNG":
            how = {"quality": quality}
        image.save(file, format=format_, **how, **written.options)
    if written.lost and warn:
        warnings.warn(
            f"{Path(name).name} ({format_}) is written without {'; '.join(written.lost)}",
            stacklevel=2,
        )


def write_text(path: FilePath, text: str, *, commit: Commit | None = None) -> None:
    """Write a UTF-8 text file (newlines as given), whole or not at all; ``commit`` as for
    :func:`save_image`.

    Raises:
        OutputError: The folder is missing or cannot be written, the path is a folder, the text
            cannot be encoded, or writing failed (disk full). No partial file is left behind.
    """
    target = Path(path)
    _check_target(target, suffixes=False, overwrite=True, error=OutputError)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(f"cannot write {str(target)!r}: {error}") from error
    with Commit() if commit is None else nullcontext(commit) as together:
        together.write(target, lambda file: file.write(data))


def check_writable(path: FilePath, *, image: bool = True, overwrite: bool = True) -> None:
    """Find out before any model work whether :func:`save_image` would be able to write ``path``.

    Creates an empty temporary file in the folder and removes it again: permission bits alone do
    not tell of read-only mounts, quotas and access lists.

    Args:
        path: Where the result is to go.
        image: False for other files (:func:`write_text`): any suffix is accepted.
        overwrite: False = an existing file is an error.

    Raises:
        InputError: Bad use: an empty path, an unknown suffix, a missing folder, a folder in place
            of a file, a write-protected file, an existing file without ``overwrite``.
        OutputError: Good use, but the folder cannot be written (permissions, read-only, full).
    """
    target = Path(path)
    _check_target(target, suffixes=image, overwrite=overwrite, error=InputError)
    try_out(target)


def check_fits(path: FilePath, size: tuple[int, int], *, transparent: bool = False) -> None:
    """Find out before any model work whether the format of ``path`` holds the result.

    Args:
        path: Where the result is to go; of an unknown suffix :func:`check_writable` tells.
        size: The result's ``(width, height)``, with the canvas that is added
            (:func:`engine.picture.geometry.check_canvas`).
        transparent: It has transparent pixels, which JPEG cannot hold (an alpha channel that is
            opaque is no reason).

    Raises:
        InputError: It does not.
    """
    format_ = FORMATS.get(Path(path).suffix.lower(), "")
    if transparent and format_ in _OPAQUE:
        raise InputError(_no_alpha(path))
    _check_size(path, format_, size, error=InputError)


# --- what can be said before writing --------------------------------------------------------------


def _check_target(
    target: Path, *, suffixes: bool, overwrite: bool, error: type[InputError | OutputError]
) -> None:
    """Raise ``error`` where a target path cannot be right, whatever the disk holds."""
    shown = repr(str(target))
    try:
        if not target.name or "\0" in str(target):
            raise error(f"cannot write to {shown}: a file name is needed")
        if target.is_dir():
            raise error(f"cannot write to {shown}: it is a folder; a file name is needed")
        if suffixes and target.suffix.lower() not in FORMATS:
            raise error(
                f"cannot write {shown}: the suffix {target.suffix!r} is unknown; "
                f"known: {', '.join(FORMATS)}"
            )
        if not target.parent.exists():
            raise error(f"cannot write {shown}: the folder {str(target.parent)!r} does not exist")
        if not target.parent.is_dir():
            raise error(f"cannot write {shown}: {str(target.parent)!r} is not a folder")
        if target.exists() and not target.is_file():
            raise error(f"cannot write {shown}: it is not a regular file")
        if target.exists() and not target.stat().st_mode & _WRITABLE:
            raise error(f"cannot write {shown}: the file is write-protected")
        if suffixes and FORMATS[target.suffix.lower()] == "AVIF" and not features.check("avif"):
            raise error(f"cannot write {shown}: this Pillow was built without AVIF; use .webp")
        if target.exists() and not overwrite:
            raise error(f"cannot write {shown}: the file exists already")
    except (InputError, OutputError):
        raise
    except (OSError, ValueError) as problem:  # a name that is too long, a NUL, a locked folder
        raise error(f"cannot write {shown}: {first_line(problem)}") from problem


def _check_size(
    name: FilePath,
    format_: str,
    size: tuple[int, int],
    *,
    error: type[InputError | OutputError],
) -> None:
    """Raise ``error`` where a format cannot hold a picture of ``size`` (width, height)."""
    limit = _LONGEST.get(format_)
    if limit is not None and max(size) > limit:
        raise error(
            f"cannot write {str(name)!r}: {format_} holds at most {limit} px a side, and the "
            f"result is {by(size)}; use .png or .tiff"
        )


def _no_alpha(name: FilePath) -> str:
    """Say why a transparent picture cannot be a JPEG."""
    return f"cannot write {str(name)!r}: JPEG holds no transparency; use .png or .webp"


def is_transparent(image: Image.Image) -> bool:
    """Say whether any pixel is not fully opaque."""
    if not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA"))[:, :, 3].min() < 255)


def _of_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in another mode, with its ``info``, some of which Pillow drops."""
    converted = image.convert(mode)
    converted.info = {**image.info, **converted.info}
    converted.info.pop("transparency", None)
    return converted


def _deep_png(deep: NDArray[np.uint16], written: Beside) -> bytes:
    """A 16-bit PNG: Pillow's of one pixel, with another header and other pixels."""
    height, width, channels = deep.shape
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    small = BytesIO()
    Image.new(mode, (1, 1)).save(small, format="PNG", **written.options)
    data, place, chunks = small.getvalue(), 8, []
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        if name == b"IHDR":  # width, height, bits; the rest is the mode's
            body = struct.pack(">IIB", width, height, 16) + body[9:]
        elif name == b"IDAT":
            body = png_rows(deep)
        chunks.append((name, body))
        place += 12 + length
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
