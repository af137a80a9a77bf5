"""The one loop. Everything that denoises goes through here.

A :class:`Loop` holds jobs: one edit, four strategies side by side and a server's queue are the same
thing to it. Each job owns its latents, its schedule, its generator and its strategy's state; jobs
whose model calls fit together share one forward, each row with its own timestep. Jobs may be
submitted at any time and leave when they are finished, cancelled or failed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from engine.errors import CancelledError, MemoryLimitError
from engine.types import Conditioning, Snapshot

if TYPE_CHECKING:
    from engine.denoise.guidance import Guidance
    from engine.denoise.strategy import Strategy
    from engine.models.base import Network
    from engine.solvers.schedule import Schedule
    from engine.types import Step

MAX_CELLS = 8 * 128 * 128
"""Latent positions (rows x h x w) in one shared call: 8 rows of a 1024-px SDXL picture."""
CPU_CELLS = 12 * 16 * 16
"""The same on a CPU: 12 rows of a 128-px picture. More rows make none of them cheaper there, and
all of them later (``row_s`` of the row ``arrivals`` in ``examples/benchmarks/run.py``)."""

ModelInput: TypeAlias = tuple[torch.Tensor, torch.Tensor, Mapping[str, Any]]
"""Sample, timesteps and residuals of a job's rows."""
Observer = Callable[[Snapshot], Any]


class Control(Protocol):
    """Something that adds residuals to the network's own (a ControlNet, for one)."""

    def residuals(
        self, scaled: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, step: Step
    ) -> Mapping[str, Any]:
        """Residuals by the UNet's argument names for ``scaled`` (B c h w, before widening), or
        nothing where the control is off.
        """


class Recorder(Protocol):
    """Keeps what a job goes through, so that another can go on from there."""

    def record(self, job: Job, stepped: torch.Tensor) -> None:
        """Add a step; ``stepped`` (b c h w) is what the scheduler gave, before ``after_step``."""


