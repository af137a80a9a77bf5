"""What a killed run leaves in a batch's folder, beside whole pictures with their lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from engine.picture.metadata import FORMATS
from engine.picture.metadata import OWN as RECORD

if TYPE_CHECKING:
    from engine.batch.drive import Drive
    from engine.batch.known import Known

_TAIL: Final = 1 << 22
"""Bytes of a file's end that are looked at: more than the lines of one item."""


def cut_torn_lines(path: Path) -> None:
    """Take off a file's end what a crash has torn: half a line, and an item's lines without its
    last one.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, end - _TAIL))
        lines = file.read().splitlines(keepends=True)[start > 0 :]
        torn = []
        while lines and (not lines[-1].endswith(b"\n") or _is_torn(json.loads(lines[-1]))):
            torn.append(lines.pop())
        if torn:
            file.truncate(end - sum(map(len, torn)))


def _is_torn(line: Mapping[str, Any]) -> bool:
    """Whether lines of the same item should follow."""
    return bool(line.get("picture", 1) < line.get("pictures", 1))


def drop_lineless(
    drive: Drive, known: Known, lines: Callable[[], Iterable[Mapping[str, Any]]]
) -> None:
    """Remove pictures of ours that got their places and no line: their edits may be asked for no
    more. Such as are asked for are made again.

    Args:
        drive: the batch's folder.
        known: which items are done.
        lines: gives what is known of each picture.
    """
    doubtful = set()
    for folder, names in drive.walk():
        for each in names:
            name = f"{folder}/{each}" if folder else each
            picture = PurePosixPath(each).suffix.lower() in FORMATS
            if picture and known.get(name) is None:
                doubtful.add(name)
    if doubtful:
        doubtful.difference_update(line["file_name"] for line in lines())
    drive.remove(name for name in doubtful if _is_ours(drive, name))


def _is_ours(drive: Drive, name: str) -> bool:
    """Whether a file holds the record of an edit."""
    with drive.open(name) as file:
        return RECORD.encode() in file.read()
