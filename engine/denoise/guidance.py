"""How the conditional and the unconditional prediction become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022), optionally rescaled.

    ``scale`` above 1 guides; at or below 1 the unconditional branch is never computed.
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

    @property
    def active(self) -> bool:
        return self.scale > 1.0

    def active_at(self, progress: float) -> bool:
        """Whether it guides a step before which ``progress``, in [0, 1), of the run lies."""
        # A run without an end guides its last call too: where calls repeat, it may lie at 1.
        return self.active and self.start <= progress and (progress < self.end or self.end == 1)

    def combine(self, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """``uncond`` and ``cond``: b c h w predictions of the same inputs."""
        guided = uncond + self.scale * (cond - uncond)
        return rescale_guided(guided, cond, self.rescale) if self.rescale > 0 else guided


def rescale_guided(guided: torch.Tensor, cond: torch.Tensor, phi: float) -> torch.Tensor:
    """Equations 15 and 16 of "Common Diffusion Noise Schedules and Sample Steps are Flawed"."""
    dims = list(range(1, cond.ndim))
    rescaled = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return phi * rescaled + (1 - phi) * guided
