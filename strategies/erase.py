"""Taking things away with any UNet: its self-attention is kept from what is to go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.denoise.redirection import BLIND, DIM, RedirectionGuidance
from engine.errors import InputError
from engine.models.redirected import hiding
from strategies.alone import HoldingAlone

if TYPE_CHECKING:
    import torch

    from engine.denoise.guidance import Guider
    from engine.denoise.strategy import Branches, StrategyContext


class Hidden(NamedTuple):
    """What is hidden (1 1 h w in [0, 1]), and what this part holds where nobody else does."""

    map: torch.Tensor
    own: Any


@dataclass(frozen=True)
class Erase(HoldingAlone):
    """Guides away from what stands in the hole (Attentive Eraser: Sun et al. 2025, sections 3.3 and
    3.4).

    The self-attention of the network's decoder is kept from the hole, so that it is filled with
    what stands around it. With an ``away`` other than 1 it is also asked as it is, and the
    prediction goes from that ``away`` times as far: twice the work. In the first part of the run
    what is in the hole looks less sharply, so that it follows its surroundings and not the one
    thing that is most like it. A position is hidden as strongly as it is repainted. The prompt is
    for what is to be there then, and a little of its guidance keeps other things out; the paper's
    is empty. The paper starts from the original, with an ``away`` of 9 and a ``strength`` of .8; a
    hole that was filled before has little to be led away from.
    """

    redirects = True

    away: float = field(
        default=1.0, metadata={"help": "how far it is led away from what stood there, 0 to 100"}
    )
    sharpness: float = field(
        default=0.3, metadata={"help": "of what the hole looks at in the first steps, from 0 to 1"}
    )
    dim: float = field(
        default=0.2, metadata={"help": "share of the run in which it looks less sharply, 0 to 1"}
    )
    prompted: float = field(
        default=0.3, metadata={"help": "how much of the edit's guidance it takes, from 0 to 1"}
    )

    def __post_init__(self) -> None:
        for name, high in (("away", 100), ("sharpness", 1), ("dim", 1), ("prompted", 1)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= high:
                raise InputError(f"{name} must be a number from 0 to {high}, not {value!r}.")

    def prepare(self, context: StrategyContext) -> Hidden:
        return Hidden(context.strength_map[:1], self.own_hold(context))

    def told(self, state: Hidden, branches: Branches, guidance: Guider) -> tuple[Branches, Guider]:
        told = {}
        for name, each in branches.items():
            told[name] = hiding(each, state.map * 0)
            told[f"{name}.{BLIND}"] = hiding(each, state.map)
            told[f"{name}.{DIM}"] = hiding(each, state.map, self.sharpness)
        inner = guidance.weakened(self.prompted)
        return told, RedirectionGuidance(inner, self.away, self.dim)
