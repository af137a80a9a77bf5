"""Noise schedules: diffusers' schedulers by name, and their runs cut into solver steps.

A :class:`Schedule` is one job's own run of one fresh scheduler. It knows, by position and before
the run starts, the noise level of every model call and where a solver step begins and ends, which
diffusers' schedulers do not tell: Heun and KDPM2 visit a level twice, PNDM repeats its first step,
DPM-Solver singlestep groups its steps. Levels are explicit, because ``add_noise`` of a scheduler
that has started ignores the timestep it is given.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.registry import Registry
from engine.types import CLEAN, Level, Step

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SchedulerInfo:
    """A scheduler by name: its class, and what is changed in the model's own config."""

    name: str
    description: str
    kind: str | type
    """A class with the interface of diffusers' schedulers, or the name of one of diffusers'."""
    changes: Mapping[str, Any] = field(default_factory=dict)

    def build(self, config: Any) -> Any:
        """A new scheduler for a model whose own scheduler has ``config``."""
        import diffusers

        kind: Any = getattr(diffusers, self.kind) if isinstance(self.kind, str) else self.kind
        return kind.from_config(config, **self.changes)


SCHEDULERS = Registry("scheduler", SchedulerInfo, "softpaint.schedulers")

for _info in (
    SchedulerInfo("euler", "Euler's method; even, the default of SDXL", "EulerDiscreteScheduler"),
    SchedulerInfo(
        "euler-karras",
        "Euler's method on Karras' noise levels",
        "EulerDiscreteScheduler",
        {"use_karras_sigmas": True},
    ),
    SchedulerInfo(
        "euler-trailing",
        "Euler's method from the very first noise level; few steps",
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing"},
    ),
    SchedulerInfo(
        "euler-a",
        "Euler's method with fresh noise at every step",
        "EulerAncestralDiscreteScheduler",
    ),
    # Their default clips the denoised sample to [-1, 1], which pixels need and latents cannot bear.
    SchedulerInfo(
        "ddim", "DDIM (Song et al. 2020); takes eta", "DDIMScheduler", {"clip_sample": False}
    ),
    SchedulerInfo(
        "ddpm", "DDPM (Ho et al. 2020), ancestral sampling", "DDPMScheduler", {"clip_sample": False}
    ),
    SchedulerInfo(
        "dpmpp-2m", "DPM-Solver++, second order from the step before", "DPMSolverMultistepScheduler"
    ),
    SchedulerInfo(
        "dpmpp-2m-karras",
        "DPM-Solver++ 2M on Karras' noise levels",
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True},
    ),
    SchedulerInfo(
        "dpmpp-2m-sde",
        "DPM-Solver++ 2M of the stochastic equation",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    SchedulerInfo(
        "dpmpp-2m-sde-karras",
        "DPM-Solver++ 2M SDE on Karras' noise levels",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    SchedulerInfo(
        "dpmpp-2s",
        "DPM-Solver++, second order in groups of steps",
        "DPMSolverSinglestepScheduler",
        {"lower_order_final": True},
    ),
    SchedulerInfo(
        "deis", "DEIS (Zhang and Chen 2022), exponential integrator", "DEISMultistepScheduler"
    ),
    SchedulerInfo(
        "unipc",
        "UniPC (Zhao et al. 2023), predictor and corrector; few steps",
        "UniPCMultistepScheduler",
    ),
    SchedulerInfo(
        "sa-solver", "SA-Solver (Xue et al. 2023), stochastic Adams", "SASolverScheduler"
    ),
    SchedulerInfo("heun", "Heun's method; two model calls a step", "HeunDiscreteScheduler"),
    SchedulerInfo("kdpm2", "k-diffusion's DPM2; two model calls a step", "KDPM2DiscreteScheduler"),
    SchedulerInfo(
        "kdpm2-a",
        "DPM2 with fresh noise; two model calls a step",
        "KDPM2AncestralDiscreteScheduler",
    ),
    SchedulerInfo("lms", "linear multistep", "LMSDiscreteScheduler"),
    SchedulerInfo(
        "pndm",
        "PNDM (Liu et al. 2022), the default of SD 1.x",
        "PNDMScheduler",
        {"skip_prk_steps": True},
    ),
    SchedulerInfo("lcm", "latent consistency models' own; 4 to 8 steps", "LCMScheduler"),
    SchedulerInfo("tcd", "trajectory consistency models' own; takes eta", "TCDScheduler"),
):
    SCHEDULERS.register(_info)


NEW = 32
_NEW: dict[tuple[str, type, int], tuple[Any, Any]] = {}
"""Unused schedulers, the last :data:`NEW`, with the configs that they were made of. A copy takes a
quarter of the time in which diffusers reads a config."""


def list_schedulers() -> list[str]:
    """The names that ``scheduler=`` accepts."""
    return SCHEDULERS.names()


def check_scheduler(scheduler: object) -> None:
    """Raise ``InputError`` unless ``scheduler`` is None, a known name or a diffusers scheduler."""
    if isinstance(scheduler, str):
        SCHEDULERS.get(scheduler)
    elif scheduler is not None and not (
        hasattr(scheduler, "set_timesteps") and hasattr(scheduler, "from_config")
    ):
        raise InputError(
            f"scheduler must be a name or a diffusers scheduler, not {type(scheduler).__name__}."
        )


def fresh_scheduler(scheduler: Any, model_scheduler: Any) -> Any:
    """A new scheduler instance that shares no state with anything.

    ``scheduler``: None for the model's own kind, a name of :func:`list_schedulers` (the model's
    config with that kind's changes), or a diffusers scheduler, of which a fresh copy is made.
    """
    check_scheduler(scheduler)
    name = scheduler if isinstance(scheduler, str) else ""
    like = model_scheduler if name or scheduler is None else scheduler
    config = like.config
    key = (name, type(like), id(config))
    known = _NEW.get(key)
    if known is None or known[0] is not config:
        made = SCHEDULERS.get(name).build(config) if name else type(like).from_config(config)
        if len(_NEW) >= NEW:
            _NEW.pop(next(iter(_NEW)), None)
        known = _NEW[key] = config, made
    return copy.deepcopy(known[1])


def steps_for_strength(num_inference_steps: int, strength: float) -> int:
    """How many of ``num_inference_steps`` a run at ``strength`` in (0, 1] has: the nearest whole
    number, at least 1. (diffusers truncates, so that strength .9999 of 4 steps runs 3 of them.)
    """
    return max(1, min(num_inference_steps, math.floor(num_inference_steps * strength + 0.5)))


class _Never(float):
    """A bound that nothing reaches. Given as Euler's ``s_tmin``, it answers whether this sigma is
    churned (never: ``s_churn`` is 0) without reading the sigma from its tensor.
    """

    def __le__(self, other: object) -> bool:
        return False


class Schedule:
    """One run of one scheduler.

    Args:
        scheduler: a fresh diffusers scheduler (see :func:`fresh_scheduler`); it is owned from now.
        num_inference_steps: N, the steps of a run at strength 1.
        strength: in (0, 1]; the run covers the last ``steps_for_strength(N, strength)`` of them.
        device: where the model's timesteps are kept; tables stay on the CPU.
        eta: of DDIM and TCD, in [0, 1]; None is the scheduler's default.
        parity: cut the run, and place composition after every model call, as diffusers' inpainting
            pipelines do.
        denoising_start, denoising_end: share of the training schedule in (0, 1) at which the run
            starts and stops, as in diffusers; None for the ends.

    Raises:
        InputError: the scheduler refuses these numbers, or no step is left.
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
    ) -> None:
        import numpy as np
        import torch

        self.scheduler = scheduler
        self.num_inference_steps = num_inference_steps
        self.strength = strength
        self.parity = parity
        try:
            scheduler.set_timesteps(num_inference_steps, device="cpu")
        except (ValueError, IndexError, AssertionError) as error:
            name = type(scheduler).__name__
            raise InputError(
                f"{name} cannot run {num_inference_steps} steps with this model's settings: {error}"
            ) from error

        begin, indices = self._cut(strength, denoising_start, denoising_end)
        if not indices:
            raise InputError(
                f"nothing to do: {num_inference_steps} steps at strength {strength} leave no step."
            )
        self.calls_to_the_end: int = len(scheduler.timesteps) - begin
        """Model calls of a run that ``denoising_end`` does not cut: diffusers' pipelines measure
        the windows of ControlNets by them."""
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        self.timesteps: torch.Tensor = scheduler.timesteps[indices]
        self.device_timesteps = self.timesteps.to(torch.float32).to(device)
        """All timesteps as the network takes them: one float32 tensor on the device."""
        self.steps: tuple[Step, ...] = self._steps(begin, indices, denoising_end)
        self.num_steps: int = self._position(begin, indices, len(indices))
        """How many of the N steps this run has (fewer than the model calls of Heun, for one)."""

        accepted = inspect.signature(scheduler.step).parameters
        self._eta: dict[str, float] = {}
        if "eta" in accepted and (eta is not None or parity):
            self._eta["eta"] = 0.0 if eta is None else eta
        self._accepts_generator = "generator" in accepted
        self._window = {"s_tmin": _Never()} if "s_tmin" in accepted else {}
        self._arguments: list[Any] = [step.timestep for step in self.steps]
        if not hasattr(scheduler, "sigmas") and not self.timesteps.is_floating_point():
            self._read_tables_now()
        self._fixed = {
            key: value
            for key, value in vars(scheduler).items()
            if isinstance(value, torch.Tensor | np.ndarray) or key == "_internal_dict"
        }
        """The scheduler's tables and settings, which no step changes."""

    def _read_tables_now(self) -> None:
        """DDIM's kind looks its tables up by timestep at every step; Python's numbers cost it no
        read of a tensor.
        """
        scheduler = self.scheduler
        if hasattr(scheduler, "get_scalings_for_boundary_condition_discrete"):
            # LCM computes with the timestep too: the tensor's float32 results are kept.
            scale = scheduler.get_scalings_for_boundary_condition_discrete
            known = scheduler.timesteps.tolist()
            scalings = dict(zip(known, map(scale, scheduler.timesteps), strict=True))
            scheduler.get_scalings_for_boundary_condition_discrete = scalings.__getitem__
            scheduler.timesteps = known
        self._arguments = self.timesteps.tolist()

    # The run, cut out of the scheduler's list of timesteps ------------------------------------

    @property
    def _order(self) -> int:
        return int(self.scheduler.order)

    def _repeats_first_step(self) -> bool:
        """PNDM without Runge-Kutta steps computes its first step twice."""
        return hasattr(self.scheduler, "plms_timesteps") and self.scheduler.config.skip_prk_steps

    def _cut(
        self, strength: float, start: float | None, end: float | None
    ) -> tuple[int, list[int]]:
        """The first index of the run in the scheduler's tables, and the indices of its calls."""
        timesteps = self.scheduler.timesteps
        total = len(timesteps)
        train = self.scheduler.config.num_train_timesteps
        if start is not None:
            left = int((timesteps < round(train - start * train)).sum())
            if self._order == 2 and left % 2 == 0:
                left += 1  # do not start between the two evaluations of one step
            begin = total - min(left, total)
        elif self.parity:
            steps = min(int(self.num_inference_steps * strength), self.num_inference_steps)
            begin = (self.num_inference_steps - steps) * self._order
        else:
            steps = steps_for_strength(self.num_inference_steps, strength)
            begin = (self.num_inference_steps - steps) * self._order
        indices = list(range(begin, total))
        if self._repeats_first_step() and begin > 0 and not self.parity:
            # The scheduler counts its own calls, so a run that starts later needs its own
            # repeated second timestep: T[k], T[k+1], T[k+1], T[k+2], ... (diffusers leaves it out,
            # and then every later sample is one step behind its label).
            begin += 1
            indices = [begin, *range(begin + 1, begin + 2), *range(begin + 1, total)]
            indices = [index for index in indices if index < total]
        if end is not None:
            cutoff = round(train - end * train)
            indices = [index for index in indices if float(timesteps[index]) >= cutoff]
        return begin, indices

    def _starts(self, begin: int, indices: list[int]) -> list[bool]:
        if self.parity:
            return [True] * len(indices)
        if self._order == 2:
            return [index % 2 == 0 for index in indices]
        if self._repeats_first_step():
            return [place != 1 for place in range(len(indices))]
        if hasattr(self.scheduler, "order_list"):
            # DPM-Solver singlestep: the value at the start of a group is what it steps from.
            return [i == begin or self.scheduler.order_list[i] == 1 for i in indices]
        return [True] * len(indices)

    def _position(self, begin: int, indices: list[int], place: int) -> int:
        """How many user-visible steps lie before the ``place``-th call of the run."""
        if self._order == 2:
            return (place + 1) // 2
        if self._repeats_first_step() and place > 1:
            return place - 1
        return place

    def _level(self, index: int) -> Level:
        """Level of the sample that the model is given at ``index`` of the scheduler's tables."""
        scheduler = self.scheduler
        if not hasattr(scheduler, "sigmas"):
            import torch

            cumprod = scheduler.alphas_cumprod.to(torch.float32)
            # The same float32 operations as add_noise: parity to the bit depends on them.
            timestep = int(_read(scheduler.timesteps[index]))
            alpha, sigma = cumprod[timestep] ** 0.5, (1 - cumprod[timestep]) ** 0.5
            return Level(_read(alpha), _read(sigma))
        sigmas = scheduler.sigmas
        if hasattr(scheduler, "sigmas_interpol") and index % 2 == 1 and not self.parity:
            # KDPM2's second evaluation; the ancestral kind keeps its tables one place earlier.
            sigmas = scheduler.sigmas_interpol
            index -= hasattr(scheduler, "sigmas_down")
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
            # diffusers' own conversion, flow and variance-preserving alike
            alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigmas[index])  # noqa: SLF001
            return Level(_read(alpha), _read(sigma))
        return Level(1.0, _read(sigmas[index]))

    def _steps(
        self, begin: int, indices: list[int], denoising_end: float | None
    ) -> tuple[Step, ...]:
        count = len(indices)
        starts = self._starts(begin, indices)
        after = indices[-1] + 1
        final = CLEAN
        if denoising_end is not None and not self.parity and after < len(self.scheduler.timesteps):
            final = self._level(after)
        levels = [*(self._level(index) for index in indices), final]
        steps = []
        position = 0
        for place in range(count):
            if starts[place]:
                position = self._position(begin, indices, place)
            steps.append(
                Step(
                    index=place,
                    timestep=self.timesteps[place],
                    position=position,
                    starts=starts[place],
                    ends=place == count - 1 or starts[place + 1],
                    level=levels[place],
                    next_level=levels[place + 1],
                    last=place == count - 1,
                )
            )
        return tuple(steps)

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
            return type(scheduler), settings, schedule.num_steps, schedule._eta, calls, steps

        return self is other or facts(self) == facts(other)

    def start(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``x0`` (b c h w) noised to the first level of the run."""
        return self.steps[0].level.noise_to(x0, noise)

    def start_from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Pure noise in the scale that the scheduler starts from."""
        scale = self.scheduler.init_noise_sigma
        return noise * (float(scale) if hasattr(scale, "item") else scale)

    def scale(self, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """The model's input for these latents."""
        scaled: torch.Tensor = self.scheduler.scale_model_input(latents, step.timestep)
        return scaled

    def step(
        self,
        prediction: torch.Tensor,
        latents: torch.Tensor,
        step: Step,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """The scheduler's step. ``prediction`` and the result: b c h w."""
        if not self.parity and getattr(self.scheduler, "last_sample", None) is not None:
            # UniPC's and SASolver's correctors replace the latents that they are given by their own
            # re-estimate, and with it whatever a strategy composed into them.
            self.scheduler.last_sample = None
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
        alpha, sigma = step.level.alpha, step.level.sigma
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return (latents - sigma * prediction) / alpha
        if kind == "v_prediction":
            # x0 = a x - s v holds on the unit sphere, so variance-exploding latents are scaled.
            norm = math.hypot(alpha, sigma)
            return (alpha * latents / norm - sigma * prediction) / norm
        return prediction

    def from_denoised(
        self, denoised: torch.Tensor, latents: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """The inverse of :meth:`to_denoised`: the prediction that implies ``denoised``."""
        alpha, sigma = step.level.alpha, step.level.sigma
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return (latents - alpha * denoised) / sigma
        if kind == "v_prediction":
            norm = math.hypot(alpha, sigma)
            return (alpha * latents / norm - norm * denoised) / sigma
        return denoised


def _read(value: Any) -> float:
    """A number out of a table on the CPU, without the dispatched read that ``float()`` is."""
    return float(value.numpy() if hasattr(value, "numpy") else value)


def _moved(value: Any, device: Any) -> Any:
    """``value`` with the latents in it (tensors of 3 dimensions or more) on ``device``, if any."""
    import torch
    from torch.utils._pytree import tree_map_only

    if device is None:
        return value
    return tree_map_only(
        torch.Tensor, lambda each: each.to(device) if each.ndim >= 3 else each, value
    )
