"""The stages of a strategy, as an edit and each of its regions take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.denoise.strategy import Stage
    from engine.edit.views import View
    from engine.request.request import EditRequest

RECOLOURING = 0.6
"""Share of a run that a 4-channel network takes where something is to have another colour: its
start still shows the shape (``examples/choosing.md`` has the measurements)."""
REFINING = 0.2
"""Strength at which a large region, laid out at a size that the model can draw, is gone over: with
more, tiles put small copies of the scene into it. For the same reason the prompt does not guide."""


def stages_for(request: EditRequest, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """A strategy's stages for an edit, as its task wants them to start."""
    first, *others = stages
    if (
        request.task == "recolour"
        and request.strength == 1
        and first.strategy.network == "base"
        and first.strategy.start == "original"
    ):
        first = replace(first, strength=RECOLOURING * first.strength)
    return (first, *others)


def stages_of(stages: tuple[Stage, ...], view: View) -> tuple[Stage, ...]:
    """An edit's stages for a view; for a region that is too large to be drawn at its own size all
    at a smaller one, and a last one that goes over it in tiles.
    """
    coarse = view.region.coarse
    if coarse == 1:
        return stages
    smaller = (replace(stage, scale=stage.scale * coarse) for stage in stages)
    return (*smaller, replace(stages[-1], strength=REFINING, guidance=0.0))
