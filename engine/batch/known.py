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

    def __len__(self) -> int:
        return len(self._keys)

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


class Tally:
    """How often names came: 24 to 48 bytes for each, however long it is. A table with linear
    probing, at most half full.
    """

    def __init__(self) -> None:
        self._keys, self._counts = array("Q", bytes(8 << 10)), array("I", bytes(4 << 10))
        self._full = 0

    def add(self, name: str) -> int:
        """How often a name has come now, this time counted."""
        place = self._place(key_of(name) or 1)
        self._counts[place] += 1
        count = self._counts[place]
        if 2 * self._full > len(self._keys):
            self._grow()
        return count

    def __contains__(self, name: str) -> bool:
        keys, key = self._keys, key_of(name) or 1
        place = key & (len(keys) - 1)
        while keys[place] not in (0, key):
            place = (place + 1) & (len(keys) - 1)
        return keys[place] == key

    def _place(self, key: int) -> int:
        """Where a key's count is; 0 is no key."""
        keys = self._keys
        last = len(keys) - 1
        place = key & last
        while (found := keys[place]) != key:
            if not found:
                keys[place] = key
                self._full += 1
                break
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        keys, counts = self._keys, self._counts
        self._keys, self._full = array("Q", bytes(16 * len(keys))), 0
        self._counts = array("I", bytes(8 * len(keys)))
        for key, count in zip(keys, counts, strict=True):
            if key:
                self._counts[self._place(key)] = count


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
