"""What is off about the colours of a picture, as a loss: their low frequencies, and what of their
colourfulness is gone, in a hole and most of all close to its border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.models.previews import mean_colours

if TYPE_CHECKING:
    import torch

FAR = 0.25
"""How much a place inside counts against one close to the border."""
NEAR = 2
"""Cells that are close to it."""


@dataclass(frozen=True, eq=False)
class LatentColours:
    """Colours of latents, without a decoder.

    Args:
        weights: the model's :func:`engine.models.previews.colour_map`.
        weight: of this loss against all else.
    """

    weights: torch.Tensor
    weight: float

    def loss(
        self, denoised: torch.Tensor, clean: torch.Tensor, hole: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        """For each of the rows how far their colours are off.

        Args:
            denoised, clean: b c h w.
            hole: b 1 h w, 1 where it is repainted.
            known: b 1 h w, 0 where ``clean`` is unknown.
        """
        seen, wanted = (mean_colours(each.float(), self.weights) for each in (denoised, clean))
        return self.weight * colour_error(seen, wanted, border_weights(hole) * known)


def border_weights(hole: torch.Tensor) -> torch.Tensor:
    """How much each cell of a hole (b 1 h w, 1 = repaint) counts: 1 close to its border,
    :data:`FAR` farther inside, 0 outside.
    """
    from torch.nn import functional

    reach = functional.max_pool2d(1 - hole, 2 * NEAR + 1, stride=1, padding=NEAR)
    return hole * (FAR + (1 - FAR) * reach)


def colour_error(seen: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """For each of b rows the mean error of colours (b 3 h w in [-1, 1]) that are blurred over 3 x 3
    cells, and of the colourfulness that they lack; ``weights``: b 1 h w.
    """
    from torch.nn import functional

    seen, wanted = (
        functional.avg_pool2d(each, 3, stride=1, padding=1, count_include_pad=False)
        for each in (seen, wanted)
    )
    off = (seen - wanted).abs().mean(1, keepdim=True)
    lacking = (_colourfulness(wanted) - _colourfulness(seen)).clamp(min=0)
    return ((off + lacking) * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1)


def _colourfulness(colours: torch.Tensor) -> torch.Tensor:
    """How far colours (b 3 h w) are from the grey of their brightness (root mean square)."""
    grey = colours.mean(1, keepdim=True)
    return ((colours - grey).square().mean(1, keepdim=True) + 1e-6).sqrt()
