"""The pocket world in words: captions of scenes, and what a text asks for."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.pocket.world.values import COLOURS, KIND_COLOURS, Attributes

if TYPE_CHECKING:
    import numpy as np

    from engine.pocket.world.scene import SceneObject, SceneSpec

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


def article(word: str) -> str:
    """The indefinite article before ``word``."""
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
                f"{article(noun)} {noun}" if number == 1 else f"{_NUMBERS[number]} {noun}s"
            )
        elif number == 1:
            phrases.append(f"{article(colour)} {colour} {noun}")
        else:
            phrases.append(f"{_NUMBERS[number]} {colour} {noun}s")
    if len(phrases) < 2:
        return "".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _preposition(place: str, objects: tuple[SceneObject, ...]) -> str:
    if all(thing.kind == "balloon" for thing in objects):
        return "over"
    return "in" if place in _PLACES_TO_BE_IN else "on"


def full_caption(spec: SceneSpec, rng: np.random.Generator, drop: float) -> str:
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
    return full_caption(
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
