"""Pixels to the model and back, and over the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from engine.errors import InputError, ModelError, setting
from engine.picture.arrays import unit_interval
from engine.picture.masks import distance_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

_Pixels = TypeVar("_Pixels", bound="NDArray[Any]")

__all__ = ["as_grey", "depth", "lay", "paste", "to_pixels", "to_tensor", "unit"]


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
        ModelError: The tensor holds NaN: the VAE overflowed, as SDXL's does in float16, or the run.
    """
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise InputError(f"b 3 h w is needed, not {tuple(tensor.shape)}")
    unit = (tensor.detach() * 0.5 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
    if np.isnan(unit).any():
        raise ModelError(_overflow(tensor))
    pixels: NDArray[np.uint8] = (unit * 255).round().astype(np.uint8)
    return pixels


def _overflow(tensor: torch.Tensor) -> str:
    """Say what may have left the range of numbers of a decoded ``tensor``'s type."""
    if tensor.element_size() < 4:
        return "the VAE returned NaN; run it in float32 or bfloat16 (SDXL's overflows)"
    return (
        f"the run ended in NaN: {setting('guidance_scale')} or a control's scale is far too large, "
        "or the model's half precision or its weights fail"
    )


def unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels of 8 or 16 bits (uint8, uint16) as float32 in [0, 1]."""
    scaled: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return scaled


def as_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) without their colours: luma (ITU-R BT.601) in every channel."""
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    return grey[:, :, None].repeat(3, axis=2)


def paste(original: _Pixels, edited: NDArray[Any], alpha: NDArray[np.float32]) -> _Pixels:
    """Lay edited pixels over the original ones.

    ``round(original + alpha * (edited - original))`` in float64, in sRGB values as they are (not
    in linear light, so that a fade between two equal greys stays that grey). Where alpha is 0 the
    result is the original to the bit, where it is 1 it is the edit (floats rounded).

    Args:
        original: uint8 or uint16 ``(H, W, 3)``.
        edited: ``(H, W, 3)``, uint8, or float in [0, 1] (clipped).
        alpha: ``(H, W)`` in [0, 1].

    Returns:
        ``(H, W, 3)`` of the original's type, a new array.

    Raises:
        InputError: Shapes or types do not fit, floats are NaN, or alpha is outside [0, 1].
    """
    if original.dtype not in (np.uint8, np.uint16) or original.ndim != 3 or original.shape[2] != 3:
        raise InputError(
            f"original: uint8 or uint16 (H, W, 3) needed, not {original.dtype} {original.shape}"
        )
    if edited.shape != original.shape or alpha.shape != original.shape[:2]:
        raise InputError(
            f"shapes do not fit: original {original.shape}, edited {edited.shape}, "
            f"alpha {alpha.shape}"
        )
    weights = unit_interval(alpha.astype(np.float32, copy=False), "alpha")
    if edited.dtype.kind != "f" and edited.dtype != np.uint8:
        raise InputError(f"edited: uint8 or float needed, not {edited.dtype}")
    white = np.iinfo(original.dtype).max
    result = original.copy()
    inside = weights > 0
    over = edited[inside].astype(np.float64)
    if edited.dtype.kind == "f":
        if np.isnan(over).any():
            raise InputError("edited: holds NaN; 0 to 1 is accepted")
        over = np.clip(over, 0, 1) * white
    else:
        over *= white // 255
    under = original[inside].astype(np.float64)
    weight = weights[inside].astype(np.float64)[:, None]
    result[inside] = (under * (1 - weight) + over * weight).round().astype(original.dtype)
    return result


def depth(strength_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much each pixel (H W) belongs to a region: its distance from the region's border in px,
    times its strength; 0 outside.
    """
    return distance_to(strength_map == 0).clip(max=1e4) * strength_map


def lay(
    canvas: NDArray[Any],
    paintings: Sequence[NDArray[Any]],
    weights: Sequence[NDArray[np.float32]],
) -> None:
    """Lay ``paintings`` (H W 3) over ``canvas``, in place, each where its weight (H W) is above 0:
    where that is so of several, their mean by weight.
    """
    covers = np.sum([each > 0 for each in weights], axis=0)
    shared = covers > 1
    total = np.asarray(np.sum([each[shared] for each in weights], axis=0, dtype=np.float64))
    mixed = np.zeros((len(total), 3), np.float64)
    for painting, weight in zip(paintings, weights, strict=True):
        alone = (weight > 0) & (covers == 1)
        canvas[alone] = painting[alone]
        mixed += painting[shared] * (weight[shared] / total)[:, None]
    canvas[shared] = np.rint(mixed) if np.issubdtype(canvas.dtype, np.integer) else mixed
