"""Arrays and tensors as pictures and maps: layout, type and range, checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "array_of",
    "by",
    "channels_last",
    "limit_text",
    "to_uint8",
    "unit_interval",
]

MAX_PIXELS = 89_478_485
"""Largest picture that is read, in pixels (about 9459 x 9459).

Pillow's own default limit. Pillow only warns between one and two times the limit; Softpaint
refuses everything above it, before a pixel is decoded.
"""

_TOLERANCE = 1e-5
"""Floats this far outside [0, 1] are rounding noise of a resize or a colour conversion: clipped."""


def array_of(source: object, name: str) -> tuple[NDArray[Any], bool]:
    """View an array or a tensor as a numpy array, and say whether its channels come first.

    Tensors of any float type come back as float32 on the CPU; their layout is ``c h w``. Arrays
    come back in the machine's order of bytes.

    Raises:
        InputError: Neither a numpy array nor a dense torch tensor, or not numeric, or empty.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        if source.is_meta or source.is_quantized or source.layout != torch.strided:
            kind = "meta" if source.is_meta else str(source.layout).removeprefix("torch.")
            kind = "quantised" if source.is_quantized else kind
            raise InputError(f"{name} is a {kind} tensor; give a dense one of plain numbers")
        tensor: Any = source.detach().cpu().resolve_conj().resolve_neg()
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
    # Files of other machines are read in their order of bytes; types are compared in this one's.
    return values.astype(values.dtype.newbyteorder("="), copy=False), channels_first


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
        raise InputError(f"{name} is refused: {limit_text()}, this one is {by((width, height))}")
    return values


def to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
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


def by(size: tuple[int, int]) -> str:
    """Write a size, ``(width, height)``, as ``W x H``."""
    return f"{size[0]} x {size[1]}"


def limit_text() -> str:
    """Say how large a picture may be."""
    return f"pictures up to {MAX_PIXELS / 1e6:.0f} megapixels are accepted"
