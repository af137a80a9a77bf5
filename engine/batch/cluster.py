"""A batch on a Ray cluster: the same items, ids and folder, with an actor for each model.

What is left of the batch is written to the folder as *parts* of a few dozen items. An actor takes
a part, edits what is in it, and writes the lines that say so to segments of its own; the driver
hears numbers only, so that neither its memory nor Ray's grows with the job. A part whose actor has
died is begun again by another: what has a line is left out, and the others are edited one by one,
so that an item which kills its actor is found and, after a few tries, given up.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from engine.batch.drive import drive_at
from engine.batch.edits import Done, Edits, Failed, Outcome, when_there_is_room
from engine.batch.items import Item
from engine.batch.run import TRIES, Progress, Survey, edited, say_of
from engine.batch.store import OWN, SEGMENTS, Store
from engine.batch.workers import Again, Plan
from engine.errors import InputError, OutputError, SoftpaintError

if TYPE_CHECKING:
    from engine.engine import InpaintEngine

PART: Final = 64
"""Items of a part: what a lost actor costs at the most."""
_PARTS: Final = f"{OWN}/parts"
_BLOCKS: Final = 4096
"""Of Ray's data at the most: what its driver keeps something of. Further parts share them."""


@dataclass(frozen=True)
class Cluster:
    """Where a batch's actors are, and what each has."""

    address: str | None = None
    """Of a Ray cluster; None is that of ``RAY_ADDRESS``, or this machine."""
    workers: int = 1
    """Actors at the most; as many as there is work for, between this and ``least``."""
    least: int = 1
    gpus: float | None = None
    """Of each actor; None is 1 where the cluster has any."""
    cpus: float = 1.0
    """Of each actor."""
    part: int = PART


