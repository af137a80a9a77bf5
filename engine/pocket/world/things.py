"""How things are painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.pocket.world.board import Board, mix, scaled, times
from engine.pocket.world.values import COLOURS, Rgb

if TYPE_CHECKING:
    from engine.pocket.world.scene import SceneObject, SceneSpec


def paint_object(canvas: Board, thing: SceneObject, spec: SceneSpec, ambient: Rgb) -> None:
    """One thing with its shadow, as its kind is painted."""
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
    return times(colour, mix(ambient, (0.96, 0.96, 0.96) if night else (1.0, 1.0, 1.0), 0.5))


def _paint_house(
    canvas: Board, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    night = spec.time == "night"
    s, y = thing.size, thing.y
    wall = _lit(COLOURS[thing.colour], ambient, night)
    roof = times((104, 62, 50), ambient)
    side = -1.0 if thing.flipped else 1.0
    half, eaves, ridge = 0.46 * s, y - 0.58 * s, y - s
    canvas.shade(x + 0.05 * s, y, 0.62 * s, 0.06 * s, 0.72)
    chimney = x + side * 0.26 * s
    canvas.box(
        chimney - 0.055 * s, ridge + 0.02 * s, chimney + 0.055 * s, eaves, scaled(roof, 0.82)
    )
    canvas.box(x - half, eaves - 0.01, x + half, y, wall)
    canvas.box(
        x + half * 0.72 if side > 0 else x - half,
        eaves,
        x + half if side > 0 else x - half * 0.72,
        y,
        scaled(wall, 0.86),
    )
    canvas.polygon(
        [(x - 0.56 * s, eaves), (x - 0.3 * s, ridge), (x + 0.3 * s, ridge), (x + 0.56 * s, eaves)],
        roof,
    )
    canvas.box(x - 0.56 * s, eaves - 0.035 * s, x + 0.56 * s, eaves + 0.01 * s, scaled(roof, 0.8))
    door = x + side * 0.02 * s
    canvas.box(door - 0.085 * s, y - 0.34 * s, door + 0.085 * s, y, times((84, 52, 38), ambient))
    glass: Rgb = (255, 218, 110) if night else times((186, 222, 246), ambient)
    frame = times((250, 248, 240), mix(ambient, (0.7, 0.7, 0.7), 0.5))
    for centre in (x - 0.28 * s, x + 0.28 * s):
        canvas.box(centre - 0.1 * s, y - 0.43 * s, centre + 0.1 * s, y - 0.2 * s, frame)
        canvas.box(centre - 0.075 * s, y - 0.405 * s, centre + 0.075 * s, y - 0.225 * s, glass)


def _paint_tree(canvas: Board, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb) -> None:
    s, y = thing.size, thing.y
    leaf = _lit(scaled(COLOURS[thing.colour], 0.95), ambient, spec.time == "night")
    bark = times((104, 70, 44), ambient)
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
        canvas.ellipse(x + dx * s, y - up * s + 0.012, r * s, r * s, scaled(leaf, 0.82))
    for dx, up, r in lobes:
        canvas.ellipse(
            x + (dx * 0.9 - side * 0.03) * s, y - (up + 0.035) * s, r * s * 0.84, r * s * 0.84, leaf
        )
    canvas.ellipse(
        x - side * 0.1 * s, y - 0.76 * s, 0.1 * s, 0.08 * s, mix(leaf, (255, 255, 230), 0.22)
    )


def _paint_tent(canvas: Board, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb) -> None:
    s, y = thing.size, thing.y
    night = spec.time == "night"
    cloth = _lit(COLOURS[thing.colour], ambient, night)
    side = -1.0 if thing.flipped else 1.0
    canvas.shade(x, y, 0.72 * s, 0.07 * s, 0.72)
    apex = x - side * 0.14 * s
    canvas.polygon([(x - 0.65 * s, y), (apex, y - s), (x + 0.65 * s, y)], cloth)
    near_foot, far_foot = x - side * 0.65 * s, x + side * 0.34 * s
    canvas.polygon([(far_foot, y), (apex, y - s), (x + side * 0.65 * s, y)], scaled(cloth, 0.74))
    inside: Rgb = (255, 206, 104) if night else times((66, 52, 50), ambient)
    middle = (near_foot + far_foot) / 2
    canvas.polygon([(middle - 0.2 * s, y), (apex, y - 0.7 * s), (middle + 0.2 * s, y)], inside)


def _paint_boat(canvas: Board, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb) -> None:
    s, y = thing.size, thing.y
    sail = _lit(COLOURS[thing.colour], ambient, spec.time == "night")
    wood = times((134, 84, 52), ambient)
    side = -1.0 if thing.flipped else 1.0
    canvas.shade(x, y, 0.46 * s, 0.05 * s, 0.74)
    deck = y - 0.2 * s
    canvas.line(x, deck + 0.02, x, y - s, 0.03 * s, scaled(wood, 0.7))
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
    canvas.polygon(jib, scaled(sail, 0.82))
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
        times((232, 222, 204), ambient),
    )


def _paint_balloon(
    canvas: Board, thing: SceneObject, x: float, spec: SceneSpec, ambient: Rgb
) -> None:
    s, y = thing.size, thing.y
    skin = _lit(COLOURS[thing.colour], ambient, spec.time == "night")
    rope = times((92, 66, 46), ambient)
    r = 0.36 * s
    cy = y - s + r * 1.02
    mouth, basket = y - 0.19 * s, y - 0.13 * s
    for dx in (-0.055, 0.055):
        canvas.line(
            x + dx * 1.3 * s, mouth - 0.02 * s, x + dx * s, basket + 0.02 * s, 0.02 * s, rope
        )
    for width, shade in ((1.0, skin), (0.62, scaled(skin, 0.8)), (0.26, skin)):
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
    canvas.ellipse(x - 0.5 * r, cy - 0.42 * r, 0.13 * r, 0.22 * r, mix(skin, (255, 255, 255), 0.35))
    canvas.box(x - 0.08 * s, basket, x + 0.08 * s, y, times((140, 92, 54), ambient))
    canvas.box(x - 0.09 * s, basket, x + 0.09 * s, basket + 0.035 * s, rope)


_PAINTERS = {
    "house": _paint_house,
    "tree": _paint_tree,
    "tent": _paint_tent,
    "boat": _paint_boat,
    "balloon": _paint_balloon,
}
