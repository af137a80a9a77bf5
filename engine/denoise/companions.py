"""Companions: a run beside another, so that what only one of them has stays where it belongs.

A control acts through the whole network: attention and norms carry its effect beyond its mask,
whatever is done to what it adds. So the run without it is denoised too, as another row of the same
job (the same steps, the same noise, the same call), and outside the mask each step's latents are
the companion's. A job's last row is the picture; of several masked controls each has its own row,
held outside its mask to the row before, which has the controls before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.denoise.strategy import Part

if TYPE_CHECKING:
    from engine.types import Step


@dataclass(frozen=True)
class HeldOutside(Part):
    """Puts each row but the first on the row before it, outside that row's region.

    The state (r-1 1 h w, bool) is the regions of the rows from the second on. After a step of the
    solver the two are equal there to the bit, whatever a scheduler or strategy did in between.
    """

    def after_step(self, state: torch.Tensor, latents: torch.Tensor, step: Step) -> torch.Tensor:
        if not step.ends:
            return latents
        rows = [latents[:1]]
        for row, region in zip(latents[1:].split(1), state.split(1), strict=True):
            rows.append(row.where(region, rows[-1]))
        return torch.cat(rows)


class Lockstep(list[torch.Generator]):
    """A generator for each row, all in one state, so that every row is drawn the same noise.

    diffusers takes a list of generators; its state is read and set as a single one's is. The last
    is the one that it was made of, which goes on as if it had been alone.
    """

    @classmethod
    def of(cls, generator: torch.Generator, rows: int) -> Lockstep:
        return cls([*(generator.clone_state() for _ in range(rows - 1)), generator])

    def get_state(self) -> torch.Tensor:
        return self[-1].get_state()

    def set_state(self, state: torch.Tensor) -> None:
        for each in self:
            each.set_state(state)
