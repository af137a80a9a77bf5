"""Differential diffusion: every pixel is released at the step that its strength asks for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine.denoise.strategy import Part, StrategyContext
from engine.errors import InputError, SoftpaintWarning

if TYPE_CHECKING:
    import torch

    from engine.solvers.schedule import Schedule
    from engine.types import Step

FEW_STEPS = 9
"""Runs of fewer steps than this warn when the map has more levels than they can tell apart."""
MODES = ("relative", "absolute", "legacy")


class FewStepsWarning(SoftpaintWarning):
    """A strength map is finer than the run's steps."""


class Hold(NamedTuple):
    """Clean latents, their noise, and at which step of the run each position is released."""

    init_latents: torch.Tensor
    noise: torch.Tensor
    release: torch.Tensor
    """b 1 h w, int64: a position is free from the step of this number on."""
    num_steps: int
    last_held: torch.Tensor
    """b 1 h w, int64: a position is put back on the original's trajectory at the start of the steps
    up to this one."""
    first_free: int
    """The smallest of ``last_held``: up to it, all is held."""


@dataclass(frozen=True)
class DifferentialDiffusion(Part):
    """Holds each position on the original's trajectory until its own strength's time has come
    (Levin & Fried, "Differential Diffusion: Giving Each Pixel Its Strength", 2023).

    Time is counted in steps of the run, not in sigmas, so that a strength means the same share of
    the run under every noise schedule. At the start of step k of the n steps of the run (N being
    ``num_inference_steps`` and s the edit's ``strength``), a position of strength e is free if

    - ``relative``: ``e >= 1 - k/n``, so that it behaves like strength e * s of the whole (a flat
      map is such a run, to the bit, where the solver has no memory);
    - ``absolute``: ``e >= (n - k)/N``, so that it behaves like strength min(e, s);
    - ``legacy``: ``1 - e <= k/N``, the rule of the paper's code, in which ``strength`` below 1
      costs every position the same number of steps, about max(0, e + s - 1).

    Where a solver takes several steps at once (DPM++ singlestep), the release moves to the nearest
    of its starts, but for ``legacy``. With ``dither``, in runs of fewer than 9 steps, a
    strength between two that the steps can tell apart is a pattern of both; without, it is the
    lower one. After the last step, positions that were never released are
    the original's to the bit.
    """

    exclusive = "what holds the known region"

    strength_mode: str = field(
        default="relative",
        metadata={"help": "how the map and strength= combine: " + ", ".join(MODES)},
    )

    dither: bool = field(
        default=False,
        metadata={"help": "with few steps, mix two levels for one between; may look spotted"},
    )

    def __post_init__(self) -> None:
        if not isinstance(self.dither, bool):
            raise InputError(f"dither must be True or False, not {self.dither!r}.")
        if self.strength_mode not in MODES:
            raise InputError(
                f"strength_mode must be one of {', '.join(MODES)}, not {self.strength_mode!r}."
            )

    def prepare(self, context: StrategyContext) -> Hold:
        n, total = context.schedule.num_steps, context.schedule.num_inference_steps
        e = context.strength_map.cpu().double()  # not every device has float64
        share, offset = {
            "relative": (n, n),
            "absolute": (total, n),
            "legacy": (total, total),
        }[self.strength_mode]
        # e >= (offset - k) / share, solved for k; the margin forgives the rounding of maps such as
        # 0.3 in float32.
        ideal = (offset - e * share - 1e-4).clamp(min=-1)
        release = ideal.ceil()
        if n < FEW_STEPS and (levels := _levels(context, e)) > n + 1:
            dithered = self.dither and self.strength_mode != "legacy"
            warnings.warn(
                f"the map asks for {levels} different strengths, {n} steps can tell {n + 1} apart"
                f"{' and mix them' if dithered else ''}; more steps give finer ones.",
                FewStepsWarning,
                stacklevel=2,
            )
            if dithered:
                release = (ideal + _thresholds(*e.shape[-2:])).floor()
        release = release.clamp(min=0).long()
        if self.strength_mode != "legacy":
            release = _nearest_start(release, context.schedule)
            # What is released starts from the original at that step's level, as a whole run of
            # that strength does; with strength 1 from whatever the run starts from.
            last_held = release.where(release > 0, -1)
        else:
            last_held = release - 1
        device, first = context.init_latents.device, int(last_held.min())
        return Hold(
            context.init_latents, context.noise, release.to(device), n, last_held.to(device), first
        )

    def before_step(self, state: Hold, latents: torch.Tensor, step: Step) -> torch.Tensor:
        if not step.starts:
            return latents
        known = step.level.noise_to(state.init_latents, state.noise)
        return latents.where(state.last_held < step.position, known)

    def holds(self, state: Hold, step: Step) -> torch.Tensor:
        return (state.last_held >= step.position).to(state.init_latents.dtype)

    def resets(self, state: Hold, step: Step) -> bool:
        return step.starts and step.position <= state.first_free

    def after_step(self, state: Hold, latents: torch.Tensor, step: Step) -> torch.Tensor:
        if not step.last:
            return latents
        known = state.init_latents
        if step.next_level.sigma > 0:
            known = step.next_level.noise_to(known, state.noise)
        return latents.where(state.release < state.num_steps, known)


def _levels(context: StrategyContext, e: torch.Tensor) -> int:
    """How many strengths the edit asks for, at most: a hard edge that runs through latent cells
    asks for two, though the grid has all between.
    """
    on_grid = int(e.unique().numel())
    return on_grid if context.map_levels is None else min(on_grid, context.map_levels())


def _nearest_start(release: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """Each step number moved to the nearest at which the solver starts, the earlier of two; the
    end of the run (never) stays. Rounding up alone would be late by up to two steps.
    """
    import torch

    starts = [step.position for step in schedule.steps if step.starts]
    nearest = [min(starts, key=lambda s: (abs(s - k), s)) for k in range(schedule.num_steps)]
    return torch.tensor([*nearest, schedule.num_steps])[release.clamp(max=schedule.num_steps)]


def _thresholds(height: int, width: int) -> torch.Tensor:
    """Ordered dithering's 4 x 4 thresholds in (0, 1) (Bayer 1973), repeated over h x w."""
    import torch

    half = torch.tensor([[0, 2], [3, 1]])
    matrix = torch.kron(torch.ones(2, 2, dtype=torch.long), 4 * half) + torch.kron(
        half, torch.ones(2, 2, dtype=torch.long)
    )
    tiles = (-(-height // 4), -(-width // 4))
    return ((matrix + 0.5) / 16).repeat(tiles)[:height, :width].double()
