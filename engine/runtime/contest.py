"""Candidates: an edit begun several times, of which the best go on.

Successive halving: at set shares of the run everybody's clean prediction is judged, and all but the
best third stop and wait. Early looks are often wrong, and mostly it does not matter: several would
have done. Where it does, the judge says so of the finished picture, and those that wait are called
back, the best first, until one is good enough. So the few edits that need all their starts get
them, for less than half of what all starts would cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.edit.halving import SHARES, going_on
from engine.edit.placing import numbers_of
from engine.edit.seeds import draw_seed
from engine.edit.strategies import build_each, named_in
from engine.errors import CancelledError, InputError
from engine.picture.judging import enough_for, find_judge, score
from engine.request.fields import SEEDS
from engine.request.result import Candidate, EditResult, Judged
from engine.runtime.core import State

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.edit.placing import Layout
    from engine.edit.prepared import Prepared
    from engine.picture.judging import Judge, Scores
    from engine.request.request import EditRequest
    from engine.runtime.core import Runtime, Ticket
    from engine.types import Snapshot


@dataclass(eq=False)
class Entry:
    """One candidate on its way."""

    number: int
    request: EditRequest
    ticket: Ticket
    prepared: Prepared
    jobs: Sequence[Job] = ()
    judged: list[Judged] = field(default_factory=list)
    left_at: float | None = None
    """The share of its run after which it stopped, to wait and in the end to leave."""

    @property
    def share(self) -> float:
        """How much of what it has to compute is done, 0 to 1."""
        skipped = sum(job.begin for job in self.jobs)
        done, total = self.ticket.progress
        return (done - skipped) / max(total - skipped, 1)

    @property
    def calls(self) -> int:
        return sum(job.calls for first in self.jobs for job in first.chain)

    @property
    def score(self) -> float:
        """The last one."""
        return self.judged[-1].scores["total"] if self.judged else -1.0

    @property
    def running(self) -> bool:
        return not self.ticket.left and self.left_at is None

    @property
    def waiting(self) -> bool:
        """It stopped, and may be called back."""
        return not self.ticket.left and self.left_at is not None

    @property
    def finished(self) -> bool:
        """It has its picture, but for the last touches."""
        return self.ticket.state is State.FINISHED

    def watch(self) -> None:
        """Keep hold of the jobs, which a ticket lets go of when it leaves."""
        if self.ticket.jobs:
            self.jobs = self.ticket.jobs
        if self.ticket.left:
            self.ticket.jobs = ()

    def told(self) -> Candidate:
        """For the result."""
        failed = self.ticket.error if self.left_at is None else None
        return Candidate(
            number=self.number,
            seed=self.prepared.seeds[0],
            strategy=self.prepared.made_by,
            judged=tuple(self.judged),
            left_at=self.left_at,
            model_calls=self.calls,
            error=failed,
        )


class Contest:
    """The candidates of one edit in a runtime.

    Step the runtime and call :meth:`advance` after each step, until it has :attr:`left`.

    Args:
        runtime: where they run.
        request: the edit.
        shares: after which they are judged.
        cut: how many go on, of how many that run and are to be kept.
        queued: queue their tickets now; else that is left to the caller, see
            :meth:`~engine.runtime.core.Runtime.prepare`.
        layout: the runs of an edit of regions that it is about; the caller makes the picture.
        first: the first candidate's number.

    Raises:
        InputError: bad input; nothing was queued.
        ModelError: the judge's network is missing.
    """

    def __init__(
        self,
        runtime: Runtime,
        request: EditRequest,
        *,
        shares: Sequence[float] = SHARES,
        cut: Callable[[int, int], int] = going_on,
        queued: bool = True,
        layout: Layout | None = None,
        first: int = 0,
    ) -> None:
        self.runtime, self.request = runtime, request
        self.cut = cut
        own = runtime.backbone.judge
        self.judge: Judge | None = find_judge(request.judge, own)
        self.enough = enough_for(request.judge, own, request.enough)
        """What the judge says from which on nobody is called back; None: nobody is."""
        self.seconds = 0.0
        """That judging took."""
        self._shares = list(shares)
        several = [
            replace(each, callback=self._callback(number))
            for number, each in enumerate(contenders(request))
        ]
        tickets = runtime.prepare(several, layout=layout)
        groups = () if layout is None else layout.groups
        self.regions = tuple(number for group in groups for number in numbers_of(group))
        """Those that it is about, by their numbers; none: the whole edit."""
        self.entries = []
        for number, (each, ticket) in enumerate(zip(several, tickets, strict=True), start=first):
            assert ticket.prepared is not None  # noqa: S101 - it has not left
            ticket.prepared.judged, ticket.prepared.is_part = True, layout is not None
            self.entries.append(Entry(number, each, ticket, ticket.prepared))
        self._check()
        if queued:
            runtime.queue(tickets)

    @property
    def tickets(self) -> list[Ticket]:
        return [entry.ticket for entry in self.entries]

    @property
    def best(self) -> list[Entry]:
        """Of those that are finished the ``keep`` best, the best first."""
        finished = [entry for entry in self.entries if entry.finished]
        return sorted(finished, key=lambda entry: -entry.score)[: self.request.keep or 1]

    @property
    def left(self) -> bool:
        """Whether everybody is finished, failed or thrown out."""
        return all(ticket.left for ticket in self.tickets)

    @property
    def error(self) -> Exception | None:
        """What ended the edit; None if there is a result, or will be."""
        cancelled = self._cancelled
        if cancelled is not None:
            return cancelled
        if not self.left or any(ticket.state is State.FINISHED for ticket in self.tickets):
            return None
        return next(e.ticket.error for e in self.entries if e.ticket.error and e.left_at is None)

    def advance(self) -> None:
        """Judge those that have come far enough, let the worse wait, and in the end call them back
        or let them leave.
        """
        for entry in self.entries:
            entry.watch()
        if self._cancelled is not None:
            self.abort()
            return
        for entry in self.entries:
            if entry.finished and not self._is_finished(entry):
                self._judge(entry, 1.0, [job.chain[-1].latents for job in entry.jobs])
        self._cut_down()
        self._call_back()

    def abort(self) -> None:
        """End all of it."""
        for ticket in self.tickets:
            self.runtime.abort(ticket)

    def outcome(self) -> EditResult:
        """The best ``keep``, the best first.

        Raises:
            Exception: what ended the edit.
            RuntimeError: it has not left yet.
        """
        if (error := self.error) is not None:
            raise error
        if not self.left:
            raise RuntimeError("this edit's candidates are running: step its runtime")
        parts = tuple(self._part(entry) for entry in self.best)
        return chosen_of(parts, [self], self.request)

    def told(self) -> list[Candidate]:
        """Everybody, for the result."""
        return [replace(entry.told(), regions=self.regions) for entry in self.entries]

    # --------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if any(len(entry.prepared.seeds) != 1 for entry in self.entries):
            raise InputError("candidates are of one picture; give one image.")
        if not all(entry.prepared.can_be_seen for entry in self.entries):
            raise InputError("candidates are judged as pictures; latents were given as image.")

    def _callback(self, number: int) -> Callable[[Snapshot], Any] | None:
        """The caller's callback, told which candidate a snapshot is of."""
        callback = self.request.callback
        if callback is None:
            return None
        return lambda shot: callback(replace(shot, image=number))

    @property
    def _cancelled(self) -> Exception | None:
        """A candidate's cancelling by the callback, which is the whole edit's."""
        ended = [entry.ticket.error for entry in self.entries if entry.left_at is None]
        return next((error for error in ended if isinstance(error, CancelledError)), None)

    @staticmethod
    def _is_finished(entry: Entry) -> bool:
        return bool(entry.judged) and entry.judged[-1].share == 1.0

    def _cut_down(self) -> None:
        running = [entry for entry in self.entries if entry.running]
        while self._shares and running:
            share = self._shares[0]
            left = self.cut(len(running), self.request.keep or 1)
            if left >= len(running) and self.cut is going_on:
                return
            for entry in running:
                if entry.share >= share:
                    self.runtime.hold(entry.ticket)
            if not all(entry.ticket.held for entry in running):
                return
            for entry in running:
                self._judge(entry, share, [_clean(job) for job in entry.jobs])
            order = sorted(running, key=lambda entry: -entry.score)
            for entry in order[left:]:
                entry.left_at = share
            running = sorted(order[:left], key=lambda entry: entry.number)
            for entry in running:
                self.runtime.let_go(entry.ticket)
            self._shares.pop(0)

    def _call_back(self) -> None:
        """Where nobody runs: as many of those that wait as pictures are missing or not good enough,
        the best first; the end of all of them where there are none.
        """
        waiting = [entry for entry in self.entries if entry.waiting]
        if not waiting or any(entry.running for entry in self.entries):
            return
        keep = self.request.keep or 1
        missing = keep - sum(self._is_good_enough(entry) for entry in self.best)
        order = sorted(waiting, key=lambda entry: -entry.score)
        for entry in order[:missing]:
            entry.left_at = None
            self.runtime.let_go(entry.ticket)
        if not missing:
            for entry in waiting:
                self.runtime.abort(entry.ticket)

    def _is_good_enough(self, entry: Entry) -> bool:
        said = entry.judged[-1].scores.get("prompt", math.nan)
        return self.enough is None or not said < self.enough  # also where the judge cannot tell

    def _judge(self, entry: Entry, share: float, clean: Sequence[Any]) -> None:
        began = perf_counter()
        seen = entry.prepared.sight(clean)
        found: Scores = score(seen.looks, seen.asked, self.judge, finished=share == 1)
        entry.judged.append(Judged(share, found.told(), seen.preview()))
        self.seconds += perf_counter() - began

    def _part(self, entry: Entry) -> EditResult:
        """A candidate's own result, as its own edit makes it again."""
        result = entry.ticket.outcome()
        told = {
            "number": entry.number,
            "of": len(self.entries),
            "judge": self.request.judge if isinstance(self.request.judge, str) else "given",
            **entry.judged[-1].scores,
        }
        return replace(
            result,
            settings={**result.settings, "candidate": told},
            request=replace(entry.request, callback=self.request.callback),
        )


