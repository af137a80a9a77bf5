"""The files of one command: what it reads is read once, and what it writes destroys none of it."""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from engine.picture.commit import Commit
    from engine.picture.source import Source

STREAM = Path("-")
"""Standard input or output, in a file's place."""

MAPS = ("mask", "strength map")
"""What may be the photo's own transparency, as messages call it."""

MOST_BYTES = 2**31
"""Larger files are refused unread: no picture within the limit of pixels is as large."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")


@dataclass(frozen=True)
class _Written:
    option: str
    path: Path


class Files:
    """Every file that a command reads and every one that it will write.

    Two of them may not be one file, under whatever names, unless both are only read: this is found
    out before any work, whichever of them is announced first.
    """

    def __init__(self) -> None:
        self._read: list[tuple[str, Path]] = []
        self._written: list[_Written] = []

    def read(self, what: str, path: Path) -> Source:
        """Read a file, or standard input for ``-``; it is not looked at again.

        Args:
            what: what messages call it, such as ``"mask"``.

        Raises:
            InputError: it cannot be read, or the command writes it.
        """
        from engine.picture.source import STANDARD_INPUT, Source, is_own_alpha

        if what in MAPS and is_own_alpha(path):  # of the photo, which is read anyway
            return Source(os.fspath(path), b"")
        if path == STREAM:
            if any(place == STREAM for _, place in self._read):
                raise InputError("standard input (-) can be read once: give a file for the others.")
            self._read.append((what, STREAM))
            return Source(STANDARD_INPUT, _standard_input(what))
        source = read_file(what, path)
        self.uses(what, path)
        return source

    def uses(self, what: str, path: Path) -> None:
        """Announce what the command reads by itself: a model's file or folder."""
        self._read.append((what, path))
        for written in self._written:
            _refuse_overwriting(written, what, path)

    def writes(self, option: str, path: Path, *, image: bool = True) -> None:
        """Announce a file that the command will write, under the option that names it.

        Args:
            image: False for other files than pictures: any suffix is accepted.

        Raises:
            InputError: it is read, written under another option, write-protected, or no name for
                such a file.
            OutputError: its folder cannot be written.
        """
        from engine.picture.write import check_writable

        written = _Written(option, path)
        for what, place in self._read:
            _refuse_overwriting(written, what, place)
        for other in self._written:
            if _is_same(other.path, path):
                raise InputError(
                    f"{option}: {str(path)!r} is another file of this command, its {other.option}; "
                    f"give another {option}."
                )
        if path == STREAM:
            if sys.stdout.isatty():
                raise InputError(
                    f"{option} - writes a picture's bytes to standard output, which is a terminal; "
                    "send it to a file or another program."
                )
        else:
            check_writable(path, image=image)
            _refuse_protected(path)
        self._written.append(written)


def read_file(what: str, path: Path) -> Source:
    """Read a file whole.

    Raises:
        InputError: it is missing or cannot be read, or is no file's name at all.
    """
    from engine.picture.opening import check_file, first_line
    from engine.picture.source import Source

    name = f"{what} {str(path)!r}"
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if not mode:
        _refuse_no_name(name, path)
    if not stat.S_ISFIFO(mode):  # a shell's <(command)
        check_file(path, name)
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{name} is refused: {path.stat().st_size / 1e9:.1f} GB are no picture."
            )
    try:
        return Source.read(path)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {first_line(error)}") from None


def encoded(image: Image.Image, metadata: Mapping[str, str] | None) -> bytes:
    """A picture as a PNG file's bytes, for standard output."""
    from engine.picture.write import write_image

    buffer = BytesIO()
    write_image(buffer, image, "PNG", metadata=metadata, name="standard output")
    return buffer.getvalue()


def save(
    commit: Commit, image: Image.Image, path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a picture beside its place; to standard output it goes at once."""
    from engine.picture.write import save_image

    if path != STREAM:
        save_image(image, path, metadata=metadata, commit=commit)
        return
    sys.stdout.buffer.write(encoded(image, metadata))
    sys.stdout.buffer.flush()


def _standard_input(what: str) -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(f"the {what} is to come from standard input (-), which is a terminal.")
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    if not data:
        raise InputError(f"the {what} is to come from standard input (-), which is empty.")
    if len(data) > MOST_BYTES:
        raise InputError(
            f"the {what} on standard input is refused: over {MOST_BYTES / 1e9:.1f} GB."
        )
    return data


def _refuse_no_name(name: str, path: Path) -> None:
    """Say of what is no file why it may be none."""
    text = str(path)
    if _ADDRESS.match(text):
        raise InputError(f"{name} is an address, and nothing is fetched; download it first.")
    if text.startswith("~"):
        raise InputError(
            f"{name} does not exist: the shell puts your folder in place of ~ only outside quotes."
        )
    if any(sign in text for sign in "*?["):
        raise InputError(
            f"{name} does not exist; one file is needed, and a pattern is none (the shell expands "
            "it outside quotes, where files match)."
        )
    if path.is_symlink():
        raise InputError(f"{name} is a link that leads to no file.")


def _refuse_overwriting(written: _Written, what: str, place: Path) -> None:
    """Refuse what would write a file that is read, or one in a model's folder."""
    path, option = written.path, written.option
    if STREAM in (path, place):
        return
    if _is_same(path, place):
        raise InputError(
            f"{option}: {str(path)!r} is an input of this command, the {what}; give another "
            f"{option}."
        )
    folder = os.path.realpath(place)
    if place.is_dir() and path.exists() and os.path.realpath(path).startswith(folder + os.sep):
        raise InputError(
            f"{option}: {str(path)!r} is a file of the {what} {str(place)!r}; give another "
            f"{option}."
        )


def _refuse_protected(path: Path) -> None:
    """Respect a file that its owner has protected; root's rights and a rename would not."""
    if path.exists() and not path.stat().st_mode & 0o222:
        raise InputError(f"{str(path)!r} is write-protected; give another name or allow writing.")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are, or will be, one file: links, and names that differ in case only."""
    if STREAM in (one, other):
        return one == other
    try:
        if one.exists() and other.exists():
            return one.samefile(other)
        # Where one is there and the other is not, not even a careless file system mixes them up.
        return one.exists() == other.exists() and _will_be(one) == _will_be(other)
    except (OSError, ValueError):  # a name that cannot be looked at is refused where it is used
        return False


def _will_be(path: Path) -> tuple[object, str]:
    """What a file that is not there yet will be, on a file system that ignores case too."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.normcase(folder), unicodedata.normalize("NFC", name).casefold()
