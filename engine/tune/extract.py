"""A LoRA out of the difference of two models (Hu et al. 2021, "LoRA"; Eckart & Young 1936: the best
approximation of a rank is the singular value decomposition's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.tune.lora_files import Pair, write_lora
from engine.tune.networks import SUFFIX, Place, check_output, open_network

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Extracted:
    """What became of a difference."""

    pairs: Mapping[str, Pair]
    """By module."""
    kept: float
    """Share, 0 to 1, of the squared difference of all matrices that the pairs hold."""
    left: int
    """How many tensors differ that no LoRA holds: biases, norms, convolutions of other shapes."""


def difference(
    tuned: Any, base: Any, rank: int, *, device: Any = "cpu", progress: Progress | None = None
) -> Extracted:
    """The difference of two modules of one family as pairs of matrices.

    Args:
        tuned: the changed module.
        base: what it was.
        rank: of each pair, at most; a matrix of a lower one keeps that.
        device: where it is computed, in float32.
        progress: told how many modules of how many are done.

    Raises:
        InputError: their modules have different names.
    """
    import torch
    from torch import nn

    before, after = dict(base.named_modules()), dict(tuned.named_modules())
    if before.keys() != after.keys():
        raise InputError("the two models are of different families: their modules differ.")
    pairs: dict[str, Pair] = {}
    whole = held = 0.0
    held_names: set[str] = set()
    kinds = (nn.Linear, nn.Conv2d)
    layers = [name for name, each in after.items() if isinstance(each, kinds)]
    for done, name in enumerate(layers):
        old, new = before[name].weight, after[name].weight
        if old.shape != new.shape:
            continue
        held_names.add(f"{name}.weight")
        delta = new.detach().to(device, torch.float32) - old.detach().to(device, torch.float32)
        if delta.any():
            pair = factored(delta, rank)
            pairs[name] = pair
            whole += float(delta.double().square().sum())
            held += float((pair.up.flatten(1) @ pair.down.flatten(1)).double().square().sum())
        if progress is not None:
            progress(done + 1, len(layers))
    own, others = dict(base.state_dict()), dict(tuned.state_dict())
    rest = own.keys() - held_names
    left = sum(
        own[name].shape != others[name].shape or not torch.equal(own[name], others[name])
        for name in rest
    )
    return Extracted(pairs, held / whole if whole else 1.0, left)


def factored(delta: torch.Tensor, rank: int) -> Pair:
    """The nearest pair of ``rank`` to a change (out in, or out in k k), its size shared equally."""
    import torch

    u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    ends = (1,) * (delta.dim() - 2)
    return Pair(down.reshape(rank, *delta.shape[1:]).cpu(), up.reshape(*up.shape, *ends).cpu())


def extract(
    tuned: Place,
    base: Place,
    output: Path,
    rank: int,
    *,
    device: Any = None,
    progress: Progress | None = None,
) -> Extracted:
    """Write what the UNet of ``tuned`` has over that of ``base`` as a LoRA; both take latents
    alone, or both the inpainting layout.

    Raises:
        InputError: their families or channels differ, nothing differs, ``rank`` is below 1, or
            ``output`` is no new ``.safetensors`` file.
        ModelError: there is no UNet at one of the places.
        OutputError: it cannot be written.
    """
    from engine.models.formats.devices import resolve_device

    if rank < 1:
        raise InputError(f"rank must be at least 1, not {rank}.")
    check_output(output)
    if output.suffix != SUFFIX:
        raise InputError(f"a LoRA is written to a {SUFFIX} file, not {output}.")
    where = resolve_device(device)
    new, old = open_network(tuned), open_network(base)
    found = difference(new.unet, old.unet, rank, device=where, progress=progress)
    if not found.pairs:
        raise InputError(f"{tuned} and {base} do not differ in anything that a LoRA holds.")
    told = {"softpaint": f"extracted at rank {rank}", "ss_network_dim": str(rank)}
    write_lora(output, old.unet, found.pairs, told)
    return found
