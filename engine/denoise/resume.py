"""What a job was before each of its steps, kept so that another job can go on from there.

An edit that is made again with one thing changed repeats, step for step, the run before it until
the change first matters. Where that is, is not reasoned about but tried: a strategy's hooks are
pure, so what the new job's hooks make of the old run's latents tells whether a step is the same.
From the first step that is not, the new job continues with the old one's latents, a copy of its
scheduler and its generator's state, which is what a full run would have had, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from engine.types import Conditioning

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.types import Step


@dataclass(frozen=True, eq=False)
class Moment:
    """A job between two steps."""

    solver: Mapping[str, Any]
    """What :meth:`engine.solvers.schedule.Schedule.save` gave."""
    draws: torch.Tensor | None
    """The generator's state; the moment before's own if nothing has been drawn."""
    evaluations: int
    """Network evaluations of a full run until then."""

    def tensors(self) -> Iterator[torch.Tensor]:
        yield from _tensors(self.solver)
        if self.draws is not None:
            yield self.draws


class Trace:
    """The moments of one job, recorded while it runs.

    Args:
        job: not started yet.
        store: the device that keeps latents and scheduler states; None is where they are.
    """

    def __init__(self, job: Job, store: Any = None) -> None:
        self.job = copy.copy(job)
        """As it was handed in. Its state and conditioning are not changed by running."""
        self.store = store
        self.draws = _draws(job)
        self.first = 0
        """The first step that was computed."""
        self.sound = 0
        """The first step whose outcome is a full run's: those before it, after held steps that were
        not computed, only made up the history that a multistep scheduler keeps.
        """
        self.start = job.latents
        self.moments: list[Moment] = []
        """Before each step from ``first`` on, and after the last one recorded."""
        self.stepped: list[torch.Tensor] = []
        """What the scheduler's steps gave (b c h w), before ``after_step``."""

    def begin(self, job: Job, found: Resume | None) -> None:
        """Set ``job`` where ``found`` says, and record it from there."""
        if found is not None:
            self.first, self.start = found.trace.first, found.trace.start
            self.sound = found.trace.sound
            place = found.index - self.first
            self.moments = found.trace.moments[: place + 1]
            self.stepped = found.trace.stepped[:place]
            last = self.moments[-1]
            job.resume(found.index, found.latents, last.solver, last.evaluations)
            if (draws := last.draws) is not None:
                job.generator.set_state(draws)
        else:
            if job.begin:
                self.first, self.start = job.begin, torch.full_like(job.latents, torch.nan)
                self.sound = job.last_reset or 0
            self.moments.append(self._moment(job))
        job.trace = self

    def record(self, job: Job, stepped: torch.Tensor) -> None:
        """Add a step. ``stepped``: b c h w, as the scheduler gave it."""
        self.stepped.append(stepped if self.store is None else stepped.to(self.store))
        self.moments.append(self._moment(job))

    def _moment(self, job: Job) -> Moment:
        draws = _draws(job)
        before = self.moments[-1].draws if self.moments else self.draws
        if draws is not None and before is not None and torch.equal(draws, before):
            draws = before
        return Moment(job.schedule.save(self.store), draws, job.spared + job.calls)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is kept, shared tensors more than once."""
        yield self.start
        yield from self.stepped
        for moment in self.moments:
            yield from moment.tensors()

    def find(self, job: Job) -> Resume | None:
        """The last moment that ``job``, not started yet, would share with this run."""
        if not self._same_run(job):
            return None
        index, latents = self._first_difference(job)
        return Resume(self, index, latents) if index > self.sound else None

    def _first_difference(self, job: Job) -> tuple[int, torch.Tensor]:
        """Before which model call the two runs part, and ``job``'s latents there."""
        old, latents = self.job, self.start
        for place, kept in enumerate(self.stepped):
            index = self.first + place
            step = old.schedule.steps[index]
            if not _same_call(old, job, latents, step):
                return index, latents
            stepped = kept.to(latents.device)
            latents = old.strategy.after_step(old.state, stepped, step)
            mine = job.strategy.after_step(job.state, stepped, step)
            if not torch.equal(latents, mine):
                return index + 1, mine
        return self.first + len(self.stepped), latents

    def _same_run(self, job: Job) -> bool:
        old = self.job
        return (
            job.network is old.network
            and job.latents.shape == old.latents.shape
            and job.latents.dtype == old.latents.dtype
            and alike(self.draws, _draws(job))
            and job.schedule.alike(old.schedule)
            and alike(job.branches, old.branches)
            and (self.first > 0 or torch.equal(job.latents, self.start))
        )


@dataclass(frozen=True, eq=False)
class Resume:
    """Where a run can be continued: before model call ``index``, with ``latents``."""

    trace: Trace
    index: int
    latents: torch.Tensor


def _same_call(old: Job, new: Job, latents: torch.Tensor, step: Step) -> bool:
    """Whether both jobs ask the network the same at ``step``, from the same ``latents``, and do the
    same to its answer until the scheduler has it.
    """
    one = old.strategy.before_step(old.state, latents, step)
    two = new.strategy.before_step(new.state, latents, step)
    if not torch.equal(one, two):
        return False
    widened = [each.strategy.model_input(each.state, one, step) for each in (old, new)]
    strategies = (old.strategy, new.strategy)
    between = any(strategy.rewrites_denoised or strategy.refines for strategy in strategies)
    return (
        torch.equal(*widened)
        and old.guidance_at(step) == new.guidance_at(step)
        and alike(_residuals(old, step), _residuals(new, step))
        and (not between or alike((old.strategy, old.state), (new.strategy, new.state)))
    )


def _residuals(job: Job, step: Step) -> list[Any]:
    """What the job's controls read at ``step``; those that do not say are told by who they are."""
    read = [getattr(each, "reads", lambda _, own=each: (own,))(step) for each in job.controls]
    return [each for each in read if each]


def _draws(job: Job) -> torch.Tensor | None:
    return job.generator.get_state() if job.generator is not None else None


def alike(one: Any, two: Any) -> bool:
    """Whether two values are equal, the tensors in them to the bit."""
    if one is two:
        return True
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.device == two.device and torch.equal(one, two)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, Conditioning) and isinstance(two, Conditioning):
        return one.masks == two.masks and alike(one.tensors, two.tensors)
    several = isinstance(one, list | tuple) and type(one) is type(two)
    if several and len(one) == len(two):
        return all(alike(a, b) for a, b in zip(one, two, strict=True))
    return not several and type(one) is type(two) and bool(one == two)


def nbytes(traces: Sequence[Trace]) -> int:
    """Memory that the traces' tensors take; what they share counts once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for trace in traces
        for tensor in trace.tensors()
    }
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
