"""Softpaint: an inpainting engine over Hugging Face diffusers.

``import engine`` is cheap: torch and diffusers are imported when a name that needs them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.engine import InpaintEngine
    from engine.errors import (
        CancelledError,
        InputError,
        ModelError,
        OutputError,
        SoftpaintError,
        UnknownNameError,
    )
    from engine.request.result import Comparison, EditResult

_HOME = {
    "InpaintEngine": "engine.engine",
    "Comparison": "engine.request.result",
    "EditResult": "engine.request.result",
    "CancelledError": "engine.errors",
    "InputError": "engine.errors",
    "ModelError": "engine.errors",
    "OutputError": "engine.errors",
    "SoftpaintError": "engine.errors",
    "UnknownNameError": "engine.errors",
}

__all__ = [
    "CancelledError",
    "Comparison",
    "EditResult",
    "InpaintEngine",
    "InputError",
    "ModelError",
    "OutputError",
    "SoftpaintError",
    "UnknownNameError",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
