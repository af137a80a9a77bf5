"""The colours of the hours and grounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.pocket.world.values import Rgb


@dataclass(frozen=True, slots=True)
class Light:
    """The colours of one hour: sky from top to horizon, the factor for things, the sun or moon."""

    sky: tuple[Rgb, Rgb, Rgb]
    ambient: Rgb
    disc: Rgb
    glow: Rgb
    radius: float
    cloud: Rgb
    fog: Rgb


LIGHTS = {
    "morning": Light(
        ((132, 178, 226), (208, 206, 222), (255, 214, 196)),
        (1.0, 0.93, 0.9),
        (255, 244, 190),
        (255, 226, 150),
        0.07,
        (255, 236, 230),
        (236, 222, 218),
    ),
    "day": Light(
        ((70, 140, 236), (130, 186, 250), (206, 232, 252)),
        (1.0, 1.0, 1.0),
        (255, 236, 110),
        (255, 250, 190),
        0.075,
        (252, 252, 255),
        (220, 228, 236),
    ),
    "sunset": Light(
        ((74, 48, 122), (214, 92, 106), (255, 168, 74)),
        (0.92, 0.74, 0.68),
        (255, 214, 92),
        (255, 160, 60),
        0.085,
        (246, 176, 150),
        (222, 158, 134),
    ),
    "night": Light(
        ((8, 10, 34), (20, 26, 66), (44, 52, 104)),
        (0.5, 0.53, 0.68),
        (242, 240, 214),
        (86, 92, 140),
        0.06,
        (74, 80, 116),
        (62, 68, 98),
    ),
}
GROUND_COLOURS: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    # far, middle, near
    "meadow": ((70, 132, 70), (84, 160, 66), (112, 186, 76)),
    "desert": ((196, 158, 96), (220, 182, 112), (238, 206, 138)),
    "mountains": ((96, 102, 120), (116, 118, 128), (142, 140, 142)),
    "sea": ((30, 92, 150), (24, 82, 140), (18, 62, 116)),
    "snow": ((188, 204, 226), (214, 226, 240), (240, 246, 252)),
}
OVERCAST = {"clear": 0.0, "cloudy": 0.3, "foggy": 0.45, "rainy": 0.75}
DIMMED = {"clear": 1.0, "cloudy": 0.96, "foggy": 0.98, "rainy": 0.8}
