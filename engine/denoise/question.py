"""What a job asks the network, and how the rows of several jobs become one call.

This is the only file of the loop that looks into residuals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from engine.types import take_residuals

if TYPE_CHECKING:
    from engine.models import Network
    from engine.types import Conditioning, Residuals


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Rows of one network call."""

    sample: torch.Tensor
    """B c h w, as the network takes it."""
    timesteps: torch.Tensor
    """B."""
    conditioning: Conditioning
    """B rows."""
    residuals: Residuals

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, rows: slice) -> Rows:
        return Rows(
            self.sample[rows],
            self.timesteps[rows],
            self.conditioning.take(rows),
            take_residuals(self.residuals, rows),
        )


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """One evaluation of the network that a job needs."""

    network: Network
    parts: tuple[Rows, ...]
    """One for all branches, but where their conditionings cannot share a call."""


Answer: TypeAlias = tuple[torch.Tensor, ...] | Exception
"""What the network says of each part (B c h w), or why it could not."""


def add_residuals(residuals_of_controls: Iterable[Residuals]) -> Residuals:
    """The sum of several controls' residuals."""
    total: dict[str, Any] = {}
    for residuals in residuals_of_controls:
        for name, value in residuals.items():
            if name not in total:
                total[name] = value
            elif isinstance(value, torch.Tensor):
                total[name] = total[name] + value
            else:
                total[name] = tuple(a + b for a, b in zip(total[name], value, strict=True))
    return total


def join_residuals(residuals_of_jobs: Sequence[Residuals], rows: Sequence[int]) -> Residuals:
    """Residuals of a whole call; a job without any gets zeros for its ``rows``."""
    joined: dict[str, Any] = {}
    for name in {name for residuals in residuals_of_jobs for name in residuals}:
        example = next(residuals[name] for residuals in residuals_of_jobs if name in residuals)
        blocks = [
            residuals[name] if name in residuals else _zeros(example, count)
            for residuals, count in zip(residuals_of_jobs, rows, strict=True)
        ]
        if isinstance(example, torch.Tensor):
            joined[name] = torch.cat(blocks)
        else:
            joined[name] = tuple(torch.cat(levels) for levels in zip(*blocks, strict=True))
    return joined


def _zeros(example: Any, rows: int) -> Any:
    if isinstance(example, torch.Tensor):
        return example.new_zeros((rows, *example.shape[1:]))
    return tuple(_zeros(level, rows) for level in example)
