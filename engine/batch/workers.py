"""Processes that edit, each with a model of its own; one that dies is replaced."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, cast

from engine.batch.drive import drive_at
from engine.batch.edits import TOGETHER, Done, Edits, Failed, Outcome
from engine.errors import ModelError, OutputError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from engine.batch.items import Item

_LIBRARIES: Final = (
    "torch",
    "diffusers",
    "transformers",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint",
    "transformers.models.clip.modeling_clip",
    "engine.engine",
    "strategies",
)
_STARTS: Final = 3
"""Processes in a row that may die before they are ready."""


@dataclass(frozen=True)
class Plan:
    """What all edits of a batch have in common; workers are told it at their start."""

    place: str
    """Where results go: a path or an address."""
    settings: Mapping[str, Any]
    """By the names of ``InpaintEngine.edit``; JSON-able."""
    load: Mapping[str, Any]
    """The arguments of ``InpaintEngine.from_pretrained``."""
    together: int = TOGETHER
    """How many edits share model calls, in each process."""


class Again:
    """Which items are tried again.

    Args:
        tries: how often an item is tried whose error may pass.
    """

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self._counts: dict[str, int] = {}

    def __call__(self, outcome: Outcome) -> bool:
        """Whether its item is to be tried once more."""
        if isinstance(outcome, Done):
            return False
        self._counts[outcome.item.name] = self.count(outcome.item) + 1
        return not outcome.final and self.count(outcome.item) < self.tries

    def give_up(self, item: Item, tries: int) -> None:
        """Take over how often others have tried an item."""
        self._counts[item.name] = tries

    def count(self, item: Item) -> int:
        """How often an item was tried and failed."""
        return self._counts.get(item.name, 0)


class Feed:
    """Items in their order; those that are tried again come first."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._again: deque[Item] = deque()

    def __bool__(self) -> bool:
        if not self._again and (item := next(self._items, None)) is not None:
            self._again.append(item)
        return bool(self._again)

    def put(self, item: Item) -> None:
        """Let an item be tried again."""
        self._again.append(item)

    def pop(self) -> Item:
        """The next one, of which there is one."""
        if not self:
            raise LookupError("no item is left")
        return self._again.popleft()

    def get(self, *, block: bool = True) -> Item | None:
        """The next one, for whom this is a queue of this process: with ``block`` nothing is being
        edited that may be tried again, so that None is the end.

        Raises:
            queue.Empty: without ``block``, there is none now.
        """
        if self:
            return self.pop()
        if block:
            return None
        raise queue.Empty


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    items: dict[str, Item] = field(default_factory=dict)
    """What it has and has not told of, by name."""


