"""TIFF files of 8 and 16 bits a channel, which Pillow writes for some modes only."""

from __future__ import annotations

import zlib
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import TiffImagePlugin, TiffTags

from engine.picture.metadata import EXIF_IFD, GPS_IFD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.picture.embed import Beside

__all__ = ["write_tiff"]

_DEFLATE, _HORIZONTAL = 8, 2  # compression and predictor (TIFF Technical Note 2; TIFF 6.0, 14)
_GREY, _RGB = 1, 2
_STRAIGHT_ALPHA = 2
_INCH = 2


def write_tiff(
    file: IO[bytes],
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    beside: Beside,
    dpi: tuple[float, float] | None,
) -> None:
    """Write pixels ``(H, W, C)``, C = 1 to 4, in one deflated strip (Adobe's TIFF 6.0).

    Args:
        file: Opened for writing.
        pixels: Grey or RGB, with or without opacity.
        beside: EXIF, XMP, IPTC and the profile.
        dpi: Resolution.
    """
    height, width, channels = pixels.shape
    rows = np.diff(pixels, axis=1, prepend=pixels.dtype.type(0))
    rows = rows.astype(pixels.dtype.newbyteorder("<"))
    strip = zlib.compress(rows.tobytes(), 6)
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in beside.exif.items():
        if tag not in {EXIF_IFD, GPS_IFD}:
            ifd[tag] = value
    for directory in (EXIF_IFD, GPS_IFD):
        if entries := beside.exif.get_ifd(directory):
            ifd[directory] = dict(entries)
    ifd[256], ifd[257] = width, height
    ifd[258] = (8 * pixels.dtype.itemsize,) * channels
    ifd[259], ifd[262] = _DEFLATE, _RGB if channels > 2 else _GREY
    ifd[277], ifd[278], ifd[284], ifd[317] = channels, height, 1, _HORIZONTAL
    if channels in {2, 4}:
        ifd[338] = _STRAIGHT_ALPHA
    if dpi is not None:
        ifd[282], ifd[283], ifd[296] = *dpi, _INCH
    for tag, kind, data in (
        (700, 1, beside.xmp),
        (33723, 7, beside.iptc),
        (34675, 7, beside.options.get("icc_profile")),
    ):
        if data:
            ifd.tagtype[tag] = kind
            ifd[tag] = data
    ifd.tagtype[273] = ifd.tagtype[279] = TiffTags.LONG
    ifd[273], ifd[279] = 0, len(strip)  # Pillow adds where the strip lies
    ifd.save(file)
    file.write(strip)
