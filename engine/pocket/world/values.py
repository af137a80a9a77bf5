"""What the pocket world is made of, by name: hours, grounds, weathers, things, colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

ImageArray: TypeAlias = npt.NDArray[np.uint8]
MaskArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Rgb: TypeAlias = tuple[float, float, float]

TRAIN_SEEDS = range(1_000_000)
"""Seeds whose scenes models may be trained on."""
HELD_OUT_SEEDS = range(1_000_000, 2_000_000)
"""Seeds whose scenes only measure models."""

TIMES = ("morning", "day", "sunset", "night")
GROUNDS = ("meadow", "desert", "mountains", "sea", "snow")
WEATHERS = ("clear", "cloudy", "foggy", "rainy")
KINDS = ("house", "tree", "tent", "boat", "balloon")

COLOURS: dict[str, Rgb] = {
    "red": (214, 40, 40),
    "orange": (243, 134, 28),
    "yellow": (250, 220, 50),
    "green": (52, 160, 72),
    "blue": (44, 100, 220),
    "purple": (142, 60, 176),
    "white": (242, 242, 238),
}
"""The colours of things: name to sRGB, 0 to 255, before the light of the hour falls on them."""

KIND_COLOURS: dict[str, tuple[str, ...]] = {
    "house": tuple(COLOURS),
    "tree": ("green", "orange", "red", "yellow"),
    "tent": tuple(COLOURS),
    "boat": tuple(COLOURS),
    "balloon": tuple(COLOURS),
}
"""The colours that each kind of object comes in (a boat's colour is its sail's)."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a picture shows, or what a text asks for. ``None``: the text does not say."""

    time: str | None = None
    ground: str | None = None
    weather: str | None = None
    objects: tuple[tuple[str, str | None], ...] = ()
    """Pairs of kind and colour, sorted, each pair once."""

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "time": self.time,
            "ground": self.ground,
            "weather": self.weather,
            "objects": [{"kind": kind, "colour": colour} for kind, colour in self.objects],
        }
