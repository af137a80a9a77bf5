"""Which branches of the network a step needs, and how their predictions become one.

A guider is asked at every step for a :class:`Combination`: the names of the conditionings that the
network is evaluated with, and what is made of the answers. Classifier-free guidance is one such
value; one for each region, or with a third prompt, is another, and the loop knows none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import torch

    from engine.types import Conditioning

COND = "cond"
UNCOND = "uncond"


class Combination(Protocol):
    """How one step is guided. Equal combinations make equal predictions of equal branches."""

    @property
    def branches(self) -> tuple[str, ...]:
        """The conditionings that the network is evaluated with, by the job's names for them, in
        the order of the rows of the call.
        """

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One prediction (b c h w) of the branches' (b c h w each, of the same inputs)."""


class Guider(Protocol):
    """How a run is guided."""

    def at(self, progress: float) -> Combination:
        """The guidance of a step before which ``progress``, in [0, 1], of the run lies."""

    def weakened(self, share: float) -> Guider:
        """The same with a ``share``, in [0, 1], of what goes beyond no guidance."""


@dataclass(frozen=True, slots=True)
class Unguided:
    """The conditional prediction as it is, at every step."""

    branches: tuple[str, ...] = (COND,)

    def at(self, progress: float) -> Unguided:
        return self

    def weakened(self, share: float) -> Unguided:
        return self

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return predictions[COND]


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Classifier-free guidance of one step (Ho & Salimans 2022), see :class:`Guidance`."""

    scale: float
    rescale: float = 0.0
    branches: tuple[str, ...] = (UNCOND, COND)

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        uncond, cond = predictions[UNCOND], predictions[COND]
        guided = self.guided(cond, uncond)
        return rescale_guided(guided, cond, self.rescale) if self.rescale > 0 else guided

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
        """The guided prediction before it is rescaled; all b c h w."""
        return uncond + self.scale * (cond - uncond)

    def weighing(self, weight: float) -> ClassifierFree:
        """The same with ``uncond + weight (cond - uncond)``, however its own scale is counted."""
        return replace(self, scale=weight)


def weighed(guidance: Combination, weight: float | None) -> Combination:
    """The same of another weight, at 1 without the unconditional branch; as it is where ``weight``
    is None, and where it is no classifier-free guidance.
    """
    if weight is None or not isinstance(guidance, ClassifierFree):
        return guidance
    return Unguided() if weight == 1 else guidance.weighing(weight)


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of a run, optionally rescaled and in a part of it only.

    ``scale`` above :attr:`off` guides; else the unconditional branch is never computed. A family
    that guides in another way has a guidance derived from this.
    ``start`` and ``end`` in [0, 1] are the share of the run in which it guides, from ``start``
    until before ``end``; the unconditional branch is not computed outside it (Kynkaanniemi et al.
    2024, "Applying Guidance in a Limited Interval").
    ``rescale`` in [0, 1] is the phi of Lin et al. 2023, section 3.4: it brings the standard
    deviation of the guided prediction back towards that of the conditional one.
    """

    scale: float = 5.0
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0

    off: ClassVar[float] = 1.0
    """The scale that is none."""

    @property
    def active(self) -> bool:
        return self.scale > self.off

    def weakened(self, share: float) -> Guidance:
        """The same with a ``share`` of what goes beyond no guidance."""
        if not self.active or share == 1:
            return self
        return replace(self, scale=self.off + share * (self.scale - self.off))

    def at(self, progress: float) -> Combination:
        # A run without an end guides its last call too: where calls repeat, it may lie at 1.
        inside = self.start <= progress and (progress < self.end or self.end == 1)
        return self.combination() if self.active and inside else Unguided()

    def combination(self) -> Combination:
        """How a step is guided that is."""
        return ClassifierFree(self.scale, self.rescale)


def branches_of(cond: Conditioning, uncond: Conditioning | None) -> dict[str, Conditioning]:
    """A job's conditionings by the names that :class:`Guidance` knows them by."""
    return {COND: cond} if uncond is None else {UNCOND: uncond, COND: cond}


def rescale_guided(guided: torch.Tensor, cond: torch.Tensor, phi: float) -> torch.Tensor:
    """Equations 15 and 16 of "Common Diffusion Noise Schedules and Sample Steps are Flawed"."""
    dims = list(range(1, cond.ndim))
    rescaled = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return phi * rescaled + (1 - phi) * guided
