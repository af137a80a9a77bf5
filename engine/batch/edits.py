"""Edits that come one by one, through one loop: read ahead, in shared calls, written behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.batch.items import REGIONS
from engine.batch.store import file_digest
from engine.errors import InputError, OutputError, SoftpaintError
from engine.picture.source import Source, is_own_alpha

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
        folder: the batch's.
        together: how many edits share the loop.
        told: is called with a line where somebody should know of something.
    """

    engine: InpaintEngine
    settings: Mapping[str, Any]
    folder: Path
    together: int = TOGETHER
    told: Callable[[str], None] = lambda _: None
    _running: dict[Ticket, Ready] = field(default_factory=dict)
    _reading: dict[Future[Ready], Item] = field(default_factory=dict)
    _writing: dict[Future[Done], Item] = field(default_factory=dict)

    def run(self, items: queue.Queue[Item | None]) -> Iterator[Outcome]:
        """What becomes of the items, as they are done, in any order, until None comes.

        Raises:
            OutputError: nothing can be written, for another reason than a full disk.
        """
        runtime = self.engine.runtime(max_running=self.together)
        more = True
        with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as writer:
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

    def _take(self, items: queue.Queue[Item | None], readers: ThreadPoolExecutor) -> bool:
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

    def _leave(self, ticket: Ticket, writer: ThreadPoolExecutor) -> Iterator[Outcome]:
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
        from engine.picture.geometry import check_canvas
        from engine.picture.write import check_fits

        if item.error:
            raise InputError(item.error)
        sources = {name: _opened(path) for name, path in item.files.items()}
        settings = {**self.settings, **item.settings}
        identity = identity_of(sources, settings, self._model)
        if settings.get("seed") in (None, -1):
            settings["seed"] = int(identity[:8], 16)
        request = self.engine.read({**settings, **_with_regions(sources, settings)})
        if request.chooses or not isinstance(request.prompt, str):
            raise InputError("a batch makes one picture of a prompt; give each its own row.")
        prepared = prepare(self.engine.backbone, [request])[0]
        size = check_canvas(prepared.original.size, None)
        check_fits(self.folder / item.name, size)
        inputs = {name: _described(source) for name, source in sources.items() if source.data}
        return Ready(item, request, prepared, identity, inputs)

    @cached_property
    def _model(self) -> str:
        """The model's name and, of a file or folder, its state: what another revision changes."""
        return json.dumps(
            {name: _revision(value) for name, value in sorted(self.engine.load.items())},
            default=str,
        )

    def _write(self, ready: Ready, result: EditResult) -> Done:
        """Give an item's pictures their places; waits while the disk is full."""
        from engine.request.save import numbered, write_pictures

        count = len(result.seeds)
        paths = numbered(self.folder / ready.item.name, count)
        waiting = False
        while True:
            try:
                paths[0].parent.mkdir(parents=True, exist_ok=True)
                write_pictures(result, range(count), paths)
                break
            except OSError as error:
                if error.errno not in _FULL:
                    raise OutputError(f"cannot write {str(paths[0])!r}: {error}") from error
            except OutputError as error:
                if getattr(error.__cause__, "errno", None) not in _FULL:
                    raise
            if not waiting:
                self.told(f"the disk of {self.folder} is full: waiting until there is room")
            waiting = True
            time.sleep(_WAIT)
        if waiting:
            self.told("there is room again: going on")
        return Done(ready.item, [self._line(ready, result, i, p) for i, p in enumerate(paths)])

    def _line(self, ready: Ready, result: EditResult, index: int, path: Path) -> dict[str, Any]:
        used = result.settings
        prompt = used["prompt"]
        return {
            "file_name": path.relative_to(self.folder).as_posix(),
            "item": ready.item.name,
            "id": f"{ready.identity}-{index}",
            "sha256": file_digest(path),
            "prompt": prompt[index % len(prompt)] if isinstance(prompt, list) else prompt,
            "strategy": used["strategy"],
            "seed": result.seeds[index],
            "seconds": round(result.timings.get("total", 0.0), 3),
            "figures": _figures(ready.prepared, result, index),
            "own": json.loads(json.dumps(ready.item.settings, default=str)),
            "inputs": ready.inputs,
        }


def _with_regions(sources: Mapping[str, Source], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The files by the engine's names: those of regions inside their regions."""
    own: dict[str, Any] = {k: each for k, each in sources.items() if not k.startswith(REGIONS)}
    if len(own) < len(sources):
        own["regions"] = [
            {**region, "map": sources[f"{REGIONS}{number}"]}
            for number, region in enumerate(settings["regions"])
        ]
    return own


def identity_of(sources: Mapping[str, Source], settings: Mapping[str, Any], model: str) -> str:
    """What names an edit: the bytes that it reads, its settings and its model (32 digits)."""
    told = {
        "files": {name: source.sha256 or source.path for name, source in sources.items()},
        "settings": settings,
        "model": model,
    }
    text = json.dumps(told, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_same_file(path: str, described: Mapping[str, Any]) -> bool:
    """Whether a file is what it was when it was described; read only where it was touched since.

    Raises:
        OSError: it cannot be read.
    """
    found = Path(path).stat()
    if (found.st_size, found.st_mtime_ns) == (described["bytes"], described["mtime_ns"]):
        return True
    return bool(file_digest(Path(path)) == described["sha256"])


def _opened(path: str) -> Source:
    from engine.picture.opening import check_file

    if is_own_alpha(path):
        return Source(path, b"")
    check_file(Path(path), repr(path))
    try:
        return Source.read(path)
    except OSError as error:
        raise InputError(f"{path!r} cannot be read: {error.strerror or error}.") from None


def _described(source: Source) -> dict[str, Any]:
    found = Path(source.path).stat()
    return {
        "path": os.path.realpath(source.path),
        "bytes": len(source.data),
        "mtime_ns": found.st_mtime_ns,
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
