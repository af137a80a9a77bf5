"""What is there: scenes as values, drawn from seeds, changed object by object."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import cv2
import numpy as np

from engine.pocket.world.captions import article, full_caption
from engine.pocket.world.values import (
    GROUNDS,
    KIND_COLOURS,
    KINDS,
    TIMES,
    WEATHERS,
    Attributes,
    FloatArray,
    ImageArray,
    MaskArray,
)

_GROUND_KINDS: dict[str, tuple[str, ...]] = {
    "meadow": ("house", "tree", "tent", "balloon"),
    "desert": ("house", "tree", "tent", "balloon"),
    "mountains": ("house", "tree", "tent", "balloon"),
    "sea": ("boat", "balloon"),
    "snow": ("house", "tree", "tent", "balloon"),
}


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing in a scene.

    ``x`` is its middle as a fraction of the picture's width, ``y`` the fraction of the height where
    it stands (for a
    balloon: where its basket ends), ``size`` its height as a fraction of the picture's height.
    """

    kind: str
    colour: str
    x: float
    y: float
    size: float
    flipped: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of object {self.kind!r}; known: {', '.join(KINDS)}")
        if self.colour not in KIND_COLOURS[self.kind]:
            known = ", ".join(KIND_COLOURS[self.kind])
            raise ValueError(f"a {self.kind} cannot be {self.colour!r}; known colours: {known}")
        if not self.size > 0:
            raise ValueError(f"size must be above 0, got {self.size}")

    @property
    def phrase(self) -> str:
        """For instance ``"an orange tent"``."""
        return f"{article(self.colour)} {self.colour} {self.kind}"

    @property
    def half_width(self) -> float:
        """Half of the thing's width as a fraction of the picture's HEIGHT."""
        return self.size * _ASPECT[self.kind] / 2


_ASPECT = {"house": 1.12, "tree": 0.84, "tent": 1.3, "boat": 0.95, "balloon": 0.72}
_SIZES = {
    "house": (0.27, 0.35),
    "tree": (0.3, 0.42),
    "tent": (0.22, 0.28),
    "boat": (0.29, 0.4),
    "balloon": (0.3, 0.42),
}


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """All that a scene is. Equal specs render to equal pixels."""

    time: str
    ground: str
    weather: str
    horizon: float
    """Where the land or the sea begins, as a fraction of the height from the top."""
    light: tuple[float, float]
    """Where the sun or the moon stands: x as a fraction of the width, y of the height."""
    scenery_seed: int
    """Shapes of the hills, clouds, waves and stars."""
    objects: tuple[SceneObject, ...] = ()
    phrasing: int = 0
    """Which of the wordings of :attr:`caption` is used."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("time", self.time, TIMES),
            ("ground", self.ground, GROUNDS),
            ("weather", self.weather, WEATHERS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")

    def without(self, index: int) -> SceneSpec:
        """The same scene with object ``index`` gone."""
        objects = list(self.objects)
        del objects[index]
        return dataclasses.replace(self, objects=tuple(objects))

    def with_object(self, thing: SceneObject) -> SceneSpec:
        """The same scene with one more object."""
        return dataclasses.replace(self, objects=(*self.objects, thing))

    def recoloured(self, index: int, colour: str) -> SceneSpec:
        """The same scene with object ``index`` in another colour."""
        return self.replaced(index, dataclasses.replace(self.objects[index], colour=colour))

    def replaced(self, index: int, thing: SceneObject) -> SceneSpec:
        """The same scene with object ``index`` exchanged for another."""
        objects = list(self.objects)
        objects[index] = thing
        return dataclasses.replace(self, objects=tuple(objects))

    @property
    def caption(self) -> str:
        """A full description, for instance ``"a red house on a green meadow at sunset"``."""
        return full_caption(self, np.random.default_rng(self.phrasing), drop=0.0)

    @property
    def attributes(self) -> Attributes:
        """What :func:`attributes_from_caption` should find in a full caption of the scene."""
        objects = tuple(
            sorted(
                {(thing.kind, cast("str | None", thing.colour)) for thing in self.objects}, key=str
            )
        )
        return Attributes(self.time, self.ground, self.weather, objects)


@dataclass(frozen=True)
class Scene:
    """A painted scene and all that is known about it; arrays are H x W (x 3)."""

    spec: SceneSpec
    image: ImageArray
    """H W 3, sRGB, 0 to 255."""
    masks: tuple[MaskArray, ...]
    """For each object its footprint, H W: all pixels, shadow and soft rim included, that it can
    change."""
    depth: FloatArray
    """H W in [0, 1]; 1 is nearest, 0 is the sky."""

    @property
    def caption(self) -> str:
        """The scene's full description."""
        return self.spec.caption

    @property
    def attributes(self) -> dict[str, Any]:
        """Time, ground, weather and objects as plain data."""
        return self.spec.attributes.as_dict()

    @cached_property
    def edges(self) -> ImageArray:
        """H W, 0 or 255: Canny's edges of the image (thresholds 60 and 140 on the grey levels)."""
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
        return cast(ImageArray, cv2.Canny(grey, 60, 140))


