"""Softpaint: an inpainting engine over Hugging Face diffusers.

``import engine`` is cheap: torch and diffusers are imported when a name that needs them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controls import Control, Reference, list_annotators, list_controls
    from engine.denoise.strategy import Part, Strategy
    from engine.engine import InpaintEngine
    from engine.errors import (
        CancelledError,
        InputError,
        MemoryLimitError,
        ModelError,
        OutputError,
        SoftpaintError,
        SoftpaintWarning,
        UnknownNameError,
    )
    from engine.picture.colour import list_colours
    from engine.picture.fill import list_prefills
    from engine.picture.paste import list_pastes
    from engine.request.regions import Region
    from engine.request.request import EditRequest
    from engine.request.result import Comparison, EditResult
    from engine.runtime.session import Session
    from engine.solvers.names import list_schedulers
    from engine.types import Snapshot
    from strategies import list_strategies

_HOME = {
    "CancelledError": "engine.errors",
    "Comparison": "engine.request.result",
    "Control": "controls",
    "EditRequest": "engine.request.request",
    "EditResult": "engine.request.result",
    "InpaintEngine": "engine.engine",
    "InputError": "engine.errors",
    "MemoryLimitError": "engine.errors",
    "ModelError": "engine.errors",
    "OutputError": "engine.errors",
    "Part": "engine.denoise.strategy",
    "Reference": "controls",
    "Region": "engine.request.regions",
    "Session": "engine.runtime.session",
    "Snapshot": "engine.types",
    "SoftpaintError": "engine.errors",
    "SoftpaintWarning": "engine.errors",
    "Strategy": "engine.denoise.strategy",
    "UnknownNameError": "engine.errors",
    "list_annotators": "controls",
    "list_colours": "engine.picture.colour",
    "list_controls": "controls",
    "list_pastes": "engine.picture.paste",
    "list_prefills": "engine.picture.fill",
    "list_schedulers": "engine.solvers.names",
    "list_strategies": "strategies",
}
"""Where each public name is; it is imported when it is asked for."""

__all__ = [
    "CancelledError",
    "Comparison",
    "Control",
    "EditRequest",
    "EditResult",
    "InpaintEngine",
    "InputError",
    "MemoryLimitError",
    "ModelError",
    "OutputError",
    "Part",
    "Reference",
    "Region",
    "Session",
    "Snapshot",
    "SoftpaintError",
    "SoftpaintWarning",
    "Strategy",
    "UnknownNameError",
    "list_annotators",
    "list_colours",
    "list_controls",
    "list_pastes",
    "list_prefills",
    "list_schedulers",
    "list_strategies",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
