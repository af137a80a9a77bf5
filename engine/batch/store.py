"""A batch's folder: results, each there wholly and once, and what is known of them.

``metadata.jsonl`` has a line for every picture (Hugging Face's ImageFolder reads it), written after
the picture has its place and flushed to the disk. So whatever stops a run leaves pictures with a
line, which are never made again, and at most some without one, which are made again in their place.
``failed.jsonl`` has what could not be edited, and why.

Where several processes write (Ray's actors), or nothing can be put to a file's end (a bucket),
lines come in *segments*: small files in ``.softpaint/lines``, each written once and whole. They go
over into those two files when the batch is next begun or ends.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from engine.batch.drive import Drive, Held, drive_at
from engine.batch.known import Known, Tally, digest_of, mark_of
from engine.batch.mend import cut_torn_lines, drop_lineless
from engine.errors import InputError, OutputError

LINES: Final = "metadata.jsonl"
FAILURES: Final = "failed.jsonl"
REPORT: Final = "report.html"
OWN: Final = ".softpaint"
SEGMENTS: Final = f"{OWN}/lines"
_PLAN: Final = f"{OWN}/batch.json"
_TOTAL: Final = f"{OWN}/total.json"
_WORKING: Final = f"{OWN}/working"
"""Is there while a run is, and after one that was killed."""
_FORMAT: Final = 2
HELD: Final = 5.0
"""Seconds for which lines wait for others to share their segment; and so many lines at most."""
_SEGMENT: Final = 256
_T = TypeVar("_T")


@dataclass(frozen=True)
class Verdict:
    """What :meth:`Store.verify` found."""

    whole: int
    """Pictures that are as they were written."""
    broken: Sequence[str]
    """What is wrong, a line each."""


class Store:
    """The folder of one batch; one process at a time begins it.

    Args:
        place: a path or an address; is made where it is not there.
        segment: how the segments of this process begin, one of several that write to a batch which
            another one has begun; empty for that one itself.
    """

    def __init__(self, place: str | Path, segment: str = "") -> None:
        self.drive: Drive = drive_at(place)
        self.known = Known()
        """What was done when the batch was begun or looked at."""
        self.pictures = 0
        """How many there are."""
        self.failures: dict[str, dict[str, Any]] = {}
        """What failed and was not done since, by the item's name."""
        self._segment = segment
        self._held: Held | None = None
        self._waiting: list[bytes] = []
        self._since = 0.0

    @classmethod
    def existing(cls, place: str | Path) -> Store:
        """A batch that was begun, to be looked at.

        Raises:
            InputError: there is none in this folder.
        """
        store = cls(place)
        if not store.drive.exists(_PLAN):
            raise InputError(f"there is no batch in {store.drive.place!r}.")
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
        begun = self.drive.exists(_PLAN)
        if not begun and not self.drive.is_empty():
            raise InputError(
                f"{self.drive.place!r} holds other files; a batch wants a folder of its own."
            )
        self.take()
        known = json.loads(json.dumps({"format": _FORMAT, **settings}, default=str))
        if begun:
            _refuse_others(self._plan(), known, self.drive.place)
        else:
            text = json.dumps(known, ensure_ascii=False, indent=1)
            self.drive.write(_PLAN, text.encode())
        if killed := self.drive.exists(_WORKING):  # whoever worked here
            self.drive.sweep()
        self.drive.write(_WORKING, b"")
        if self.drive.appends:
            for name in (LINES, FAILURES):
                cut_torn_lines(Path(self.drive.path(name)))
        self._read()
        if killed and self.drive.appends:
            drop_lineless(self.drive, self.known, self.lines)
        with suppress(OutputError):  # on a full disk what was read can be told later
            self._gather()

    def take(self) -> None:
        """Take the folder for this process; errors as of :meth:`begin`."""
        self._held = self.drive.take(f"{OWN}/lock")

    def report(self, page: str) -> None:
        """Write the report of a batch that has ended; left alone where another process has begun
        it anew, which writes its own. Raises as :meth:`add`.
        """
        with suppress(InputError), self:
            self.take()
            self.drive.write(_WORKING, b"")  # a kill from here on is one of a run
            self.drive.write(REPORT, page.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held is None:
            return
        try:
            if kind is None:
                self.settle()
                self.drive.remove([_WORKING])
            elif issubclass(kind, Exception):
                with suppress(OutputError):
                    self.flush()
        finally:
            self._held.close()
            self._held = None

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Say of an item's pictures, which have their places, that they are done.

        Raises:
            OutputError: that cannot be written; nothing was said.
        """
        self._say(LINES, lines)
        self.pictures += len(lines)
        for line in lines:
            self.failures.pop(line["item"], None)

    def fail(self, name: str, error: str, tries: int) -> None:
        """Say of an item that it cannot be edited; raises as :meth:`add`."""
        line = {"item": name, "error": error, "tries": tries}
        self._say(FAILURES, [line])
        self.failures[name] = line

    def forget_failures(self) -> int:
        """Let what failed be tried again; how many there were."""
        count = len(self.failures)
        self._gather()
        self.drive.write(FAILURES, b"")
        self.failures = {}
        return count

    def settle(self) -> None:
        """Write what waits and let all go over into the two files; raises as :meth:`add`, and can
        then be called again.
        """
        self.flush()
        self._gather()

    def expect(self, items: int) -> None:
        """Say how many items there are in all."""
        self.drive.write(_TOTAL, json.dumps({"items": items}).encode())

    @property
    def expected(self) -> int | None:
        """How many items there are in all, where a run has come to know."""
        if not self.drive.exists(_TOTAL):
            return None
        with self.drive.open(_TOTAL) as file:
            return int(json.loads(file.read())["items"])

    @property
    def ended(self) -> int:
        """Items that are done or have failed, when the batch was looked at."""
        return len(self.known) + len(self.failures)

    def flush(self) -> None:
        """Write the lines that wait for others; raises as :meth:`add`."""
        if self._waiting:
            name = f"{SEGMENTS}/{self._segment or 'main'}-{secrets.token_hex(8)}.jsonl"
            self.drive.write(name, b"".join(self._waiting))
            self._waiting.clear()

    def _say(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join(_encoded(line) for line in lines)
        if self.drive.appends and not self._segment:
            self.drive.append(name, data)
            return
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(data)
        late = time.monotonic() - self._since > HELD
        if late or len(self._waiting) >= _SEGMENT:
            try:
                self.flush()
            except BaseException:
                self._waiting.pop()  # the caller says it again
                raise

    def _gather(self) -> None:
        """Let the segments' lines go over into the two files."""
        names = [f"{SEGMENTS}/{name}" for name in self.drive.names(SEGMENTS)]
        if not names:
            return
        settled = Known()
        for line in self._settled():
            settled.add(_key(line), 0)
        settled.settle()
        if self.drive.appends:
            for some in _several(names, 256):
                for name, data in self._sorted(some, settled).items():
                    if data:
                        self.drive.append(name, b"".join(data))
                self.drive.remove(some)
            return
        for name in (LINES, FAILURES):
            self.drive.write(name, self._whole(name, names, settled))
        self.drive.remove(names)

    def _sorted(self, segments: Iterable[str], settled: Known) -> dict[str, list[bytes]]:
        """The lines of segments that are not settled yet, by the file that they belong to."""
        found: dict[str, list[bytes]] = {LINES: [], FAILURES: []}
        seen = set()
        for line in self.in_segments(segments):
            key = _key(line)
            if settled.get(key) is None and key not in seen:
                seen.add(key)
                found[FAILURES if "error" in line else LINES].append(_encoded(line))
        return found

    def _whole(self, name: str, segments: Sequence[str], settled: Known) -> Iterator[bytes]:
        """All lines of a file that cannot be appended to: those it has and the segments'."""
        for line in _lines(self.drive, name):
            yield _encoded(line)
        for some in _several(segments, 256):
            yield from self._sorted(some, settled)[name]

    # Reading -----------------------------------------------------------------------------------

    def _read(self) -> None:
        self.known, self.pictures = Known(), 0
        failures: dict[str, dict[str, Any]] = {}
        last, read = None, json.JSONDecoder().raw_decode
        for line in self._told():
            if "error" in line:
                failures[line["item"]] = line
                continue
            self.pictures += 1
            if line["item"] != last:  # an item's pictures stand together
                last = line["item"]
                self.known.add(last, mark_of(line["own"], read(line["inputs"])[0]))
        self.known.settle()
        self.failures = {
            name: line for name, line in failures.items() if self.known.get(name) is None
        }

    def _plan(self) -> dict[str, Any]:
        with self.drive.open(_PLAN) as file:
            plan: dict[str, Any] = json.loads(file.read())
        return plan

    @property
    def settings(self) -> dict[str, Any]:
        """What all edits have in common, as :meth:`begin` was told."""
        return self._plan()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What is known of each picture."""
        return (line for line in self._told() if "error" not in line)

    def _told(self) -> Iterator[dict[str, Any]]:
        """All that was said: settled, then in segments what is not settled too."""
        names = [f"{SEGMENTS}/{name}" for name in self.drive.names(SEGMENTS)]
        seen = Tally()
        for line in self._settled():
            if names:
                seen.add(_key(line))
            yield line
        for line in self.in_segments(names):
            if seen.add(_key(line)) == 1:
                yield line

    def _settled(self) -> Iterator[dict[str, Any]]:
        for name in (LINES, FAILURES):
            yield from _lines(self.drive, name)

    def in_segments(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The lines of segments, as they are."""
        for name in names:
            yield from _lines(self.drive, name)

    def verify(self) -> Verdict:
        """Look at every picture's bytes, and for what should not be there."""
        broken, whole = [], 0
        seen = Tally()
        with ThreadPoolExecutor(8) as pool:
            for some in _several(self.lines(), 64):
                for line, digest in zip(some, pool.map(self._digest, some), strict=True):
                    name = line["file_name"]
                    if seen.add(name) > 1:
                        broken.append(f"{name}: has two lines")
                    elif digest is None:
                        broken.append(f"{name}: is missing")
                    elif digest != line["sha256"]:
                        broken.append(f"{name}: was changed since it was written")
                    else:
                        whole += 1
        for folder, names in self.drive.walk():
            for each in names:
                name = f"{folder}/{each}" if folder else each
                if name not in seen and name not in {LINES, FAILURES, REPORT}:
                    broken.append(f"{name}: has no line (an interrupted run makes it again)")
        return Verdict(whole, broken)

    def _digest(self, line: Mapping[str, Any]) -> str | None:
        try:
            with self.drive.open(line["file_name"]) as file:
                return digest_of(file)
        except OSError:
            return None


def _key(line: Mapping[str, Any]) -> str:
    """What there is one line of: a picture, or an item's failure."""
    return f"! {line['item']}" if "error" in line else str(line["file_name"])


def _encoded(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode()


def _lines(drive: Drive, name: str) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; the last one may be torn while somebody writes it."""
    try:
        file = drive.open(name)
    except FileNotFoundError:
        return
    read = json.JSONDecoder().raw_decode  # what loads() does beside it takes a third of its time
    with file:
        for line in file:
            if line.endswith(b"\n"):
                yield read(line.decode())[0]


def _several(things: Iterable[_T], count: int) -> Iterator[tuple[_T, ...]]:
    """``count`` at a time."""
    left = iter(things)
    while some := tuple(islice(left, count)):
        yield some


def _refuse_others(then: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """Refuse to go on with a batch under other settings than it was begun with."""
    if then.get("format") != now["format"]:
        raise InputError(f"the batch in {place!r} is another version's; give another folder.")
    parts = [
        (name, then.get(part, {}).get(name), now.get(part, {}).get(name))
        for part in ("edit", "load")
        for name in sorted({*then.get(part, {}), *now.get(part, {})})
    ]
    changed = [f"{name} {old!r}, now {new!r}" for name, old, new in parts if old != new]
    if changed:
        raise InputError(
            f"the batch in {place!r} was begun with other settings ({'; '.join(changed)}); "
            "give another folder, or the same settings to go on."
        )
