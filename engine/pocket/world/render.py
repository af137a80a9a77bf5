"""From a scene to its picture, footprints and depth."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from engine.pocket.world.board import SUPERSAMPLING, Board, scaled
from engine.pocket.world.light import DIMMED, LIGHTS
from engine.pocket.world.scene import Scene, SceneObject, SceneSpec
from engine.pocket.world.scenery import paint_ground, paint_sky, paint_weather
from engine.pocket.world.things import paint_object
from engine.pocket.world.values import MaskArray


def render(spec: SceneSpec, size: int | tuple[int, int] = 128) -> Scene:
    """Paint a scene.

    ``size`` is the side in pixels, or (height, width); at least 16. Shapes scale with the height,
    so that a wide
    picture shows more land rather than stretched houses.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 16 or width < 16:
        raise ValueError(f"a scene needs at least 16 x 16 pixels, got {height} x {width}")
    canvas = Board(height, width)
    light = LIGHTS[spec.time]
    ambient = scaled(light.ambient, DIMMED[spec.weather])
    rng = np.random.default_rng(spec.scenery_seed)
    paint_sky(canvas, spec, light, rng)
    paint_ground(canvas, spec, light, ambient, rng)
    footprints: dict[int, npt.NDArray[np.uint8]] = {}
    order = sorted(range(len(spec.objects)), key=lambda i: _layer(spec.objects[i]))
    for index in order:
        canvas.footprint = np.zeros((canvas.big[1], canvas.big[0]), np.uint8)
        paint_object(canvas, spec.objects[index], spec, ambient)
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
    image = paint_weather(image, depth, spec, light, rng)
    return Scene(spec, image, masks, depth)


def footprint(spec: SceneSpec, index: int, size: int | tuple[int, int] = 128) -> MaskArray:
    """The pixels, H W, that object ``index`` can change."""
    return render(spec, size).masks[index]


def _any_covered(big: npt.NDArray[np.uint8]) -> MaskArray:
    """True where any supersample is set (area averaging rounds single samples away)."""
    s = SUPERSAMPLING
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