def chosen_of(
    parts: Sequence[EditResult], contests: Sequence[Contest], request: EditRequest
) -> EditResult:
    """The result of an edit whose best pictures are ``parts``, with all that were tried."""
    joined = EditResult.joined(parts)
    entries = [entry for contest in contests for entry in contest.entries]
    clocks = [entry.prepared.clock.read() for entry in entries]
    timings = {**joined.timings, "judge": sum(contest.seconds for contest in contests)}
    for phase in ("denoise", "total"):
        timings[phase] = max(clock.get(phase, 0.0) for clock in clocks)
    return replace(
        joined,
        parts=tuple(parts),
        candidates=tuple(each for contest in contests for each in contest.told()),
        timings=timings,
        model_calls=sum(entry.calls for entry in entries),
        request=request,
    )


def _clean(job: Job) -> Any:
    """The clean latents that a job, or the one before it, is heading for."""
    return next(each.denoised for each in reversed(job.chain) if each.denoised is not None)


def contenders(request: EditRequest) -> list[EditRequest]:
    """An edit's candidates, each by itself: every strategy with every seed, in turn."""
    names = named_in(request.strategy)
    count = request.contenders(len(names))
    first = draw_seed() if request.seed is None else request.seed
    alone = replace(request, candidates=None, keep=None, judge="auto", enough=None)
    if len(names) > 1:
        variants = [
            replace(alone, strategy=strategy, options={})
            for strategy in build_each(names, request.options)
        ]
    else:
        variants = [alone]
    return [
        replace(variants[number % len(variants)], seed=(first + number // len(variants)) % SEEDS)
        for number in range(count)
    ]
