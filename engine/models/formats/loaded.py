"""A pipeline that was loaded, with what there is to say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A pipeline with its notes."""

    pipe: Any
    notes: tuple[str, ...] = ()
    """What was found out or decided while it was loaded, for the user: a sentence each."""
