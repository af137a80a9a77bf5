"""A network on latents larger than it was trained for: overlapping tiles, one prediction.

Each tile is predicted as a picture of its own; where tiles overlap, the prediction is their mean,
weighted towards each one's middle (Bar-Tal et al. 2023, "MultiDiffusion", equation 5, on the
prediction in place of the sample, which is the same for solvers that are linear in it). The solver
sees one field of latents, and the noise is one field too: no tile has a border of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from engine.models.network import Network
    from engine.types import Conditioning

OVERLAP = 0.25
"""Of neighbouring tiles, over a tile's side."""


class TiledNetwork:
    """A network whose forwards see no more than a tile of the latents.

    Everything else is the network's own. Residuals of controls are not taken: a pass in tiles goes
    over what they have already laid out.

    Args:
        network: the network itself.
        side: of a tile, in latent positions; a multiple of what the network halves.
        rows: tiles in one forward, at most.
    """

    def __init__(self, network: Network, side: int, rows: int) -> None:
        self.network = network
        self.side = side
        self.rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        """One prediction (B 4 h w) of ``sample`` (B c h w), in as many forwards as it takes."""
        height, width = sample.shape[-2:]
        if height <= self.side and width <= self.side:
            return self.network.predict(sample, timesteps, conditioning, residuals)
        if residuals:
            raise ValueError("controls are not seen in tiles.")
        corners = [
            (top, left)
            for top in tile_starts(height, self.side)
            for left in tile_starts(width, self.side)
        ]
        tile = (min(self.side, height), min(self.side, width))
        weight = tile_weight(*tile).to(sample)
        total, weights = None, sample.new_zeros(height, width)
        for number in range(len(sample)):
            row = slice(number, number + 1)
            for first in range(0, len(corners), self.rows):
                part = corners[first : first + self.rows]
                predicted = self.network.predict(
                    torch.cat([_cut(sample[row], corner, tile) for corner in part]),
                    timesteps[row].expand(len(part)),
                    conditioning.take(row).repeat(len(part)),
                    {},
                )
                if total is None:
                    total = sample.new_zeros(len(sample), predicted.shape[1], height, width)
                for corner, own in zip(part, predicted, strict=True):
                    _cut(total[number], corner, tile).add_(own * weight)
                    if number == 0:
                        _cut(weights, corner, tile).add_(weight)
        assert total is not None  # noqa: S101 - there is a row and a tile
        return total / weights


def _cut(values: torch.Tensor, corner: tuple[int, int], tile: tuple[int, int]) -> torch.Tensor:
    """A view of one tile of ``values`` (... h w)."""
    (top, left), (height, width) = corner, tile
    return values[..., top : top + height, left : left + width]


def tile_starts(length: int, side: int) -> list[int]:
    """Where tiles of ``side`` that cover ``length`` begin: evenly, :data:`OVERLAP` at least."""
    if length <= side:
        return [0]
    count = -(-(length - side) // int(side * (1 - OVERLAP))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


@lru_cache(maxsize=16)
def tile_weight(height: int, width: int) -> torch.Tensor:
    """A tile's weight (h w, above 0): 1 in its middle, falling along a line towards its edges over
    the overlap.
    """

    def ramp(side: int) -> torch.Tensor:
        edge = torch.arange(side) + 0.5
        return (torch.minimum(edge, side - edge) / (side * OVERLAP)).clamp(max=1)

    return ramp(height)[:, None] * ramp(width)[None, :]
