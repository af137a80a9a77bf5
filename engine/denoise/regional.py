"""Guidance of a run that follows another prompt in each of several regions, by mixing predictions.

It works with every network. Where a network can follow several prompts in one call
(:mod:`engine.models.coupled`), that is cheaper and knows the picture as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from engine.denoise.guidance import Combination, Guider


@dataclass(frozen=True, eq=False, slots=True)
class Mixture:
    """One step's guidance in each region, mixed: ``sum_r w_r combine(predictions of r)``."""

    inner: Combination
    names: tuple[Mapping[str, str], ...]
    """For each region its branches by the names that ``inner`` has for them."""
    weights: torch.Tensor
    """1 r h w, of sum 1 at each position."""

    @property
    def branches(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(names[branch] for names in self.names for branch in self.inner.branches)
        )

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mixed: torch.Tensor | None = None
        for number, names in enumerate(self.names):
            own = {branch: predictions[names[branch]] for branch in self.inner.branches}
            share = self.inner.combine(own) * self.weights[:, number : number + 1]
            mixed = share if mixed is None else mixed + share
        assert mixed is not None  # noqa: S101 - there is a region
        return mixed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mixture):
            return NotImplemented
        same = self.inner == other.inner and self.names == other.names
        # a comparison of values waits for the device
        alike = self.weights is other.weights or torch.equal(self.weights, other.weights)
        return same and alike

    def __hash__(self) -> int:
        return hash(self.branches)


@dataclass(frozen=True, eq=False)
class RegionalGuidance:
    """How a run of several regions is guided: each as ``inner`` says, with its own branches."""

    inner: Guider
    names: Sequence[Mapping[str, str]]
    weights: torch.Tensor
    """1 r h w, of sum 1 at each position."""

    def at(self, progress: float) -> Mixture:
        return Mixture(self.inner.at(progress), tuple(self.names), self.weights)

    def weakened(self, share: float) -> RegionalGuidance:
        return replace(self, inner=self.inner.weakened(share))
