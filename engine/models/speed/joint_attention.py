"""Joint attention over text tokens that stand for several equal ones.

Text tokens that enter SD3's transformer equal leave every layer equal, for they have no positions.
So n of them can be one, if what attends to it counts it n times: ``log n`` on its logit is the same
softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.models.speed.forwards import is_compiled, turn_of

if TYPE_CHECKING:
    import torch


class CountedJointAttention:
    """diffusers' ``JointAttnProcessor2_0`` with a bias (b 1 1 n, over the keys of picture and text)
    in the place of its ignored ``attention_mask``.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> Any:
        import torch

        parts = [_projected(attn, hidden_states, ("to_q", "to_k", "to_v"), "norm_q", "norm_k")]
        if encoder_hidden_states is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            parts.append(
                _projected(attn, encoder_hidden_states, names, "norm_added_q", "norm_added_k")
            )
        query, key, value = (torch.cat(each, dim=2) for each in zip(*parts, strict=True))
        bias = attention_mask if encoder_hidden_states is not None else None
        mixed = self.attend(query, key, value, bias).transpose(1, 2).flatten(2)
        count = hidden_states.shape[1]
        shown = attn.to_out[1](attn.to_out[0](mixed[:, :count]))
        if encoder_hidden_states is None:
            return shown
        told = mixed[:, count:]
        return shown, told if attn.context_pre_only else attn.to_add_out(told)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """The values (b heads n d) that ``query`` finds, by torch's own kernel."""
        import torch

        found: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias
        )
        return found


def _projected(
    attn: Any, states: torch.Tensor, names: tuple[str, str, str], *norms: str
) -> list[torch.Tensor]:
    """Queries, keys and values (b heads n d) of ``states`` (b n c)."""
    rows = [
        getattr(attn, name)(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for name in names
    ]
    for place, name in enumerate(norms):
        if (norm := getattr(attn, name)) is not None:
            rows[place] = norm(rows[place])
    return rows


def can_count(transformer: Any) -> bool:
    """Whether all layers of an SD3 transformer attend in diffusers' own way, which is known here:
    IP-Adapters and the like have others, and compiled code is left as it is.
    """
    own = {type(layer.processor).__name__ for layer in _layers(transformer)}
    return own == {"JointAttnProcessor2_0"} and not is_compiled(transformer)


@contextmanager
def counted_attention(
    transformer: Any, processor: type[CountedJointAttention] = CountedJointAttention
) -> Iterator[None]:
    """Let an SD3 transformer's layers take ``attention_mask`` among its ``joint_attention_kwargs``;
    their own processors are put back. One thread at a time.
    """
    with turn_of(transformer):
        layers = _layers(transformer)
        before, counted = [each.processor for each in layers], processor()
        for layer in layers:
            layer.processor = counted
        try:
            yield
        finally:
            for layer, own in zip(layers, before, strict=True):
                layer.processor = own


def _layers(transformer: Any) -> list[Any]:
    every = (
        getattr(block, name, None)
        for block in transformer.transformer_blocks
        for name in ("attn", "attn2")
    )
    return [each for each in every if each is not None]


def count_bias(counts: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """The bias (b 1 1 tokens + n) of so many of the picture's ``tokens`` and text tokens that stand
    for ``counts`` (b n) each.
    """
    import torch

    shown = counts.new_zeros(counts.shape[0], tokens, dtype=torch.float32)
    return torch.cat([shown, counts.float().log()], 1)[:, None, None].to(dtype)
