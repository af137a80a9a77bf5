"""A pipeline that was loaded, with what there is to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A pipeline with its notes."""

    pipe: Any
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings of an edit with it, where that does not say."""
    notes: tuple[str, ...] = ()
    """What was found out or decided while it was loaded, for the user: a sentence each."""
