"""The pocket world: a seeded painter of small landscapes that knows everything about its pictures.

Every scene is a frozen :class:`SceneSpec` (what is there) that :func:`render` turns into a
:class:`Scene`
(how it looks): image, caption, per-object footprints, depth and edges. Because a scene is painted
back to front
and every object depends on its own fields alone, removing, adding or recolouring an object leaves
every pixel
outside that object's footprint bit for bit as it was. That makes ground truth for removal,
insertion and recolouring.

>>> spec = sample_scene(7)
>>> scene = render(spec, size=128)
>>> scene.image.shape, scene.image.dtype
((128, 128, 3), dtype('uint8'))

Seeds: training uses ``TRAIN_SEEDS``, everything that is reported uses ``HELD_OUT_SEEDS``.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from engine.picture.masks import distance_to

__all__ = [
    "COLOURS",
    "GROUNDS",
    "HELD_OUT_SEEDS",
    "KINDS",
    "KIND_COLOURS",
    "TIMES",
    "TRAIN_SEEDS",
    "WEATHERS",
    "Attributes",
    "DemoEdit",
    "Scene",
    "SceneObject",
    "SceneSpec",
    "attributes_from_caption",
    "box_around",
    "demo_scenes",
    "feathered",
    "fitting_object",
    "footprint",
    "grow",
    "render",
    "sample_scene",
    "training_caption",
    "vocabulary",
]

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

_GROUND_KINDS: dict[str, tuple[str, ...]] = {
    "meadow": ("house", "tree", "tent", "balloon"),
    "desert": ("house", "tree", "tent", "balloon"),
    "mountains": ("house", "tree", "tent", "balloon"),
    "sea": ("boat", "balloon"),
    "snow": ("house", "tree", "tent", "balloon"),
}
_SUPERSAMPLING = 4


# --------------------------------------------------------------------------------------------------
# What is there
# --------------------------------------------------------------------------------------------------


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
        return f"{_article(self.colour)} {self.colour} {self.kind}"

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
        return _caption(self, np.random.default_rng(self.phrasing), drop=0.0)

    @property
    def attributes(self) -> Attributes:
        """What :func:`attributes_from_caption` should find in a full caption of the scene."""
        objects = tuple(
            sorted(
                {(thing.kind, cast("str | None", thing.colour)) for thing in self.objects}, key=str
            )
        )
        return Attributes(self.time, self.ground, self.weather, objects)


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


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------

_TIME_PHRASES = {
    "morning": ("in the morning", "at dawn", "at sunrise"),
    "day": ("by day", "at noon", "in the daytime"),
    "sunset": ("at sunset", "in the evening", "at dusk"),
    "night": ("at night", "under the stars", "at midnight"),
}
_WEATHER_PHRASES = {
    "clear": ("under a clear sky", "in clear weather"),
    "cloudy": ("under a cloudy sky", "with clouds in the sky"),
    "foggy": ("in the fog", "in the mist", "in foggy weather"),
    "rainy": ("in the rain", "in rainy weather"),
}
_PLACES = {
    "meadow": ("a green meadow", "the grass", "green hills", "a meadow"),
    "desert": ("the sand", "sand dunes", "the desert"),
    "mountains": ("the mountains", "grey mountains", "a mountain landscape"),
    "sea": ("the sea", "the ocean", "the water", "the blue sea"),
    "snow": ("the snow", "a snowy field", "snowy hills", "a winter landscape"),
}
_PLACES_TO_BE_IN = {
    "the mountains",
    "grey mountains",
    "the desert",
    "a mountain landscape",
    "a winter landscape",
}
_TAGS = {
    "morning": "morning",
    "day": "day",
    "sunset": "sunset",
    "night": "night",
    "clear": "clear sky",
    "cloudy": "clouds",
    "foggy": "fog",
    "rainy": "rain",
    "meadow": "meadow",
    "desert": "desert",
    "mountains": "mountains",
    "sea": "sea",
    "snow": "snow",
}
_NUMBERS = {2: "two", 3: "three"}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _objects_phrase(objects: tuple[SceneObject, ...], rng: np.random.Generator, drop: float) -> str:
    counts: dict[tuple[str, str], int] = {}
    for thing in objects:
        key = (thing.kind, thing.colour)
        counts[key] = counts.get(key, 0) + 1
    keys = list(counts)
    rng.shuffle(keys)
    phrases = []
    for kind, colour in keys:
        number = counts[(kind, colour)]
        noun = kind
        if kind == "balloon" and rng.random() < 0.15:
            noun = "hot air balloon"
        elif kind == "boat" and rng.random() < 0.2:
            noun = "sailing boat"
        if rng.random() < drop * 0.4 or (
            kind == "tree" and colour == "green" and drop and rng.random() < 0.25
        ):
            phrases.append(
                f"{_article(noun)} {noun}" if number == 1 else f"{_NUMBERS[number]} {noun}s"
            )
        elif number == 1:
            phrases.append(f"{_article(colour)} {colour} {noun}")
        else:
            phrases.append(f"{_NUMBERS[number]} {colour} {noun}s")
    if len(phrases) < 2:
        return "".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _preposition(place: str, objects: tuple[SceneObject, ...]) -> str:
    if all(thing.kind == "balloon" for thing in objects):
        return "over"
    return "in" if place in _PLACES_TO_BE_IN else "on"


def _caption(spec: SceneSpec, rng: np.random.Generator, drop: float) -> str:
    """One wording; ``drop`` is the chance that each of place, time and weather goes unsaid."""
    objects = spec.objects
    if drop and len(objects) > 1 and rng.random() < drop * 0.5:
        keep = int(rng.integers(1, len(objects)))
        objects = tuple(objects[i] for i in rng.permutation(len(objects))[:keep])
    things = _objects_phrase(objects, rng, drop)
    says_time, says_place, says_weather = (rng.random(3) >= drop).tolist()
    if spec.weather == "clear" and rng.random() < 0.5:
        says_weather = False
    if not things and not (says_time or says_place or says_weather):
        says_place = True
    place = str(rng.choice(_PLACES[spec.ground]))
    time = str(rng.choice(_TIME_PHRASES[spec.time]))
    weather = str(rng.choice(_WEATHER_PHRASES[spec.weather]))
    style = int(rng.choice(4, p=(0.55, 0.15, 0.15, 0.15)))
    if style == 1:
        tags = [
            things,
            *(_TAGS[v] for v, said in ((spec.ground, says_place), (spec.time, says_time)) if said),
        ]
        if says_weather:
            tags.append(_TAGS[spec.weather])
        return ", ".join(tag for tag in tags if tag)
    circumstances = [
        phrase for phrase, said in ((time, says_time), (weather, says_weather)) if said
    ]
    if not things:
        if not says_place:
            return " ".join(["a landscape", *circumstances])
        return " ".join(
            [
                place if rng.random() < 0.7 or place.startswith("a ") else f"only {place}",
                *circumstances,
            ]
        )
    if style == 2 and says_place:
        return " ".join([place, *circumstances[:1], "with", things, *circumstances[1:]])
    where = [_preposition(place, objects), place] if says_place else []
    if style == 3 and circumstances:
        return f"{circumstances[0]}, " + " ".join([things, *where, *circumstances[1:]])
    return " ".join([things, *where, *circumstances])


def training_caption(spec: SceneSpec, rng: np.random.Generator) -> str:
    """A random wording that often leaves something out, down to ``"a red house"``, as users do."""
    return _caption(
        spec, rng, drop=float(rng.choice((0.0, 0.3, 0.7, 1.0), p=(0.45, 0.25, 0.15, 0.15)))
    )


_TIME_WORDS = {
    "morning": {"morning", "dawn", "sunrise"},
    "sunset": {"sunset", "evening", "dusk", "twilight"},
    "night": {"night", "midnight", "stars", "starry", "moon", "moonlight", "moonlit"},
    "day": {"day", "noon", "daytime", "midday", "sunny", "daylight"},
}
_WEATHER_WORDS = {
    "foggy": {"fog", "foggy", "mist", "misty", "haze"},
    "rainy": {"rain", "rainy", "raining", "storm"},
    "cloudy": {"cloud", "clouds", "cloudy", "overcast"},
    "clear": {"clear", "cloudless", "sunny"},
}
_GROUND_WORDS = {
    "mountains": {"mountain", "mountains", "rocks", "rocky", "peaks"},
    "sea": {"sea", "ocean", "water", "waves", "lake"},
    "desert": {"desert", "sand", "sandy", "dune", "dunes"},
    "snow": {"snow", "snowy", "winter", "snowfield"},
    "meadow": {"meadow", "grass", "grassy", "lawn", "hill", "hills", "field"},
}
_KIND_WORDS = {
    "house": ("house", "houses", "home", "cottage", "hut", "cabin"),
    "tree": ("tree", "trees"),
    "tent": ("tent", "tents"),
    "boat": ("boat", "boats", "sailboat", "sailboats", "ship", "ships"),
    "balloon": ("balloon", "balloons"),
}
_WORD_KIND = {word: kind for kind, words in _KIND_WORDS.items() for word in words}
_FILLERS = {
    "hot",
    "air",
    "sailing",
    "little",
    "small",
    "big",
    "large",
    "wooden",
    "old",
    "beautiful",
}
_PREFIX_NEGATIONS = {"no", "without"}
_ARTICLES = {"a", "an", "the", "any"}


def attributes_from_caption(text: str) -> Attributes:
    """Read out of a free text what it asks for; words that the world does not know are passed over.

    >>> attributes_from_caption("a red house on a green meadow at sunset").objects
    (('house', 'red'),)
    """
    words = re.findall(r"[a-z]+", text.lower())
    present = set(words)

    def first(table: dict[str, set[str]]) -> str | None:
        return next((name for name, keys in table.items() if keys & present), None)

    objects: set[tuple[str, str | None]] = set()
    for position, word in enumerate(words):
        kind = _WORD_KIND.get(word)
        if kind is None:
            continue
        colour, negated = _colour_before(words[max(0, position - 5) : position])
        if negated:
            continue
        if colour is not None and colour not in KIND_COLOURS[kind]:
            colour = None
        objects.add((kind, colour))
    return Attributes(
        first(_TIME_WORDS),
        first(_GROUND_WORDS),
        first(_WEATHER_WORDS),
        tuple(sorted(objects, key=str)),
    )


_MORE_WORDS = """
a an and the with of on in over under by at one only landscape sky sun photo photograph picture
painting drawing empty near next to behind above below left right middle
fur cat gravel brick wall stone stones leaves flowers wood face person woman man rocket coffee cup
grey gray black brown pink dark bright light blurry bad ugly low quality texture closeup
"""


def _colour_before(words: list[str]) -> tuple[str | None, bool]:
    """The colour that stands before a noun, and whether a "no" or a "without" takes it back."""
    colour: str | None = None
    article = False
    for word in reversed(words):
        if word in _PREFIX_NEGATIONS:
            return None, True
        if article:
            break
        if word in COLOURS and colour is None:
            colour = word
        elif word in _ARTICLES:
            article = True
        elif word not in _FILLERS:
            break
    return colour, False


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every word that deserves a token of its own, sorted: the captions' words and what users are
    likely to add.
    """
    words: set[str] = set()
    for table in (_TIME_PHRASES, _WEATHER_PHRASES, _PLACES):
        for phrases in table.values():
            words.update(" ".join(phrases).split())
    words.update(" ".join(_TAGS.values()).split())
    for word_sets in (_TIME_WORDS, _WEATHER_WORDS, _GROUND_WORDS):
        words.update(*word_sets.values())
    words.update(_WORD_KIND, COLOURS, _FILLERS, _PREFIX_NEGATIONS, _NUMBERS.values())
    words.update(_MORE_WORDS.split())
    return tuple(sorted(words))