class Workers:
    """Hands items to processes and gives back what becomes of them.

    Args:
        plan: what each is told.
        count: of processes. With several GPUs each has one; on a CPU they share its threads.
        again: which items are tried again.
        told: is called with a line where somebody should know of something.
    """

    def __init__(self, plan: Plan, count: int, again: Again, told: Callable[[str], None]) -> None:
        self.plan, self.count, self.again, self.told = plan, count, again, told
        self._context = _context()
        self._workers: list[_Worker | None] = [None] * count
        self._alone: deque[Item] = deque()
        """Those that were in a process which died: one of them may have killed it."""
        self._suspects: set[str] = set()
        """Their names."""
        self._dead_starts = 0

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """What becomes of the items, in any order.

        Raises:
            ModelError: no worker gets as far as loading the model.
            OutputError: nothing can be written, for another reason than a full disk.
        """
        waiting = Feed(items)
        try:
            while waiting or self._alone or self._has_items():
                for number in range(self.count):
                    self._feed(number, waiting)
                yield from self._heard(waiting)
        finally:
            for worker in self._workers:
                if worker is not None:
                    _end(worker)

    def _has_items(self) -> bool:
        return any(worker is not None and worker.items for worker in self._workers)

    def _feed(self, number: int, waiting: Feed) -> None:
        """Keep a worker busy; one that is alone with a suspect gets nothing else."""
        worker = self._workers[number]
        if worker is None:
            if not waiting and not self._alone:
                return
            worker = self._workers[number] = self._started(number)
        if not worker.ready:
            return
        if self._alone and not worker.items:
            _send(worker, self._alone.popleft())
            return
        if any(item.name in self._suspects for item in worker.items.values()):
            return
        while waiting and len(worker.items) < 3 * self.plan.together:
            _send(worker, waiting.pop())

    def _started(self, number: int) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(there, self.plan, number, self.count), daemon=True
        )
        process.start()
        there.close()  # the process alone holds it: its end is told here
        return _Worker(process, here)

    def _heard(self, waiting: Feed) -> Iterator[Outcome]:
        pipes = {worker.pipe: n for n, worker in enumerate(self._workers) if worker is not None}
        for ready in wait(list(pipes), timeout=1.0):
            pipe = cast("Connection", ready)
            number = pipes[pipe]
            worker = self._workers[number]
            assert worker is not None  # noqa: S101 - it has a pipe
            try:
                told = pipe.recv()
            except (EOFError, OSError):
                self._workers[number] = None
                yield from self._died(worker)
                continue
            if isinstance(told, Warning):
                warnings.warn(told, stacklevel=2)
                continue
            if isinstance(told, BaseException):
                raise told
            if isinstance(told, str):
                self.told(told)
            elif told is None:
                worker.ready, self._dead_starts = True, 0
            else:
                worker.items.pop(told.item.name, None)
                self._suspects.discard(told.item.name)
                if self.again(told):
                    waiting.put(told.item)
                else:
                    yield told

    def _died(self, worker: _Worker) -> Iterator[Outcome]:
        """Let the items of a worker that is gone be done by another, each alone."""
        worker.process.join()
        code = worker.process.exitcode
        if not worker.ready:
            self._dead_starts += 1
            if self._dead_starts >= _STARTS:
                raise ModelError(f"workers die while they load the model (exit code {code}).")
        lost = list(worker.items.values())
        if lost:
            self.told(f"a worker died (exit code {code}); another one goes on")
        for item in lost:
            # Among several any may have done it; one that had its turn alone did.
            died = Failed(item, f"the worker died with it (exit code {code})", final=False)
            if len(lost) > 1 or self.again(died):
                self._suspects.add(item.name)
                self._alone.append(item)
            else:
                yield died


def _send(worker: _Worker, item: Item) -> None:
    worker.items[item.name] = item
    with suppress(OSError):  # it has died: its pipe tells
        worker.pipe.send(item)


def _end(worker: _Worker) -> None:
    worker.process.terminate()
    worker.process.join()
    worker.pipe.close()


def _context() -> Any:
    """How processes are begun: each forked from one that has only imported the libraries, so that
    one which takes another's place is there soon; where that cannot be, each by itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LIBRARIES))
    # Asking for GPUs while they are imported would leave the forked processes without any.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return context


# --- in the process ------------------------------------------------------------------------------


def _serve(pipe: Connection, plan: Plan, number: int, count: int) -> None:
    """Load the model, say that it is there with None, then edit what comes until the pipe ends."""
    import signal

    from engine.engine import InpaintEngine

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this
    lock = threading.Lock()

    def tell(what: object) -> None:
        with lock:
            pipe.send(what)

    def warned(message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, UserWarning):
            tell(message if isinstance(message, Warning) else category(message))

    warnings.showwarning = warned  # type: ignore[assignment]
    try:
        engine = InpaintEngine.from_pretrained(**_share(plan.load, number, count))
        tell(None)
        items: queue.Queue[Item | None] = queue.Queue()
        threading.Thread(target=_receive, args=(pipe, items), daemon=True).start()
        edits = Edits(engine, plan.settings, drive_at(plan.place), plan.together, told=tell)
        for outcome in edits.run(items):
            tell(outcome)
    except (ModelError, OutputError) as error:
        tell(error)


def _receive(pipe: Connection, items: queue.Queue[Item | None]) -> None:
    """Queue what the parent sends; when it is gone, so is this process."""
    while True:
        try:
            items.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)


def _share(load: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """The loading arguments of worker ``number``: its GPU, or its share of the threads."""
    import torch

    arguments = dict(load)
    device = str(arguments.get("device") or "cuda")
    if device == "cuda" and torch.cuda.is_available():
        arguments["device"] = f"cuda:{number % torch.cuda.device_count()}"
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    return arguments
