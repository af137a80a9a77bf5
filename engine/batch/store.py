"""A batch's folder: results, each there wholly and once, and what is known of them.

``metadata.jsonl`` has a line for every picture (Hugging Face's ImageFolder reads it), written after
the picture has its place and flushed to the disk. So whatever stops a run leaves pictures with a
line, which are never made again, and at most some without one, which are made again in their place.
``failed.jsonl`` has what could not be edited, and why.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from engine.errors import InputError, OutputError
from engine.picture.commit import Commit

LINES: Final = "metadata.jsonl"
FAILURES: Final = "failed.jsonl"
REPORT: Final = "report.html"
_OWN: Final = ".softpaint"
_FORMAT: Final = 1


@dataclass(frozen=True)
class Verdict:
    """What :meth:`Store.verify` found."""

    whole: int
    """Pictures that are as they were written."""
    broken: Sequence[str]
    """What is wrong, a line each."""


class Store:
    """The folder of one batch; one process at a time writes to it.

    Args:
        folder: is made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, dict[str, Any]] = {}
        """What is done: its line, by the picture's place."""
        self.failures: dict[str, dict[str, Any]] = {}
        """What failed and was not done since, by the item's name."""
        self._lock: IO[bytes] | None = None
        self._files: dict[str, IO[bytes]] = {}

    @classmethod
    def existing(cls, folder: Path) -> Store:
        """A batch that was begun, to be looked at.

        Raises:
            InputError: there is none in this folder.
        """
        if not (folder / _OWN / "batch.json").is_file():
            raise InputError(f"there is no batch in {str(folder)!r}.")
        store = cls(folder)
        store._read()
        return store

    # Writing -----------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Take the folder for this process, and go on with the batch that is in it.

        Args:
            settings: what all its edits have in common; JSON-able.

        Raises:
            InputError: another process works in it, it was begun with other settings, or it holds
                other files and no batch.
            OutputError: it cannot be written.
        """
        plan = self.folder / _OWN / "batch.json"
        if self.folder.exists() and not plan.exists() and any(self.folder.iterdir()):
            raise InputError(
                f"{str(self.folder)!r} holds other files; a batch wants a folder of its own."
            )
        self.take()
        known = json.loads(json.dumps({"format": _FORMAT, **settings}))
        if plan.exists():
            _refuse_others(json.loads(plan.read_text("utf-8")), known, self.folder)
        else:
            text = json.dumps(known, ensure_ascii=False, indent=1)
            with Commit() as commit:
                commit.write(plan, lambda file: file.write(text.encode()))
        for name in (LINES, FAILURES):
            _cut_torn_line(self.folder / name)
        self._read()
        for left in self.folder.rglob(".softpaint-*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)

    def take(self) -> None:
        """Take the folder for this process; errors as of :meth:`begin`."""
        own = self.folder / _OWN
        try:
            own.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(own / "lock", self.folder)
        except OSError as error:
            raise OutputError(
                f"cannot write {str(self.folder)!r}: {error.strerror or error}."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (*self._files.values(), self._lock):
            if file is not None:
                file.close()
        self._files, self._lock = {}, None

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Say of an item's pictures, which have their places, that they are done."""
        self._append(LINES, lines)
        for line in lines:
            self.lines[line["file_name"]] = dict(line)
            self.failures.pop(line["item"], None)

    def fail(self, name: str, error: str, tries: int) -> None:
        """Say of an item that it cannot be edited."""
        line = {"item": name, "error": error, "tries": tries}
        self._append(FAILURES, [line])
        self.failures[name] = line

    def forget_failures(self) -> int:
        """Let what failed be tried again; how many there were."""
        count = len(self.failures)
        with Commit() as commit:
            commit.write(self.folder / FAILURES, lambda _: None)
        self.failures = {}
        return count

    def _append(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        if name not in self._files:
            self._files[name] = (self.folder / name).open("ab")
        file = self._files[name]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        start = file.tell()
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # Whole lines or none: what fitted of this one goes.
            self._files.pop(name).close()
            os.truncate(self.folder / name, start)
            raise

    # Reading -----------------------------------------------------------------------------------

    def _read(self) -> None:
        self.lines = {line["file_name"]: line for line in _lines(self.folder / LINES)}
        done = {line["item"] for line in self.lines.values()}
        self.failures = {
            line["item"]: line
            for line in _lines(self.folder / FAILURES)
            if line["item"] not in done
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What all edits have in common, as :meth:`begin` was told."""
        known: dict[str, Any] = json.loads((self.folder / _OWN / "batch.json").read_text("utf-8"))
        return known

    def verify(self) -> Verdict:
        """Look at every picture's bytes, and for what should not be there."""
        broken, whole, seen = [], 0, set()
        for line in _lines(self.folder / LINES):
            name = line["file_name"]
            if name in seen:
                broken.append(f"{name}: has two lines")
                continue
            seen.add(name)
            try:
                digest = file_digest(self.folder / name)
            except OSError:
                broken.append(f"{name}: is missing")
                continue
            if digest == line["sha256"]:
                whole += 1
            else:
                broken.append(f"{name}: was changed since it was written")
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in seen and not _is_own(name):
                broken.append(f"{name}: has no line (an interrupted run makes it again)")
        return Verdict(whole, broken)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_own(name: str) -> bool:
    return name in {LINES, FAILURES, REPORT} or name.startswith(f"{_OWN}/")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; the last one may be torn while somebody writes it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _cut_torn_line(path: Path) -> None:
    """Take off the last line where a crash has torn it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        end = place = file.tell()
        while place > 0:
            start = max(0, place - 4096)
            file.seek(start)
            found = file.read(place - start).rfind(b"\n")
            if found >= 0:
                place = start + found + 1
                break
            place = start
        if place < end:
            file.truncate(place)


def _locked(path: Path, folder: Path) -> IO[bytes]:
    """An open file that no other process has, until it is closed or the process ends."""
    file = path.open("ab")
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InputError(f"another process works on the batch in {str(folder)!r}.") from None
    return file


def _refuse_others(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a batch under other settings than it was begun with."""
    parts = [
        (name, then.get(part, {}).get(name), now.get(part, {}).get(name))
        for part in ("edit", "load")
        for name in sorted({*then.get(part, {}), *now.get(part, {})})
    ]
    changed = [f"{name} {old!r}, now {new!r}" for name, old, new in parts if old != new]
    if changed:
        raise InputError(
            f"the batch in {str(folder)!r} was begun with other settings ({'; '.join(changed)}); "
            "give another folder, or the same settings to go on."
        )
