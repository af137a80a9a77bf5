"""The process's memory between jobs: what they freed goes back to the system."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress

EVERY = 10.0
"""Seconds between two times, at least: the next job has to ask for the pages again."""


class Heap:
    """glibc keeps what threads free in arenas of theirs, full of holes: over hundreds of jobs a
    server grows by what it no longer uses. Elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY
        self._lock = threading.Lock()
        self._trim: Callable[[int], int] | None = None
        with suppress(AttributeError, OSError, TypeError):
            self._trim = ctypes.CDLL(None).malloc_trim

    def give_back(self) -> bool:
        """Return free pages to the system, if that is due; whether it was."""
        with self._lock:
            if self._trim is None or time.monotonic() < self._due:
                return False
            self._trim(0)
            self._due = time.monotonic() + EVERY
            return True
