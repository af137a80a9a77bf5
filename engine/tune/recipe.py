"""How a model is taught: every setting once, for checks, help and the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

from engine.errors import InputError, UnknownNameError
from engine.request.field import Help, Range, check_number

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_JOINT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_FEED = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
_CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv")
LAYERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention": (*ATTENTION, *_JOINT),
        "blocks": (*ATTENTION, *_JOINT, *_FEED),
        "all": (*ATTENTION, *_JOINT, *_FEED, *_CONVOLUTIONS, "upsamplers.0.conv"),
    }
)
"""Which layers are taught, by the ends of their names; of a UNet ``blocks`` are its transformers',
``all`` has the convolutions too."""
OPTIMISERS = ("adamw", "adamw8bit")
WEIGHTINGS = ("min-snr", "debiased", "even", "clean")
"""Of noise levels: :data:`engine.tune.noising.WEIGHTINGS`."""


@dataclass(frozen=True)
class OneOf:
    """The names that are accepted."""

    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long, how fast, and what of the network."""

    steps: Annotated[int, Help("Steps of the optimiser."), Range(1, 1_000_000)] = 1000
    batch: Annotated[int, Help("Pictures a step."), Range(1, 1024)] = 1
    rate: Annotated[float, Help("Learning rate at its highest."), Range(0, 1, above=True)] = 1e-4
    rank: Annotated[int, Help("Of the LoRA: how much it can hold."), Range(1, 1024)] = 16
    layers: Annotated[
        str,
        Help("What is taught: attention, blocks (feed-forward too) or all."),
        OneOf(tuple(LAYERS)),
    ] = "attention"
    size: Annotated[
        int | None,
        Help("Side in px of a square of as many pixels. [default: the model's]"),
        Range(64, 8192),
    ] = None
    weighting: Annotated[
        str,
        Help("Of noise levels; flow models have their own. clean: what is there counts most."),
        OneOf(WEIGHTINGS),
    ] = "min-snr"
    dropout: Annotated[float, Help("Share of the steps without a caption."), Range(0, 1)] = 0.1
    flip: Annotated[bool, Help("Mirror every other picture.")] = False
    seed: Annotated[int, Help("The same file every time."), Range(0, 2**62)] = 0
    prior: Annotated[
        float, Help("Weight of what other prompts gave before (--prior-prompt)."), Range(0, 100)
    ] = 1.0
    prior_pictures: Annotated[
        int, Help("Drawn for each --prior-prompt before it begins."), Range(1, 10_000)
    ] = 4
    colour: Annotated[
        float,
        Help("Weight of the colours around a hole, against all else that is learnt."),
        Range(0, 100),
    ] = 0.0
    drift: Annotated[
        float,
        Help("How far a hole's colours are moved before they are shown; 1: the whole range."),
        Range(0, 1),
    ] = 0.0
    surround: Annotated[
        float, Help("How much what lies around a hole counts, against what is in it."), Range(0, 1)
    ] = 0.1
    optimiser: Annotated[
        str, Help("adamw, or adamw8bit (needs bitsandbytes)."), OneOf(OPTIMISERS)
    ] = "adamw"
    checkpointing: Annotated[
        bool, Help("Compute activations twice and keep fewer: less memory, a third slower.")
    ] = False
    save_every: Annotated[
        int,
        Help("Steps after which the state is kept that the same command goes on from."),
        Range(1),
    ] = 100
    sample_every: Annotated[int, Help("Steps between sample sheets; 0: none."), Range(0)] = 250

    def __post_init__(self) -> None:
        for name, line in lines_of(Recipe).items():
            line.check(getattr(self, name))

    def described(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


REALFILL: Mapping[str, Any] = MappingProxyType(
    {"steps": 2000, "rate": 2e-4, "rank": 8, "batch": 1, "surround": 1.0}
)
"""Tang et al. 2023, "RealFill": what differs from :class:`Recipe` where a picture is filled from
others of the same place. (The paper's batch is 16, and it teaches the text encoder too.)"""


COLOUR: Mapping[str, Any] = MappingProxyType(
    {"batch": 4, "layers": "all", "colour": 1.0, "drift": 0.1, "dropout": 0.5, "surround": 1.0}
)
"""What differs from :class:`Recipe` where colours are taught."""
CONTENT_ONLY = ("prior", "prior_pictures")
COLOUR_ONLY = ("colour", "drift")
"""Settings that one of the two commands has."""


@dataclass(frozen=True)
class Line:
    """One setting of a recipe."""

    name: str
    kind: Any
    """The type of a value that is not None."""
    optional: bool
    default: Any
    help: Help
    limits: Range | None
    names: OneOf | None

    def check(self, value: Any) -> None:
        """Raise ``InputError`` for a value that is not accepted."""
        if value is None and self.optional:
            return
        if self.names is not None and value not in self.names.names:
            raise UnknownNameError(self.name, str(value), self.names.names)
        if self.kind is bool and not isinstance(value, bool):
            raise InputError(f"{self.name} must be True or False, not {value!r}.")
        if self.kind in {int, float}:
            check_number(self.name, value, self.limits, whole=self.kind is int)


def lines_of(table: type) -> dict[str, Line]:
    """The settings of a recipe's class, in its order."""
    hints = get_type_hints(table, include_extras=True)
    lines = {}
    for each in dataclasses.fields(table):
        annotation, *marks = get_args(hints[each.name])
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        found = {type(mark): mark for mark in marks}
        lines[each.name] = Line(
            name=each.name,
            kind=kinds[0] if kinds else annotation,
            optional=bool(kinds),
            default=each.default,
            help=found[Help],
            limits=found.get(Range),
            names=found.get(OneOf),
        )
    return lines
