"""Files whole or not at all, and several of them together or none.

Everything is written to a temporary file in the target's own folder, flushed to the disk and then
renamed over the target, so that a full disk, Ctrl-C or a crash leaves either the old file or the
new one, never half of one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from engine.errors import OutputError, SoftpaintError
from engine.picture.opening import first_line


@dataclass
class _Staged:
    """A file that is written beside its target and waits to take its place."""

    final: Path
    temporary: Path
    old: Path | None = None
    """Another name of what stood at ``final``, while the others may still fail."""


class Commit:
    """Files that take their places together when the ``with`` block ends well, or not at all.

    What a target held is replaced at the end in one rename and keeps its mode. Where one of several
    renames fails, those before it are taken back: what they replaced stands there again, and what
    was not there is removed.

    Raises:
        OutputError: a file could not be written (disk full, permissions); nothing has changed.
    """

    def __init__(self) -> None:
        self._staged: list[_Staged] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._place()
        finally:
            for staged in self._staged:
                _remove(staged.temporary)

    def write(self, target: Path, fill: Callable[[IO[bytes]], object]) -> None:
        """Write beside ``target`` what ``fill`` writes into an open file."""
        final = Path(os.path.realpath(target))
        self._staged.append(_Staged(final, _beside(final, "tmp")))
        with _explained(target):
            _write(self._staged[-1].temporary, fill, mode=_mode_of(final))

    def _place(self) -> None:
        placed: list[_Staged] = []
        try:
            for staged in self._staged:
                with _explained(staged.final):
                    if len(self._staged) > 1 and staged.final.exists():
                        staged.old = _keep(staged.final)
                    placed.append(staged)
                    staged.temporary.replace(staged.final)
        except BaseException:
            for staged in reversed(placed):
                _take_back(staged)
            raise
        for staged in placed:
            if staged.old is not None:
                _remove(staged.old)
        for folder in {staged.final.parent for staged in placed}:
            _sync_folder(folder)


def try_out(target: Path) -> None:
    """Find out whether a file can be written beside ``target``, by an empty one that is removed.

    Permission bits alone do not tell of read-only mounts, quotas and access lists.

    Raises:
        OutputError: it cannot.
    """
    temporary = _beside(Path(os.path.realpath(target)), "tmp")
    try:
        with _explained(target):
            _write(temporary, lambda _: None, mode=None)
    finally:
        _remove(temporary)


def _beside(final: Path, kind: str) -> Path:
    return final.parent / f".softpaint-{secrets.token_hex(8)}.{kind}"


def _mode_of(final: Path) -> int | None:
    try:
        return stat.S_IMODE(final.stat().st_mode)
    except OSError:
        return None


def _write(temporary: Path, fill: Callable[[IO[bytes]], object], *, mode: int | None) -> None:
    # Created with the user's umask, as the file itself would be.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(temporary, flags, 0o666), "w+b") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    if mode is not None:
        temporary.chmod(mode)


def _keep(final: Path) -> Path:
    """Give what stands at ``final`` a second name."""
    old = _beside(final, "old")
    try:
        old.hardlink_to(final)
    except OSError:  # a file system without hard links
        final.replace(old)
    return old


def _take_back(staged: _Staged) -> None:
    """Put back what stood at the target; without anything there, remove what was put there."""
    with suppress(OSError):
        if staged.old is not None:
            staged.old.replace(staged.final)
            _remove(staged.old)  # two names of one file: the rename did nothing
        elif not staged.temporary.exists():
            staged.final.unlink(missing_ok=True)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn what the system says into an OutputError that names the target."""
    try:
        yield
    except SoftpaintError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {str(target)!r}: {_reason(error)}") from error
    except (ValueError, KeyError, TypeError) as error:  # an encoder refused the image
        raise OutputError(f"cannot write {str(target)!r}: {first_line(error)}") from error


def _reason(error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the folder is read-only",
        errno.EACCES: "permission denied in that folder",
        errno.EPERM: "permission denied in that folder",
        errno.EFBIG: "the file would be larger than is allowed here",
    }
    return reasons.get(error.errno or 0) or first_line(error)


def _remove(file: Path) -> None:
    with suppress(OSError):  # the folder itself may be gone by now
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened (POSIX)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