def run_on_cluster(
    items: Iterable[Item],
    plan: Plan,
    cluster: Cluster,
    *,
    tries: int = TRIES,
    told: Callable[[str], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Store:
    """Edit every item once, whatever stops and restarts it: as
    :func:`engine.batch.run.run_batch`, on all of a cluster's machines.

    Args:
        items: see there. Paths and the batch's folder must lead to the same files on every machine.
        plan: see there.
        cluster: where.
        tries: how often an item is tried whose error may pass, or whose actor has died.
        told: is called with a line where somebody should know of something.
        progress: is called whenever a part has ended.

    Raises:
        InputError: as there; Ray is not installed, or its cluster cannot be reached.
        ModelError: the model cannot be loaded.
        OutputError: nothing can be written.
    """
    ray = _ray()
    with Store(plan.place) as store:
        store.begin({"edit": plan.settings, "load": plan.load})
        survey = Survey(items, store)
        store.drive.clear(_PARTS)
        names = write_parts(store, survey.left(), cluster.part, told)
        when_there_is_room(partial(store.expect, survey.total), plan.place, told)
        state = Progress(survey.total, survey.total - survey.count)
        progress(state)
        if names.count:
            _connect(ray, cluster, told)
            for ended in _rows(ray, names, plan, cluster, tries):
                state.done += ended["done"]
                state.failed += ended["failed"]
                for line in filter(None, ended["told"].splitlines()):
                    told(line)
                progress(state)
        when_there_is_room(store.settle, plan.place, told)
        store.drive.clear(_PARTS)
    return Store.existing(plan.place)


@dataclass(frozen=True)
class Parts:
    """The parts of one run."""

    run: str
    """Part of their names, so that none is taken for an earlier run's."""
    count: int

    def name(self, number: int) -> str:
        """Of one, from 0."""
        return f"{self.run}-{number:08}"


def write_parts(
    store: Store, items: Iterator[Item], size: int, told: Callable[[str], None] = lambda _: None
) -> Parts:
    """Write what is to be done to a batch's folder, so many items a part; waits for room."""
    run, count = secrets.token_hex(4), 0
    while some := list(islice(items, size)):
        data = "".join(item.line() for item in some).encode()
        name = f"{_PARTS}/{Parts(run, 0).name(count)}/items.jsonl"
        when_there_is_room(partial(store.drive.write, name, data), store.drive.place, told)
        count += 1
    return Parts(run, count)


# --- Ray -----------------------------------------------------------------------------------------


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("this needs Ray: pip install 'softpaint[ray]'.") from None
    return ray


def _connect(ray: Any, cluster: Cluster, told: Callable[[str], None]) -> None:
    if not ray.is_initialized():
        try:
            ray.init(address=cluster.address, log_to_driver=True, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"Ray's cluster {cluster.address!r}: {error}") from error
    nodes = sum(node["Alive"] for node in ray.nodes())
    have = ray.cluster_resources()
    told(f"Ray: {nodes} nodes, {have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs")


def _rows(
    ray: Any, parts: Parts, plan: Plan, cluster: Cluster, tries: int
) -> Iterator[Mapping[str, Any]]:
    """What has become of each part, as they end."""
    import numpy as np

    gpus = cluster.gpus
    if gpus is None:
        gpus = float(ray.cluster_resources().get("GPU", 0) >= 1)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = -(-parts.count // _BLOCKS)
    # Blocks that are there need no task of Ray's, which actors with all CPUs would keep waiting.
    blocks = [
        np.arange(first, min(first + rows, parts.count)) for first in range(0, parts.count, rows)
    ]
    ended = ray.data.from_numpy(blocks).map_batches(
        Editor,
        batch_size=rows,
        fn_constructor_args=(plan, parts, tries, cluster.cpus),
        compute=ray.data.ActorPoolStrategy(
            min_size=min(cluster.least, cluster.workers, parts.count),
            max_size=min(cluster.workers, parts.count),
        ),
        num_gpus=gpus,
        num_cpus=cluster.cpus,
    )
    try:
        yield from ended.iter_rows()
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def _cause(error: Exception) -> Exception:
    """What of ours a remote error comes from, or itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SoftpaintError):
            return type(cause)(str(getattr(cause, "cause", cause)))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error


class Editor:
    """An actor: a model, and what it does with parts.

    Args:
        plan: what all edits have in common.
        parts: the run's.
        tries: see :func:`run_on_cluster`.
        cpus: threads that it may use.
    """

    def __init__(self, plan: Plan, parts: Parts, tries: int, cpus: float) -> None:
        import torch

        from engine.engine import InpaintEngine

        torch.set_num_threads(max(1, int(cpus)))
        self._parts = parts
        self._editor = PartEditor(InpaintEngine.from_pretrained(**plan.load), plan, tries)

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """What has become of each of a block's parts, a row each."""
        for number in batch["data"]:
            ended = self._editor.edit(self._parts.name(int(number)))
            yield {name: [value] for name, value in ended.items()}


class PartEditor:
    """Edits parts with one model.

    Args:
        engine: the model.
        plan: what all edits have in common.
        tries: see :func:`run_on_cluster`.
    """

    def __init__(self, engine: InpaintEngine, plan: Plan, tries: int) -> None:
        self.engine, self.plan, self.tries = engine, plan, tries
        self.drive = drive_at(plan.place)

    def edit(self, name: str) -> dict[str, Any]:
        """What has become of a part's items: how many are ``done`` and ``failed``, and lines to be
        ``told``. All that can be said of them is in the batch's folder.
        """
        with self.drive.open(f"{_PARTS}/{name}/items.jsonl") as file:
            items = [Item.of(line) for line in file]
        begun = self._marks(name)
        self._mark(name, "all")
        store = Store(self.plan.place, segment=name)
        counts: Counter[str] = Counter()
        lines: list[str] = []
        again = Again(self.tries)
        for outcome in self._outcomes(name, items, begun, again):
            self._check_own(name)
            say = partial(say_of, store, outcome, again)
            when_there_is_room(say, self.plan.place, _tell)
            counts["done" if isinstance(outcome, Done) else "failed"] += 1
            if isinstance(outcome, Failed):
                lines.append(f"{outcome.item.name}: {outcome.error}")
            if begun:  # the next one may be what killed the actor before
                when_there_is_room(store.flush, self.plan.place, _tell)
        self._check_own(name)
        when_there_is_room(store.flush, self.plan.place, _tell)
        if begun:  # what the actors before have ended is told with the part
            counts = Counter("failed" if bad else "done" for bad in self._lines(name).values())
        return {
            "done": counts["done"],
            "failed": counts["failed"],
            "told": "\n".join(lines),
        }

    def _outcomes(
        self, name: str, items: list[Item], begun: Counter[str], again: Again
    ) -> Iterator[Outcome]:
        edits = Edits(
            *(self.engine, self.plan.settings, self.drive, self.plan.together),
            told=_tell,
            check=partial(self._check_own, name),
        )
        if not begun:
            yield from edited(edits, items, again)
            return
        ended = set(self._lines(name))
        for index, item in enumerate(items):
            if item.name in ended:
                continue
            if begun[str(index)] >= self.tries:
                again.give_up(item, begun[str(index)])
                yield Failed(item, "the worker died with it", final=True)
                continue
            self._mark(name, str(index))
            yield from edited(edits, [item], again)

    def _check_own(self, name: str) -> None:
        """Write no more when the batch was begun anew by a driver, whose actors have other parts:
        this one's driver was killed, and Ray may not know it yet.
        """
        try:
            with self.drive.open(f"{_PARTS}/{name}/items.jsonl") as file:
                file.read(1)  # a bucket's listing may be remembered; what it gives is not
        except FileNotFoundError:
            place = self.plan.place
            raise OutputError(f"another run goes on with the batch in {place!r}.") from None

    # What an actor leaves for the one after it -------------------------------------------------

    def _marks(self, name: str) -> Counter[str]:
        """How often the part (``all``) and its items by their numbers were begun."""
        marks = self.drive.names(f"{_PARTS}/{name}")
        return Counter(mark.partition("-")[0] for mark in marks if mark != "items.jsonl")

    def _mark(self, name: str, what: str) -> None:
        mark = f"{_PARTS}/{name}/{what}-{secrets.token_hex(4)}"
        when_there_is_room(lambda: self.drive.write(mark, b"-"), self.plan.place, _tell)

    def _lines(self, name: str) -> dict[str, bool]:
        """The items of a part that have ended, and whether each has failed."""
        segments = [each for each in self.drive.names(SEGMENTS) if each.startswith(f"{name}-")]
        told = Store(self.plan.place).in_segments(f"{SEGMENTS}/{each}" for each in segments)
        return {line["item"]: "error" in line for line in told}


def _tell(line: str) -> None:
    """Say something where Ray takes it to the driver."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - what an actor prints
