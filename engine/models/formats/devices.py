"""Where a model runs, and in which precision."""

from __future__ import annotations

from typing import Any

from engine.errors import InputError
from engine.models.formats.sources import first_line

_SHORT = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def resolve_dtype(dtype: Any, device: Any, half: str = "float16") -> Any:
    """``dtype`` (None, a torch dtype or its name): if None ``half`` on a GPU, float32 on a CPU."""
    import torch

    if dtype is None:
        return torch.float32 if torch.device(device).type == "cpu" else getattr(torch, half)
    named = dtype
    if isinstance(dtype, str):
        named = getattr(torch, _SHORT.get(dtype, dtype.removeprefix("torch.")), None)
    if named not in (torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"unknown dtype {dtype!r}; accepted: float16, bfloat16, float32.")
    return named


def resolve_device(device: Any) -> Any:
    """``device`` or the best one that is there. Raises ``InputError`` for one that is not."""
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device.lower() if isinstance(device, str) else device)
    except (RuntimeError, TypeError, ValueError):
        raise InputError(
            f"unknown device {device!r}: cuda, cuda:1, mps, cpu and such are devices."
        ) from None
    try:
        torch.empty(1, device=resolved).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} cannot be used here: {first_line(error)}") from error
    return resolved
