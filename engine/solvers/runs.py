"""A scheduler's list of timesteps cut into the solver steps of one run.

diffusers' schedulers do not tell where a solver step begins and ends: Heun and KDPM2 visit a level
twice, PNDM repeats its first step, DPM-Solver singlestep groups its steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.solvers.quirks import has_no_training_schedule, level_at, repeats_first_step
from engine.types import CLEAN, Step

if TYPE_CHECKING:
    from engine.solvers.parameterisation import Parameterisation


def steps_for_strength(num_inference_steps: int, strength: float) -> int:
    """How many of ``num_inference_steps`` a run at ``strength`` in (0, 1] has: the nearest whole
    number, at least 1. (diffusers truncates, so that strength .9999 of 4 steps runs 3 of them.)
    """
    return max(1, min(num_inference_steps, math.floor(num_inference_steps * strength + 0.5)))


@dataclass(frozen=True)
class Run:
    """Which of a scheduler's timesteps one run visits. Tables are indexed by position, never by
    the timestep's value, which may repeat.

    ``scheduler``: its timesteps are set. ``parity``: as diffusers' pipelines cut and compose.
    """

    scheduler: Any
    begin: int
    """The first index of the run in the scheduler's tables."""
    indices: tuple[int, ...]
    """Of the run's model calls, in order."""
    parity: bool
    stops_early: bool
    """The run leaves noise, at ``denoising_end``."""

    @classmethod
    def cut(
        cls,
        scheduler: Any,
        num_inference_steps: int,
        strength: float,
        *,
        parameterisation: Parameterisation,
        parity: bool,
        start: float | None,
        end: float | None,
    ) -> Run:
        """The arguments are those of :class:`engine.solvers.schedule.Schedule`.

        Raises:
            InputError: no step is left.
        """
        if (start, end) != (None, None) and has_no_training_schedule(scheduler):
            raise InputError(
                "denoising_start and denoising_end are shares of a training schedule, and a model "
                "with EDM's preconditioning has none."
            )
        timesteps, order = scheduler.timesteps, int(scheduler.order)
        total, train = len(timesteps), scheduler.config.num_train_timesteps
        if start is not None:
            left = int((timesteps < round(train - start * train)).sum())
            if order == 2 and left % 2 == 0:
                left += 1  # do not start between the two evaluations of one step
            begin = total - min(left, total)
        elif parity:
            steps = parameterisation.steps_like_diffusers(num_inference_steps, strength)
            begin = (num_inference_steps - steps) * order
        else:
            steps = steps_for_strength(num_inference_steps, strength)
            begin = (num_inference_steps - steps) * order
        indices = list(range(begin, total))
        if repeats_first_step(scheduler) and begin > 0 and not parity:
            # The scheduler counts its own calls, so a run that starts later needs its own
            # repeated second timestep: T[k], T[k+1], T[k+1], T[k+2], ... (diffusers leaves it out,
            # and then every later sample is one step behind its label).
            begin += 1
            indices = [begin, *range(begin + 1, begin + 2), *range(begin + 1, total)]
            indices = [index for index in indices if index < total]
        if end is not None:
            cutoff = round(train - end * train)
            indices = [index for index in indices if float(timesteps[index]) >= cutoff]
        if not indices:
            raise InputError(
                f"nothing to do: {num_inference_steps} steps at strength {strength} leave no step."
            )
        return cls(scheduler, begin, tuple(indices), parity, end is not None)

    def starts(self) -> list[bool]:
        """Whether a solver step starts at each model call."""
        if self.parity:
            return [True] * len(self.indices)
        if self.scheduler.order == 2:
            return [index % 2 == 0 for index in self.indices]
        if repeats_first_step(self.scheduler):
            return [place != 1 for place in range(len(self.indices))]
        if hasattr(self.scheduler, "order_list"):
            # DPM-Solver singlestep: the value at the start of a group is what it steps from.
            orders = self.scheduler.order_list
            return [index == self.begin or orders[index] == 1 for index in self.indices]
        return [True] * len(self.indices)

    def position(self, place: int) -> int:
        """How many user-visible steps lie before the ``place``-th call of the run."""
        if self.scheduler.order == 2:
            return (place + 1) // 2
        if repeats_first_step(self.scheduler) and place > 1:
            return place - 1
        return place

    def steps(self, parameterisation: Parameterisation) -> tuple[Step, ...]:
        """The run's model calls, with the levels between them."""

        def level(index: int) -> Any:
            return level_at(self.scheduler, index, parameterisation, parity=self.parity)

        count, starts, after = len(self.indices), self.starts(), self.indices[-1] + 1
        goes_on = self.stops_early and not self.parity and after < len(self.scheduler.timesteps)
        levels = [*map(level, self.indices), level(after) if goes_on else CLEAN]
        steps, position = [], 0
        for place, index in enumerate(self.indices):
            if starts[place]:
                position = self.position(place)
            steps.append(
                Step(
                    index=place,
                    timestep=self.scheduler.timesteps[index],
                    position=position,
                    starts=starts[place],
                    ends=place == count - 1 or starts[place + 1],
                    level=levels[place],
                    next_level=levels[place + 1],
                    last=place == count - 1,
                )
            )
        return tuple(steps)
