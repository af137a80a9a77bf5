"""Regions: several edits of one picture, each with its own map, prompt and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from engine.errors import InputError
from engine.request.field import check_text, fields_of
from engine.request.fields import Fields

MOST: Final = 32
"""Regions of one edit."""

SETTINGS: Final = (
    *("prompt", "negative_prompt", "strategy", "options", "task", "strength", "seed"),
    "lora",
)
"""What a region may set in the edit's place, beside its map, controls and reference."""


@dataclass(frozen=True, eq=False)
class Region:
    """One of several edits of a picture. What is not given is the edit's.

    Args:
        map: where, and how strongly: a mask or strength map as the edit takes it.
        prompt: what is to be seen there.
        negative_prompt: what is not.
        strategy: its strategy, by itself.
        options: the strategy's options.
        strength: of this region's edit, above 0, to 1.
        seed: of its noise.
        controls: what steers it, in place of the edit's controls.
        reference: what the loaded IP-Adapter reads for it: a picture or a
            :class:`~engine.Reference`.
        lora: the LoRAs that it is made with, of those that are loaded, in place of the edit's:
            ``"NAME[:WEIGHT]"`` (a file's name without its ending) or a list of such; an empty list
            is none. What is for a region alone is loaded with weight 0.
        task: what its edit is for, as the edit's ``task`` says it.

    Raises:
        InputError: a value that is not accepted; the message says what is.

    Example:
        >>> result = engine.edit(
        ...     image="photo.png",
        ...     regions=[Region("mask.png", prompt="a red house", seed=7)],
        ...     num_inference_steps=2,
        ... )
        >>> result.settings["region_edits"][0]["prompt"]
        'a red house'
    """

    map: Any
    prompt: str | None = None
    negative_prompt: str | None = None
    strategy: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    strength: float | None = None
    seed: int | None = None
    controls: Any = None
    reference: Any = None
    lora: Any = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.lora is not None:
            object.__setattr__(self, "lora", _loras(self.lora))
        if self.map is None:
            raise InputError("a region needs a map: where it is.")
        known = fields_of(Fields)
        for name in ("prompt", "negative_prompt"):
            value: object = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"a region's {name} must be a string, not {value!r}.")
            check_text(name, value)
        for name in ("strength", "seed", "task"):
            if getattr(self, name) is not None:
                known[name].check(getattr(self, name))
                object.__setattr__(self, name, known[name].plain(getattr(self, name)))
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        if not isinstance(self.options, Mapping):
            raise InputError("a region's options must be a mapping.")
        if isinstance(self.strategy, str) and (self.strategy == "auto" or "," in self.strategy):
            raise InputError(
                "a region has one strategy; several, and auto, are of whole edits, for all regions "
                "that name none."
            )

    def given(self) -> dict[str, Any]:
        """Its own settings, by the edit's names: those of :data:`SETTINGS` that it has."""
        own = {name: getattr(self, name) for name in SETTINGS}
        return {name: value for name, value in own.items() if value is not None and value != {}}

    def describe(self) -> dict[str, Any]:
        """Its own settings as values that JSON can hold, its files left out."""
        own = self.given()
        if "strategy" in own and not isinstance(own["strategy"], str):
            own["strategy"] = getattr(own["strategy"], "name", type(own["strategy"]).__name__)
        return own


def read_regions(value: Any) -> tuple[Region, ...]:
    """An edit's ``regions``: a :class:`Region`, a mapping of one's settings, or a list of such.

    Raises:
        InputError: something else, an unknown setting, none or too many.
    """
    several = value if isinstance(value, list | tuple) else [value]
    if not several:
        raise InputError("regions is an empty list; leave it out for an edit of one region.")
    if len(several) > MOST:
        raise InputError(f"{len(several)} regions; an edit takes at most {MOST}.")
    return tuple(_read(each, number) for number, each in enumerate(several, start=1))


def with_maps(regions: tuple[Region, ...], read: Any) -> tuple[Region, ...]:
    """The regions with ``read(map)`` in place of their maps."""
    return tuple(replace(region, map=read(region.map)) for region in regions)


def _read(value: Any, number: int) -> Region:
    if isinstance(value, Region):
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"region {number} must be a Region or a mapping, not {value!r}.")
    known = [each.name for each in fields(Region)]
    if unknown := sorted(set(map(str, value)) - set(known)):
        raise InputError(f"region {number}: {unknown[0]!r} is none of {', '.join(known)}.")
    if "map" not in value:
        raise InputError(f"region {number} has no map.")
    try:
        return Region(**value)
    except InputError as error:
        raise InputError(f"region {number}: {error}") from None


def _loras(value: Any) -> list[str]:
    """A region's LoRAs as ``"NAME:WEIGHT"`` each."""
    return [_lora(each) for each in (value if isinstance(value, list | tuple) else [value])]


def _lora(told: Any) -> str:
    place, colon, weight = told.rpartition(":") if isinstance(told, str) else ("", "", "")
    if not colon:
        place, weight = told if isinstance(told, str) else "", "1"
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not place or not math.isfinite(number):
        raise InputError(f"a region's lora is NAME[:WEIGHT] or a list of such, not {told!r}.")
    return f"{place}:{number:g}"