# --------------------------------------------------------------------------------------------------
# How it looks
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Light:
    """The colours of one hour: sky from top to horizon, the factor for things, the sun or moon."""

    sky: tuple[Rgb, Rgb, Rgb]
    ambient: Rgb
    disc: Rgb
    glow: Rgb
    radius: float
    cloud: Rgb
    fog: Rgb


_LIGHTS = {
    "morning": _Light(
        ((132, 178, 226), (208, 206, 222), (255, 214, 196)),
        (1.0, 0.93, 0.9),
        (255, 244, 190),
        (255, 226, 150),
        0.07,
        (255, 236, 230),
        (236, 222, 218),
    ),
    "day": _Light(
        ((70, 140, 236), (130, 186, 250), (206, 232, 252)),
        (1.0, 1.0, 1.0),
        (255, 236, 110),
        (255, 250, 190),
        0.075,
        (252, 252, 255),
        (220, 228, 236),
    ),
    "sunset": _Light(
        ((74, 48, 122), (214, 92, 106), (255, 168, 74)),
        (0.92, 0.74, 0.68),
        (255, 214, 92),
        (255, 160, 60),
        0.085,
        (246, 176, 150),
        (222, 158, 134),
    ),
    "night": _Light(
        ((8, 10, 34), (20, 26, 66), (44, 52, 104)),
        (0.5, 0.53, 0.68),
        (242, 240, 214),
        (86, 92, 140),
        0.06,
        (74, 80, 116),
        (62, 68, 98),
    ),
}
_GROUND_COLOURS: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    # far, middle, near
    "meadow": ((70, 132, 70), (84, 160, 66), (112, 186, 76)),
    "desert": ((196, 158, 96), (220, 182, 112), (238, 206, 138)),
    "mountains": ((96, 102, 120), (116, 118, 128), (142, 140, 142)),
    "sea": ((30, 92, 150), (24, 82, 140), (18, 62, 116)),
    "snow": ((188, 204, 226), (214, 226, 240), (240, 246, 252)),
}
_OVERCAST = {"clear": 0.0, "cloudy": 0.3, "foggy": 0.45, "rainy": 0.75}
_DIMMED = {"clear": 1.0, "cloudy": 0.96, "foggy": 0.98, "rainy": 0.8}


