"""Inpainting models without training: 4 channels to 9, and the difference of two models added to a
third. Weights in, weights out, by diffusers' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import InputError
from engine.tune.networks import (
    Network,
    Place,
    check_form,
    check_output,
    open_network,
    write_network,
)

if TYPE_CHECKING:
    import torch

FIRST = "conv_in.weight"
Tensors = Mapping[str, "torch.Tensor"]


def widened(tensors: Tensors, latents: int = 4) -> dict[str, torch.Tensor]:
    """A UNet that takes latents alone as one that takes latents, mask and masked picture, one below
    the other, and does with them what it did: the new columns of its first convolution are zeros.

    ``latents``: channels of the latents; n become 2 n + 1.
    """
    import torch

    weight = tensors[FIRST]
    zeros = weight.new_zeros(weight.shape[0], latents + 1, *weight.shape[2:])
    return {**tensors, FIRST: torch.cat([weight, zeros], dim=1)}


def with_difference(
    inpaint: Tensors, custom: Tensors, base: Tensors, scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """``inpaint + scale (custom - base)``, in float32, as ``custom`` is stored: what ``custom``
    learnt over ``base``, in an inpainting model that was trained from the same ``base``.

    Where two of three are equal the result is the third, to the bit (of ``inpaint`` and ``base``:
    at scale 1), which rounding would not give. Columns of the first convolution that ``inpaint``
    has more are its own.

    Raises:
        InputError: the three are of different families.
    """
    made = {}
    for name, ours in inpaint.items():
        if name not in custom or name not in base:
            raise InputError(f"the models are of different families: {name} is not in all three.")
        own, start = custom[name], base[name]
        if name == FIRST:
            own, start = (_as_wide(each, ours) for each in (own, start))
        if not ours.shape == own.shape == start.shape:
            raise InputError(
                f"the models are of different families: {name} is {tuple(ours.shape)}, "
                f"{tuple(own.shape)} and {tuple(start.shape)}."
            )
        made[name] = _added(ours, own, start, scale).to(custom[name].dtype)
    return made


def _as_wide(narrow: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """``narrow`` with columns of zeros, as many as ``wide`` has more."""
    more = wide.shape[1] - narrow.shape[1]
    if more <= 0:
        return narrow
    import torch

    zeros = narrow.new_zeros(narrow.shape[0], more, *narrow.shape[2:])
    return torch.cat([narrow, zeros], dim=1)


def _added(
    inpaint: torch.Tensor, custom: torch.Tensor, base: torch.Tensor, scale: float
) -> torch.Tensor:
    import torch

    ours, own, start = inpaint.float(), custom.float(), base.float()
    total = ours + scale * (own - start)
    total = torch.where(own == start, ours, total)
    return torch.where(ours == start, own, total) if scale == 1 else total


# From place to place ------------------------------------------------------------------------------


def widen(model: Place, output: Path) -> Network:
    """Write the 4-channel UNet of ``model`` as a 9-channel one; the UNet that was read.

    Raises:
        InputError: it has 9 channels already, or ``output`` cannot be a new file or folder.
        ModelError: there is no UNet at ``model``.
        OutputError: it cannot be written.
    """
    check_output(output)
    network = open_network(model)
    network.need(network.latents, "a text-to-image UNet, which can be widened,")
    check_form(network, output)
    channels = 2 * network.latents + 1
    write_network(network, widened(network.tensors(), network.latents), output, channels)
    return network


def add_difference(
    custom: Place, inpaint: Place, base: Place, output: Path, scale: float = 1.0
) -> Network:
    """Write an inpainting UNet that paints like ``custom``: :func:`with_difference`.

    Args:
        custom: a model of 4 channels. A file as ``output`` has its form, and all but the UNet is
            its own.
        inpaint: the 9-channel inpainting model.
        base: the 4-channel model that both were trained from.
        output: a new ``.safetensors`` file or folder.
        scale: how much of ``custom``.

    Returns:
        The custom UNet that was read.

    Raises:
        InputError: channels or families do not go together, or ``output`` cannot be written so.
        ModelError: there is no UNet at one of the places.
        OutputError: it cannot be written.
    """
    check_output(output)
    own, wide, start = open_network(custom), open_network(inpaint, inpaint=True), open_network(base)
    own.need(own.latents, "the custom model")
    start.need(start.latents, "the base model")
    wide.need(2 * wide.latents + 1, "the inpainting model")
    check_form(own, output)
    made = with_difference(wide.tensors(), own.tensors(), start.tensors(), scale)
    write_network(own, made, output, wide.channels)
    return own
