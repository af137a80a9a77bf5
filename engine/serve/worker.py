"""The one thread that owns the model: it reads what comes in, steps the runtime, and tells.

Everything that touches the model happens here, between two steps; the other threads ask for it with
:meth:`Worker.call`. Jobs stand in the worker's own queue until there is room in the runtime, and a
second runtime has what is done only while the first is idle.
"""

from __future__ import annotations

import logging
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import CancelledError
from engine.runtime.begin import begun
from engine.serve.errors import BusyError, LeavingError
from engine.serve.jobs import Job, JobState, Preview, failure
from engine.serve.rate import Rate

if TYPE_CHECKING:
    from engine.edit.memory import Renders
    from engine.engine import InpaintEngine
    from engine.request.request import EditRequest
    from engine.runtime.core import Runtime
    from engine.runtime.progress import Running
    from engine.serve.finisher import Finisher
    from engine.serve.limits import Limits
    from engine.types import Snapshot

Value = TypeVar("Value")

LOG = logging.getLogger("softpaint.serve")
PREVIEW_EVERY = 0.08
"""Seconds between two previews of a job, at least."""
PREVIEW_SHARE = 10
"""And so many times what making one took."""


class Worker(threading.Thread):
    """Runs jobs; everything but :meth:`call`, :meth:`close` and what is read is its thread's.

    Args:
        engine: the model.
        limits: of the queue, and of what runs at a time.
        finisher: measures what is done, and tells.
        settled: is called when a job has left the loop: what it keeps has its final size.
    """

    def __init__(
        self,
        engine: InpaintEngine,
        limits: Limits,
        finisher: Finisher,
        settled: Callable[[], None],
    ) -> None:
        super().__init__(name="softpaint-engine", daemon=True)
        self.engine = engine
        self.limits = limits
        self.rate = Rate()
        self.leaving = False
        """No job is taken any more."""
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        """In the order of their arrival; their tickets are in a runtime."""
        self._finisher = finisher
        self._settled = settled
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._fore, self._back = self._new_runtime(), self._new_runtime()

    # --- what other threads do -------------------------------------------------------------------

    def call(self, act: Callable[[], Value]) -> Future[Value]:
        """Do something between two steps; what it gives or raises is the future's."""
        future: Future[Value] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(act())
            except BaseException as error:  # noqa: BLE001 - it is for whoever asked
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def close(self) -> None:
        """End the thread after the step that runs; what has not left fails."""
        self.leaving = True
        self._inbox.put(None)

    @property
    def queued_steps(self) -> int:
        """Steps that are still to be made, of all that runs and waits."""
        return sum(job.total - job.done for job in [*self.running, *self.waiting])

    def retry_after(self) -> int:
        """Seconds until there will be room, by the measured rate."""
        rate = self.rate.value
        seconds = 1.0 if rate is None else self.queued_steps / rate
        return int(min(max(1.0, seconds + 0.5), 3600.0))

    # --- jobs ------------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Raise what a further job is refused with; asked before anything of it is read."""
        if self.leaving:
            raise LeavingError("the server is going down.", retry_after=30)
        if len(self.waiting) >= self.limits.queue:
            raise BusyError(
                f"{self.limits.queue} jobs may wait, and so many do.",
                retry_after=self.retry_after(),
            )

    def admit(self, job: Job) -> None:
        """Read a job's inputs and let it wait; it has failed where they are refused."""
        if job.over:  # cancelled on its way here
            job.admitted.set()
            return
        try:
            self.check_room()
            with _heard([job]):
                job.runs = self._runs(job)
            if job.measured:
                job.grounds = _grounds(job)
            job.total = sum(ticket.progress.total for ticket in job.tickets)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's alone
            self._fail(job, error)
        else:
            self.waiting.append(job)
            self.waiting.sort(key=lambda each: each.background)
            self._tell_places()
        job.admitted.set()

    def cancel(self, job: Job, reason: str = "the job was cancelled.") -> None:
        """End a job now; no effect on one that is over or in its last touches."""
        if job.over or (not job.tickets and job.began is not None):
            return
        self._end(job, CancelledError(reason))

    def drain(self) -> None:
        """Take no more jobs; those that wait are told so."""
        self.leaving = True
        for job in list(self.waiting):
            self._end(job, LeavingError("the server is going down.", retry_after=30))

    def end_all(self) -> None:
        """Fail what runs: there is no more time."""
        for job in list(self.running):
            self._end(job, LeavingError("the server went down while this ran.", retry_after=30))

    def _runs(self, job: Job) -> dict[str, Running]:
        requests = {
            label: replace(request, callback=self._watch(job), progress=False)
            for label, request in job.requests.items()
        }
        if job.together:
            tickets = self._fore.prepare(list(requests.values()), job.memory)
            return dict(zip(requests, tickets, strict=True))
        return {label: self._run_of(request, job.memory) for label, request in requests.items()}

    def _run_of(self, request: EditRequest, memory: Renders | None) -> Running:
        """A ticket, or several of which the best are kept."""
        if memory is None:
            return begun(self._fore, request, queued=False)
        return self._fore.prepare([request], memory)[0]

    def _watch(self, job: Job) -> Callable[[Snapshot], None]:
        """Makes previews of a job, as often as they cost little."""
        due = 0.0

        def watch(shot: Snapshot) -> None:
            nonlocal due
            began = perf_counter()
            if began < due or not job.watched or shot.index + 1 == shot.total:
                return
            image = shot.preview()
            number = job.show(Preview(image, self._box(job, shot)))
            taken = perf_counter() - began
            pause = max(PREVIEW_EVERY, PREVIEW_SHARE * taken)
            due = perf_counter() + (pause if job.previews is None else job.previews)
            box = self._box(job, shot)
            url = f"/api/jobs/{job.id}/previews/{number}"
            job.publish("preview", {"k": number, "url": url, "image": shot.image, "box": box})

        return watch

    def _box(self, job: Job, shot: Snapshot) -> tuple[int, int, int, int] | None:
        """What a preview shows of the picture, where that is one cut-out; else all of it."""
        prepared = job.tickets[0].prepared if job.tickets else None
        regions = prepared.regions if prepared is not None else []
        if len(regions) != 1 or shot.denoised is None:
            return None
        left, top, right, bottom, width, height = regions[0]
        if (right - left, bottom - top) != (width, height):
            return left, top, right, bottom
        rows, columns = (side * self.engine.backbone.cell for side in shot.denoised.shape[-2:])
        return left, top, left + columns, top + rows

    # --- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what was asked for, start what fits, take a step; again and again."""
        while True:
            idle = not self.running and (not self.waiting or self._finisher.full)
            if not self._do_calls(block=idle):
                break
            self._step(self._start())
        self.drain()
        self.end_all()

    def _do_calls(self, *, block: bool) -> bool:
        """Do all that was asked for; False is the end."""
        while True:
            try:
                act = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if act is None:
                return False
            act()
            block = False

    def _start(self) -> list[Job]:
        """Let jobs enter a runtime while there is room in it; those that do."""
        started: list[Job] = []
        while self.waiting and not self._finisher.full:
            job = self.waiting[0]
            others = [each for each in self.running if each.background == job.background]
            taken = sum(len(each.tickets) for each in others)
            if taken and taken + len(job.tickets) > self.limits.running:
                break
            if job.background and any(not each.background for each in self.running):
                break
            self.waiting.pop(0)
            self.running.append(job)
            job.place, job.began, job.state = 0, time(), JobState.RUNNING
            self._runtime(job).queue(job.tickets)
            job.publish("step", {"done": 0, "total": job.total})
            started.append(job)
        if started:
            self._tell_places()
        return started

    def _new_runtime(self) -> Runtime:
        return self.engine.runtime(touches=False)  # the finisher does, beside the next steps

    def _runtime(self, job: Job) -> Runtime:
        return self._back if job.background else self._fore

    def _step(self, started: Sequence[Job]) -> None:
        """One step of what runs; what is done at leisure stands still beside other work."""
        runtime = self._fore if self._fore.busy else self._back
        if not runtime.busy:
            return
        began = perf_counter()
        try:
            with _heard(started) if started else nullcontext():
                runtime.step()
        except Exception as error:  # a fault of ours: what ran is lost, the server is not
            LOG.exception("the loop failed")
            self._rescue(runtime, error)
            return
        moved = 0
        for job in list(self.running):
            if self._runtime(job) is not runtime:
                continue
            try:
                moved += self._follow(job)
            except Exception as error:  # noqa: BLE001 - this job's alone: the loop goes on
                self._end(job, error)
        self.rate.add(moved, perf_counter() - began)

    def _follow(self, job: Job) -> int:
        """Tell how far a job has come, and let it leave; how many steps it has made."""
        done = sum(ticket.progress.done for ticket in job.tickets)
        moved, job.done = done - job.done, done
        for run in job.runs.values():
            run.advance()
        error = next((run.error for run in job.runs.values() if run.error is not None), None)
        if error is not None and not job.tolerant:
            self._end(job, error)
        elif all(run.left for run in job.runs.values()):
            self._finish(job)
        elif moved:
            job.publish("step", {"done": done, "total": job.total})
        return moved

    def _finish(self, job: Job) -> None:
        """Give what the model has made to those who make pictures of it, measure and tell."""
        self.running.remove(job)
        runs = job.runs
        self._forget(job)
        self._settled()
        self._finisher.finish(job, runs, self._touched)

    def _touched(self, job: Job, error: Exception | None) -> None:
        """Called in the finisher's thread when it is done with a job."""
        self._inbox.put(lambda: None if error is None else self._fail(job, error))

    def _end(self, job: Job, error: Exception) -> None:
        """Take a job out of queue and runtime."""
        for ticket in job.tickets:
            self._runtime(job).abort(ticket)
        for several in (self.waiting, self.running):
            if job in several:
                several.remove(job)
        self._fail(job, error)
        self._tell_places()

    def _fail(self, job: Job, error: Exception) -> None:
        self._forget(job)
        self._settled()
        cancelled = isinstance(error, CancelledError)
        status = failure(error)["status"]
        if status == 500 and not cancelled:
            LOG.error("job %s failed", job.id, exc_info=error)
        job.error, job.ended, job.place = error, time(), 0
        state = JobState.CANCELLED if cancelled else JobState.FAILED
        job.publish(str(state), failure(error) | {"done": job.done, "total": job.total}, state)
        job.grounds = {}
        self._finisher.left(job)

    @staticmethod
    def _forget(job: Job) -> None:
        """Drop what a job held to run."""
        job.runs = {}
        if job.memory is not None:
            job.memory.keep()

    def _rescue(self, runtime: Runtime, error: Exception) -> None:
        """Fail all that ran in a runtime whose loop failed, and go on with a new one."""
        for job in list(self.running):
            if self._runtime(job) is runtime:
                self.running.remove(job)
                self._fail(job, error)
        if runtime is self._fore:
            self._fore = self._new_runtime()
        else:
            self._back = self._new_runtime()

    def _tell_places(self) -> None:
        for place, job in enumerate(self.waiting, 1):
            if job.place != place:
                job.place = place
                job.publish("queued", {"place": place})


@contextmanager
def _heard(jobs: Sequence[Job]) -> Iterator[None]:
    """Tell the clients what the engine warns of while their jobs are read or started."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    for each in heard:
        if issubclass(each.category, UserWarning):
            for job in jobs:
                if (text := str(each.message)) not in job.warnings:
                    job.warnings.append(text)


def _grounds(job: Job) -> dict[str, Any]:
    """By label, the original and the map of each edit; one of each where they share them."""
    prepared = [run.tickets[0].prepared for run in job.runs.values()]
    several = prepared[:1] * len(prepared) if job.together else prepared
    known = {id(each): (each.original, each.strength_map) for each in several if each is not None}
    return {label: known[id(each)] for label, each in zip(job.requests, several, strict=True)}
