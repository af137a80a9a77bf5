"""What tensors and modules are, as values to compare: contents, weights, types."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

SETTINGS = (
    *("scaling", "_disable_adapters", "_active_adapter", "merged_adapters"),  # peft's layers
    *("processor", "scale"),  # attention, IP-Adapters'
)
"""What a module's output depends on beside its weights."""

SAMPLES = 4
"""Values of a weight on another device that are looked at."""
_WORD = 8  # bytes


def contents(tensor: torch.Tensor) -> Hashable:
    """A key that tensors of equal values, type and device share: a digest (BLAKE2b, 256 bits), for
    a picture takes fifty times as much memory as its latents.
    """
    import torch

    bits = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    digest = blake2b(bits.data, digest_size=32).digest()
    return digest, tensor.shape, tensor.dtype, tensor.device


def parts(module: Any) -> list[Any]:
    """``module`` and all that it is made of, those before these: torch's ``modules()``, whose
    generators inside generators take twice as long; but what is shared comes more than once.
    """
    every = [module]
    for each in every:
        every.extend(part for part in vars(each)["_modules"].values() if part is not None)
    return every


def sampled(weights: Iterable[torch.Tensor]) -> Hashable:
    """The bits of a few values of each of ``weights``. Changes that no counter of torch tells (to
    ``weight.data``, as peft merges a LoRA) reach all values of a weight.

    Plain weights on the processor are read where they lie, the first and the last bytes: an
    operation of torch for each of them would take ten times as long. For the others, one copy from
    each device; what has no values of its own (offloaded to disk, quantised classes) is left out.
    """
    import torch

    plain = torch.nn.Parameter, torch.Tensor
    read = ctypes.c_uint64.from_address
    here: list[int] = []
    away: dict[Hashable, list[torch.Tensor]] = {}
    for weight in weights:
        if weight.is_cpu and type(weight) in plain and _lies_in_one_piece(weight):
            start = weight.data_ptr()
            here += read(start).value, read(start + weight.nbytes - _WORD).value
            continue
        values, count = weight.detach(), weight.numel()
        if type(values) is not torch.Tensor or values.device.type == "meta" or not count:
            continue
        if values.layout == torch.strided:
            # A view that needs no contiguous weight: the storage of a dense one has all the values.
            stored = values.untyped_storage().nbytes() // values.itemsize - values.storage_offset()
            dense = stored >= count
            few = min(count, SAMPLES) if dense else 1
            view = values.as_strided((few,), (max(1, (count - 1) // (SAMPLES - 1)),))
            away.setdefault((values.device, values.dtype), []).append(view)
    far = (torch.cat(each).cpu().view(torch.uint8).numpy().tobytes() for each in away.values())
    return tuple(here), *far


def _lies_in_one_piece(weight: torch.Tensor) -> bool:
    """Whether the bytes from where a weight begins are all its own, and fill a word."""
    import torch

    return (
        weight.layout == torch.strided
        and weight.nbytes >= _WORD
        and (
            weight.is_contiguous()
            or (weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last))
        )
    )


def weights_state(module: Any, *, fused: bool = True) -> int:
    """A hash that changes when a module's weights, adapters or attention processors do. Weights
    that offloading moves about count by who they are and by their values, not by where.

    Args:
        module: of torch.
        fused: whether LoRAs may be fused into it, which only the values tell.
    """
    every = [vars(each) for each in parts(module)]
    moves = any("_hf_hook" in each for each in every)
    weights = [
        (id(weight), weight._version, 0 if moves else weight.data_ptr())  # noqa: SLF001
        for each in every
        for weight in each["_parameters"].values()
        if weight is not None
    ]
    settings = [
        (key, id(each[key]) if key == "processor" else repr(each[key]))
        for each in every
        for key in SETTINGS
        if key in each
    ]
    own = (weight for each in every for weight in each["_parameters"].values())
    values = sampled(weight for weight in own if weight is not None) if fused else ()
    return hash((*weights, *settings, values))


def dtype_of(module: Any) -> torch.dtype:
    """Diffusers' ``module.dtype``, which walks all layers, looked up once while the first weight's
    type stays. Of other modules it is the first weight's.
    """
    first: torch.dtype = next(module.parameters()).dtype
    known = _DTYPES.get(module)
    if known is None or known[0] != first:
        known = _DTYPES[module] = first, getattr(module, "dtype", first)
    return known[1]


_DTYPES: WeakKeyDictionary[Any, tuple[torch.dtype, torch.dtype]] = WeakKeyDictionary()
