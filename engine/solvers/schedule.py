"""Noise schedules: one job's own run of one fresh scheduler.

A :class:`Schedule` knows, by position and before the run starts, the noise level of every model
call and where a solver step begins and ends, and takes the steps.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.solvers.parameterisation import Parameterisation, parameterisation_of
from engine.solvers.quirks import (
    Never,
    forget_corrected,
    initial_scale,
    scaled_input,
    set_timesteps,
    step_arguments,
)
from engine.solvers.runs import Run

if TYPE_CHECKING:
    import torch

    from engine.types import Step


class Schedule:
    """One run of one scheduler.

    Args:
        scheduler: a fresh diffusers scheduler (:func:`engine.solvers.names.fresh_scheduler`); it is
            owned from now.
        num_inference_steps: N, the steps of a run at strength 1.
        strength: in (0, 1]; the run covers the last ``steps_for_strength(N, strength)`` of them.
        device: where the model's timesteps are kept; tables stay on the CPU.
        eta: of DDIM and TCD, in [0, 1]; None is the scheduler's default.
        parity: cut the run, and place composition after every model call, as diffusers' inpainting
            pipelines do.
        denoising_start, denoising_end: share of the training schedule in (0, 1) at which the run
            starts and stops, as in diffusers; None for the ends.
        arguments: further arguments of the scheduler's ``set_timesteps`` that the model's family
            knows: ``mu``, ``sigmas``.
        parameterisation: what the network predicts; None is what the scheduler's config says.

    Raises:
        InputError: the scheduler refuses these numbers or arguments, predicts something unknown, or
            no step is left.
    """

    def __init__(
        self,
        scheduler: Any,
        num_inference_steps: int,
        strength: float = 1.0,
        *,
        device: str | torch.device = "cpu",
        eta: float | None = None,
        parity: bool = False,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        parameterisation: Parameterisation | None = None,
    ) -> None:
        import numpy as np
        import torch

        self.scheduler = scheduler
        self.num_inference_steps = num_inference_steps
        self.strength = strength
        self.parity = parity
        self.parameterisation = parameterisation or parameterisation_of(scheduler)
        set_timesteps(scheduler, num_inference_steps, arguments)
        run = Run.cut(
            scheduler,
            num_inference_steps,
            strength,
            parameterisation=self.parameterisation,
            parity=parity,
            start=denoising_start,
            end=denoising_end,
        )
        self.calls_to_the_end: int = len(scheduler.timesteps) - run.begin
        """Model calls of a run that ``denoising_end`` does not cut: diffusers' pipelines measure
        the windows of ControlNets by them."""
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(run.begin)
        self.timesteps: torch.Tensor = scheduler.timesteps[list(run.indices)]
        self.device_timesteps = self.timesteps.to(torch.float32).to(device)
        """All timesteps as the network takes them: one float32 tensor on the device."""
        self.steps: tuple[Step, ...] = run.steps(self.parameterisation)
        self.num_steps: int = run.position(len(run.indices))
        """How many of the N steps this run has (fewer than the model calls of Heun, for one)."""

        accepted = inspect.signature(scheduler.step).parameters
        self._eta: dict[str, float] = {}
        if "eta" in accepted and (eta is not None or parity):
            self._eta["eta"] = 0.0 if eta is None else eta
        self._accepts_generator = "generator" in accepted
        self._window = {"s_tmin": Never()} if "s_tmin" in accepted else {}
        self._arguments = step_arguments(scheduler, self.timesteps)
        self._fixed = {
            key: value
            for key, value in vars(scheduler).items()
            if isinstance(value, torch.Tensor | np.ndarray) or key == "_internal_dict"
        }
        """The scheduler's tables and settings, which no step changes."""

    # What the loop calls ----------------------------------------------------------------------

    def __len__(self) -> int:
        """Model calls of the run."""
        return len(self.steps)

    def first_needed(self, resets: Sequence[bool]) -> int:
        """The first model call that can matter, if the latents are replaced wholly before each
        call i with ``resets[i]``.

        Everything before the last such call is forgotten, but for what a multistep scheduler keeps
        of it. How much that is, the scheduler itself is asked: a copy of it runs once, with one row
        for each candidate, whose predictions are NaN before the candidate's call. Candidates whose
        rows stay finite from the last reset on lose nothing.
        """
        import torch

        candidates = [index for index, each in enumerate(resets) if each]
        if not candidates or candidates[-1] == 0:
            return 0
        firsts = torch.tensor(candidates).view(-1, 1, 1, 1)
        shape = (len(candidates), 4, 1, 1)
        probe = copy.copy(self)
        probe.scheduler = copy.deepcopy(self.scheduler)
        generator = torch.Generator().manual_seed(0)
        latents, kept = torch.ones(shape), torch.ones(len(candidates), dtype=torch.bool)
        for step in self.steps:
            if resets[step.index]:
                latents = torch.ones(shape)
            prediction = 0 * probe.scale(latents, step)
            prediction = prediction.where(firsts <= step.index, math.nan)
            latents = probe.step(prediction, latents, step, generator)
            if step.index >= candidates[-1]:
                kept &= latents.isfinite().flatten(1).all(dim=1)
        return max((first for first, each in zip(candidates, kept, strict=True) if each), default=0)

    def pass_over(self, latents: torch.Tensor, step: Step, generator: Any) -> None:
        """Let the scheduler count a step that is not computed, and draw its noise."""
        self.scale(latents, step)
        self.step(latents.new_zeros(latents.shape), latents, step, generator)

    def save(self, store: Any = None) -> dict[str, Any]:
        """A copy of what the scheduler's steps have changed, for :meth:`restore`.

        ``store``: the device for the latents among it; None leaves them where they are.
        """
        changed = {
            key: value
            for key, value in vars(self.scheduler).items()
            if key not in self._fixed or value is not self._fixed[key]
        }
        saved: dict[str, Any] = _moved(copy.deepcopy(changed), store)
        return saved

    def restore(self, saved: Mapping[str, Any], device: Any = None) -> None:
        """Bring the scheduler to where an equal schedule's was, its latents to ``device``."""
        state = vars(self.scheduler)
        state.clear()
        state.update(self._fixed)
        state.update(_moved(copy.deepcopy(dict(saved)), device))

    def alike(self, other: Schedule) -> bool:
        """Whether both take the same steps, by the same scheduler with the same settings."""

        def facts(schedule: Schedule) -> tuple[Any, ...]:
            steps = [(s.position, s.starts, s.ends, s.level, s.next_level) for s in schedule.steps]
            scheduler = schedule.scheduler
            settings = {k: repr(v) for k, v in scheduler.config.items()}
            calls = schedule.timesteps.tolist()
            own = (schedule.parameterisation, schedule.num_steps, schedule._eta, calls, steps)
            return type(scheduler), settings, own

        return self is other or facts(self) == facts(other)

    def start(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``x0`` (b c h w) noised to the first level of the run."""
        return self.steps[0].level.noise_to(x0, noise)

    def start_from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Pure noise in the scale that the scheduler starts from."""
        return noise * initial_scale(self.scheduler)

    def scale(self, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """The model's input for these latents."""
        return scaled_input(self.scheduler, latents, step.timestep)

    def step(
        self,
        prediction: torch.Tensor,
        latents: torch.Tensor,
        step: Step,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """The scheduler's step. ``prediction`` and the result: b c h w."""
        if not self.parity:
            forget_corrected(self.scheduler)
        extra: dict[str, Any] = {**self._eta, **self._window}
        if self._accepts_generator:
            extra["generator"] = generator
        stepped: torch.Tensor = self.scheduler.step(
            prediction, self._arguments[step.index], latents, **extra, return_dict=False
        )[0]
        return stepped if stepped.dtype == latents.dtype else stepped.to(latents.dtype)

    def to_denoised(
        self, prediction: torch.Tensor, latents: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """The clean latents that ``prediction`` implies; all b c h w."""
        return self.parameterisation.denoised(prediction, latents, step.level)

    def from_denoised(
        self, denoised: torch.Tensor, latents: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """The inverse of :meth:`to_denoised`: the prediction that implies ``denoised``."""
        return self.parameterisation.prediction(denoised, latents, step.level)


def _moved(value: Any, device: Any) -> Any:
    """``value`` with the latents in it (tensors of 3 dimensions or more) on ``device``, if any."""
    import torch
    from torch.utils._pytree import tree_map_only

    if device is None:
        return value
    return tree_map_only(
        torch.Tensor, lambda each: each.to(device) if each.ndim >= 3 else each, value
    )
