"""How fast a server works, of late."""

from __future__ import annotations

RATE_MEMORY = 30.0
"""Seconds of work after which a measured rate counts a third of what it did."""


class Rate:
    """Steps a second, of late."""

    def __init__(self) -> None:
        self._steps = self._seconds = 0.0

    def add(self, steps: int, seconds: float) -> None:
        """Take in what ``seconds`` of work have brought."""
        keep = max(0.0, 1 - seconds / RATE_MEMORY)
        self._steps = self._steps * keep + steps
        self._seconds = self._seconds * keep + seconds

    @property
    def value(self) -> float | None:
        """None before anything was measured."""
        return self._steps / self._seconds if self._steps and self._seconds else None
