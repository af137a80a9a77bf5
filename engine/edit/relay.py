"""Stages on several models: what one has made goes on with the next, through pixels.

Each leg is an edit of its own model's stages, over the same cut-outs, map and draws. Where the map
is 0 the next leg starts from the original's own pixels: no model's VAE comes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import lcm
from typing import TYPE_CHECKING, Any

from engine.denoise.strategy import Stage, StagedStrategy
from engine.edit.before import PreparedEdit
from engine.edit.inputs import Inputs
from engine.edit.prepared import Prepared
from engine.edit.shared import Shared
from engine.edit.strategies import OF_A_STAGE, build_strategy
from engine.errors import InputError, UnknownNameError
from engine.request.field import fields_of
from engine.request.fields import Fields

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from engine.denoise.job import Job
    from engine.edit.memory import Memory
    from engine.edit.views import View
    from engine.models import Backbone
    from engine.request.request import EditRequest

APART = ("controls", "ip_adapter_image", "regions", "compat", "latents")
"""What the stages of several models do not share."""


def is_relay(request: EditRequest) -> bool:
    """Whether stages of an edit name other models."""
    built = build_strategy(request.strategy, request.options)
    return any(stage.model for stage in built.stages)


@dataclass(frozen=True)
class _Leg(StagedStrategy):
    """The stages of one model, of which the last need not be at full size."""

    def __post_init__(self) -> None:
        pass


class _Aligned:
    """A model whose cut-outs have sides that several models can take."""

    def __init__(self, backbone: Backbone, align: int) -> None:
        self.backbone, self.align = backbone, align

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)


class PreparedRelay(Prepared):
    """An edit whose stages run on several models.

    Raises:
        InputError: a stage names a model that is not there, or the edit has what models do not
            share.
    """

    def __init__(self, backbone: Backbone, request: EditRequest, memory: Memory) -> None:
        super().__init__(backbone, request)
        _check(request)
        legs = [(name, tuple(own)) for name, own in groupby(self.strategy.stages, _model)]
        several = [_found(backbone, name) for name, _ in legs]
        align = lcm(*(each.align for each, _ in several))
        aligned: Any = _Aligned(several[0][0], align)
        inputs = Inputs.of(request, aligned)
        self.legs: list[PreparedEdit] = []
        for (name, stages), (own, settings) in zip(legs, several, strict=True):
            asked = _request(request, stages, own, settings if name else None)
            shared = Shared(own, asked, memory, inputs)
            if self.legs:
                shared.seeds = self.legs[0].shared.seeds
            leg = PreparedEdit(shared, asked)
            leg.clock = self.clock
            leg.name = self.strategy.name
            self.legs.append(leg)
        for number in range(len(self.legs) - 1):
            self.legs[number].then = partial(self._hand_over, number)
        self.seeds = self.legs[0].seeds
        self.steps = sum(leg.steps for leg in self.legs)
        self.prefilled = self.legs[0].prefilled

    @property
    def original(self) -> Image.Image:
        return self.legs[0].original

    @property
    def strength_map(self) -> NDArray[np.float32]:
        return self.legs[0].strength_map

    @property
    def regions(self) -> list[list[int]]:
        return self.legs[0].regions

    def start(self) -> list[Job]:
        return self.legs[0].start()

    def finishing(
        self, chains: Sequence[Sequence[Job]]
    ) -> Callable[[], tuple[Any, torch.Tensor | None]]:
        return self.legs[-1].finishing(chains)

    def _hand_over(self, number: int, view: View, finished: Job) -> Job:
        """The first job of the leg after ``number``, whose last job is ``finished``."""
        before, after = self.legs[number].shared, self.legs[number + 1]
        with self.clock.phase("decode"):
            made = before.decode(finished.latents).float().cpu()
        return after.taken_over(view, finished, made)


def _model(stage: Stage) -> str:
    return stage.model


def _found(backbone: Backbone, name: str) -> tuple[Backbone, Mapping[str, Any]]:
    """A model and the settings of its stages, by the name that it has beside ``backbone``."""
    if not name:
        return backbone, {}
    if name not in backbone.others:
        raise UnknownNameError("model beside this one", name, backbone.others)
    return backbone.others[name]


def _check(request: EditRequest) -> None:
    given = [name for name in APART if getattr(request, name) not in (None, (), [])]
    if given or request.embeds:
        raise InputError(
            f"stages of several models share no {given[0] if given else 'embeddings'}: leave it "
            "out, or make an edit for each model."
        )


def _request(
    request: EditRequest,
    stages: Sequence[Stage],
    backbone: Backbone,
    settings: Mapping[str, Any] | None,
) -> EditRequest:
    """A leg's request; ``settings``: of another model's stages, None for the edit's own."""
    own = tuple(replace(stage, model="") for stage in stages)
    leg = replace(request, strategy=_Leg("staged", own), options={})
    if settings is None:
        return leg
    defaults = {name: fields_of(Fields)[name].default for name in OF_A_STAGE}
    known = {name: each for name, each in backbone.defaults.items() if name in OF_A_STAGE}
    return replace(leg, **{**defaults, **known, **settings})
