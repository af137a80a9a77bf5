"""What a file of weights says of itself before any is read: names, shapes, types of its tensors.

A ``.safetensors`` file begins with the length of a JSON table (8 bytes, little endian) and the
table (safetensors' README, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError

LONGEST = 100_000_000
"""Of a header in bytes: safetensors' own limit."""
PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
GGUF = b"GGUF"


_PICKLE = (
    "is a pickle, which can run any program when it is read; only .safetensors files are loaded. "
    "Most models are offered as such; else a converter makes one of it."
)
_STRANGERS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head"),
        "is a web page, not a model: perhaps one that asks for a login before the download.",
    ),
    (
        (b"version https://git-lfs",),
        "is git-lfs's pointer to a model, not the model: run `git lfs pull` there.",
    ),
    ((b"PK\x03\x04", b"\x80\x02", b"\x80\x04"), _PICKLE),
    ((b"{",), "is JSON text, not weights."),
)


@dataclass(frozen=True)
class Header:
    """The table of a file's tensors."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]
    """Safetensors' names of them, such as ``F16`` or ``F8_E4M3``."""
    metadata: Mapping[str, str]

    def has(self, *beginnings: str) -> bool:
        """Whether a tensor's name begins with one of these."""
        return any(name.startswith(beginnings) for name in self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


def is_gguf(path: Path) -> bool:
    """Whether the file says that it is llama.cpp's."""
    with path.open("rb") as file:
        return file.read(4) == GGUF


def read_header(path: Path) -> Header:
    """The header of a ``.safetensors`` file.

    Raises:
        ModelError: it is none, or is not whole; the message says what it is instead.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
        if strange := _stranger(start, path):
            raise ModelError(f"{path} {strange}")
        length = int.from_bytes(start[:8], "little")
        if not 2 <= length <= LONGEST or start[8:9] != b"{":
            raise ModelError(f"{path} is not a readable .safetensors file: it has no header.")
        file.seek(8)
        table = file.read(length)
    if len(table) < length:
        raise ModelError(
            f"{path} is cut short: not even its header of {length:,} bytes is all there. Download "
            "it again."
        )
    try:
        return _parsed(path, json.loads(table), size - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error


def _parsed(path: Path, table: Mapping[str, Any], available: int) -> Header:
    """The ``table`` of a file with ``available`` bytes of weights."""
    tensors = {name: each for name, each in table.items() if name != "__metadata__"}
    end = max((int(each["data_offsets"][1]) for each in tensors.values()), default=0)
    if end > available:
        raise ModelError(
            f"{path} is cut short: its header tells of {end:,} bytes of weights, and {available:,} "
            "are there. Download it again."
        )
    return Header(
        path,
        {name: tuple(map(int, each["shape"])) for name, each in tensors.items()},
        {name: str(each["dtype"]) for name, each in tensors.items()},
        {str(key): str(value) for key, value in table.get("__metadata__", {}).items()},
    )


def stranger_in(path: Path) -> str:
    """What a file that should not be ``.safetensors`` is instead, where that is known and it is no
    pickle; else empty.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{":
        return "is a .safetensors file."
    told = _stranger(start, path)
    return "" if told == _PICKLE else told


def _stranger(start: bytes, path: Path) -> str:
    """What a file with this ``start`` is, where it is known and no ``.safetensors``; else empty."""
    if not start:
        return "is empty. Download it again."
    text = start.lstrip().lower()
    for beginnings, told in _STRANGERS:
        if text.startswith(beginnings) or start.startswith(beginnings):
            return told
    return _PICKLE if path.suffix in PICKLED and start[8:9] != b"{" else ""
