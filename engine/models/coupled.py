"""Several prompts in one call of a UNet, each where its region is.

A cross-attention is asked once for each prompt, and what it says is mixed by the regions' weights:
``out = sum_r w_r Attn(Q, K_r, V_r)`` with ``sum_r w_r = 1`` at each position. All else sees the
picture as a whole. (Attention coupling, as ComfyUI's and A1111's regional prompters have it; of
"Paint-with-Words", Balaji et al. 2022, and "MultiDiffusion", Bar-Tal et al. 2023, it is the form
that needs no second forward.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from engine.models.places import Grid, attentions_of

if TYPE_CHECKING:
    import torch

    from engine.types import Conditioning

__all__ = ["WEIGHTS", "Coupled", "coupled"]

TEXTS = "regions"
"""Further prompts stand in a conditioning as ``regions.0`` and so on (b n d each)."""
WEIGHTS = "region_weights"
"""b r h w of sum 1 at each latent position: the conditioning's own text first."""


def coupled(
    texts: Sequence[Conditioning], weights: torch.Tensor, shares: torch.Tensor
) -> Conditioning:
    """The conditioning (1 row) that follows each of ``texts`` (1 row each) where its region is.

    Args:
        texts: the first is followed where there is no region.
        weights: 1 r h w, of sum 1 at each position.
        shares: r, of sum 1: how much each counts in what is told of the picture as a whole (SDXL's
            pooled text).
    """
    first = texts[0]
    name = next(iter(first.tensors))
    whole = {}
    for key, own in first.tensors.items():
        others = [each.tensors.get(key) for each in texts]
        alike = all(each is not None and each.shape == own.shape for each in others)
        if key == name or not alike or not own.is_floating_point():
            whole[key] = own
            continue
        if all(bool((each == own).all()) for each in others if each is not None):
            whole[key] = own
            continue
        parts = [each * share for each, share in zip(others, shares.tolist(), strict=True)]
        whole[key] = sum(parts[1:], parts[0])
    told = {f"{TEXTS}.{i}": each.text for i, each in enumerate(texts[1:])}
    return first.adding({**whole, **told, WEIGHTS: weights})


class Coupled:
    """The cross-attentions of a UNet, and how a call of several prompts computes them."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet

    @cached_property
    def _attentions(self) -> list[Any]:
        return attentions_of(self._unet, cross=True)

    def changes(
        self, tensors: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """Layers, and forwards for them, for a call that is told ``tensors``; none where it has one
        prompt.
        """
        if WEIGHTS not in tensors:
            return
        names = takewhile(tensors.__contains__, (f"{TEXTS}.{i}" for i in count()))
        mix = _Mix([tensors[name] for name in names], tensors[WEIGHTS])
        for attention in self._attentions:
            yield attention, mix.of(attention.forward)


class _Mix:
    """One call's prompts and weights."""

    def __init__(self, texts: Sequence[torch.Tensor], weights: torch.Tensor) -> None:
        self.texts = texts
        self.weights = Grid(weights)

    def of(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """``forward`` of an attention (B n c; text B m d), once for each prompt."""

        def mixed(
            hidden_states: torch.Tensor,
            encoder_hidden_states: Any = None,
            attention_mask: torch.Tensor | None = None,
            **more: Any,
        ) -> torch.Tensor:
            said = forward(hidden_states, encoder_hidden_states, attention_mask, **more)
            weights = self.weights.at(hidden_states)[..., None]
            out = said * weights[:, 0]
            for number, text in enumerate(self.texts, start=1):
                # With IP-Adapters the text comes with their pictures.
                pictures = isinstance(encoder_hidden_states, tuple)
                told = (text, *encoder_hidden_states[1:]) if pictures else text
                out = out + forward(hidden_states, told, None, **more) * weights[:, number]
            return out

        return mixed
