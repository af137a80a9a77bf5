"""How long the phases of an edit take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("text", "encode", "denoise", "decode", "paste")


class Clock:
    """Seconds by phase, since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._phases = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a ``with`` block to the phase ``name`` of :data:`PHASES`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        self._phases[name] += seconds

    def read(self) -> dict[str, float]:
        """Every phase, and ``total``, which holds what belongs to none of them too."""
        return {**self._phases, "total": time.perf_counter() - self._began}