def _mix(a: Rgb, b: Rgb, amount: float) -> Rgb:
    return (
        a[0] + (b[0] - a[0]) * amount,
        a[1] + (b[1] - a[1]) * amount,
        a[2] + (b[2] - a[2]) * amount,
    )


def _times(a: Rgb, b: Rgb) -> Rgb:
    return (min(a[0] * b[0], 255.0), min(a[1] * b[1], 255.0), min(a[2] * b[2], 255.0))


def _scaled(a: Rgb, factor: float) -> Rgb:
    return _times(a, (factor, factor, factor))


class _Canvas:
    """A supersampled picture with depth; shapes are given in fractions of the height (x from the
    left).
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.unit = height * _SUPERSAMPLING
        self.big = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)  # cv2 order
        self.image: npt.NDArray[np.uint8] = np.zeros((self.big[1], self.big[0], 3), np.uint8)
        self.depth: npt.NDArray[np.uint8] = np.zeros((self.big[1], self.big[0]), np.uint8)
        self.footprint: npt.NDArray[np.uint8] | None = None
        self.nearness = 0

    def points(self, xy: npt.ArrayLike) -> npt.NDArray[np.int32]:
        return np.round(np.asarray(xy, np.float64) * (self.unit * 16)).astype(np.int32)

    def polygon(self, xy: npt.ArrayLike, colour: Rgb) -> None:
        points = [self.points(xy)]
        cv2.fillPoly(self.image, points, colour, cv2.LINE_8, 4)
        cv2.fillPoly(self.depth, points, self.nearness, cv2.LINE_8, 4)
        if self.footprint is not None:
            cv2.fillPoly(self.footprint, points, 255, cv2.LINE_8, 4)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        self.polygon(np.stack([x + rx * _CIRCLE[0], y + ry * _CIRCLE[1]], -1), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Rgb) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Rgb) -> None:
        dx, dy = x1 - x0, y1 - y0
        scale = width / 2 / max((dx * dx + dy * dy) ** 0.5, 1e-9)
        nx, ny = -dy * scale, dx * scale
        self.polygon(
            [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)], colour
        )

    def shade(self, x: float, y: float, rx: float, ry: float, factor: float) -> None:
        """Darken an ellipse: a shadow on the ground."""
        left, top = int((x - rx) * self.unit) - 1, int((y - ry) * self.unit) - 1
        right, bottom = int((x + rx) * self.unit) + 2, int((y + ry) * self.unit) + 2
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, self.big[0]), min(bottom, self.big[1])
        if left >= right or top >= bottom:
            return
        stencil: npt.NDArray[np.uint8] = np.zeros((bottom - top, right - left), np.uint8)
        outline = np.stack([x + rx * _CIRCLE[0], y + ry * _CIRCLE[1]], -1)
        points = self.points(outline) - np.array([left * 16, top * 16], np.int32)
        cv2.fillPoly(stencil, [points], 255, cv2.LINE_8, 4)
        region = self.image[top:bottom, left:right]
        darker = cv2.convertScaleAbs(region, alpha=factor)
        cv2.copyTo(darker, stencil, region)
        if self.footprint is not None:
            np.maximum(
                self.footprint[top:bottom, left:right],
                stencil,
                out=self.footprint[top:bottom, left:right],
            )

    def small(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return cast(
            "npt.NDArray[np.uint8]",
            cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA),
        )


_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = (np.cos(_ANGLES), np.sin(_ANGLES))


def render(spec: SceneSpec, size: int | tuple[int, int] = 128) -> Scene:
    """Paint a scene.

    ``size`` is the side in pixels, or (height, width); at least 16. Shapes scale with the height,
    so that a wide
    picture shows more land rather than stretched houses.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 16 or width < 16:
        raise ValueError(f"a scene needs at least 16 x 16 pixels, got {height} x {width}")
    canvas = _Canvas(height, width)
    light = _LIGHTS[spec.time]
    ambient = _scaled(light.ambient, _DIMMED[spec.weather])
    rng = np.random.default_rng(spec.scenery_seed)
    _paint_sky(canvas, spec, light, rng)
    _paint_ground(canvas, spec, light, ambient, rng)
    footprints: dict[int, npt.NDArray[np.uint8]] = {}
    order = sorted(range(len(spec.objects)), key=lambda i: _layer(spec.objects[i]))
    for index in order:
        canvas.footprint = np.zeros((canvas.big[1], canvas.big[0]), np.uint8)
        _paint_object(canvas, spec.objects[index], spec, ambient)
        footprints[index] = canvas.footprint
    image = canvas.small(canvas.image)
    depth = canvas.small(canvas.depth).astype(np.float32) / np.float32(255)
    masks = tuple(
        np.asarray(
            cv2.resize(footprints[i], (width, height), interpolation=cv2.INTER_AREA) > 0, np.bool_
        )
        | _any_covered(footprints[i])
        for i in range(len(spec.objects))
    )
    image = _paint_weather(image, depth, spec, light, rng)
    return Scene(spec, image, masks, depth)


