"""Models that are known by a name, with what belongs to them."""

from __future__ import annotations

import os

from engine.registry import Registry
from engine.types import Checkpoint

CHECKPOINTS = Registry("model", Checkpoint, "softpaint.checkpoints", reserved=":/\\.")


def find_checkpoint(model: str | os.PathLike[str]) -> Checkpoint | None:
    """The checkpoint that ``model`` names; None for folders, files and hub ids."""
    return CHECKPOINTS.get(model) if isinstance(model, str) and model in CHECKPOINTS else None


def hint() -> str:
    """What to do where a model cannot be had: one line, empty where none is known by name."""
    names = CHECKPOINTS.names()
    return f"The embedded model needs no download: model={names[0]!r}." if names else ""
