"""A UNet's self-attention, kept from places that it is not to look at.

A row of a call may say of each latent position how much of it is hidden from the others, and how
strongly it looks at what is like itself. So a network without any training for it draws what
stands around a hole on into it, and not again what stood there (Sun et al. 2025, "Attentive Eraser:
Unleashing Diffusion Model's Object Removal Potential via Self-Attention Redirection Guidance").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.models.places import Grid, attentions_of

if TYPE_CHECKING:
    import torch

    from engine.types import Conditioning

__all__ = ["Redirected", "hiding"]

HIDDEN = "hidden"
"""b 1 h w in [0, 1]: how much of each latent position the others do not see; 0 is all that is."""
DAMPED = "damped"
"""b 1 h w: what the scores of each position's looking are multiplied with; 1 leaves them."""
DECODER = "up_blocks."
"""The half of a UNet that draws, whose self-attention is redirected."""
UNSEEN = -1e4
"""Added to the scores of what is wholly hidden: no share is left of it, in float16 either, and
where all is hidden all is seen as before."""


def hiding(conditioning: Conditioning, hidden: torch.Tensor, damping: float = 1.0) -> Conditioning:
    """``conditioning`` (1 row) of a row in which places are hidden.

    Args:
        conditioning: of the row.
        hidden: 1 1 h w in [0, 1].
        damping: in [0, 1], how much remains of the scores of what looks out of hidden places.
    """
    return conditioning.adding({HIDDEN: hidden, DAMPED: 1 - (1 - damping) * hidden})


class Redirected:
    """The self-attentions of a UNet's decoder, and how a call with hidden places computes them."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet

    @cached_property
    def _attentions(self) -> list[Any]:
        return attentions_of(self._unet, cross=False, under=DECODER)

    @property
    def able(self) -> bool:
        """There are such attentions, and their queries are layers of their own."""
        fused = (getattr(each, "fused_projections", False) for each in self._attentions)
        return bool(self._attentions) and not any(fused)

    def changes(
        self, tensors: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """Layers, and forwards for them, for a call that is told ``tensors``; none where nothing is
        hidden.
        """
        if HIDDEN not in tensors:
            return
        # Ones are multiplied with too: to look for them would wait for the device at every step.
        hidden, damped = Grid(tensors[HIDDEN]), Grid(tensors[DAMPED])
        for attention in self._attentions:
            yield attention, _blinded(attention.forward, hidden)
            yield attention.to_q, _weakened(attention.to_q.forward, damped)


def _blinded(forward: Callable[..., torch.Tensor], hidden: Grid) -> Callable[..., torch.Tensor]:
    """``forward`` of a self-attention (B n c) that gives each key the share of it that is seen."""

    def blinded(
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **more: Any,
    ) -> torch.Tensor:
        unseen = (1 - hidden.at(hidden_states)).log().clamp(min=UNSEEN)  # B 1 n
        if attention_mask is not None:
            unseen = unseen + attention_mask
        return forward(hidden_states, encoder_hidden_states, unseen, **more)

    return blinded


def _weakened(forward: Callable[..., torch.Tensor], damped: Grid) -> Callable[..., torch.Tensor]:
    """``forward`` of an attention's queries (B n c), which look less sharply."""

    def weakened(hidden_states: torch.Tensor, *more: Any) -> torch.Tensor:
        return forward(hidden_states, *more) * damped.at(hidden_states).transpose(1, 2)

    return weakened
