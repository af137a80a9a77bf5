"""Keys and values of the text, projected once and not at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import ref

from engine.models.speed.forwards import is_compiled

if TYPE_CHECKING:
    import torch

__all__ = ["TextProjections"]

NAMES = ("to_k", "to_v", "to_kv")  # the last where diffusers has fused them
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass
class _Memo:
    """Of one text: what each layer made of it, and the state that it was made in."""

    text: Any  # a weak reference
    state: tuple[Any, ...]
    made: dict[Any, tuple[torch.Tensor, int]] = field(default_factory=dict)


class TextProjections:
    """What the cross-attentions of a network (UNet or ControlNet) make of its text does not change
    from step to step: a twentieth of the arithmetic in the pocket's UNet and in SDXL's at 512 px, a
    hundredth at 1024.

    It is kept for one text at a time, and no longer than that is in use: 27 MB a row for SDXL in
    float16. Layers that are no plain ``Linear`` (LoRAs, quantised weights), that carry hooks or
    that are part of something compiled are left alone.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._memo: _Memo | None = None

    @cached_property
    def _attentions(self) -> list[tuple[list[Any], Any]]:
        """Cross-attentions, each with all that it is part of."""
        from diffusers.models.attention_processor import Attention

        every = dict(self._network.named_modules())
        return [
            ([every[name[:end]] for end in _ends(name)], each)
            for name, each in every.items()
            if isinstance(each, Attention) and each.is_cross_attention
        ]

    def changes(self, text: torch.Tensor) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """Layers, and forwards for them (:func:`engine.models.speed.forwards.replaced_forwards`)
        that know ``text`` (B n d), by identity, and compute everything else. None where gradients
        are wanted.
        """
        import torch

        layers = [] if torch.is_grad_enabled() else list(self._layers())
        weights = [
            weight
            for each in layers
            for weight in vars(each)["_parameters"].values()
            if weight is not None
        ]
        state = _version(text), *((weight.data_ptr(), _version(weight)) for weight in weights)
        memo = self._memo
        if memo is None or memo.text() is not text or memo.state != state:
            memo = self._memo = _Memo(ref(text, self._forget), state)
        for layer in layers:
            yield layer, _Projection(layer, text, memo)

    def _layers(self) -> Iterator[Any]:
        from torch import nn

        for around, attention in self._attentions:
            if any(map(is_compiled, around)):
                continue
            for name in NAMES:
                layer = getattr(attention, name, None)
                if type(layer) is nn.Linear and not _somebody_elses(layer):
                    yield layer

    def _forget(self, text: Any) -> None:
        if self._memo is not None and self._memo.text is text:
            self._memo = None


def _ends(name: str) -> list[int]:
    """Where the dotted names end of all that contains ``name``, the network itself first."""
    return [0, *(at for at, sign in enumerate(name) if sign == ".")]


def _version(tensor: torch.Tensor) -> int:
    """How often it was written to; tensors made in inference mode do not count that."""
    return -1 if tensor.is_inference() else tensor._version  # noqa: SLF001


def _somebody_elses(layer: Any) -> bool:
    own = vars(layer)
    return "forward" in own or "_hf_hook" in own or any(own[name] for name in HOOKS)


class _Projection:
    """The forward of one layer."""

    def __init__(self, layer: Any, text: torch.Tensor, memo: _Memo) -> None:
        self._layer, self._text, self._memo, self._compute = layer, text, memo, layer.forward

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        made = self._memo.made
        if given is self._text:
            known, version = made.get(self._layer, (None, 0))
            if known is not None and _version(known) == version:
                return known
        result: torch.Tensor = self._compute(given)
        if given is self._text:
            made[self._layer] = result, _version(result)
        return result
