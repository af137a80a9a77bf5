"""What tensors and modules are, as values to compare: contents, weights, types."""

from __future__ import annotations

from collections.abc import Hashable
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


def weights_state(module: Any) -> int:
    """A hash that changes when a module's weights, adapters or attention processors do. Weights
    that offloading moves about count by who they are, not by where.
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
    return hash((*weights, *settings))


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
