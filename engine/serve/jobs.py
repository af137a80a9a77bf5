"""A job: edits that are asked for together, what has happened to them, and their pictures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from engine.serve.errors import told
from engine.serve.ids import NAMING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from engine.edit.memory import Renders
    from engine.request.request import EditRequest
    from engine.request.result import Candidate, EditResult
    from engine.runtime.core import Ticket
    from engine.runtime.progress import Running

EVENTS = 256
"""Events that a job remembers for a client that comes back."""
PREVIEWS = 8
"""Previews that a job remembers."""


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True)
class Event:
    """Something that happened to a job."""

    number: int
    """From 1, one more for each of the job's events."""
    kind: str
    """queued, step, preview, finished, failed or cancelled."""
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Preview:
    """A picture of what a run is heading for."""

    image: Image.Image
    box: tuple[int, int, int, int] | None
    """left, top, right, bottom of what it shows of the canvas; None is all of it."""


@dataclass(eq=False)
class Output:
    """One picture of a finished job."""

    label: str
    """What tells it from the others: a strategy, a strength; empty where only seeds differ."""
    result: EditResult
    index: int
    """Which of the result's."""
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        return self.result.seeds[self.index]

    @property
    def picture(self) -> Image.Image:
        return self.result.picture(self.index)


@dataclass(eq=False)
class Job:
    """Edits that are asked for together.

    It belongs to the worker's thread, which alone changes its state; what is published is read
    from any thread.
    """

    requests: Mapping[str, EditRequest]
    """By label."""
    together: bool = False
    """They differ in strategy, options and controls only: read and encoded once."""
    background: bool = False
    """It waits until nothing else is to be done, and stands still while something is."""
    measured: bool = True
    """Its pictures get figures."""
    previews: float | None = None
    """Seconds between its previews; None is as often as is cheap, while somebody listens."""
    tolerant: bool = False
    """It is finished if any of its edits is; the others' errors are told."""
    memory: Renders | None = None
    """A session's."""
    nbytes: int = 0
    """What its inputs take."""
    id: str = field(default_factory=NAMING.new)
    state: JobState = JobState.QUEUED
    created: float = field(default_factory=time.time)
    began: float | None = None
    ended: float | None = None
    place: int = 0
    """In the queue, from 1; 0 is none."""
    done: int = 0
    total: int = 0
    """Steps of all its edits together."""
    error: Exception | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    """Of a tolerant job's edits, by label."""
    warnings: list[str] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    runs: Mapping[str, Running] = field(default_factory=dict)
    """By label, what runs of it in a runtime."""
    candidates: Sequence[Candidate] = ()
    """Everybody who was tried, where the best of several starts were asked for."""
    grounds: dict[str, tuple[Image.Image, NDArray[np.float32]]] = field(default_factory=dict)
    """By label, what its figures are measured against: the original and the map (H W)."""
    admitted: threading.Event = field(default_factory=threading.Event)
    """Its inputs were read, and taken or refused."""

    def __post_init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._previews: dict[int, Preview] = {}
        self._count = 0
        self._shown = 0
        self._lock = threading.Lock()
        self._listening: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        """For its end alone."""

    @property
    def over(self) -> bool:
        """Nothing about it changes any more."""
        return self.state in ENDS

    @property
    def tickets(self) -> list[Ticket]:
        """All that runs of it."""
        return [ticket for run in self.runs.values() for ticket in run.tickets]

    @property
    def watched(self) -> bool:
        """Whether previews are worth their time."""
        return self.previews is not None or bool(self._listening)

    # --- what the worker says --------------------------------------------------------------------

    def publish(
        self, kind: str, data: Mapping[str, Any] | None = None, state: JobState | None = None
    ) -> None:
        """Tell all who listen, and those who will; ``state`` is what it is in from here on."""
        with self._lock:
            self.state = state or self.state
            self._count += 1
            self._events.append(Event(self._count, kind, data or {}))
            told = [*self._listening, *(self._waiting if self.over else ())]
        for mark in told:
            try:
                mark[0].call_soon_threadsafe(mark[1].set)
            except RuntimeError:  # its loop is closed: nobody listens there any more
                self._listening.discard(mark)
                self._waiting.discard(mark)

    def show(self, preview: Preview) -> int:
        """Keep a preview; its number, from 0."""
        with self._lock:
            number = self._shown
            self._shown += 1
            self._previews[number] = preview
            self._previews.pop(number - PREVIEWS, None)
        return number

    # --- what clients ask ------------------------------------------------------------------------

    def preview(self, number: int) -> Preview | None:
        """Preview ``number``, if it is still there."""
        return self._previews.get(number)

    @property
    def last_preview(self) -> Preview | None:
        """The newest preview."""
        return self._previews.get(self._shown - 1)

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Its events with numbers above ``after``, those that were and those that come, until it is
        over.
        """
        mark = (asyncio.get_running_loop(), asyncio.Event())
        self._listening.add(mark)
        try:
            while True:
                mark[1].clear()
                with self._lock:
                    news = [event for event in self._events if event.number > after]
                    ended = self.over
                for event in news:
                    yield event
                    after = event.number
                    if event.kind in ENDS:
                        return
                if not news:
                    if ended:
                        return
                    await mark[1].wait()
        finally:
            self._listening.discard(mark)

    async def wait(self) -> None:
        """Until it is over, its last event published. Who waits wants no previews."""
        mark = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(mark)
            over = self.over
        try:
            if not over:
                await mark[1].wait()
        finally:
            self._waiting.discard(mark)

    def told(self) -> dict[str, Any]:
        """The job as JSON, for a client."""
        base = f"/api/jobs/{self.id}"
        shown: dict[str, Any] = {
            "id": self.id,
            "state": str(self.state),
            "events": f"{base}/events",
            "created": self.created,
            "seconds": self.seconds,
            "place": self.place,
            "done": self.done,
            "total": self.total,
            "warnings": self.warnings,
            "results": self.told_results() if self.state is JobState.FINISHED else [],
        }
        if self.candidates:
            shown["candidates"] = [self._told_candidate(each) for each in self.candidates]
        if self.errors:
            shown["errors"] = {label: told(error)[2] for label, error in self.errors.items()}
        if self.error is not None:
            shown["error"] = failure(self.error)
        return shown

    def told_results(self) -> list[dict[str, Any]]:
        """Its pictures as JSON, for a client."""
        return [
            {
                "url": f"/api/jobs/{self.id}/results/{number}.png",
                "label": output.label,
                "seed": output.seed,
                "width": output.picture.width,
                "height": output.picture.height,
                "figures": dict(output.figures),
                "settings": dict(output.result.settings),
                "seconds": output.result.timings.get("total", 0.0),
                "model_calls": output.result.model_calls,
                "reused_calls": output.result.reused_calls,
                "skipped_calls": output.result.skipped_calls,
            }
            for number, output in enumerate(self.outputs)
        ]

    def _told_candidate(self, candidate: Candidate) -> dict[str, Any]:
        last = candidate.judged[-1] if candidate.judged else None
        return {
            "number": candidate.number,
            "seed": candidate.seed,
            "strategy": candidate.strategy,
            "regions": list(candidate.regions),
            "left_at": candidate.left_at,
            "judged_at": last.share if last else None,
            "scores": dict(last.scores) if last else {},
            "url": f"/api/jobs/{self.id}/candidates/{candidate.number}.jpg" if last else None,
            "error": told(candidate.error)[2] if candidate.error is not None else None,
        }

    @property
    def seconds(self) -> float | None:
        """From its first step to its end, or to now."""
        if self.began is None:
            return None
        return (self.ended or time.time()) - self.began


def failure(error: BaseException) -> dict[str, Any]:
    """An error as JSON, for a client."""
    status, code, message = told(error)
    return {"status": status, "code": code, "message": message}