def sample_scene(seed: int) -> SceneSpec:
    """Draw a scene; the same seed gives the same scene for ever."""
    rng = np.random.default_rng([seed, 0x50F7])
    time = str(rng.choice(TIMES, p=(0.2, 0.3, 0.25, 0.25)))
    ground = str(rng.choice(GROUNDS, p=(0.22, 0.19, 0.19, 0.22, 0.18)))
    weather = str(rng.choice(WEATHERS, p=(0.5, 0.22, 0.14, 0.14)))
    horizon = float(rng.uniform(0.48, 0.64))
    height = {
        "morning": (0.62, 0.9),
        "day": (0.12, 0.5),
        "sunset": (0.5, 0.88),
        "night": (0.15, 0.5),
    }[time]
    light = (float(rng.uniform(0.1, 0.9)), float(rng.uniform(*height)) * horizon)
    scenery_seed = int(rng.integers(2**31))
    phrasing = int(rng.integers(2**31))
    spec = SceneSpec(time, ground, weather, horizon, light, scenery_seed, (), phrasing)
    for _ in range(int(rng.choice((0, 1, 2, 3), p=(0.08, 0.4, 0.37, 0.15)))):
        thing = fitting_object(spec, rng)
        if thing is not None:
            spec = spec.with_object(thing)
    return spec


def fitting_object(
    spec: SceneSpec, rng: np.random.Generator, kind: str | None = None, colour: str | None = None
) -> SceneObject | None:
    """Draw an object that belongs into the scene and does not stand in front of another; ``None``
    if there is no room.

    ``kind`` and ``colour`` fix what is given.
    """
    for _ in range(12):
        a_kind = kind or str(rng.choice(_GROUND_KINDS[spec.ground]))
        a_colour = colour or str(rng.choice(KIND_COLOURS[a_kind]))
        size = float(rng.uniform(*_SIZES[a_kind]))
        if a_kind == "balloon":
            y = float(rng.uniform(size + 0.03, max(size + 0.05, spec.horizon + 0.04)))
        elif a_kind == "boat":
            y = float(rng.uniform(spec.horizon + 0.12, 0.9))
        else:
            y = float(rng.uniform(spec.horizon + 0.16, 0.94))
        half = size * _ASPECT[a_kind] / 2
        x = float(rng.uniform(half + 0.02, 0.98 - half))
        thing = SceneObject(a_kind, a_colour, x, y, size, bool(rng.random() < 0.5))
        if not any(_overlap(thing, other) for other in spec.objects):
            return thing
    return None


def _overlap(a: SceneObject, b: SceneObject) -> bool:
    apart_sideways = abs(a.x - b.x) > 0.92 * (a.half_width + b.half_width)
    apart_upright = a.y < b.y - b.size - 0.01 or b.y < a.y - a.size - 0.01
    return not (apart_sideways or apart_upright)
