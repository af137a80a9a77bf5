"""What the network said at a level, and inner iterations that ask it more than once there."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import torch

    from engine.denoise.guidance import Combination
    from engine.solvers.schedule import Schedule
    from engine.types import Step


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """The network's predictions for ``latents`` at ``step.level``."""

    schedule: Schedule
    step: Step
    latents: torch.Tensor
    """b c h w."""
    predictions: Mapping[str, torch.Tensor]
    """b c h w for each branch, by its name."""
    guidance: Combination
    """The step's own, or of the weight that an inner iteration asked for."""

    def prediction(self, guidance: Combination | None = None) -> torch.Tensor:
        """The branches combined (b c h w), by the step's guidance or by another of its branches."""
        return (guidance or self.guidance).combine(self.predictions)

    def denoised(self, guidance: Combination | None = None) -> torch.Tensor:
        """The clean latents (b c h w) that the combined prediction implies."""
        return self.schedule.to_denoised(self.prediction(guidance), self.latents, self.step)


class Inner(NamedTuple):
    """What an inner iteration wants to know: ``latents`` (b c h w) and how they are guided."""

    latents: torch.Tensor
    weight: float | None = None
    """Instead of the guidance scale; at 1 the unconditional branch is not computed. None is the
    step's own guidance."""


Refinement: TypeAlias = "Generator[torch.Tensor | Inner, Evaluation, torch.Tensor]"
"""Inner iterations at one level, before the solver's own evaluation: yields latents (b c h w) to be
evaluated, or an :class:`Inner`, and is sent their :class:`Evaluation`, any number of times, and
returns the latents that the solver's step starts from."""
