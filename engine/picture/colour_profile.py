"""ICC profiles for what a PNG says of its colours without one.

Other formats have no place for ``gAMA``, ``cHRM`` and ``cICP``; a profile of the same primaries and
curve says the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["profile_of"]

# x and y of white, red, green and blue, by number (ITU-T H.273, table 2)
_D65: Final = (0.3127, 0.3290)
_PRIMARIES: Final[Mapping[int, tuple[float, ...]]] = {
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50: Final = np.array([0.9642, 1.0, 0.8249])  # ICC.1:2022, 7.2.16
_SAMPLES: Final = 1024  # of a curve


def profile_of(chunks: Mapping[bytes, bytes], *, grey: bool) -> bytes:
    """Make the ICC profile (version 2) that PNG colour chunks amount to.

    Args:
        chunks: ``gAMA``, ``cHRM``, ``sRGB`` and ``cICP``, whichever there are.
        grey: For a grey picture.

    Returns:
        Empty where no profile is needed (sRGB), or none can say it (the HDR curves of ``cICP``).
    """
    primaries = _PRIMARIES[1]
    if b"cICP" in chunks and len(chunks[b"cICP"]) == 4:
        number, transfer, _, full = chunks[b"cICP"]
        known = number in _PRIMARIES and transfer in _CURVES and full
        if not known or (number, transfer) == (1, 13):
            return b""
        primaries, curve = _PRIMARIES[number], _CURVES[transfer]
    elif b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return b""
    else:
        (gamma,) = struct.unpack(">I", chunks[b"gAMA"])
        numbers = chunks.get(b"cHRM", b"")
        if len(numbers) == 32:
            primaries = tuple(each / 100000 for each in struct.unpack(">8I", numbers))
        if not gamma or (gamma == 45455 and primaries == _PRIMARIES[1]):
            return b""
        exponent = 100000 / gamma
        curve = lambda values: values**exponent  # noqa: E731 - beside the named curves
    return _profile(primaries, curve, grey=grey)


def _srgb(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _video(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


# by number (ITU-T H.273, table 3)
_CURVES: Final[Mapping[int, Callable[[Any], Any]]] = {
    1: _video,
    4: lambda values: values**2.2,
    5: lambda values: values**2.8,
    6: _video,
    8: lambda values: values,
    13: _srgb,
    14: _video,
    15: _video,
}


def _profile(primaries: tuple[float, ...], curve: Curve, *, grey: bool) -> bytes:
    white, columns = _white_and_columns(primaries)
    table = np.round(65535 * curve(np.linspace(0, 1, _SAMPLES))).astype(">u2").tobytes()
    shared = b"curv" + struct.pack(">II", 0, _SAMPLES) + table
    tags = [
        (b"desc", _description("Softpaint: as the PNG said")),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", _xyz(white)),
    ]
    if grey:
        tags.append((b"kTRC", shared))
    else:
        names = (b"rXYZ", b"gXYZ", b"bXYZ")
        tags += [(name, _xyz(column)) for name, column in zip(names, columns.T, strict=True)]
        tags += [(name, shared) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _assembled(tags, b"GRAY" if grey else b"RGB ")


def _white_and_columns(
    primaries: tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """White and the XYZ of the primaries, adapted to D50 (Bradford; ICC.1:2022, annex E)."""
    points = np.array(primaries).reshape(4, 2)
    xyz = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in np.maximum(points, 1e-6)])
    white, colours = xyz[0], xyz[1:].T
    scaled = colours * np.linalg.solve(colours, white)
    gain = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ scaled
    return _D50, adapted


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(each) * 65536) for each in values))


def _description(text: str) -> bytes:
    data = text.encode("ascii") + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(data)) + data + b"\0" * 78


def _assembled(tags: list[tuple[bytes, bytes]], space: bytes) -> bytes:
    """Header, table of tags, tags (ICC.1:2001-04, 6)."""
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    places: dict[bytes, int] = {}
    for name, data in tags:
        if data not in places:
            places[data] = start + len(body)
            body += data + b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", places[data], len(data))
    size = start + len(body)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    header += b"\0" * (68 - len(header)) + struct.pack(
        ">3i", *(round(float(each) * 65536) for each in _D50)
    )
    return header.ljust(128, b"\0") + table + body
