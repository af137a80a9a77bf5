"""A thing that the pocket world does not have: a lighthouse, striped, with a lamp and a gallery."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engine.pocket import world
from engine.pocket.world.board import SUPERSAMPLING, Board, mix, scaled, times
from engine.pocket.world.light import DIMMED, LIGHTS
from engine.pocket.world.render import grow

PHRASE = "a lighthouse"
COLOURS = {"red": (206, 44, 40), "blue": (44, 92, 196), "black": (52, 52, 58)}
"""Of the stripes; the pictures to learn from have red ones only."""


@dataclass(frozen=True)
class Lighthouse:
    """``x`` as a share of the width, ``y`` (its foot) and ``size`` as shares of the height."""

    x: float
    y: float
    size: float
    colour: str = "red"


def fitting(spec: world.SceneSpec, rng: np.random.Generator) -> Lighthouse | None:
    """One that stands free in a scene; None where there is no room."""
    for _ in range(20):
        size = float(rng.uniform(0.42, 0.58))
        y = float(rng.uniform(spec.horizon + 0.14, 0.93))
        thing = Lighthouse(float(rng.uniform(0.16, 0.84)), y, size)
        if y - size > 0.02 and not any(_meets(thing, other) for other in spec.objects):
            return thing
    return None


def _meets(thing: Lighthouse, other: world.SceneObject) -> bool:
    beside = abs(thing.x - other.x) > 0.16 * thing.size + other.half_width + 0.03
    over = other.y < thing.y - thing.size or thing.y < other.y - other.size
    return not (beside or over)


def paint(
    picture: np.ndarray, spec: world.SceneSpec, thing: Lighthouse
) -> tuple[np.ndarray, np.ndarray]:
    """A square scene's picture (H W 3) with the lighthouse, and its footprint (H W)."""
    side = len(picture)
    big = (side * SUPERSAMPLING, side * SUPERSAMPLING)
    board = Board(side, side)
    board.image = np.asarray(cv2.resize(picture, big, interpolation=cv2.INTER_CUBIC), np.uint8)
    board.footprint = np.zeros(big, np.uint8)
    ambient = scaled(LIGHTS[spec.time].ambient, DIMMED[spec.weather])
    _draw(board, thing, ambient, night=spec.time == "night")
    mask = cv2.resize(board.footprint, (side, side), interpolation=cv2.INTER_AREA) > 0
    drawn = cv2.resize(board.image, (side, side), interpolation=cv2.INTER_AREA)
    if spec.weather == "foggy":
        veil = np.full_like(drawn, int(picture[: side // 3].mean()))
        drawn = cv2.addWeighted(drawn, 0.75, veil, 0.25, 0)
    return np.where(mask[..., None], drawn, picture), mask


def _draw(board: Board, thing: Lighthouse, ambient: tuple, *, night: bool) -> None:
    s, x, y = thing.size, thing.x, thing.y

    def lit(colour: tuple) -> tuple:
        return times(colour, mix(ambient, (1.0, 1.0, 1.0), 0.5))

    white, stripe = lit((240, 238, 230)), lit(COLOURS[thing.colour])
    foot, top, head = 0.15 * s, 0.085 * s, y - 0.76 * s
    board.shade(x + 0.04 * s, y, 0.24 * s, 0.045 * s, 0.72)
    for band in range(5):
        low, high = band / 5, (band + 1) / 5
        wide, narrow = foot + (top - foot) * low, foot + (top - foot) * high
        below, above = y + (head - y) * low, y + (head - y) * high
        colour = stripe if band % 2 == 0 else white
        board.polygon(
            [(x - wide, below), (x - narrow, above), (x + narrow, above), (x + wide, below)], colour
        )
        side = [
            (x + wide * 0.3, below),
            (x + narrow * 0.3, above),
            (x + narrow, above),
            (x + wide, below),
        ]
        board.polygon(side, scaled(colour, 0.84))
    board.box(x - 0.035 * s, y - 0.13 * s, x + 0.035 * s, y, times((84, 52, 38), ambient))
    board.box(x - 0.13 * s, head - 0.03 * s, x + 0.13 * s, head, lit((70, 70, 76)))
    lamp = (255, 226, 120) if night else lit((252, 236, 170))
    board.box(x - 0.07 * s, head - 0.13 * s, x + 0.07 * s, head - 0.03 * s, lamp)
    board.box(x - 0.01 * s, head - 0.13 * s, x + 0.01 * s, head - 0.03 * s, lit((70, 70, 76)))
    board.polygon(
        [(x - 0.1 * s, head - 0.13 * s), (x, head - 0.24 * s), (x + 0.1 * s, head - 0.13 * s)],
        stripe,
    )
    board.ellipse(x, head - 0.25 * s, 0.016 * s, 0.016 * s, lit((70, 70, 76)))


def scene(
    seed: int, side: int = 128
) -> tuple[np.ndarray, np.ndarray, np.ndarray, world.SceneSpec] | None:
    """A scene of the pocket world without and with a lighthouse, the box that a person would draw
    for it, and what is in the scene; None where it has no room.
    """
    spec = world.sample_scene(seed)
    thing = fitting(spec, np.random.default_rng([seed, 5]))
    if thing is None:
        return None
    before = world.render(spec, side).image
    after, mask = paint(before, spec, thing)
    return before, after, world.box_around(grow(mask, 1), margin=1 / 32), spec


def caption(spec: world.SceneSpec) -> str:
    """What a scene's picture with a lighthouse shows."""
    place = {"sea": "in the sea", "snow": "in the snow", "desert": "in the desert"}
    where = place.get(
        spec.ground, f"on the {spec.ground}" if spec.ground == "meadow" else "in the mountains"
    )
    times_ = {
        "morning": "in the morning",
        "day": "by day",
        "sunset": "at sunset",
        "night": "at night",
    }
    return f"{PHRASE} {where} {times_[spec.time]}"
