"""Edits that come one by one, through one loop: read ahead, in shared calls, written behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from engine.batch.drive import Drive, read_file
from engine.batch.items import split_files, with_files
from engine.errors import InputError, OutputError, SoftpaintError
from engine.picture.metadata import FORMATS
from engine.picture.opening import check_file
from engine.picture.source import Source, is_address, is_own_alpha
from engine.picture.write import write_image
from engine.request.record import EditRecord
from engine.request.save import numbered, with_infotext
from engine.runtime.beside import Beside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.batch.items import Item
    from engine.edit.prepared import Prepared
    from engine.engine import InpaintEngine
    from engine.request.request import EditRequest
    from engine.request.result import EditResult
    from engine.runtime.core import Ticket

TOGETHER: Final = 8
"""Edits in the loop at a time: what shares model calls, and what memory holds."""
_WAIT: Final = 5.0
"""Seconds between two tries on a full disk."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def check_single(request: EditRequest) -> None:
    """Refuse what is more than one run of one prompt.

    Raises:
        InputError: it is.
    """
    if request.chooses:
        raise InputError(
            "a batch makes one run of a prompt and chooses none: candidates, several strategies "
            "and strategy auto are for single edits (softpaint edit; softpaint advise says which "
            "strategy suits)."
        )
    if not isinstance(request.prompt, str):
        raise InputError("a batch makes one picture of a prompt; give each its own row.")


class Queue(Protocol):
    """Where items come from."""

    def get(self, *, block: bool = True) -> Item | None:
        """The next one; None: no further one comes. Without ``block`` ``queue.Empty`` is raised
        where there is none now.
        """


@dataclass(frozen=True)
class Done:
    """An item whose pictures have their places."""

    item: Item
    lines: list[dict[str, Any]]
    """What is to be said of them, a line each."""


@dataclass(frozen=True)
class Failed:
    """An item that could not be edited."""

    item: Item
    error: str
    final: bool
    """Trying again would give the same."""


Outcome = Done | Failed


@dataclass(frozen=True)
class Ready:
    """An item whose files are read and checked."""

    item: Item
    request: EditRequest
    prepared: Prepared
    identity: str
    inputs: Mapping[str, Mapping[str, Any]]


