"""Which branches of the network a step needs, and how their predictions become one.

A guider is asked at every step for a :class:`Combination`: the names of the conditionings that the
network is evaluated with, and what is made of the answers. Classifier-free guidance is one such
value; one for each region, or with a third prompt, is another, and the loop knows none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from engine.types import Conditioning, Guiding

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


@dataclass(frozen=True, slots=True)
class Unguided:
    """The conditional prediction as it is, at every step."""

    branches: tuple[str, ...] = (COND,)

    def at(self, progress: float) -> Unguided:
        return self

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return predictions[COND]


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Classifier-free guidance of one step (Ho & Salimans 2022), see :class:`Guidance`."""

    scale: float
    rescale: float = 0.0
    guiding: Guiding | None = None
    branches: tuple[str, ...] = (UNCOND, COND)

    def combine(self, predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
        uncond, cond = predictions[UNCOND], predictions[COND]
        if self.guiding is None:
            guided = uncond + self.scale * (cond - uncond)
        else:
            guided = self.guiding(uncond, cond, self.scale)
        return rescale_guided(guided, cond, self.rescale) if self.rescale > 0 else guided


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of a run, optionally rescaled and in a part of it only.

    ``scale`` above 1 guides; at or below 1 the unconditional branch is never computed.
    ``start`` and ``end`` in [0, 1] are the share of the run in which it guides, from ``start``
    until before ``end``; the unconditional branch is not computed outside it (Kynkaanniemi et al.
    2024, "Applying Guidance in a Limited Interval").
    ``rescale`` in [0, 1] is the phi of Lin et al. 2023, section 3.4: it brings the standard
    deviation of the guided prediction back towards that of the conditional one.
    ``guiding`` combines the two predictions in a family's own way.
    """

    scale: float = 5.0
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0
    guiding: Guiding | None = None

    @property
    def active(self) -> bool:
        return self.scale > 1.0

    def at(self, progress: float) -> Combination:
        # A run without an end guides its last call too: where calls repeat, it may lie at 1.
        inside = self.start <= progress and (progress < self.end or self.end == 1)
        if not (self.active and inside):
            return Unguided()
        return ClassifierFree(self.scale, self.rescale, self.guiding)


def branches_of(cond: Conditioning, uncond: Conditioning | None) -> dict[str, Conditioning]:
    """A job's conditionings by the names that :class:`Guidance` knows them by."""
    return {COND: cond} if uncond is None else {UNCOND: uncond, COND: cond}


def rescale_guided(guided: torch.Tensor, cond: torch.Tensor, phi: float) -> torch.Tensor:
    """Equations 15 and 16 of "Common Diffusion Noise Schedules and Sample Steps are Flawed"."""
    dims = list(range(1, cond.ndim))
    rescaled = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return phi * rescaled + (1 - phi) * guided
