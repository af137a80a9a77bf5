"""What was made and may be wanted again: the last few of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRU(Generic[Key, Value]):
    """Values by key, the last ``limit`` that were used."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: dict[Key, Value] = {}
        """The one used last stands last."""

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """What is known under ``key``; ``make()`` where nothing is."""
        value = self._known.pop(key) if key in self._known else make()
        self._known[key] = value
        if len(self._known) > self.limit:
            self._known.pop(next(iter(self._known)), None)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)