@dataclass(eq=False)
class Job:
    """One denoising run. ``latents`` are b c h w; conditionings have b rows."""

    name: str
    network: Network
    schedule: Schedule
    strategy: Strategy
    state: Sequence[Any]
    latents: torch.Tensor
    cond: Conditioning
    uncond: Conditioning | None
    guidance: Guidance
    generator: Any = None
    controls: Sequence[Control] = ()
    observer: Observer | None = None
    image: int = 0
    follow: Callable[[Job], Job] | None = None
    """Makes the job that enters the loop when this one has finished: the next stage."""
    successor: Job | None = field(default=None, init=False)
    index: int = field(default=0, init=False)
    """The model call that comes next."""
    begin: int = field(default=0, init=False)
    """The first model call that is computed; those before it are known not to matter."""
    error: Exception | None = field(default=None, init=False)

    resumed: bool = field(default=False, init=False)
    """What lies before ``begin`` was computed by another job."""
    trace: Recorder | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._guided = self.cond
        if self.uncond is not None:
            self._guided = Conditioning.join([self.uncond, self.cond])

    def guidance_at(self, step: Step) -> Guidance | None:
        """The guidance of ``step``; None where only the conditional branch is computed."""
        progress = step.position / self.schedule.num_steps
        return (
            self.guidance if self.uncond is not None and self.guidance.active_at(progress) else None
        )

    @property
    def copies(self) -> int:
        """How often each picture goes into this step's model call."""
        return 2 if self.guidance_at(self.schedule.steps[self.index]) else 1

    @property
    def rows(self) -> int:
        """This step's rows of the shared call."""
        return self.copies * self.latents.shape[0]

    @property
    def conditioning(self) -> Conditioning:
        """What the network is told at this step, a row for each of ``rows``."""
        return self._guided if self.copies == 2 else self.cond

    @property
    def done(self) -> bool:
        return self.error is not None or self.index >= len(self.schedule)

    def resume(self, index: int, latents: torch.Tensor, solver: Mapping[str, Any]) -> None:
        """Go on before model call ``index`` from where an equal job was."""
        self.begin = self.index = index
        self.latents = latents
        self.schedule.restore(solver, latents.device)
        self.resumed = True

    @property
    def calls(self) -> int:
        """Network evaluations so far, one for each row of its latents and step."""
        return (self.index - self.begin) * self.latents.shape[0]

    @property
    def spared(self) -> int:
        """Network evaluations that a full run would have had before ``begin``."""
        return self.begin * self.latents.shape[0]

    def first_needed(self) -> int:
        """The first model call that can matter: none does while the strategy replaces all that
        was computed.
        """
        return self.schedule.first_needed(self._resets())

    @property
    def last_reset(self) -> int | None:
        """The last model call before which the strategy replaces all latents, if there is one."""
        return max((index for index, each in enumerate(self._resets()) if each), default=None)

    def _resets(self) -> list[bool]:
        return [self.strategy.resets(self.state, step) for step in self.schedule.steps]

    def skip_to(self, index: int) -> None:
        """Go to model call ``index``, on which none before it has any influence. The scheduler
        counts and draws as if nothing had been left out: the result is the same to the bit.
        """
        self.begin = self.index = index
        for step in self.schedule.steps[:index]:
            self.schedule.pass_over(self.latents, step, self.generator)

    @property
    def chain(self) -> list[Job]:
        """This job and those that followed it, in order."""
        return [self, *(self.successor.chain if self.successor else ())]

    def make_successor(self) -> None:
        if self.follow is not None:
            self.successor = self.follow(self)

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Jobs with equal keys can share a model call."""
        shape = tuple(self.latents.shape[1:])
        return (id(self.network), shape, self.latents.dtype, self._guided.key())

    def model_input(self) -> ModelInput:
        """This step's rows of the shared call: sample, timesteps and residuals."""
        step = self.schedule.steps[self.index]
        self.latents = self.strategy.before_step(self.state, self.latents, step)
        scaled = self.schedule.scale(self.latents, step)
        timesteps = self.schedule.device_timesteps[self.index].expand(self.rows)
        residuals: Mapping[str, Any] = {}
        if self.controls:
            copies = torch.cat([scaled] * self.copies)
            residuals = add_residuals(
                control.residuals(copies, timesteps, self.conditioning, step)
                for control in self.controls
            )
        widened = self.strategy.model_input(self.state, scaled, step)
        return torch.cat([widened] * self.copies), timesteps, residuals

    def advance(self, output: torch.Tensor) -> None:
        """Take one step with the network's output for this job's rows."""
        step = self.schedule.steps[self.index]
        guidance = self.guidance_at(step)
        prediction = guidance.combine(*output.chunk(2)) if guidance else output
        denoised = None
        if self.strategy.rewrites_denoised or self.observer is not None:
            denoised = self.schedule.to_denoised(prediction, self.latents, step)
            if self.strategy.rewrites_denoised:
                denoised = self.strategy.denoised(self.state, denoised, self.latents, step)
                prediction = self.schedule.from_denoised(denoised, self.latents, step)
        stepped = self.schedule.step(prediction, self.latents, step, self.generator)
        self.latents = self.strategy.after_step(self.state, stepped, step)
        self.index += 1
        if self.trace is not None:
            self.trace.record(self, stepped)
        if self.observer is not None:
            shot = Snapshot(
                self.name,
                step.index,
                len(self.schedule),
                float(step.timestep),
                self.latents.clone(),
                self.image,
                denoised,
            )
            if self.observer(shot) is False:
                raise CancelledError(f"{self.name} was cancelled after step {self.index}.")


