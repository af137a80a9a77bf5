"""What a file says beside its pixels: written, as far as its format has a place for it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image, PngImagePlugin

from engine.picture.colour_profile import profile_of
from engine.picture.metadata import (
    EXIF_IFD,
    GPS_IFD,
    IMAGE_HISTORY,
    OWN,
    PIXEL_SIZE,
    clean_exif,
)

__all__ = ["Beside", "beside"]

_SEGMENT: Final = 65533  # bytes that a JPEG segment holds beside its length
_XMP_HEAD: Final = 29  # bytes of its name
_MAKER_NOTE: Final = 0x927C


@dataclass
class Beside:
    """What is written beside the pixels, in a format's own terms."""

    options: dict[str, Any] = field(default_factory=dict)
    """For Pillow's ``save``."""
    lost: list[str] = field(default_factory=list)
    """What the format has no place for."""
    exif: Image.Exif = field(default_factory=Image.Exif)
    xmp: bytes = b""
    iptc: bytes = b""


def beside(image: Image.Image, format_: str, record: Mapping[str, str]) -> Beside:
    """Lay out what a finished picture's ``info`` carries, and Softpaint's own ``record``.

    Args:
        image: The picture, with the ``info`` of :func:`engine.picture.metadata.kept_info`.
        format_: Pillow's name of the format.
        record: Texts by key.
    """
    written = Beside(exif=clean_exif(image.info.get("exif")))
    if isinstance(lost := image.info.get("lost"), str):
        written.lost.append(lost)
    details = written.exif.get_ifd(EXIF_IFD)
    for tag, length in zip(PIXEL_SIZE, image.size, strict=True):
        if tag in details:
            details[tag] = length
    written.xmp = _bytes(image.info.get("xmp"))
    written.iptc = _bytes(image.info.get("iptc"))
    _colours(image, format_, written)
    dpi = image.info.get("dpi")
    if dpi and format_ != "TIFF":
        written.options["dpi"] = dpi
    if format_ == "PNG":
        _png(image, record, written)
    elif format_ == "JPEG":
        _jpeg(image, record, written)
    else:
        _other(image, format_, record, written)
    return written


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _colours(image: Image.Image, format_: str, written: Beside) -> None:
    """Say what the numbers mean: by a profile, or by PNG's own chunks."""
    profile = _bytes(image.info.get("icc_profile"))
    space = b"GRAY" if image.mode in {"1", "L", "LA"} else b"RGB "
    chunks = _chunks(image)
    if profile and profile[16:20] != space:
        written.lost.append("its colour profile, which is for other channels")
        profile = b""
    if not profile and chunks and format_ != "PNG":
        profile = profile_of(chunks, grey=space == b"GRAY")
        if not profile and set(chunks) - {b"sRGB"}:
            written.lost.append("what its PNG says of its colours (cICP)")
    # None too, or Pillow takes the one in info
    written.options["icc_profile"] = profile or None


def _chunks(image: Image.Image) -> dict[bytes, bytes]:
    chunks = image.info.get("png_colour")
    return chunks if isinstance(chunks, dict) else {}


def _has_exif(exif: Image.Exif) -> bool:
    return bool(len(exif) or exif.get_ifd(EXIF_IFD) or exif.get_ifd(GPS_IFD))


def _text(image: Image.Image) -> dict[str, str]:
    """The PNG text that the picture came with."""
    text = image.info.get("png_text")
    return dict(text) if isinstance(text, tuple) else {}


def _png(image: Image.Image, record: Mapping[str, str], written: Beside) -> None:
    info = PngImagePlugin.PngInfo()
    for name, data in _chunks(image).items():
        info.add(name, data)
    text = _text(image)
    if comment := _bytes(image.info.get("comment")):
        text.setdefault("Comment", comment.decode("utf-8", "replace").rstrip("\0"))
    if written.iptc:
        # As ImageMagick and ExifTool write it: the name, the length, the bytes in hexadecimal.
        code = written.iptc.hex()
        text["Raw profile type iptc"] = f"\niptc\n{len(written.iptc):8}\n{code}\n"
    if written.xmp:
        text["XML:com.adobe.xmp"] = written.xmp.decode("utf-8", "replace")
    for key, value in {**text, **{OWN + key: value for key, value in record.items()}}.items():
        if _fits_png(key, value):
            info.add_itxt(key, value, "", "")
        else:
            written.lost.append(f"the text {key[:40]!r}, which PNG cannot hold")
    written.options["pnginfo"] = info
    if _has_exif(written.exif):
        written.options["exif"] = written.exif.tobytes()


def _fits_png(key: str, value: str) -> bool:
    """Whether an iTXt chunk can hold a text (PNG specification, 11.3.3)."""
    try:
        value.encode("utf-8")
        return 1 <= len(key.encode("latin-1")) <= 79 and "\0" not in key + value
    except UnicodeEncodeError:
        return False


def _jpeg(image: Image.Image, record: Mapping[str, str], written: Beside) -> None:
    block = written.exif.tobytes() if _has_exif(written.exif) else b""
    if len(block) > _SEGMENT and written.exif.get_ifd(EXIF_IFD).pop(_MAKER_NOTE, None):
        written.lost.append("EXIF's maker note, with which it would be too long")
        block = written.exif.tobytes()
    if len(block) > _SEGMENT:
        written.lost.append(f"EXIF of {len(block)} bytes (it holds {_SEGMENT})")
    elif block:
        written.options["exif"] = block
    if len(written.xmp) > _SEGMENT - _XMP_HEAD:
        written.lost.append(f"XMP of {len(written.xmp)} bytes")
    elif written.xmp:
        written.options["xmp"] = written.xmp
    comment = _bytes(image.info.get("comment"))
    if len(comment) <= _SEGMENT:
        written.options["comment"] = comment
    extra = b""
    if written.iptc:
        padded = written.iptc + b"\0" * (len(written.iptc) % 2)
        resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(written.iptc)) + padded
        segment = b"Photoshop 3.0\0" + resource
        if len(segment) > _SEGMENT:
            written.lost.append(f"IPTC of {len(written.iptc)} bytes")
        else:
            extra += _segment(0xED, segment)
    if record:
        text = json.dumps(dict(record)).encode("ascii")
        room = _SEGMENT - len(OWN)
        for start in range(0, len(text), room):
            extra += _segment(0xEA, OWN.encode() + text[start : start + room])
    if extra:
        written.options["extra"] = extra
    _name_lost_text(image, written)


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _other(image: Image.Image, format_: str, record: Mapping[str, str], written: Beside) -> None:
    """WebP, AVIF and TIFF: EXIF, XMP and a profile, and TIFF IPTC."""
    if record:
        written.exif.get_ifd(EXIF_IFD)[IMAGE_HISTORY] = OWN + json.dumps(dict(record))
    if format_ != "TIFF":
        written.options.pop("dpi", None)  # there is no field for it
        if _has_exif(written.exif):
            written.options["exif"] = written.exif.tobytes()
        if written.xmp:
            written.options["xmp"] = written.xmp
        if written.iptc:
            written.lost.append("IPTC")
    if image.info.get("comment"):
        written.lost.append("its comment")
    _name_lost_text(image, written)


def _name_lost_text(image: Image.Image, written: Beside) -> None:
    if text := _text(image):
        names = ", ".join(list(text)[:4]) + (", ..." if len(text) > 4 else "")
        written.lost.append(f"PNG text ({names})")
