"""A model with some of its LoRAs: what regions see that name their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import InputError
from engine.models.lora import adapters_of
from engine.models.weighed import CHOICE, at_weights, is_merged

if TYPE_CHECKING:
    from engine.edit.placing import Placed
    from engine.models import Backbone
    from engine.types import Conditioning

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Chosen:
    """A backbone whose prompts are encoded by text encoders with the LoRAs of ``weights`` and no
    others, and say so to networks that have them for these rows only. All else is the backbone's.

    Args:
        backbone: the model.
        weights: LoRAs by name; None is what the model has by itself.
    """

    def __init__(self, backbone: Backbone, weights: Mapping[str, float] | None) -> None:
        self.backbone, self.weights = backbone, weights
        self._choice = backbone.choices.number(weights)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def network(self, kind: str) -> Any:
        """As :meth:`Backbone.network`."""
        return self.backbone.choices.network(self.backbone.network(kind))

    def encode_prompt(self, *texts: Any, **asked: Any) -> Any:
        """As :meth:`Backbone.encode_prompt`, by these encoders."""
        with ExitStack() as stack:
            for encoder in _encoders(self.backbone.pipe):
                stack.enter_context(at_weights(encoder, self.weights))
            return tuple(map(self._choosing, self.backbone.encode_prompt(*texts, **asked)))

    def _choosing(self, text: Conditioning | None) -> Conditioning | None:
        if text is None:
            return None
        return text.adding({CHOICE: torch.full((text.rows,), self._choice)})


def models_of(group: Sequence[Placed], backbone: Backbone) -> list[Any]:
    """What the regions of one run are read by: the run as a whole (the region, where it is alone),
    then each of the regions. All are ``backbone`` where none names LoRAs of its own; where they do
    not name the same, the whole and those that name none have what the model has by itself.

    Raises:
        InputError: a region names one that is not loaded, or they are merged into the weights.
    """
    regions = [each.region for each in group if each.region is not None]
    told = [None if each.region is None else each.region.lora for each in group]
    if all(each is None for each in told):
        return [backbone] * (1 + len(regions))
    named = {
        str(each): _chosen(backbone, each.region.lora, str(each))
        for each in group
        if each.region is not None and each.region.lora is not None
    }
    if all(each == told[0] for each in told):
        return [named[str(group[0])]] * (1 + len(regions))
    whole = Chosen(backbone, None)
    return [whole, *(named.get(str(each), whole) for each in group if each.region is not None)]


def _chosen(backbone: Backbone, told: Sequence[str], who: str) -> Chosen:
    """``backbone`` with the LoRAs that a region (``who``) names, ``"NAME:WEIGHT"`` each."""
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
    return Chosen(backbone, {name: weights[name] for name in sorted(weights) if weights[name]})


def _encoders(pipe: Any) -> list[Any]:
    found = (getattr(pipe, name, None) for name in ENCODERS)
    return [each for each in found if each is not None]
