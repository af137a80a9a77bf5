"""What a file says beside its pixels: read, so that an edit can carry it on.

:func:`kept_info` gathers it from a picture that is read, :mod:`engine.picture.embed` writes it into
a result, beside Softpaint's own record, which :func:`read_metadata` reads back.
"""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from engine.errors import InputError
from engine.picture.opening import FilePath, open_image
from engine.picture.source import opened

__all__ = ["FORMATS", "OWN", "clean_exif", "kept_info", "own_record", "read_metadata", "texts_of"]

FORMATS: Final[Mapping[str, str]] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
"""Image file suffixes that can be written (any case), and Pillow's name of each format."""

OWN: Final = "softpaint:"
"""Begins the keywords of our PNG text chunks and the text of our other records."""
RECORD_SEGMENT: Final = "APP10"
"""The JPEG segments that hold our record; no standard uses them."""

EXIF_IFD: Final = 0x8769
GPS_IFD: Final = 0x8825
IMAGE_HISTORY: Final = 0x9213
"""TIFF/EP's tag for what was done to a picture: our record, outside PNG and JPEG."""
USER_COMMENT: Final = 0x9286
_COMFY: Final = (0x010F, 0x0110)
PIXEL_SIZE: Final = (0xA002, 0xA003)
_ORIENTATION: Final = 0x0112
_XMP, _IPTC = 700, 33723  # TIFF tags
# Of a TIFF file's own tags, those that say something of the picture: description, make, model,
# software, date, artist, copyright. The others say how it is stored.
_TIFF_KEPT: Final = (270, 271, 272, 305, 306, 315, 33432, EXIF_IFD, GPS_IFD)
# Size in px, orientation, the thumbnail's place: wrong after an edit
_STALE: Final = (0x0100, 0x0101, _ORIENTATION, 0x0201, 0x0202)
_BROKEN: Final = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error)
_PNG_COLOUR: Final = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_LOST: Final[Mapping[str, str]] = {
    "CMYK": "its CMYK values (RGB is written)",
    "LAB": "its Lab values (RGB is written)",
    "HSV": "its HSV values (RGB is written)",
    "F": "its 32-bit floats (16 bits are written)",
}
_CODED_TEXT: Final = ("XML:com.adobe.xmp", "Raw profile type exif")  # read as what they are


def kept_info(image: Image.Image, upright: Image.Image, file: FilePath | None) -> Mapping[str, Any]:
    """Gather what a saved edit should carry on.

    Args:
        image: The picture as its file holds it, decoded.
        upright: The same turned by its EXIF orientation, which its EXIF and XMP no longer name.
        file: Where it was read from; None for a Pillow image.

    Returns:
        ``icc_profile``, ``exif``, ``xmp``, ``iptc``, ``comment`` (bytes each), ``dpi`` (two
        floats), ``png_text`` (keywords and texts), ``png_colour`` (PNG chunks that say what the
        numbers mean, by name), ``lost`` (what the pixels lost when they became RGB). Any of them
        may be missing.
    """
    info: dict[str, Any] = {}
    profile = upright.info.get("icc_profile")
    # Bytes 16 to 19 of an ICC header name the colour space (ICC.1:2022, 7.2.6): a profile for
    # CMYK values, say, would be wrong on the pixels that are saved.
    if isinstance(profile, bytes) and profile[16:20] in {b"RGB ", b"GRAY"}:
        info["icc_profile"] = profile
    elif profile and image.mode not in _LOST:
        info["lost"] = "its colour profile, which is broken or for other channels"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of broken blocks, which are left out
        info["exif"] = _exif_bytes(image, upright)
        info["dpi"] = _resolution(upright.info.get("dpi"))
        info["xmp"] = _xmp(image, upright)
        info["iptc"] = _iptc(image)
        info["comment"] = _comment(image)
        info["png_text"] = _png_text(image)
        info["png_colour"] = _png_colour(image, file)
        info["lost"] = _LOST.get(image.mode, image.info.get("lost", info.get("lost")))
    return MappingProxyType({key: value for key, value in info.items() if value})


def clean_exif(block: Any) -> Image.Exif:
    """Read an EXIF block without orientation, size and thumbnail; empty where it is broken."""
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow only warns of corrupt entries
        try:
            exif.load(block or b"")
            exif.get_ifd(EXIF_IFD).pop(IMAGE_HISTORY, None)
            for tag in _STALE:
                exif.pop(tag, None)
            exif.tobytes()
        except (*_BROKEN, Warning):
            return Image.Exif()
    return exif


