"""Langevin steps that sample what is repainted given what is held."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.denoise.evaluation import Inner
from engine.denoise.guidance import weighed
from engine.errors import InputError
from strategies.alone import HoldingAlone

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from engine.denoise.evaluation import Evaluation, Refinement
    from engine.denoise.strategy import Holders, StrategyContext
    from engine.types import Step

NOISY = 0.92
"""Share of a run's steps that have inner ones, about: 11 of 12 of Euler's."""
CLEAN_ENOUGH = 0.05
"""Share of noise in the variance below which there is nothing left to sample."""


class Condition(NamedTuple):
    """The clean original, who holds it, and what this part holds itself where nobody else does."""

    init_latents: torch.Tensor
    holders: Holders
    own: Any


@dataclass(frozen=True)
class Think(HoldingAlone):
    """Before each step of the solver, Langevin steps at its level, under the condition that what is
    held is the original (LanPaint: Zheng et al. 2025, "LanPaint: Training-Free Diffusion Inpainting
    with Asymptotically Exact and Fast Conditional Sampling", section 3).

    A blend tells the network what is known only by putting it there; what is repainted may have
    been decided by then. Here it is moved until it fits: ``n`` evaluations more at each step, none
    where next to no noise is left. They sample what the model knows, and so are not guided:
    guidance sharpens the distribution that they would have to keep to, and an evaluation without it
    costs half as much.

    The condition is what the strategy's other parts hold at the step, each position as strongly as
    it is held, so that it composes with soft maps; alone it holds as ``differential`` does.
    """

    n: int = field(default=7, metadata={"help": "inner steps at each step, 1 to 50"})

    lam: float = field(
        default=5.0, metadata={"help": "how firmly the inner steps hold what is known; from 0"}
    )

    step_size: float = field(
        default=0.2, metadata={"help": "size of an inner step, above 0, at most 1"}
    )

    guidance: float | None = field(
        default=1.0,
        metadata={
            "help": "guidance of the inner steps; 1 is the prompt unguided, None the edit's own"
        },
    )

    prompt_weight: float | None = field(
        default=None,
        metadata={
            "help": "guidance of what is known, in the inner steps; below 0 away from the prompt; "
            "None is theirs"
        },
    )

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or self.n not in range(1, 51):
            raise InputError(f"n must be a whole number from 1 to 50, not {self.n!r}.")
        for name, low, high, closed in (
            ("lam", 0, 1000, True),
            ("step_size", 0, 1, False),
            ("guidance", 0, 100, True),
            ("prompt_weight", -100, 100, True),
        ):
            value = getattr(self, name)
            if value is None and name in {"guidance", "prompt_weight"}:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high or (value == low and not closed):
                bound = f"from {low}" if closed else f"above {low}"
                raise InputError(f"{name} must be a number {bound} to {high}, not {value!r}.")

    def effort(self, *, guided: bool) -> float:
        unguided = self.guidance == 1 and self.prompt_weight in {None, 1}
        return 1 + NOISY * self.n * (0.5 if guided and unguided else 1)

    def prepare(self, context: StrategyContext) -> Condition:
        own = self.own_hold(context)
        return Condition(context.init_latents, self.holders(context, own), own)

    def refine(
        self,
        state: Condition,
        latents: torch.Tensor,
        step: Step,
        draw: Callable[[], torch.Tensor],
    ) -> Refinement | None:
        total = math.hypot(step.level.alpha, step.level.sigma)
        noise = (step.level.sigma / total) ** 2
        if not step.starts or step.last or noise < CLEAN_ENOUGH:
            return None
        return self._sample(state, latents, step, draw)

    def _sample(
        self,
        state: Condition,
        latents: torch.Tensor,
        step: Step,
        draw: Callable[[], torch.Tensor],
    ) -> Refinement:
        """Splitting steps of the underdamped kind: half of the linear part, the change of the drift
        in the middle, the other half.
        """
        total = math.hypot(step.level.alpha, step.level.sigma)
        share = (step.level.alpha / total) ** 2
        held = state.holders.at(step).float()
        pull = (1 + self.lam * held) / (1 - share)
        size = self.step_size * (1 - share)
        z = latents.float() / total
        drift: torch.Tensor | None = None
        for _ in range(self.n):
            if drift is not None:
                z = _relaxed(z, size / 2, pull, drift, draw().float())
            # what is known by another weight needs both branches
            weight = self.guidance if self.prompt_weight in {None, self.guidance} else None
            evaluation = yield Inner((z * total).to(latents.dtype), weight)
            target = self._target(state, evaluation, held)
            found = (math.sqrt(share) * target - z) / (1 - share) + pull * z
            if drift is None:
                z = _relaxed(z, size, pull, found, draw().float())
            else:
                z = z + (found - drift) * size
                z = _relaxed(z, size / 2, pull, drift, draw().float())
            drift = found
        return (z * total).to(latents.dtype)

    def _target(self, state: Condition, evaluation: Evaluation, held: torch.Tensor) -> torch.Tensor:
        """The clean latents that the drift leads to: predicted where free, where held beyond the
        original, away from what is predicted there.
        """
        guidance = evaluation.guidance
        denoised = evaluation.denoised(weighed(guidance, self.guidance)).float()
        other = denoised
        if self.prompt_weight is not None:
            other = evaluation.denoised(weighed(guidance, self.prompt_weight)).float()
        known = (1 + self.lam) * state.init_latents.float() - self.lam * other
        return denoised + held * (known - denoised)


def _relaxed(
    z: torch.Tensor, time: float, pull: torch.Tensor, drift: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """``dz = (drift - pull z) dt + sqrt(2) dW`` after ``time``, exact for a constant ``drift``."""
    decay = (-pull * time).exp()
    return decay * z + (1 - decay) / pull * drift + ((1 - decay**2) / pull).sqrt() * noise
