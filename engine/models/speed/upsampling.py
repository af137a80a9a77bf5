"""Upsampling before a convolution, in four ninths of the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from engine.models.speed.forwards import is_compiled, replaced_forwards
from engine.models.state import parts

if TYPE_CHECKING:
    import torch

__all__ = ["folded", "subpixel_upsampling", "upsampled"]

_KERNELS: WeakKeyDictionary[Any, tuple[Any, tuple[torch.Tensor, ...]]] = WeakKeyDictionary()
"""Of each convolution, folded, and the weights that they were folded from."""


def subpixel_upsampling(module: Any) -> AbstractContextManager[None]:
    """Inside, the upsampling layers of ``module`` (diffusers' ``Upsample2D``) that double a picture
    and convolve it 3 x 3 do it by :func:`upsampled`; results differ in the last bits. Not where any
    part of ``module`` is compiled.
    """
    from diffusers.models.upsampling import Upsample2D

    every = parts(module)
    layers = [each for each in every if isinstance(each, Upsample2D) and _serves(each)]
    if any(map(is_compiled, every)):
        layers = []
    return replaced_forwards(module, ((each, _Subpixel(each)) for each in layers))


def _serves(layer: Any) -> bool:
    from torch import nn

    conv = _conv(layer)
    return (
        layer.use_conv
        and layer.interpolate
        and layer.norm is None
        and type(conv) is nn.Conv2d
        and not {"forward", "_hf_hook"} & {*vars(layer), *vars(conv)}  # somebody else's
        and (conv.kernel_size, conv.padding, conv.groups) == ((3, 3), (1, 1), 1)
    )


def _conv(layer: Any) -> Any:
    return layer.conv if layer.name == "conv" else layer.Conv2d_0


class _Subpixel:
    """The forward of one layer."""

    def __init__(self, layer: Any) -> None:
        self.conv, self.otherwise = _conv(layer), layer.forward

    def __call__(self, features: torch.Tensor, output_size: Any = None, *_: Any) -> torch.Tensor:
        if output_size is not None:
            result: torch.Tensor = self.otherwise(features, output_size)
            return result
        weight = self.conv.weight
        state = weight.data_ptr(), weight._version, weight.dtype  # noqa: SLF001
        known, kernels = _KERNELS.get(self.conv, (None, ()))
        if known != state:
            kernels = folded(weight.detach())
            _KERNELS[self.conv] = state, kernels
        return upsampled(features, kernels, self.conv.bias)


def folded(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What :func:`upsampled` wants of a ``weight`` (o i 3 3): four kernels o i 2 2."""
    import torch

    return tuple(
        kernel.contiguous(memory_format=torch.channels_last)
        for tall in _halves(weight, 2)
        for kernel in _halves(tall, 3)
    )


def _halves(kernel: torch.Tensor, axis: int) -> Iterator[torch.Tensor]:
    """Three taps over doubled pixels as two over single ones: for the first of a pair, whose
    neighbour before is another pixel; and for the second.
    """
    import torch

    before, here, after = kernel.unbind(axis)
    yield torch.stack([before, here + after], axis)
    yield torch.stack([before + here, after], axis)


def upsampled(
    features: torch.Tensor, kernels: Sequence[torch.Tensor], bias: torch.Tensor | None
) -> torch.Tensor:
    """``conv2d(interpolate(features, scale_factor=2, mode="nearest"), weight, bias, padding=1)``
    with ``folded(weight)``: of the nine pixels that the kernel sees, some are the same one,
    doubled. So each of the four outputs of a pixel is a convolution 2 x 2 of the small picture, and
    its weights are sums of the kernel's (Shi et al. 2016, "Is the deconvolution layer the same as a
    convolutional layer?").
    """
    import torch
    import torch.nn.functional as F

    rows, columns = features.shape[-2:]
    large = torch.empty(
        (len(features), len(kernels[0]), 2 * rows, 2 * columns),
        dtype=features.dtype,
        device=features.device,
        memory_format=torch.channels_last,
    )
    for place, kernel in enumerate(kernels):
        down, right = divmod(place, 2)
        part = F.conv2d(features, kernel, bias, padding=1)
        large[..., down::2, right::2] = part[..., down : down + rows, right : right + columns]
    return large