def read_metadata(path: FilePath) -> dict[str, str]:
    """Read the metadata that :func:`engine.picture.write.save_image` wrote into an image.

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
                f"{name} is a {image.format} file; Softpaint writes its settings into PNG, JPEG, "
                "WebP, TIFF and AVIF files"
            )
        found = own_record(image)
    if not found:
        raise InputError(f"{name} holds no Softpaint settings; it was not written by Softpaint")
    return found


def texts_of(path: FilePath) -> dict[str, str]:
    """The texts that other programs wrote into an image, by keyword: a PNG's text chunks;
    elsewhere EXIF's user comment, as ``parameters``, and what stands as ``keyword:text`` where the
    camera's make and model do (ComfyUI's WebP).

    Raises:
        InputError: The file is missing or no image.
    """
    with open_image(path, f"image {os.fspath(path)!r}") as image:
        if isinstance(image, PngImagePlugin.PngImageFile):
            texts = {str(key): str(text) for key, text in image.text.items()}
            return {key: text for key, text in texts.items() if not key.startswith(OWN)}
        try:
            exif = image.getexif()
            comment = _decoded(exif.get_ifd(EXIF_IFD).get(USER_COMMENT))
            named = [str(exif.get(tag, "")).partition(":") for tag in _COMFY]
        except _BROKEN:
            return {}
    texts = {key.lower(): text for key, colon, text in named if colon}
    return texts | ({"parameters": comment} if comment else {})


def _decoded(comment: Any) -> str:
    """EXIF's user comment, which begins with the name of its coding (Exif 2.3, 4.6.5)."""
    if isinstance(comment, str):
        return comment
    if not isinstance(comment, bytes):
        return ""
    coding, text = comment[:8].rstrip(b"\0"), comment[8:]
    if coding != b"UNICODE":
        return text.decode("utf-8", "replace").rstrip("\0")
    # The standard leaves the order of bytes open; of mostly Latin letters every second one is 0.
    little = text[:64].count(b"\0") and text[1:64:2].count(0) > text[0:64:2].count(0)
    return text.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")


def own_record(image: Image.Image) -> dict[str, str]:
    """Find Softpaint's entries in an opened image; empty where it holds none."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return {
            key.removeprefix(OWN): str(text)
            for key, text in image.text.items()
            if key.startswith(OWN)
        }
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        begin = OWN.encode()
        parts = [data for name, data in image.applist if name == RECORD_SEGMENT]
        text = b"".join(part.removeprefix(begin) for part in parts if part.startswith(begin))
    else:
        history = image.getexif().get_ifd(EXIF_IFD).get(IMAGE_HISTORY)
        if not isinstance(history, str) or not history.startswith(OWN):
            return {}
        text = history.removeprefix(OWN).encode()
    try:
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        return {}


# --- what a file holds ---------------------------------------------------------------------------


def _exif_bytes(image: Image.Image, upright: Image.Image) -> bytes:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        try:
            own, kept = image.getexif(), Image.Exif()
            for tag in _TIFF_KEPT[:-2]:
                if tag in own:
                    kept[tag] = own[tag]
            for directory in (EXIF_IFD, GPS_IFD):
                if entries := own.get_ifd(directory):
                    kept.get_ifd(directory).update(entries)
            return kept.tobytes() if _holds_something(kept) else b""
        except _BROKEN:
            return b""
    block = upright.info.get("exif")
    if not block and "Raw profile type exif" in image.info:
        try:
            block = upright.getexif().tobytes()
        except _BROKEN:
            return b""
    return block if isinstance(block, bytes) else b""


def _holds_something(exif: Image.Exif) -> bool:
    return bool(len(exif) or exif.get_ifd(EXIF_IFD) or exif.get_ifd(GPS_IFD))


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        found = (float(dpi[0]), float(dpi[1]))
        return found if min(found) > 1 else None  # Pillow says 1 where a TIFF says nothing
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None


def _xmp(image: Image.Image, upright: Image.Image) -> bytes:
    found = upright.info.get("xmp") or upright.info.get("XML:com.adobe.xmp")
    if found is None and isinstance(image, TiffImagePlugin.TiffImageFile):
        found = image.tag_v2.get(_XMP)
    if isinstance(found, str):
        return found.encode("utf-8", "ignore")
    return found if isinstance(found, bytes) else b""


def _iptc(image: Image.Image) -> bytes:
    """IPTC-IIM data: of a JPEG's Photoshop segment (resource 0x0404), of a TIFF's tag."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        found = image.tag_v2.get(_IPTC)
    else:
        resources = image.info.get("photoshop")
        found = resources.get(0x0404) if isinstance(resources, dict) else image.info.get("iptc")
    return found if isinstance(found, bytes) else b""


def _comment(image: Image.Image) -> bytes:
    found = image.info.get("comment")
    return found if isinstance(found, bytes) else b""


def _png_text(image: Image.Image) -> tuple[tuple[str, str], ...]:
    text = image.info.get("png_text")
    if isinstance(image, PngImagePlugin.PngImageFile):
        text = tuple(
            (str(key), str(value))
            for key, value in image.text.items()
            if not key.startswith(OWN) and key not in _CODED_TEXT
        )
    return text if isinstance(text, tuple) else ()


def _png_colour(image: Image.Image, source: FilePath | None) -> dict[bytes, bytes]:
    if not isinstance(image, PngImagePlugin.PngImageFile):
        chunks = image.info.get("png_colour")
        return chunks if isinstance(chunks, dict) else {}
    if source is not None:
        return {name: data for name, data in _png_head(source) if name in _PNG_COLOUR}
    chunks = {}
    if "gamma" in image.info:
        chunks[b"gAMA"] = struct.pack(">I", round(image.info["gamma"] * 100000))
    if "chromaticity" in image.info:
        numbers = [round(each * 100000) for each in image.info["chromaticity"]]
        chunks[b"cHRM"] = struct.pack(">8I", *numbers)
    if "srgb" in image.info:
        chunks[b"sRGB"] = bytes([image.info["srgb"]])
    return chunks


def _png_head(source: FilePath) -> Iterator[tuple[bytes, bytes]]:
    """The chunks before the pixels of a PNG that Pillow has read without complaint."""
    with opened(source) as file:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", start)
            if name in {b"IDAT", b"IEND"}:
                return
            yield name, file.read(length)
            file.seek(4, os.SEEK_CUR)
