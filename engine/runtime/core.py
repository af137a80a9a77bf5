"""The owner of the loop: ``add`` gives a ticket, ``step`` does a bit of work, ``abort`` ends one.

A server, a batch and a single edit are the same thing to it::

    runtime = Runtime(engine.backbone, engine.name)
    ticket = runtime.add(EditRequest(image=photo, mask=mask, prompt="a red house"))
    while runtime.busy:
        for left in runtime.step():
            print(left.state, left.error or left.result)

It runs in one thread: every method is called by the thread that steps, between two steps (but for
``abort``, which a callback may call too). What fails, fails alone: the ticket leaves with its
error, and the others go on.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.denoise.batching import out_of_memory
from engine.denoise.loop import Loop
from engine.edit.prepare import prepare
from engine.errors import CancelledError, InputError, MemoryLimitError
from engine.request.field import Range, check_number
from engine.request.request import EditRequest

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.edit.memory import Memory
    from engine.edit.placing import Layout
    from engine.edit.prepared import Prepared
    from engine.models import Backbone
    from engine.request.result import EditResult


class State(StrEnum):
    """Where a ticket stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    """It has its result."""
    FAILED = "failed"
    """It has the error that ended it."""
    ABORTED = "aborted"
    """Its callback returned False, or somebody called :meth:`Runtime.abort`."""


class Progress(NamedTuple):
    """Steps of a ticket's jobs together. ``done`` counts those that were left out because they
    could not matter, and never goes back.
    """

    done: int
    total: int


class Ticket:
    """One edit in a runtime, from :meth:`Runtime.add` on.

    What it takes of memory is free when it leaves: it keeps the request and the result.
    """

    def __init__(self, request: EditRequest, prepared: Prepared) -> None:
        self.request = request
        self.prepared: Prepared | None = prepared
        """What it runs from, until it leaves."""
        self.state = State.QUEUED
        self.result: EditResult | None = None
        self.error: Exception | None = None
        self.jobs: Sequence[Job] = ()
        """The first stage's, while it runs."""
        self.aborting = False
        """It leaves when the step that runs has ended."""
        self.held = False
        """It waits, see :meth:`Runtime.hold`."""
        self._progress = Progress(0, prepared.steps)
        self._finish: Callable[[], EditResult] | None = None

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        """Itself: an edit of one run."""
        return (self,)

    def advance(self) -> None:
        """Called after each step for what is decided on the way: nothing is."""

    @property
    def left(self) -> bool:
        """Whether it is finished, failed or aborted: nothing about it changes any more."""
        return self.state not in {State.QUEUED, State.RUNNING}

    @property
    def progress(self) -> Progress:
        """How far it has come, or had come when it left."""
        if self.jobs:
            done = sum(job.index for first in self.jobs for job in first.chain)
            self._progress = Progress(done, self._progress.total)
        return self._progress

    def release(self) -> None:
        """Drop all that it needs to run; a candidate's jobs wait for their last judgement, which
        may be the first one where a run is short.
        """
        self._progress = self.progress
        judged = self.prepared is not None and self.prepared.judged
        if not (judged and self.state is State.FINISHED):
            self.jobs = ()
        self.prepared = None

    def finish_with(self, make: Callable[[], EditResult]) -> None:
        """Leave, finished but for what ``make`` does."""
        self.state, self._finish = State.FINISHED, make
        self.release()

    def outcome(self) -> EditResult:
        """The result of a ticket that has left; where its runtime leaves the last touches to the
        caller, they are done now, in this thread.

        Raises:
            Exception: what ended it, a :class:`~engine.errors.CancelledError` if it was aborted.
            RuntimeError: it has not left yet.
        """
        if self._finish is not None:
            finish, self._finish = self._finish, None
            try:
                self.result = finish()
            except Exception as error:  # noqa: BLE001 - it is raised below
                self.error, self.state = _told(error), State.FAILED
                _forget_frames(error)
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise RuntimeError(f"this edit is {self.state}: step its runtime until it has left")
        return self.result


