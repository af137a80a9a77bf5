"""A model with some of its LoRAs: what a region sees that names its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models.lora import adapters_of
from engine.models.weighed import AtWeights, at_weights, is_merged

if TYPE_CHECKING:
    from engine.models import Backbone

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Chosen:
    """A backbone whose networks and text encoders have the LoRAs of ``weights`` and no others. All
    else is the backbone's.
    """

    def __init__(self, backbone: Backbone, weights: Mapping[str, float]) -> None:
        self.backbone, self.weights = backbone, weights
        self.networks = {k: AtWeights(each, weights) for k, each in backbone.networks.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def network(self, kind: str) -> Any:
        """As :meth:`Backbone.network`."""
        self.backbone.network(kind)
        return self.networks[kind]

    def encode_prompt(self, *texts: Any, **asked: Any) -> Any:
        """As :meth:`Backbone.encode_prompt`, by these encoders."""
        with ExitStack() as stack:
            for encoder in _encoders(self.backbone.pipe):
                stack.enter_context(at_weights(encoder, self.weights))
            return self.backbone.encode_prompt(*texts, **asked)


def chosen(backbone: Backbone, told: Sequence[str] | None, who: str) -> Any:
    """``backbone`` with the LoRAs that a region (``who``) names, ``"NAME:WEIGHT"`` each; itself
    where it names none of its own.

    Raises:
        InputError: one is not loaded, or they are merged into the weights.
    """
    if told is None:
        return backbone
    modules = [backbone.main.module, *_encoders(backbone.pipe)]
    loaded = sorted({name for module in modules for name in adapters_of(module)})
    weights = {}
    for each in told:
        place, _, weight = each.rpartition(":")
        name = place if place in loaded else Path(place).stem
        if name not in loaded:
            names = ", ".join(loaded) or "none"
            raise InputError(
                f"{who}: there is no LoRA {place!r}; loaded: {names}. What is for some regions "
                "only is loaded with weight 0 (load_lora(file, 0), --lora FILE:0)."
            )
        weights[name] = float(weight)
    if any(map(is_merged, modules)):
        raise InputError(
            f"{who} has LoRAs of its own, and this model's are merged into its weights."
        )
    key = tuple(sorted(item for item in weights.items() if item[1]))
    if key not in backbone.chosen:
        backbone.chosen[key] = Chosen(backbone, dict(key))
    return backbone.chosen[key]


def _encoders(pipe: Any) -> list[Any]:
    found = (getattr(pipe, name, None) for name in ENCODERS)
    return [each for each in found if each is not None]