def footprint(spec: SceneSpec, index: int, size: int | tuple[int, int] = 128) -> MaskArray:
    """The pixels, H W, that object ``index`` can change."""
    return render(spec, size).masks[index]


def _any_covered(big: npt.NDArray[np.uint8]) -> MaskArray:
    """True where any supersample is set (area averaging rounds single samples away)."""
    s = _SUPERSAMPLING
    h, w = big.shape[0] // s, big.shape[1] // s
    return cast(MaskArray, big.reshape(h, s, w, s).any(axis=(1, 3)))


def grow(mask: MaskArray, pixels: int) -> MaskArray:
    """The mask grown by ``pixels`` on every side (a disc)."""
    if pixels <= 0:
        return mask.copy()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cast(MaskArray, cv2.dilate(mask.astype(np.uint8), kernel).astype(np.bool_))


def _layer(thing: SceneObject) -> tuple[int, float, float]:
    return (0 if thing.kind == "balloon" else 1, thing.y, thing.x)


def _paint_sky(canvas: _Canvas, spec: SceneSpec, light: _Light, rng: np.random.Generator) -> None:
    h, w = canvas.height, canvas.width
    overcast = _OVERCAST[spec.weather]
    haze = _scaled(light.fog, 0.82 if spec.weather == "rainy" else 0.96)
    stops = np.array([_mix(colour, haze, overcast) for colour in light.sky], np.float32)
    ramp = np.clip((np.arange(h, dtype=np.float32) + 0.5) / h / spec.horizon, 0, 1)
    gradient = np.stack([np.interp(ramp, (0, 0.55, 1), stops[:, c]) for c in range(3)], -1).astype(
        np.float32
    )
    sky = np.repeat(gradient[:, None], w, axis=1)
    x, y = spec.light[0] * w / h, spec.light[1]
    visible = 1.0 - overcast
    if visible > 0.3:
        columns = (np.arange(w, dtype=np.float32) + 0.5) / h - x
        rows = (np.arange(h, dtype=np.float32) + 0.5) / h - y
        distance = columns[None] ** 2 + rows[:, None] ** 2
        halo = np.exp(distance * np.float32(-1 / 0.045)) * np.float32(0.6 * visible)
        sky += halo[..., None] * (np.array(light.glow, np.float32) - sky)
    big = cv2.resize(
        np.clip(sky, 0, 255).astype(np.uint8), canvas.big, interpolation=cv2.INTER_LINEAR
    )
    canvas.image[:] = big
    stars = rng.random((26, 3))
    if spec.time == "night" and spec.weather == "clear":
        for star_x, star_y, strength in stars:
            radius = 0.0035 + 0.0055 * strength**2
            canvas.ellipse(
                star_x * w / h, star_y * spec.horizon * 0.92, radius, radius, (228, 230, 246)
            )
    disc = _mix(light.disc, haze, 0.0 if overcast < 0.4 else 0.55)
    if spec.weather != "rainy":
        canvas.ellipse(x, y, light.radius, light.radius, disc)
        if spec.time == "night":
            for dx, dy, r in ((-0.016, -0.012, 0.014), (0.02, 0.006, 0.01), (-0.002, 0.026, 0.009)):
                canvas.ellipse(x + dx, y + dy, r, r, _scaled(disc, 0.9))
    cloud = _mix(light.cloud, haze, 0.1)
    if spec.weather == "rainy":
        cloud = _scaled(_mix(light.cloud, (120, 124, 140), 0.6), 0.8)
    count = {"clear": 0, "cloudy": 4, "foggy": 0, "rainy": 7}[spec.weather]
    places = rng.random((7, 4))
    for i, (u, v, scale, tint) in enumerate(places[:count]):
        size = 0.085 + 0.06 * scale
        centre = ((i + 0.15 + 0.7 * u) / count) * w / h
        level = (0.07 + 0.62 * v) * spec.horizon if spec.weather == "cloudy" else 0.02 + 0.09 * v
        if spec.weather == "rainy":
            size *= 1.25
        colour = _scaled(cloud, 0.94 + 0.06 * tint)
        _paint_cloud(canvas, centre, level, size, colour)


