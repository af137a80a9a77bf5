"""Where a UNet looks for words of its text: its cross-attentions, added up.

After DAAM (Tang et al. 2022, "What the DAAM: Interpreting Stable Diffusion Using Cross Attention").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from engine.models.places import attentions_of, shrunk_to
from engine.models.speed.forwards import replaced_forwards

if TYPE_CHECKING:
    import torch

    from engine.models.network import Network
    from engine.types import Conditioning

FINEST: Final = 32 * 32
"""Positions of the attentions that are read: finer ones see texture rather than things."""


def attended(
    network: Network,
    sample: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    tokens: tuple[Sequence[int], int],
) -> torch.Tensor:
    """How much each position looks at some tokens of the text, over all that it looks at in it.

    Args:
        network: a UNet's.
        sample: b c h w, as the network takes it; ``timesteps``: b; ``conditioning``: b rows.
        tokens: positions of the words in the text, and where the text ends; its first and last
            tokens are no words.

    Returns:
        h' w' at the size of the finest attentions read, the mean over rows, heads and layers.
    """
    seen: dict[int, list[torch.Tensor]] = {}
    layers = attentions_of(network.module, cross=True)
    watched = [(layer, _watching(layer, seen, tokens)) for layer in layers]
    with replaced_forwards(network.module, watched):
        network.predict(sample, timesteps, conditioning, {})
    fine = [count for count in seen if count <= FINEST]
    count = max(fine) if fine else min(seen)
    mean = sum(seen[count][1:], seen[count][0]) / len(seen[count])
    return mean.reshape(shrunk_to((sample.shape[-2], sample.shape[-1]), count))


def _watching(
    layer: Any, seen: dict[int, list[torch.Tensor]], tokens: tuple[Sequence[int], int]
) -> Callable[..., Any]:
    forward = layer.forward
    words, end = tokens

    def watching(
        hidden_states: Any, encoder_hidden_states: Any = None, *more: Any, **named: Any
    ) -> Any:
        text = encoder_hidden_states
        text = text[0] if isinstance(text, tuple) else text  # IP-Adapters' pictures come with it
        query = layer.head_to_batch_dim(layer.to_q(hidden_states))
        key = layer.head_to_batch_dim(layer.to_k(text))
        scores = layer.get_attention_scores(query, key).float().mean(dim=0)  # n m
        share = scores[:, list(words)].sum(dim=1) / scores[:, 1:end].sum(dim=1)
        seen.setdefault(len(share), []).append(share)
        return forward(hidden_states, encoder_hidden_states, *more, **named)

    return watching