class Runtime:
    """Runs edits with one model, in shared model calls.

    Args:
        backbone: the model.
        model: its name, for the results' settings.
        load: the arguments of ``InpaintEngine.from_pretrained`` that load it again.
        max_running: how many tickets run at a time; the others are queued, and take no memory but
            for their pictures. None is all.
        touches: finish pictures (colours, paste) before their ticket leaves. Else
            :meth:`Ticket.outcome` does, in whose thread it is called: the model waits for none.
    """

    def __init__(
        self,
        backbone: Backbone,
        model: str,
        *,
        load: Mapping[str, Any] = MappingProxyType({}),
        max_running: int | None = None,
        touches: bool = True,
    ) -> None:
        if max_running is not None:
            check_number("max_running", max_running, Range(1), whole=True)
        self.backbone = backbone
        self.model = model
        self.load = load
        self.max_running = max_running
        self.touches = touches
        self._loop = Loop()
        self._queue: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        """In order of arrival."""
        self._stepping = False

    @property
    def busy(self) -> bool:
        """Whether there is a ticket that has not left."""
        return bool(self._queue or self._running)

    def add(self, request: EditRequest, memory: Memory | None = None) -> Ticket:
        """Queue an edit: its inputs are read and checked now, the model's work begins with the
        next step.

        Args:
            request: the edit.
            memory: what it takes over from earlier edits; None is nothing.

        Raises:
            InputError: bad input; nothing was queued.
        """
        return self.add_variants([request], memory)[0]

    def enter(self, request: EditRequest, prepared: Prepared) -> Ticket:
        """Queue an edit that :func:`engine.edit.prepare.prepare` has read and checked, in another
        thread say.
        """
        ticket = Ticket(request, prepared)
        self._queue.append(ticket)
        return ticket

    def add_variants(
        self, requests: Sequence[EditRequest], memory: Memory | None = None
    ) -> list[Ticket]:
        """Queue edits that differ in strategy, options, controls and seed only. What they have in
        common is read and encoded once, and those of one seed start from the same draws.

        Raises:
            InputError: bad input in one of them; nothing was queued.
        """
        tickets = self.prepare(requests, memory)
        self.queue(tickets)
        return tickets

    def prepare(
        self,
        requests: Sequence[EditRequest],
        memory: Memory | None = None,
        layout: Layout | None = None,
    ) -> list[Ticket]:
        """Tickets as :meth:`add_variants` makes them, which :meth:`queue` takes in later: for who
        has a queue of his own.

        Args:
            requests: the edits.
            memory: what they take over from earlier edits; None is nothing.
            layout: the runs that are made of edits of regions; None is all.

        Raises:
            InputError: bad input in one of them.
        """
        for request in requests:
            given: object = request
            if not isinstance(given, EditRequest):
                raise InputError(
                    f"a runtime takes EditRequests, not {type(given).__name__}: "
                    "engine.read(arguments) makes one."
                )
        try:
            several = prepare(self.backbone, requests, memory, layout)
        except RuntimeError as error:
            if out_of_memory(error):
                raise _told(error) from error
            raise
        return [Ticket(*each) for each in zip(requests, several, strict=True)]

    def queue(self, tickets: Iterable[Ticket]) -> None:
        """Let prepared tickets wait for their turn."""
        self._queue.extend(tickets)

    def step(self) -> list[Ticket]:
        """Let queued tickets start, take one step with all that run, and finish those that are
        done.

        Returns:
            The tickets that left, in order of arrival.
        """
        self._stepping = True
        try:
            left = self._start()
            began = perf_counter()
            ended = {job.owner for job in self._loop.step()}
            seconds = perf_counter() - began
        finally:
            self._stepping = False
        for ticket in list(self._running):
            if ticket.prepared is not None:
                ticket.prepared.clock.add("denoise", seconds)
            if ticket in ended or ticket.aborting:
                self._settle(ticket)
        # An interrupt may have come before this line in the step before.
        left += [ticket for ticket in self._running if ticket.left]
        self._running = [ticket for ticket in self._running if not ticket.left]
        return left

    def abort(self, ticket: Ticket) -> None:
        """End a ticket: at once between two steps, after the step that runs if a callback calls.
        What it held is free. No effect on one that has left.
        """
        if ticket.left:
            return
        if self._stepping:
            ticket.aborting = True
            return
        self._end(ticket, CancelledError("the edit was aborted."))
        self._queue = deque(queued for queued in self._queue if not queued.left)
        self._running = [running for running in self._running if not running.left]

    def hold(self, ticket: Ticket) -> None:
        """Let a running ticket wait, between two steps, until :meth:`let_go`. It keeps what it has
        computed; the others go on.
        """
        ticket.held = True
        for job in ticket.jobs:
            job.chain[-1].waits = True

    def let_go(self, ticket: Ticket) -> None:
        """Let a ticket that was held go on."""
        ticket.held = False
        for job in ticket.jobs:
            job.chain[-1].waits = False

    def close(self) -> None:
        """Abort all that has not left."""
        for ticket in [*self._running, *self._queue]:
            self.abort(ticket)

    # --------------------------------------------------------------------------------------------

    def _start(self) -> list[Ticket]:
        """Let tickets enter the loop in order of arrival, as many as may run; those that fail on
        the way leave.
        """
        left = []
        while self._queue and self._has_room():
            ticket = self._queue[0]  # it stays there until it runs: an interrupt may come
            assert ticket.prepared is not None  # noqa: S101 - it has not left
            try:
                jobs = ticket.prepared.start()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this ticket's alone
                self._end(ticket, error)
                left.append(self._queue.popleft())
                continue
            for job in jobs:
                job.owner = ticket
            ticket.jobs, ticket.state = jobs, State.RUNNING
            self._loop.submit(jobs)
            self._running.append(self._queue.popleft())
        return left

    def _has_room(self) -> bool:
        """Whether one more may run; those that wait for others take no place from them."""
        running = sum(not ticket.held for ticket in self._running)
        return self.max_running is None or running < self.max_running

    def _settle(self, ticket: Ticket) -> None:
        """Let a ticket leave if it is done."""
        chains = [job.chain for job in ticket.jobs]
        error = next((job.error for chain in chains for job in chain if job.error), None)
        if error is None and ticket.aborting:
            error = CancelledError("the edit was aborted.")
        if error is not None:
            self._end(ticket, error)
        elif all(chain[-1].done for chain in chains):
            self._finish(ticket)

    def _finish(self, ticket: Ticket) -> None:
        assert ticket.prepared is not None  # noqa: S101 - it has not left
        if ticket.prepared.is_part:
            ticket.state = State.FINISHED
            ticket.release()
            return
        try:
            make = ticket.prepared.result(ticket.jobs, self.model, self.load)
            if self.touches:
                ticket.result = make()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this ticket's alone
            self._end(ticket, error)
            return
        if self.touches:
            ticket.state = State.FINISHED
            ticket.release()
        else:
            ticket.finish_with(make)

    def _end(self, ticket: Ticket, error: Exception) -> None:
        """Take an unfinished ticket out of the loop."""
        ticket.error = _told(error)
        ticket.state = State.ABORTED if isinstance(error, CancelledError) else State.FAILED
        for job in ticket.jobs:
            self._loop.abort(job)
        ticket.release()
        _forget_frames(error)


def _told(error: Exception) -> Exception:
    """``error`` as users are told it."""
    if isinstance(error, MemoryLimitError) or not out_of_memory(error):
        return error
    told = MemoryLimitError("an edit, outside its denoising network (text, controls, VAE)")
    told.__cause__ = error
    return told


def _forget_frames(error: BaseException | None) -> None:
    """Drop the local variables of the frames that an error came through, which hold the failed
    edit's tensors for as long as somebody holds the error. Files and lines stay.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