def _paint_cloud(canvas: _Canvas, x: float, y: float, size: float, colour: Rgb) -> None:
    under = _scaled(colour, 0.9)
    for shade, lift in ((under, 0.0), (colour, -0.1)):
        for dx, dy, r in (
            (-0.72, 0.08, 0.42),
            (-0.22, -0.22, 0.58),
            (0.36, -0.1, 0.5),
            (0.82, 0.12, 0.36),
        ):
            canvas.ellipse(x + dx * size, y + (dy + lift) * size, r * size, r * size * 0.82, shade)
        canvas.box(
            x - 0.72 * size, y - 0.05 * size, x + 0.82 * size, y + (0.42 + lift) * size, shade
        )


def _ridge(
    canvas: _Canvas, rng: np.random.Generator, base: float, swing: float, wavelength: float
) -> npt.NDArray[np.float64]:
    """A rolling line from the left border to the right; points x, y in fractions of the height."""
    right = canvas.width / canvas.height
    x = np.linspace(-0.02, right + 0.02, 48)
    phase, second, ratio = rng.random(3)
    y = base + swing * (
        0.7 * np.sin(2 * np.pi * (x / wavelength + phase))
        + 0.3 * np.sin(2 * np.pi * (x / wavelength * (1.7 + ratio) + second))
    )
    return np.stack([x, y], -1)


def _fill_below(canvas: _Canvas, line: npt.NDArray[np.float64], top: Rgb, bottom: Rgb) -> None:
    """Fill everything under a line with a vertical gradient and the depth of a plain that runs to
    the horizon.
    """
    corners = np.array([[line[-1, 0], 1.02], [line[0, 0], 1.02]])
    points = canvas.points(np.concatenate([line, corners]))
    start = float(line[:, 1].min())
    stencil: npt.NDArray[np.uint8] = np.zeros((canvas.big[1], canvas.big[0]), np.uint8)
    cv2.fillPoly(stencil, [points], 255, cv2.LINE_8, 4)
    first = min(max(int(start * canvas.unit) - 1, 0), canvas.big[1] - 1)
    rows = canvas.big[1] - first
    amount = np.clip(np.arange(rows, dtype=np.float32) / rows, 0, 1)[:, None]
    a, b = np.array(top, np.float32), np.array(bottom, np.float32)
    column = np.clip(a + (b - a) * amount, 0, 255).astype(np.uint8)
    near = np.clip(
        40 + 215 * (np.arange(first, canvas.big[1]) / canvas.big[1] - 0.45) / 0.55, 40, 255
    ).astype(np.uint8)
    fill = np.repeat(column[:, None], canvas.big[0], axis=1)
    cv2.copyTo(fill, stencil[first:], canvas.image[first:])
    cv2.copyTo(
        np.repeat(near[:, None], canvas.big[0], axis=1), stencil[first:], canvas.depth[first:]
    )


def _paint_ground(
    canvas: _Canvas, spec: SceneSpec, light: _Light, ambient: Rgb, rng: np.random.Generator
) -> None:
    far, middle, near = (_times(colour, ambient) for colour in _GROUND_COLOURS[spec.ground])
    sky_low = _mix(light.sky[2], light.fog, _OVERCAST[spec.weather])
    far = _mix(far, sky_low, 0.12)
    horizon, right = spec.horizon, canvas.width / canvas.height
    if spec.ground == "sea":
        flat = np.array([[-0.02, horizon], [right + 0.02, horizon]])
        _fill_below(canvas, flat, _mix(far, sky_low, 0.28), near)
        _paint_waves(canvas, spec, light, _mix(middle, sky_low, 0.34), rng)
        return
    if spec.ground == "mountains":
        _paint_peaks(canvas, spec, far, ambient, rng)
        line = _ridge(canvas, rng, horizon + 0.07, 0.022, 0.9)
        _fill_below(canvas, line, middle, _scaled(middle, 0.9))
        line = _ridge(canvas, rng, horizon + 0.2, 0.03, 1.2)
        _fill_below(canvas, line, near, _scaled(near, 0.84))
        return
    swing, wavelength = {"meadow": (0.035, 0.9), "desert": (0.045, 0.75), "snow": (0.04, 1.1)}[
        spec.ground
    ]
    _fill_below(canvas, _ridge(canvas, rng, horizon, swing, wavelength), far, _scaled(far, 0.92))
    _fill_below(
        canvas,
        _ridge(canvas, rng, horizon + 0.11, swing * 0.8, wavelength * 1.3),
        middle,
        _scaled(middle, 0.9),
    )
    _fill_below(
        canvas,
        _ridge(canvas, rng, horizon + 0.25, swing * 0.6, wavelength * 1.7),
        near,
        _scaled(near, 0.82),
    )


