"""Guidance towards what a network predicts where it may not look at some places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from engine.denoise.guidance import Combination, Guider

BLIND = "blind"
"""``cond.blind`` is the branch ``cond`` with places hidden."""
DIM = "dim"
"""``cond.dim`` too, and what is in them looks less sharply."""


@dataclass(frozen=True, slots=True)
class Redirection:
    """One step: ``seeing + scale (blind - seeing)``, of predictions that ``inner`` combines. At a
    ``scale`` of 1 what is seen does not count, and is not asked for.
    """

    inner: Combination
    scale: float
    kind: str

    @property
    def branches(self) -> tuple[str, ...]:
        blind = tuple(f"{name}.{self.kind}" for name in self.inner.branches)
        return blind if self.scale == 1 else (*self.inner.branches, *blind)

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        own = {name: predictions[f"{name}.{self.kind}"] for name in self.inner.branches}
        blind = self.inner.combine(own)
        if self.scale == 1:
            return blind
        seeing = self.inner.combine(predictions)
        return seeing + self.scale * (blind - seeing)


@dataclass(frozen=True)
class RedirectionGuidance:
    """A run: all of its steps, the first of them with queries that look less sharply."""

    inner: Guider
    scale: float
    dim: float
    """Share of the run, in [0, 1], until which they do."""

    def at(self, progress: float) -> Redirection:
        kind = DIM if progress < self.dim else BLIND
        return Redirection(self.inner.at(progress), self.scale, kind)

    def weakened(self, share: float) -> RedirectionGuidance:
        return replace(self, inner=self.inner.weakened(share))
