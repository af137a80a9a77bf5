"""More than eight bits a channel.

Pillow holds sixteen bits for grey pictures only. What it would round away is read with OpenCV and
kept beside the eight bits that the model works on: ``uint16``, ``(H, W, 3)``, or ``(H, W, 4)`` with
the opacity. A finished picture carries its sixteen bits under :data:`KEY` of a Pillow image's
``info``, where :func:`engine.picture.write.save_image` finds them.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from cv2.utils import logging
from PIL import Image, TiffImagePlugin

from engine.picture.source import opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "KEY",
    "TURNS",
    "bits_of",
    "deepened",
    "png_rows",
    "read_deep",
    "shallow",
    "sixteen_bits",
]

KEY: Final = "softpaint_16_bit"

_HEAD: Final = 4096  # bytes, in which every format below says its depth
_BITS_PER_SAMPLE: Final = 258
TURNS: Final[Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values.swapaxes(0, 1)[::-1, ::-1],
    8: np.rot90,
}
"""From the layout of a file to the upright picture, by EXIF orientation (Exif 2.32, table 6)."""


def shallow(deep: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Round 16 bits (0 to 65535) to 8 (0 to 255)."""
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def deepened(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Write 8 bits (0 to 255) in 16 (0 to 65535)."""
    return pixels.astype(np.uint16) * np.uint16(257)


def bits_of(path: str | os.PathLike[str], image: Image.Image) -> int:
    """Find a file's bits a channel; 8 where its format is not known for more.

    Args:
        path: The file, which is readable.
        image: The same, opened.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))))
    with opened(path) as file:
        head = file.read(_HEAD)
    if image.format == "PNG":
        return head[24] if image.mode != "P" else 8
    if image.format == "PPM":
        found = re.match(rb"P[2356]\s+(?:#[^\n]*\s+)*\d+\s+(?:#[^\n]*\s+)*\d+\s+(\d+)\s", head)
        return int(found[1]).bit_length() if found else 8
    # ISO boxes: their name, then, of JPEG 2000's image header, height, width, number and bits - 1;
    # of AVIF's and HEIF's pixel information a version, the number of channels, and the first's bits
    for box, place in ((b"ihdr", 14), (b"pixi", 9)):
        start = head.find(box)
        if image.format in {"JPEG2000", "AVIF", "HEIF"} and 0 <= start < len(head) - place:
            return (head[start + place] & 0x7F) + (box == b"ihdr")
    return 8


def read_deep(
    path: str | os.PathLike[str], orientation: int, rgb: NDArray[np.uint8]
) -> NDArray[np.uint16] | None:
    """Read a file's sixteen bits: uint16 ``(H, W, 3)``, or ``(H, W, 4)`` with opacity.

    Args:
        path: The file.
        orientation: Its EXIF orientation.
        rgb: The picture as Pillow reads it, uint8 ``(H, W, 3)``, upright.

    Returns:
        None where OpenCV does not read them, or reads another picture than Pillow (a colour space
        of its own, say).
    """
    try:
        with opened(path) as file:
            data = np.frombuffer(file.read(), np.uint8)
        values = _decoded(data)
    except cv2.error:
        return None
    if values is None or values.dtype != np.uint16:
        return None
    values = TURNS.get(orientation, lambda same: same)(values)
    if values.ndim == 2:
        values = values[:, :, None].repeat(3, axis=2)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(values.shape[2])
    if order is None or values.shape[:2] != rgb.shape[:2]:
        return None
    deep: NDArray[np.uint16] = np.ascontiguousarray(values[:, :, order]).astype(np.uint16)
    # Pillow drops the low byte in place of rounding.
    off = np.abs(shallow(deep[:, :, :3]).astype(np.int16) - rgb).max()
    return deep if off <= 1 else None


def _decoded(data: NDArray[np.uint8]) -> Any:
    """A file as OpenCV reads it, which then prints nothing of odd tags."""
    told = logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    finally:
        logging.setLogLevel(told)


def sixteen_bits(image: Image.Image) -> NDArray[np.uint16] | None:
    """Find the sixteen bits, ``(H, W, C)``, that a finished picture carries.

    None where it carries none, or where the Pillow image was changed since.
    """
    deep = image.info.get(KEY)
    if not isinstance(deep, np.ndarray) or image.mode not in {"L", "LA", "RGB", "RGBA"}:
        return None
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    same = deep.shape == pixels.shape and np.array_equal(shallow(deep), pixels)
    return deep if same else None


def png_rows(deep: NDArray[np.uint16]) -> bytes:
    """Compress 16-bit pixels ``(H, W, C)`` as PNG's IDAT holds them, every row with the filter
    ``Sub`` (PNG specification, 9.2).
    """
    height, width, channels = deep.shape
    row = deep.astype(">u2").reshape(height, width * channels).view(np.uint8)
    lines = np.empty((height, 1 + row.shape[1]), np.uint8)
    lines[:, 0], lines[:, 1:] = 1, row
    lines[:, 1 + 2 * channels :] -= row[:, : -2 * channels]
    return zlib.compress(lines.tobytes(), 6)