def _paint_peaks(
    canvas: _Canvas, spec: SceneSpec, far: Rgb, ambient: Rgb, rng: np.random.Generator
) -> None:
    right, base = canvas.width / canvas.height, spec.horizon + 0.12
    cap, canvas.nearness = _times((240, 244, 250), ambient), 30
    count = max(3, round(3 * right))
    jitter = rng.random((count, 3))
    order = np.argsort(jitter[:, 1])
    for i in order:
        x = (i + 0.1 + 0.8 * float(jitter[i, 0])) / count * right
        top = spec.horizon - 0.1 - 0.16 * float(jitter[i, 1])
        spread = 0.26 + 0.12 * float(jitter[i, 2])
        canvas.polygon([(x - spread, base), (x, top), (x + spread, base)], _scaled(far, 1.06))
        canvas.polygon(
            [(x, top), (x + spread, base), (x + 0.08 * spread, base)], _scaled(far, 0.86)
        )
        t = 0.27
        left_x, right_x, low = x - spread * t, x + spread * t, top + (base - top) * t
        zigzag = [
            (x, top),
            (right_x, low),
            (x + spread * 0.1, low - 0.022),
            (x - spread * 0.04, low + 0.012),
        ]
        canvas.polygon([*zigzag, (x - spread * 0.13, low - 0.02), (left_x, low)], cap)
    canvas.nearness = 0


def _paint_waves(
    canvas: _Canvas, spec: SceneSpec, light: _Light, crest: Rgb, rng: np.random.Generator
) -> None:
    right = canvas.width / canvas.height
    depth = canvas.depth.copy()
    count = max(10, round(10 * right))
    for u, v, length in rng.random((count, 3)):
        y = spec.horizon + 0.05 + (0.93 - spec.horizon) * v
        half = (0.03 + 0.05 * length) * (0.5 + v)
        thick = 0.007 + 0.006 * v
        canvas.ellipse(u * right, y, half, thick, crest)
    glitter = rng.random((6, 2))
    if spec.weather == "clear":
        x = spec.light[0] * right
        colour = _mix(crest, light.disc, 0.6)
        for i, (u, length) in enumerate(glitter):
            y = spec.horizon + 0.02 + i * (0.9 - spec.horizon) / 6
            canvas.ellipse(x + (u - 0.5) * 0.03, y, 0.025 + 0.045 * length, 0.008, colour)
    canvas.depth[:] = depth


def _paint_weather(
    image: npt.NDArray[np.uint8],
    depth: FloatArray,
    spec: SceneSpec,
    light: _Light,
    rng: np.random.Generator,
) -> ImageArray:
    if spec.weather == "foggy":
        fog = np.array(light.fog, np.float32)
        rows = (np.arange(image.shape[0], dtype=np.float32) + 0.5)[:, None] / image.shape[0]
        band = np.exp(-(((rows - spec.horizon - 0.04) / 0.3) ** 2))
        amount = np.clip(0.72 * band * (1 - 0.75 * depth) + 0.05, 0, 1)[..., None]
        return np.asarray(np.round(image + (fog - image) * amount), np.uint8)
    if spec.weather == "rainy":
        h, w = image.shape[:2]
        veil: npt.NDArray[np.uint8] = np.zeros((h, w), np.uint8)
        count = max(12, round(24 * w / h))
        drops = rng.random((count, 3))
        starts = drops[:, :2] * (w * 1.1, h)
        lengths = (0.05 + 0.05 * drops[:, 2]) * h
        for (x, y), length in zip(starts, lengths, strict=True):
            start = (round(x * 16), round(y * 16))
            end = (round((x - 0.35 * length) * 16), round((y + length) * 16))
            cv2.line(veil, start, end, 110, max(1, round(h / 128)), cv2.LINE_AA, 4)
        drop = np.array(_mix(light.fog, (230, 236, 250), 0.5), np.float32)
        amount = (veil.astype(np.float32) / 255)[..., None]
        return np.round(image + (drop - image) * amount).astype(np.uint8)
    return image


# --------------------------------------------------------------------------------------------------
# Things
# --------------------------------------------------------------------------------------------------


def _paint_object(canvas: _Canvas, thing: SceneObject, spec: SceneSpec, ambient: Rgb) -> None:
    x = thing.x * canvas.width / canvas.height
    canvas.nearness = round(min(max(40 + 215 * (thing.y - 0.45) / 0.55, 60), 255))
    if thing.kind == "balloon":
        canvas.nearness = round(140 + 70 * min(max((thing.size - 0.3) / 0.12, 0), 1))
    _PAINTERS[thing.kind](canvas, thing, x, spec, ambient)
    canvas.nearness = 0


def _lit(colour: Rgb, ambient: Rgb, night: bool) -> Rgb:
    """Things keep more of their own colour than the land does, so that the names of their colours
    stay true.
    """
    return _times(colour, _mix(ambient, (0.96, 0.96, 0.96) if night else (1.0, 1.0, 1.0), 0.5))