@dataclass
class Edits:
    """Makes items' pictures, with one model.

    Args:
        engine: the model.
        settings: what all edits have in common, by the names of ``InpaintEngine.edit``.
        drive: the batch's folder.
        together: how many edits share the loop.
        told: is called with a line where somebody should know of something.
        check: is called before a picture is written; raises ``OutputError`` where none may be.
    """

    engine: InpaintEngine
    settings: Mapping[str, Any]
    drive: Drive
    together: int = TOGETHER
    told: Callable[[str], None] = lambda _: None
    check: Callable[[], None] = lambda: None
    _running: dict[Ticket, Ready] = field(default_factory=dict)
    _reading: dict[Future[Ready], Item] = field(default_factory=dict)
    _writing: dict[Future[Done], Item] = field(default_factory=dict)

    def run(self, items: Queue) -> Iterator[Outcome]:
        """What becomes of the items, as they are done, in any order, until None comes.

        Raises:
            OutputError: nothing can be written, for another reason than a full disk.
        """
        runtime = self.engine.runtime(max_running=self.together)
        more = True
        with Beside(2, "softpaint-read") as readers, Beside(1, "softpaint-write") as writer:
            try:
                while more or self._busy:
                    more = more and self._take(items, readers)
                    yield from self._enter(runtime)
                    if self._running:
                        for ticket in runtime.step():
                            yield from self._leave(ticket, writer)
                    else:
                        self._wait(more)
                    yield from self._written()
            finally:
                runtime.close()
                for future in self._reading:
                    future.cancel()

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._reading or self._writing)

    def _take(self, items: Queue, readers: Executor) -> bool:
        """Let the readers have what they should read ahead; False once there is no more."""
        while len(self._reading) + len(self._running) < 2 * self.together:
            try:
                item = items.get(block=not self._busy)
            except queue.Empty:
                return True
            if item is None:
                return False
            self._reading[readers.submit(self.read, item)] = item
        return True

    def _enter(self, runtime: Any) -> Iterator[Outcome]:
        """Let edits that are read enter the loop."""
        for future in [each for each in self._reading if each.done()]:
            item = self._reading.pop(future)
            try:
                ready = future.result()
                self._running[runtime.enter(ready.request, ready.prepared)] = ready
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's alone
                yield _failed(item, error)

    def _leave(self, ticket: Ticket, writer: Executor) -> Iterator[Outcome]:
        ready = self._running.pop(ticket)
        try:
            result = ticket.outcome()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's alone
            yield _failed(ready.item, error)
            return
        while len(self._writing) > self.together:  # the disk is slower than the model
            wait(self._writing, return_when=FIRST_COMPLETED)
            yield from self._written()
        self._writing[writer.submit(self._write, ready, result)] = ready.item

    def _written(self) -> Iterator[Outcome]:
        for future in [each for each in self._writing if each.done()]:
            item = self._writing.pop(future)
            try:
                yield future.result()
            except OutputError:
                raise  # the folder's fault, not the item's
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's alone
                yield _failed(item, error)

    def _wait(self, more: bool) -> None:
        """With nothing in the loop: until something is read or written."""
        futures: list[Future[Any]] = [*self._reading, *self._writing]
        if futures:
            wait(futures, timeout=0.2 if more else None, return_when=FIRST_COMPLETED)

    # One item ----------------------------------------------------------------------------------

    def read(self, item: Item) -> Ready:
        """Read an item's files and check all that can be checked before the model's work."""
        from engine.edit.prepare import prepare
        from engine.edit.unused import warn_of_unused
        from engine.picture.geometry import check_canvas
        from engine.picture.write import check_fits

        if item.error:
            raise InputError(item.error)
        settings = {**self._shared[0], **item.settings}
        sources = {**self._opened, **{name: opened(path) for name, path in item.files.items()}}
        identity = identity_of(sources, settings, self._model)
        if settings.get("seed") in (None, -1):
            settings["seed"] = int(identity[:8], 16)
        request = self.engine.read(with_files(settings, sources))
        check_single(request)
        warn_of_unused(request, settings, self.engine.backbone)
        prepared = prepare(self.engine.backbone, [request])[0]
        size = check_canvas(prepared.original.size, None)
        check_fits(Path(item.name), size)
        inputs = {name: described(sources[name]) for name in item.files if sources[name].data}
        return Ready(item, request, prepared, identity, inputs)

    @cached_property
    def _shared(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What all have in common: settings, and where their files are."""
        return split_files(self.settings, "")

    @cached_property
    def _opened(self) -> dict[str, Source]:
        return {name: opened(path) for name, path in self._shared[1].items()}

    @cached_property
    def _model(self) -> str:
        """The model's name and, of a file or folder, its state: what another revision changes."""
        return json.dumps(
            {name: _revision(value) for name, value in sorted(self.engine.load.items())},
            default=str,
        )

    def _write(self, ready: Ready, result: EditResult) -> Done:
        """Give an item's pictures their places; waits while the disk is full."""
        count = len(result.seeds)
        names = [path.as_posix() for path in numbered(Path(ready.item.name), count)]
        lines = []
        for index, name in enumerate(names):
            data = self._encoded(result, index, name)
            self.check()
            when_there_is_room(partial(self.drive.write, name, data), self.drive.place, self.told)
            told = self._line(ready, result, index, name)
            told |= {"sha256": hashlib.sha256(data).hexdigest()}
            lines.append({**told, "picture": index + 1, "pictures": count})
        return Done(ready.item, lines)

    def _encoded(self, result: EditResult, index: int, name: str) -> bytes:
        """A picture's file."""
        path = Path(self.drive.path(name)) if self.drive.appends else Path("/", name)
        picture = with_infotext(result, index, path)
        record = EditRecord.of(result, index=index, beside=path)
        file = BytesIO()
        format_ = FORMATS[path.suffix.lower()]
        write_image(file, picture, format_, metadata=record.metadata(), name=path)
        return file.getvalue()

    def _line(self, ready: Ready, result: EditResult, index: int, name: str) -> dict[str, Any]:
        used = result.settings
        prompt = used["prompt"]
        return {
            "file_name": name,
            "item": ready.item.name,
            "id": f"{ready.identity}-{index}",
            "prompt": prompt[index % len(prompt)] if isinstance(prompt, list) else prompt,
            "strategy": used["strategy"],
            "seed": result.seeds[index],
            "seconds": round(result.timings.get("total", 0.0), 3),
            "figures": _figures(ready.prepared, result, index),
            # Texts: readers of tables want the same columns in every line.
            "own": ready.item.own,
            "inputs": json.dumps(ready.inputs),
        }


def when_there_is_room(act: Callable[[], None], place: str, told: Callable[[str], None]) -> None:
    """Do what writes to a disk; while that is full, wait and say so.

    Raises:
        OutputError: it cannot be written for another reason.
    """
    waiting = False
    while True:
        try:
            act()
            break
        except OutputError as error:
            if getattr(error.__cause__, "errno", None) not in _FULL:
                raise
        if not waiting:
            told(f"the disk of {place} is full: waiting until there is room")
        waiting = True
        time.sleep(_WAIT)
    if waiting:
        told("there is room again: going on")


def identity_of(sources: Mapping[str, Source], settings: Mapping[str, Any], model: str) -> str:
    """What names an edit: the bytes that it reads, its settings and its model (32 digits)."""
    told = {
        "files": {name: source.sha256 or source.path for name, source in sources.items()},
        "settings": settings,
        "model": model,
    }
    text = json.dumps(told, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def opened(path: str) -> Source:
    """An item's file, read.

    Raises:
        InputError: it cannot be.
    """
    if is_own_alpha(path):
        return Source(path, b"")
    if not is_address(path):
        check_file(Path(path), repr(path))
    try:
        return Source(path, read_file(path))
    except OSError as error:
        raise InputError(f"{path!r} cannot be read: {error.strerror or error}.") from None


def described(source: Source) -> dict[str, Any]:
    """A file as it was read; ``mtime_ns`` is 0 where it is not on this machine."""
    here = not is_address(source.path)
    return {
        "path": os.path.realpath(source.path) if here else source.path,
        "bytes": len(source.data),
        "mtime_ns": Path(source.path).stat().st_mtime_ns if here else 0,
        "sha256": source.sha256,
    }


def _revision(place: Any) -> Any:
    """A model as it is named; with size and time of change where it is a file or folder."""
    if isinstance(place, list):  # LoRAs with their weights, embeddings with their words
        return [[_revision(each), _revision(each.rpartition(":")[0])] for each in place]
    path = Path(str(place))
    try:
        found = path.stat() if isinstance(place, str | os.PathLike) else None
    except OSError:
        found = None
    return str(place) if found is None else [str(place), found.st_size, found.st_mtime_ns]


def _figures(prepared: Prepared, result: EditResult, index: int) -> dict[str, float]:
    """Metrics that need no truth; none where the canvas has grown away from the picture's size."""
    import numpy as np

    from engine.picture.metrics import WITHOUT_TRUTH, Sample, measure

    edited: NDArray[np.uint8] = np.asarray(result.picture(index).convert("RGB"))
    original = np.asarray(prepared.original.convert("RGB"))
    if edited.shape != original.shape:
        return {}
    found = measure(
        Sample(
            result=edited,
            original=original,
            strength_map=prepared.strength_map,
            model_calls=result.model_calls // len(result.seeds),
        ),
        WITHOUT_TRUTH,
    )
    return {name: round(float(value), 4) for name, value in found.items()}


def _failed(item: Item, error: Exception) -> Failed:
    message = " ".join(str(error).split())
    if not isinstance(error, SoftpaintError):
        message = f"{type(error).__name__}: {message}"
    return Failed(item, message, final=isinstance(error, InputError))
