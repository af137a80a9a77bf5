"""What of a batch is done, and of what it was made: in as few bytes an item as can be."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from typing import IO, Any

from engine.batch.items import key_of


class Known:
    """Which items are done, and a mark of what each was made of: sixteen bytes an item."""

    def __init__(self) -> None:
        self._new: list[tuple[int, int]] = []
        self._keys, self._marks = array("Q"), array("Q")

    def add(self, name: str, mark: int) -> None:
        """Take in an item; :meth:`settle` follows when all are."""
        self._new.append((key_of(name), mark))
        if len(self._new) >= 1 << 16:
            self._spill()

    def _spill(self) -> None:
        self._keys.extend(key for key, _ in self._new)
        self._marks.extend(mark for _, mark in self._new)
        self._new.clear()

    def settle(self) -> None:
        """Make what was added found."""
        import numpy as np

        self._spill()
        if not self._keys:
            return
        keys = np.frombuffer(self._keys, np.uint64)
        order = np.argsort(keys, kind="stable")
        marks = np.frombuffer(self._marks, np.uint64)[order]
        self._keys, self._marks = array("Q", keys[order].tobytes()), array("Q", marks.tobytes())

    def get(self, name: str) -> int | None:
        """The mark of an item that is done."""
        key = key_of(name)
        place = bisect_left(self._keys, key)
        found = place < len(self._keys) and self._keys[place] == key
        return self._marks[place] if found else None


def mark_of(own: str, inputs: Mapping[str, Mapping[str, Any]]) -> int:
    """A number of what an item was made of: its own settings, and size and time of its files on
    this machine.

    Args:
        own: see :attr:`engine.batch.items.Item.own`.
        inputs: by their settings' names; those of ``mtime_ns`` 0 are elsewhere, and left out.
    """
    told = [own]
    told += [
        f"{name} {inputs[name]['bytes']} {inputs[name]['mtime_ns']}"
        for name in sorted(inputs)
        if inputs[name]["mtime_ns"]
    ]
    digest = hashlib.blake2b("\0".join(told).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def digest_of(file: IO[bytes]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
