"""What a file says beside its pixels: EXIF, and Softpaint's own settings."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, PngImagePlugin

from engine.errors import InputError, OutputError
from engine.picture.read import FilePath, first_line, open_image

__all__ = ["FORMATS", "no_alpha", "read_metadata", "save_options"]

FORMATS: Final[Mapping[str, str]] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
}
"""Image file suffixes that can be written (any case), and Pillow's name of each format."""

_PREFIX: Final = "softpaint:"  # of our keywords among a PNG's text chunks

_EXIF_IFD: Final = 0x8769

_USER_COMMENT: Final = 0x9286

_ORIENTATION: Final = 0x0112

_ASCII: Final = b"ASCII\0\0\0"  # character code of a UserComment: Exif 2.32, 4.6.5, table 9

_JPEG_EXIF_LIMIT: Final = 65533 - 6  # one APP1 segment, less its length and "Exif\0\0"


def read_metadata(path: FilePath) -> dict[str, str]:
    """Read the metadata that :func:`save_image` wrote into an image.

    Returns:
        The entries, keys without prefix.

    Raises:
        InputError: The file is missing, no image, of another format, or holds no metadata of
            Softpaint's (many programs drop it when they save a picture again).
    """
    name = f"image {os.fspath(path)!r}"
    with open_image(path, name) as image:
        if image.format not in FORMATS.values():
            raise InputError(
                f"{name} is a {image.format} file; Softpaint writes its settings into PNG, JPEG "
                "and WebP files"
            )
        found: dict[str, str] | None
        if isinstance(image, PngImagePlugin.PngImageFile):
            found = {
                key.removeprefix(_PREFIX): str(text)
                for key, text in image.text.items()
                if key.startswith(_PREFIX)
            }
        else:
            found = _read_user_comment(image)
    if not found:
        raise InputError(f"{name} holds no Softpaint settings; it was not written by Softpaint")
    return found


# --- for writing ----------------------------------------------------------------------------------


def save_options(
    image: Image.Image, format_: str, metadata: Mapping[str, str] | None, target: Path
) -> dict[str, Any]:
    """Collect Pillow's save options for a format, metadata included."""
    shown = repr(str(target))
    options: dict[str, Any] = {
        key: image.info[key] for key in ("icc_profile", "dpi") if image.info.get(key)
    }
    exif = _exif_of(image)
    try:
        if format_ == "PNG":
            text = PngImagePlugin.PngInfo()
            for key, value in (metadata or {}).items():
                _check_entry(key, value)
                text.add_itxt(_PREFIX + key, value, "", "")
            options["pnginfo"] = text
        elif metadata:
            comment = json.dumps({"softpaint": dict(metadata)}).encode("ascii")
            exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _ASCII + comment
    except ValueError as error:  # also a UnicodeEncodeError
        raise OutputError(f"cannot write {shown}: {first_line(error)}") from error
    block = exif.tobytes() if len(exif) or exif.get_ifd(_EXIF_IFD) else b""
    if format_ == "JPEG":
        if len(block) > _JPEG_EXIF_LIMIT:
            raise OutputError(
                f"cannot write {shown}: its settings and EXIF take {len(block)} bytes, JPEG holds "
                f"{_JPEG_EXIF_LIMIT}; use .png or .webp"
            )
        if _is_transparent(image):
            raise OutputError(no_alpha(target))
        options |= {"quality": 95, "subsampling": 0}
    elif format_ == "WEBP":
        if max(image.size) > 16383:
            raise OutputError(f"cannot write {shown}: WebP holds at most 16383 px a side")
        options |= {"lossless": True, "exact": True}
    if block:
        options["exif"] = block
    return options


def no_alpha(target: Path) -> str:
    """Say why a transparent picture cannot be a JPEG."""
    return f"cannot write {str(target)!r}: JPEG holds no transparency; use .png or .webp"


def _check_entry(key: str, value: str) -> None:
    """Raise ValueError for what an iTXt chunk cannot hold (PNG specification, 11.3.3)."""
    if not 1 <= len((_PREFIX + key).encode("latin-1")) <= 79:
        raise ValueError(f"the metadata key {key!r} is longer than {79 - len(_PREFIX)} characters")
    if "\0" in key + value:
        raise ValueError(f"the metadata {key!r} holds a NUL")
    value.encode("utf-8")


def _exif_of(image: Image.Image) -> Image.Exif:
    """Copy the EXIF block in ``image.info``, without the orientation; empty where it is broken."""
    exif = Image.Exif()
    broken = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow only warns of corrupt entries
        try:
            exif.load(image.info.get("exif") or b"")
            exif.get_ifd(_EXIF_IFD)
            exif.pop(_ORIENTATION, None)
            exif.tobytes()
        except (*broken, Warning):
            return Image.Exif()
    return exif


def _is_transparent(image: Image.Image) -> bool:
    """Say whether any pixel is not fully opaque."""
    if not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA"))[:, :, 3].min() < 255)


def _read_user_comment(image: Image.Image) -> dict[str, str] | None:
    """Read Softpaint's entries from EXIF's UserComment; None where it holds something else."""
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if not isinstance(comment, bytes) or not comment.startswith(_ASCII):
        return None
    try:
        entries = json.loads(comment.removeprefix(_ASCII))["softpaint"]
        return {str(key): str(value) for key, value in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
