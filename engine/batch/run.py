"""A batch from its plan to its end."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.batch.edits import Done, Edits, Outcome, is_same_file
from engine.batch.store import Store
from engine.batch.workers import Again, Plan, Workers
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.batch.items import Item
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
    items: Sequence[Item],
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
        items: in the order in which they are begun.
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
    with Store(plan.folder) as store:
        store.begin({"edit": plan.settings, "load": plan.load})
        _refuse_changed(items, store)
        ended = {line["item"] for line in store.lines.values()} | store.failures.keys()
        left = [item for item in items if item.name not in ended]
        state = Progress(len(items), len(items) - len(left))
        progress(state)
        again = Again(tries)
        outcomes: Iterator[Outcome] = iter(())
        if left and workers > 1:
            outcomes = Workers(plan, workers, again, told).run(left)
        elif left:
            outcomes = _here(left, plan, engine(), again, told)
        for outcome in outcomes:
            if isinstance(outcome, Done):
                store.add(outcome.lines)
                state.done += 1
            else:
                store.fail(outcome.item.name, outcome.error, again.count(outcome.item))
                told(f"{outcome.item.name}: {outcome.error}")
                state.failed += 1
            progress(state)
    return store


def _here(
    items: Sequence[Item],
    plan: Plan,
    engine: InpaintEngine,
    again: Again,
    told: Callable[[str], None],
) -> Iterator[Outcome]:
    """What becomes of the items in this process."""
    waiting: queue.Queue[Item | None] = queue.Queue()
    for item in items:
        waiting.put(item)
    left = len(items)
    edits = Edits(engine, plan.settings, plan.folder, plan.together, told)
    for outcome in edits.run(waiting):
        if again(outcome):
            waiting.put(outcome.item)
            continue
        left -= 1
        if not left:
            waiting.put(None)
        yield outcome


def _refuse_changed(items: Sequence[Item], store: Store) -> None:
    """Refuse to count as done what was made of other files or settings than are asked for now."""
    lines = {line["item"]: line for line in store.lines.values()}
    for item in items:
        line = lines.get(item.name)
        if line is None:
            continue
        changed = [name for name, value in item.settings.items() if line["own"].get(name) != value]
        changed += [name for name in line["own"] if name not in item.settings]
        changed += [
            name
            for name, path in item.files.items()
            if name in line["inputs"] and not _is_unchanged(path, line["inputs"][name])
        ]
        if changed:
            raise InputError(
                f"{line['file_name']!r} was made with another {', '.join(sorted(set(changed)))}; "
                "remove the picture's line and the picture to make it anew, or give another folder."
            )


def _is_unchanged(path: str, described: Mapping[str, Any]) -> bool:
    try:
        return is_same_file(path, described)
    except OSError:
        return True  # an input that is gone since is no other one


def _spoken(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
