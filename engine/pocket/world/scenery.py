"""How sky, ground and weather are painted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from engine.pocket.world.board import Board, mix, scaled, times
from engine.pocket.world.light import GROUND_COLOURS, OVERCAST, Light

if TYPE_CHECKING:
    from engine.pocket.world.scene import SceneSpec
    from engine.pocket.world.values import FloatArray, ImageArray, Rgb


def paint_sky(canvas: Board, spec: SceneSpec, light: Light, rng: np.random.Generator) -> None:
    """Sky, sun or moon, stars and clouds."""
    h, w = canvas.height, canvas.width
    overcast = OVERCAST[spec.weather]
    haze = scaled(light.fog, 0.82 if spec.weather == "rainy" else 0.96)
    stops = np.array([mix(colour, haze, overcast) for colour in light.sky], np.float32)
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
    disc = mix(light.disc, haze, 0.0 if overcast < 0.4 else 0.55)
    if spec.weather != "rainy":
        canvas.ellipse(x, y, light.radius, light.radius, disc)
        if spec.time == "night":
            for dx, dy, r in ((-0.016, -0.012, 0.014), (0.02, 0.006, 0.01), (-0.002, 0.026, 0.009)):
                canvas.ellipse(x + dx, y + dy, r, r, scaled(disc, 0.9))
    cloud = mix(light.cloud, haze, 0.1)
    if spec.weather == "rainy":
        cloud = scaled(mix(light.cloud, (120, 124, 140), 0.6), 0.8)
    count = {"clear": 0, "cloudy": 4, "foggy": 0, "rainy": 7}[spec.weather]
    places = rng.random((7, 4))
    for i, (u, v, scale, tint) in enumerate(places[:count]):
        size = 0.085 + 0.06 * scale
        centre = ((i + 0.15 + 0.7 * u) / count) * w / h
        level = (0.07 + 0.62 * v) * spec.horizon if spec.weather == "cloudy" else 0.02 + 0.09 * v
        if spec.weather == "rainy":
            size *= 1.25
        colour = scaled(cloud, 0.94 + 0.06 * tint)
        _paint_cloud(canvas, centre, level, size, colour)


def _paint_cloud(canvas: Board, x: float, y: float, size: float, colour: Rgb) -> None:
    under = scaled(colour, 0.9)
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
    canvas: Board, rng: np.random.Generator, base: float, swing: float, wavelength: float
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


def _fill_below(canvas: Board, line: npt.NDArray[np.float64], top: Rgb, bottom: Rgb) -> None:
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


def paint_ground(
    canvas: Board, spec: SceneSpec, light: Light, ambient: Rgb, rng: np.random.Generator
) -> None:
    """Land or sea, from the horizon to the lower edge."""
    far, middle, near = (times(colour, ambient) for colour in GROUND_COLOURS[spec.ground])
    sky_low = mix(light.sky[2], light.fog, OVERCAST[spec.weather])
    far = mix(far, sky_low, 0.12)
    horizon, right = spec.horizon, canvas.width / canvas.height
    if spec.ground == "sea":
        flat = np.array([[-0.02, horizon], [right + 0.02, horizon]])
        _fill_below(canvas, flat, mix(far, sky_low, 0.28), near)
        _paint_waves(canvas, spec, light, mix(middle, sky_low, 0.34), rng)
        return
    if spec.ground == "mountains":
        _paint_peaks(canvas, spec, far, ambient, rng)
        line = _ridge(canvas, rng, horizon + 0.07, 0.022, 0.9)
        _fill_below(canvas, line, middle, scaled(middle, 0.9))
        line = _ridge(canvas, rng, horizon + 0.2, 0.03, 1.2)
        _fill_below(canvas, line, near, scaled(near, 0.84))
        return
    swing, wavelength = {"meadow": (0.035, 0.9), "desert": (0.045, 0.75), "snow": (0.04, 1.1)}[
        spec.ground
    ]
    _fill_below(canvas, _ridge(canvas, rng, horizon, swing, wavelength), far, scaled(far, 0.92))
    _fill_below(
        canvas,
        _ridge(canvas, rng, horizon + 0.11, swing * 0.8, wavelength * 1.3),
        middle,
        scaled(middle, 0.9),
    )
    _fill_below(
        canvas,
        _ridge(canvas, rng, horizon + 0.25, swing * 0.6, wavelength * 1.7),
        near,
        scaled(near, 0.82),
    )


def _paint_peaks(
    canvas: Board, spec: SceneSpec, far: Rgb, ambient: Rgb, rng: np.random.Generator
) -> None:
    right, base = canvas.width / canvas.height, spec.horizon + 0.12
    cap, canvas.nearness = times((240, 244, 250), ambient), 30
    count = max(3, round(3 * right))
    jitter = rng.random((count, 3))
    order = np.argsort(jitter[:, 1])
    for i in order:
        x = (i + 0.1 + 0.8 * float(jitter[i, 0])) / count * right
        top = spec.horizon - 0.1 - 0.16 * float(jitter[i, 1])
        spread = 0.26 + 0.12 * float(jitter[i, 2])
        canvas.polygon([(x - spread, base), (x, top), (x + spread, base)], scaled(far, 1.06))
        canvas.polygon([(x, top), (x + spread, base), (x + 0.08 * spread, base)], scaled(far, 0.86))
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
    canvas: Board, spec: SceneSpec, light: Light, crest: Rgb, rng: np.random.Generator
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
        colour = mix(crest, light.disc, 0.6)
        for i, (u, length) in enumerate(glitter):
            y = spec.horizon + 0.02 + i * (0.9 - spec.horizon) / 6
            canvas.ellipse(x + (u - 0.5) * 0.03, y, 0.025 + 0.045 * length, 0.008, colour)
    canvas.depth[:] = depth


def paint_weather(
    image: npt.NDArray[np.uint8],
    depth: FloatArray,
    spec: SceneSpec,
    light: Light,
    rng: np.random.Generator,
) -> ImageArray:
    """Fog and rain over the finished picture (H W 3), by its depth (H W)."""
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
        drop = np.array(mix(light.fog, (230, 236, 250), 0.5), np.float32)
        amount = (veil.astype(np.float32) / 255)[..., None]
        return np.round(image + (drop - image) * amount).astype(np.uint8)
    return image