def _paint_house(
    canvas: _Canvas, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    night = spec.time == "night"
    s, y = thing.size, thing.y
    wall = _lit(COLOURS[thing.colour], ambient, night)
    roof = _times((104, 62, 50), ambient)
    side = -1.0 if thing.flipped else 1.0
    half, eaves, ridge = 0.46 * s, y - 0.58 * s, y - s
    canvas.shade(x + 0.05 * s, y, 0.62 * s, 0.06 * s, 0.72)
    chimney = x + side * 0.26 * s
    canvas.box(
        chimney - 0.055 * s, ridge + 0.02 * s, chimney + 0.055 * s, eaves, _scaled(roof, 0.82)
    )
    canvas.box(x - half, eaves - 0.01, x + half, y, wall)
    canvas.box(
        x + half * 0.72 if side > 0 else x - half,
        eaves,
        x + half if side > 0 else x - half * 0.72,
        y,
        _scaled(wall, 0.86),
    )
    canvas.polygon(
        [(x - 0.56 * s, eaves), (x - 0.3 * s, ridge), (x + 0.3 * s, ridge), (x + 0.56 * s, eaves)],
        roof,
    )
    canvas.box(x - 0.56 * s, eaves - 0.035 * s, x + 0.56 * s, eaves + 0.01 * s, _scaled(roof, 0.8))
    door = x + side * 0.02 * s
    canvas.box(door - 0.085 * s, y - 0.34 * s, door + 0.085 * s, y, _times((84, 52, 38), ambient))
    glass: Rgb = (255, 218, 110) if night else _times((186, 222, 246), ambient)
    frame = _times((250, 248, 240), _mix(ambient, (0.7, 0.7, 0.7), 0.5))
    for centre in (x - 0.28 * s, x + 0.28 * s):
        canvas.box(centre - 0.1 * s, y - 0.43 * s, centre + 0.1 * s, y - 0.2 * s, frame)
        canvas.box(centre - 0.075 * s, y - 0.405 * s, centre + 0.075 * s, y - 0.225 * s, glass)


def _paint_tree(
    canvas: _Canvas, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    s, y = thing.size, thing.y
    leaf = _lit(_scaled(COLOURS[thing.colour], 0.95), ambient, spec.time == "night")
    bark = _times((104, 70, 44), ambient)
    side = -1.0 if thing.flipped else 1.0
    canvas.shade(x + 0.04 * s, y, 0.36 * s, 0.05 * s, 0.72)
    canvas.polygon(
        [
            (x - 0.07 * s, y),
            (x - 0.045 * s, y - 0.5 * s),
            (x + 0.045 * s, y - 0.5 * s),
            (x + 0.07 * s, y),
        ],
        bark,
    )
    lobes = (
        (-0.22, 0.5, 0.2),
        (0.22, 0.5, 0.2),
        (0.0, 0.44, 0.2),
        (-0.13, 0.7, 0.22),
        (0.14, 0.72, 0.2),
        (0.0, 0.8, 0.2),
    )
    for dx, up, r in lobes:
        canvas.ellipse(x + dx * s, y - up * s + 0.012, r * s, r * s, _scaled(leaf, 0.82))
    for dx, up, r in lobes:
        canvas.ellipse(
            x + (dx * 0.9 - side * 0.03) * s, y - (up + 0.035) * s, r * s * 0.84, r * s * 0.84, leaf
        )
    canvas.ellipse(
        x - side * 0.1 * s, y - 0.76 * s, 0.1 * s, 0.08 * s, _mix(leaf, (255, 255, 230), 0.22)
    )


def _paint_tent(
    canvas: _Canvas, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    s, y = thing.size, thing.y
    night = spec.time == "night"
    cloth = _lit(COLOURS[thing.colour], ambient, night)
    side = -1.0 if thing.flipped else 1.0
    canvas.shade(x, y, 0.72 * s, 0.07 * s, 0.72)
    apex = x - side * 0.14 * s
    canvas.polygon([(x - 0.65 * s, y), (apex, y - s), (x + 0.65 * s, y)], cloth)
    near_foot, far_foot = x - side * 0.65 * s, x + side * 0.34 * s
    canvas.polygon([(far_foot, y), (apex, y - s), (x + side * 0.65 * s, y)], _scaled(cloth, 0.74))
    inside: Rgb = (255, 206, 104) if night else _times((66, 52, 50), ambient)
    middle = (near_foot + far_foot) / 2
    canvas.polygon([(middle - 0.2 * s, y), (apex, y - 0.7 * s), (middle + 0.2 * s, y)], inside)


def _paint_boat(
    canvas: _Canvas, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    s, y = thing.size, thing.y
    sail = _lit(COLOURS[thing.colour], ambient, spec.time == "night")
    wood = _times((134, 84, 52), ambient)
    side = -1.0 if thing.flipped else 1.0
    canvas.shade(x, y, 0.46 * s, 0.05 * s, 0.74)
    deck = y - 0.2 * s
    canvas.line(x, deck + 0.02, x, y - s, 0.03 * s, _scaled(wood, 0.7))
    canvas.polygon(
        [
            (x + side * 0.03 * s, y - 0.97 * s),
            (x + side * 0.44 * s, deck - 0.05 * s),
            (x + side * 0.03 * s, deck - 0.05 * s),
        ],
        sail,
    )
    jib = [
        (x - side * 0.035 * s, y - 0.84 * s),
        (x - side * 0.36 * s, deck - 0.05 * s),
        (x - side * 0.035 * s, deck - 0.05 * s),
    ]
    canvas.polygon(jib, _scaled(sail, 0.82))
    canvas.polygon(
        [(x - 0.47 * s, deck), (x + 0.47 * s, deck), (x + 0.32 * s, y), (x - 0.32 * s, y)], wood
    )
    canvas.polygon(
        [
            (x - 0.47 * s, deck),
            (x + 0.47 * s, deck),
            (x + 0.43 * s, deck + 0.055 * s),
            (x - 0.43 * s, deck + 0.055 * s),
        ],
        _times((232, 222, 204), ambient),
    )


def _paint_balloon(
    canvas: _Canvas, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    s, y = thing.size, thing.y
    skin = _lit(COLOURS[thing.colour], ambient, spec.time == "night")
    rope = _times((92, 66, 46), ambient)
    r = 0.36 * s
    cy = y - s + r * 1.02
    mouth, basket = y - 0.19 * s, y - 0.13 * s
    for dx in (-0.055, 0.055):
        canvas.line(
            x + dx * 1.3 * s, mouth - 0.02 * s, x + dx * s, basket + 0.02 * s, 0.02 * s, rope
        )
    for width, shade in ((1.0, skin), (0.62, _scaled(skin, 0.8)), (0.26, skin)):
        canvas.ellipse(x, cy, r * width, r * 1.02, shade)
        low = cy + r * 0.62
        canvas.polygon(
            [
                (x - r * 0.78 * width, low),
                (x + r * 0.78 * width, low),
                (x + 0.085 * s * width, mouth),
                (x - 0.085 * s * width, mouth),
            ],
            shade,
        )
    canvas.ellipse(
        x - 0.5 * r, cy - 0.42 * r, 0.13 * r, 0.22 * r, _mix(skin, (255, 255, 255), 0.35)
    )
    canvas.box(x - 0.08 * s, basket, x + 0.08 * s, y, _times((140, 92, 54), ambient))
    canvas.box(x - 0.09 * s, basket, x + 0.09 * s, basket + 0.035 * s, rope)


_PAINTERS = {
    "house": _paint_house,
    "tree": _paint_tree,
    "tent": _paint_tent,
    "boat": _paint_boat,
    "balloon": _paint_balloon,
}


# --------------------------------------------------------------------------------------------------
# Edits to show
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemoEdit:
    """One edit with its answer: what ``softpaint demo`` runs."""

    name: str
    image: ImageArray
    """H W 3, 0 to 255."""
    mask: MaskArray
    """H W; True = repaint."""
    strength_map: FloatArray | None
    """H W in [0, 1], 1 = repaint; ``None``: the mask says it all."""
    prompt: str
    truth: ImageArray | None
    """H W 3: the renderer's own picture of the edited scene."""


def demo_scenes(size: int | tuple[int, int] = 128) -> list[DemoEdit]:
    """Five edits of held-out scenes: insert, remove, replace, recolour and, with a soft map, change
    the land.

    Masks are not cut along the answer: they are generous boxes and grown footprints, as a person
    would paint them.
    """
    return [_insertion(size), _removal(size), _replacement(size), _recolouring(size), _winter(size)]


def _insertion(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_000_681)
    after = spec.with_object(SceneObject("house", "red", 0.42, 0.88, 0.34))
    before, truth = render(spec, size), render(after, size)
    mask = box_around(truth.masks[0], margin=0.03)
    return DemoEdit(
        "insert", before.image, mask, None, "a red house on a green meadow at sunset", truth.image
    )


def _removal(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_001_057)
    before = render(spec, size)
    mask = grow(before.masks[0], _pixels(before.image, 0.03))
    return DemoEdit(
        "remove", before.image, mask, None, "the sea by day", render(spec.without(0), size).image
    )


def _replacement(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_003_793)
    after = spec.replaced(
        0, dataclasses.replace(spec.objects[0], kind="tent", colour="orange", y=0.85, size=0.28)
    )
    before, truth = render(spec, size), render(after, size)
    mask = grow(before.masks[0] | truth.masks[0], _pixels(before.image, 0.03))
    soft = feathered(mask, _pixels(before.image, 0.04))
    return DemoEdit(
        "replace", before.image, mask, soft, "an orange tent on the grass by day", truth.image
    )


def _recolouring(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_000_386)
    before, truth = render(spec, size), render(spec.recoloured(0, "yellow"), size)
    mask = grow(before.masks[0], _pixels(before.image, 0.03))
    soft = feathered(mask, _pixels(before.image, 0.04))
    return DemoEdit(
        "recolour",
        before.image,
        mask,
        soft,
        "a yellow balloon over the mountains by day",
        truth.image,
    )


def _winter(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_002_325)
    before, changed = render(spec, size), render(dataclasses.replace(spec, ground="snow"), size)
    height, width = before.image.shape[:2]
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    ramp = np.clip((rows - (spec.horizon - 0.08)) / 0.14, 0, 1)
    soft = np.repeat(ramp[:, None], width, axis=1).astype(np.float32)
    kept = feathered(
        grow(before.masks[0], _pixels(before.image, 0.01)), _pixels(before.image, 0.02)
    )
    soft = np.asarray(soft * (1 - kept), np.float32)
    truth = np.where((soft > 0)[..., None], changed.image, before.image)
    prompt = "a blue house in the snow by day"
    return DemoEdit("winter", before.image, soft > 0.5, soft, prompt, truth)


def feathered(mask: MaskArray, pixels: int) -> FloatArray:
    """A soft map, H W in [0, 1]: 1 inside the mask, falling to 0 over about ``pixels`` outside of
    it.
    """
    if pixels <= 0:
        return mask.astype(np.float32)
    ramp = np.clip(1 - distance_to(mask) / (pixels + 1), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _pixels(image: ImageArray, fraction: float) -> int:
    return max(1, round(fraction * len(image)))


def box_around(mask: MaskArray, margin: float) -> MaskArray:
    """The smallest box that holds the mask, grown by ``margin`` times the picture's height."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    pad = max(1, round(margin * mask.shape[0]))
    box = np.zeros_like(mask)
    box[
        max(rows[0] - pad, 0) : rows[-1] + pad + 1, max(columns[0] - pad, 0) : columns[-1] + pad + 1
    ] = True
    return box
