"""A batch from its plan to its end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from engine.batch.drive import drive_at
from engine.batch.edits import Done, Edits, Outcome, when_there_is_room
from engine.batch.items import Item
from engine.batch.known import digest_of, mark_of
from engine.batch.store import Store
from engine.batch.workers import Again, Feed, Plan, Workers
from engine.errors import InputError
from engine.picture.source import is_address, is_own_alpha

if TYPE_CHECKING:
    from engine.engine import InpaintEngine

TRIES = 3
"""How often an item is tried whose error may pass."""


@dataclass
class Progress:
    """How far a batch has come."""

    total: int
    """Items in all."""
    earlier: int
    """Those that earlier runs have ended, done or failed."""
    done: int = 0
    """By this run."""
    failed: int = 0
    """By this run."""
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        """Items that have not ended."""
        return self.total - self.earlier - self.done - self.failed

    @property
    def rate(self) -> float:
        """Items a second of this run."""
        return (self.done + self.failed) / max(1e-9, time.monotonic() - self.began)

    def __str__(self) -> str:
        told = f"{self.total - self.left} of {self.total}"
        if self.failed:
            told += f", {self.failed} failed"
        if self.left and self.rate:
            told += f"; {60 * self.rate:.3g} a minute, {_spoken(self.left / self.rate)} left"
        return told


def run_batch(
    items: Iterable[Item],
    plan: Plan,
    *,
    engine: Callable[[], InpaintEngine],
    workers: int = 1,
    tries: int = TRIES,
    told: Callable[[str], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Store:
    """Edit every item once, whatever stops and restarts it.

    Args:
        items: in the order in which they are begun; iterated once.
        plan: where results go, and what all have in common.
        engine: makes the engine of this process; called where one worker has something to do.
        workers: processes; 1 is this one.
        tries: how often an item is tried whose error may pass.
        told: is called with a line where somebody should know of something.
        progress: is called whenever an item has ended.

    Returns:
        The batch's folder, closed.

    Raises:
        InputError: the folder holds another batch, or an input has changed since its edit.
        ModelError: the model cannot be loaded.
        OutputError: nothing can be written.
    """
    with Store(plan.place) as store, TemporaryFile() as spool:
        store.begin({"edit": plan.settings, "load": plan.load})
        survey = Survey(items, store)
        spool.writelines(item.line().encode() for item in survey.left())
        spool.seek(0)
        when_there_is_room(partial(store.expect, survey.total), store.drive.place, told)
        state = Progress(survey.total, survey.total - survey.count)
        progress(state)
        again = Again(tries)
        outcomes: Iterator[Outcome] = iter(())
        left = (Item.of(line) for line in spool)
        if survey.count and workers > 1:
            outcomes = Workers(plan, workers, again, told).run(left)
        elif survey.count:
            outcomes = _here(left, plan, engine(), again, told)
        for outcome in outcomes:
            say = partial(say_of, store, outcome, again)
            when_there_is_room(say, store.drive.place, told)
            if isinstance(outcome, Done):
                state.done += 1
            else:
                told(f"{outcome.item.name}: {outcome.error}")
                state.failed += 1
            progress(state)
        when_there_is_room(store.settle, store.drive.place, told)
    return store


def say_of(store: Store, outcome: Outcome, again: Again) -> None:
    """Write to a batch's folder what has become of an item."""
    if isinstance(outcome, Done):
        store.add(outcome.lines)
    else:
        store.fail(outcome.item.name, outcome.error, again.count(outcome.item))


def _here(
    items: Iterable[Item],
    plan: Plan,
    engine: InpaintEngine,
    again: Again,
    told: Callable[[str], None],
) -> Iterator[Outcome]:
    """What becomes of the items in this process."""
    edits = Edits(engine, plan.settings, drive_at(plan.place), plan.together, told)
    return edited(edits, items, again)


def edited(edits: Edits, items: Iterable[Item], again: Again) -> Iterator[Outcome]:
    """What becomes of the items in the end, in any order."""
    feed = Feed(items)
    for outcome in edits.run(feed):
        if again(outcome):
            feed.put(outcome.item)
        else:
            yield outcome


@dataclass
class Survey:
    """What of a batch is left to do."""

    items: Iterable[Item]
    store: Store
    total: int = 0
    """Items in all, once :meth:`left` has come to its end."""
    count: int = 0
    """Those that are left."""

    def left(self) -> Iterator[Item]:
        """The items that have not ended.

        Raises:
            InputError: what is done was made of other files or settings than are asked for now.
        """
        doubtful: dict[str, Item] = {}
        for item in self.items:
            self.total += 1
            if item.name in self.store.failures:
                continue
            mark = self.store.known.get(item.name)
            if mark is None:
                self.count += 1
                yield item
            elif mark != _mark(item):
                doubtful[item.name] = item
        if not doubtful:
            return
        for line in self.store.lines():
            if line["item"] in doubtful:
                _refuse_changed(doubtful.pop(line["item"]), line)
        self.count += len(doubtful)
        yield from doubtful.values()


def _mark(item: Item) -> int:
    """What :func:`engine.batch.store.mark_of` gives for an item whose files are as they were."""
    inputs = {}
    for name, path in item.files.items():
        if not (is_own_alpha(path) or is_address(path)):
            try:
                found = os.stat(path)  # noqa: PTH116 - half a million times
            except OSError:
                continue
            inputs[name] = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    return mark_of(item.own, inputs)


def _refuse_changed(item: Item, line: Mapping[str, Any]) -> None:
    """Refuse to count as done what was made of other files or settings than are asked for now."""
    own, inputs = json.loads(line["own"]), json.loads(line["inputs"])
    now = json.loads(item.own)
    changed = [name for name in {*own, *now} if own.get(name) != now.get(name)]
    changed += [
        name
        for name, path in item.files.items()
        if name in inputs and not _is_unchanged(path, inputs[name])
    ]
    if changed:
        raise InputError(
            f"{line['file_name']!r} was made with another {', '.join(sorted(changed))}; "
            "remove the picture's line and the picture to make it anew, or give another folder."
        )


def _is_unchanged(path: str, described: Mapping[str, Any]) -> bool:
    """Whether a file is what it was; read only where it was touched since."""
    if is_address(path):
        return bool(path == described["path"])
    try:
        found = Path(path).stat()
        if (found.st_size, found.st_mtime_ns) == (described["bytes"], described["mtime_ns"]):
            return True
        with Path(path).open("rb") as file:
            return bool(digest_of(file) == described["sha256"])
    except OSError:
        return True  # an input that is gone since is no other one


def _spoken(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
