"""Candidates of an edit of regions: the best start of each run, and not of the whole.

Runs apart have nothing to do with each other, so each is a contest of its own, in calls that all of
them share. The picture is made of the winners' latents; an edit in which each region names its
winner's seed makes it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from engine.edit.memory import Memory
from engine.edit.regional import PreparedRegions
from engine.edit.seeds import draw_seed
from engine.edit.strategies import build_each, named_in
from engine.errors import CancelledError
from engine.runtime.contest import Contest, chosen_of

if TYPE_CHECKING:
    from engine.edit.placing import Layout, Placed
    from engine.request.regions import Region
    from engine.request.request import EditRequest
    from engine.request.result import EditResult
    from engine.runtime.contest import Entry
    from engine.runtime.core import Runtime, Ticket

Groups = Sequence[Sequence["Placed"]]


class RegionalContest:
    """The contests of one edit's runs. It is stepped and asked as a
    :class:`~engine.runtime.contest.Contest`.

    Args:
        runtime: where they run.
        request: the edit.
        layout: its runs.
        queued: as for a contest.

    Raises:
        InputError: bad input; nothing was queued.
        ModelError: the judge's network is missing.
    """

    def __init__(
        self, runtime: Runtime, request: EditRequest, layout: Layout, *, queued: bool = True
    ) -> None:
        self.runtime, self.request, self.layout = runtime, request, layout
        seed = draw_seed() if request.seed is None else request.seed
        self._seeded = replace(request, seed=seed)
        self._failed: Exception | None = None
        self._making: list[Callable[[], EditResult]] | None = None
        self._units = units_of(layout)
        self.contests: list[Contest] = []
        for unit in self._units:
            own = Contest(
                runtime,
                _of_unit(self._seeded, unit),
                queued=False,
                layout=replace(layout, groups=unit),
                first=sum(len(each.entries) for each in self.contests),
            )
            self.contests.append(own)
        if queued:
            runtime.queue(self.tickets)

    @property
    def tickets(self) -> list[Ticket]:
        return [ticket for contest in self.contests for ticket in contest.tickets]

    @property
    def left(self) -> bool:
        """Whether the picture is there but for its last touches, or there will be none."""
        return self._making is not None or self._failed is not None

    @property
    def error(self) -> Exception | None:
        """What ended the edit."""
        errors = [contest.error for contest in self.contests]
        cancelled = (each for each in errors if isinstance(each, CancelledError))
        first = next((each for each in errors if each is not None), None)
        return self._failed or next(cancelled, first)

    def advance(self) -> None:
        """Let each contest decide; when all have, the model does its last."""
        if self.left:
            return
        for contest in self.contests:
            contest.advance()
        if (error := self.error) is not None:
            self._failed = error  # those that are aborted have errors too
            self.abort()
        elif all(contest.left for contest in self.contests):
            try:
                self._making = [self._finish(rank) for rank in range(self._kept)]
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this edit's alone
                self._failed = error

    def abort(self) -> None:
        """End all of it."""
        for contest in self.contests:
            contest.abort()

    def outcome(self) -> EditResult:
        """The best ``keep``, the best of each run first.

        Raises:
            Exception: what ended the edit.
            RuntimeError: it has not left yet.
        """
        if (error := self.error) is not None:
            raise error
        if self._making is None:
            raise RuntimeError("this edit's candidates are running: step its runtime")
        return chosen_of([make() for make in self._making], self.contests, self.request)

    # --------------------------------------------------------------------------------------------

    @property
    def _kept(self) -> int:
        """As many pictures as the run has that has most."""
        return max(len(contest.best) for contest in self.contests)

    def _finish(self, rank: int) -> Callable[[], EditResult]:
        """What makes the picture of each run's candidate of a ``rank``, or of its last."""
        winners = [contest.best[min(rank, len(contest.best) - 1)] for contest in self.contests]
        asked = self._asked(winners)
        regions = asked.regions or ()
        groups = [
            [
                each if not each.number else replace(each, region=regions[each.number - 1])
                for each in group
            ]
            for group in self.layout.groups
        ]
        layout = replace(self.layout, groups=groups)
        prepared = PreparedRegions(self.runtime.backbone, asked, Memory(), layout)
        jobs: dict[tuple[int, ...], Any] = {}
        for winner in winners:
            jobs |= cast("PreparedRegions", winner.prepared).jobs_of(winner.jobs)
        make = prepared.result(prepared.take(jobs), self.runtime.model, self.runtime.load)
        scores = [
            {"regions": contest.regions, "number": each.number, **each.judged[-1].scores}
            for contest, each in zip(self.contests, winners, strict=True)
        ]
        judge = self.request.judge if isinstance(self.request.judge, str) else "given"
        candidate = {"runs": scores, "of": len(self.tickets), "judge": judge}

        def made() -> EditResult:
            result = make()
            return replace(result, settings={**result.settings, "candidate": candidate})

        return made

    def _asked(self, winners: Sequence[Entry]) -> EditRequest:
        """The edit that makes the picture again: a run of one region has its seed from that, the
        others from the edit.
        """
        alone = replace(self._seeded, candidates=None, keep=None, judge="auto", enough=None)
        several = len(named_in(self._seeded.strategy)) > 1
        regions = list(self._seeded.regions or ())
        first = winners[0].request
        alone = replace(alone, strategy=first.strategy, options=first.options)
        for unit, winner in zip(self._units, winners, strict=True):
            if (number := _number_of(unit)) is None:
                own = winner.request
                alone = replace(alone, strategy=own.strategy, options=own.options, seed=own.seed)
            else:
                regions[number - 1] = _as_won(regions[number - 1], winner, several=several)
        return replace(alone, regions=tuple(regions))


def units_of(layout: Layout) -> list[Groups]:
    """Runs whose starts are chosen together: each that is of one region by itself, and all others,
    which have the edit's seed.
    """
    others = [group for group in layout.groups if _number_of([group]) is None]
    alone: list[Groups] = [[group] for group in layout.groups if _number_of([group]) is not None]
    alone.sort(key=lambda unit: unit[0][0].number)
    return [others, *alone] if others else alone


def _number_of(unit: Groups) -> int | None:
    """The number of the region that is a unit by itself."""
    if len(unit) == 1 and len(unit[0]) == 1 and unit[0][0].region is not None:
        return unit[0][0].number
    return None


def _of_unit(request: EditRequest, unit: Groups) -> EditRequest:
    """The contest of a unit: where its region names a strategy or a seed, that is not tried again
    and again.
    """
    names = named_in(request.strategy)
    count = request.contenders(len(names))
    region = None if _number_of(unit) is None else unit[0][0].region
    if region is not None and region.strategy is not None and len(names) > 1:
        names = build_each(names, request.options)[:1]
        request = replace(request, strategy=names[0], options={})
    if region is not None and region.seed is not None:
        count = len(names)
    return replace(request, candidates=count, keep=min(request.keep or 1, count))


def _as_won(region: Region, winner: Entry, *, several: bool) -> Region:
    """A region with the seed, and of several strategies the one, of its best candidate."""
    if region.seed is None:
        region = replace(region, seed=winner.prepared.seeds[0])
    if several and region.strategy is None:
        built = winner.request.strategy
        region = replace(region, strategy=built.name, options=dict(built.options))
    return region