class Loop:
    """Advances jobs together until none is left.

    Args:
        max_cells: at most this many latent positions (rows x h x w) in one shared call; None is
            :data:`MAX_CELLS` or :data:`CPU_CELLS`, and less where memory is short.
    """

    def __init__(self, max_cells: int | None = None) -> None:
        self.max_cells = max_cells
        self.active: list[Job] = []
        self.calls = 0
        """Network forwards so far."""
        self._joined: dict[tuple[tuple[int, int], ...], Conditioning] = {}

    def submit(self, jobs: Iterable[Job]) -> None:
        """Let jobs enter; they take part from the next step on."""
        self.active.extend(jobs)

    @property
    def steps_left(self) -> int:
        """Of all active jobs together, later stages left out."""
        return sum(len(job.schedule) - job.index for job in self.active)

    def run(self) -> None:
        """Step until every job has left."""
        while self.active:
            self.step()

    @torch.no_grad()
    def step(self) -> None:
        """One model call for each kind of active jobs: for the first to come, as many as it takes.

        The others wait until a place is free: a run that shares its time with all that came after
        it ends with the last of them. A job that fails leaves with its ``error`` set.
        """
        for batch in list(self._batches()):
            inputs = [_guard(job, job.model_input) for job in batch]
            ready = [job for job in batch if job.error is None]
            if ready:
                self._advance(ready, [each for each in inputs if each is not None])
        for job in self.active:
            if job.done and job.error is None:
                _guard(job, job.make_successor)
        entering = [job.successor for job in self.active if job.successor]
        self.active = [job for job in self.active if not job.done] + entering
        if not self.active:
            self._joined.clear()

    def _advance(self, batch: Sequence[Job], inputs: Sequence[ModelInput]) -> None:
        """One shared call. Where it fails, each job has its own, so that one spoils no other's."""
        samples, timesteps, residuals = zip(*inputs, strict=True)
        rows = [job.rows for job in batch]
        try:
            output = self._predict(
                batch[0].network,
                torch.cat(samples),
                torch.cat(timesteps),
                self._conditioning(batch),
                join_residuals(residuals, rows),
            )
        except Exception as error:  # noqa: BLE001 - as in _guard
            if len(batch) == 1:
                batch[0].error = error
                return
            for job, own in zip(batch, inputs, strict=True):
                self._advance([job], [own])
            return
        for job, own_rows in zip(batch, output.split(rows), strict=True):
            _guard(job, partial(job.advance, own_rows))

    def _predict(
        self,
        network: Network,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        """A forward; in halves where memory does not suffice, and from then on in smaller batches.

        Raises:
            MemoryLimitError: not even one row fits.
        """
        rows, _, height, width = sample.shape
        try:
            output = network.predict(sample, timesteps, conditioning, residuals)
        except torch.OutOfMemoryError as error:
            if rows == 1:
                raise MemoryLimitError(height, width) from error
        else:
            self.calls += 1
            return output
        # Not in the handler: the exception keeps what the failed forward has allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = (rows + 1) // 2
        cells = half * height * width
        self.max_cells = cells if self.max_cells is None else min(self.max_cells, cells)
        parts = [
            self._predict(
                network,
                sample[part],
                timesteps[part],
                conditioning.take(part),
                take_rows(residuals, part),
            )
            for part in (slice(0, half), slice(half, rows))
        ]
        return torch.cat(parts)

    def _batches(self) -> Iterator[list[Job]]:
        """The first active jobs of each group that can share a call, in order of arrival."""
        groups: dict[tuple[Any, ...], list[Job]] = {}
        for job in self.active:
            if not job.done:  # else all of it was known when it entered
                groups.setdefault(job.batch_key, []).append(job)
        for group in groups.values():
            rows = list(accumulate(job.rows for job in group))
            yield group[: max(1, bisect_right(rows, self._row_limit(group[0], rows[-1])))]

    def _row_limit(self, job: Job, wanted: int) -> int:
        """At most so many rows like ``job``'s in one call, where ``wanted`` would share it."""
        height, width = job.latents.shape[-2:]
        limit = self.max_cells
        if limit is None:
            limit = CPU_CELLS if job.latents.device.type == "cpu" else MAX_CELLS
        rows = min(wanted, limit // (height * width))
        if rows <= job.rows:  # a job alone is tried in any case
            return rows
        return min(rows, job.network.cells_at_hand() // (height * width))

    def _conditioning(self, batch: Sequence[Job]) -> Conditioning:
        """The batch's joined conditioning, kept while the same jobs stay together."""
        if len(batch) == 1:
            return batch[0].conditioning
        key = tuple((id(job), job.copies) for job in batch)
        if key not in self._joined:
            alive = {id(job) for job in self.active}
            self._joined = {
                key: value
                for key, value in self._joined.items()
                if alive.issuperset(each for each, _ in key)
            }
            self._joined[key] = Conditioning.join([job.conditioning for job in batch])
        return self._joined[key]


def _guard(job: Job, act: Callable[[], Any]) -> Any:
    """Run ``act``; its failure ends this job and no other."""
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's alone
        job.error = error
        return None


def add_residuals(several: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The sum of several controls' residuals."""
    total: dict[str, Any] = {}
    for residuals in several:
        for key, value in residuals.items():
            if key not in total:
                total[key] = value
            elif isinstance(value, torch.Tensor):
                total[key] = total[key] + value
            else:
                total[key] = tuple(a + b for a, b in zip(total[key], value, strict=True))
    return total


def join_residuals(several: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> Mapping[str, Any]:
    """Residuals of a whole batch; a job without any gets zeros for its ``rows``."""
    joined: dict[str, Any] = {}
    for key in {key for residuals in several for key in residuals}:
        example = next(residuals[key] for residuals in several if key in residuals)
        blocks = [
            residuals[key] if key in residuals else _zeros(example, count)
            for residuals, count in zip(several, rows, strict=True)
        ]
        if isinstance(example, torch.Tensor):
            joined[key] = torch.cat(blocks)
        else:
            joined[key] = tuple(torch.cat(parts) for parts in zip(*blocks, strict=True))
    return joined


def take_rows(residuals: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Some rows of a batch's residuals."""
    return {
        key: value[rows] if isinstance(value, torch.Tensor) else tuple(each[rows] for each in value)
        for key, value in residuals.items()
    }


def _zeros(example: Any, rows: int) -> Any:
    if isinstance(example, torch.Tensor):
        return example.new_zeros((rows, *example.shape[1:]))
    return tuple(_zeros(part, rows) for part in example)
