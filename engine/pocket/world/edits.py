"""Edits with their answers, and masks as a person would paint them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.picture.masks import distance_to
from engine.pocket.world.render import grow, render
from engine.pocket.world.scene import SceneObject, sample_scene

if TYPE_CHECKING:
    from engine.pocket.world.values import FloatArray, ImageArray, MaskArray


@dataclass(frozen=True)
class DemoEdit:
    """One edit with its answer: what ``softpaint demo`` runs."""

    name: str
    image: ImageArray
    """H W 3, 0 to 255."""
    mask: MaskArray
    """Of the answer's size, True = repaint."""
    strength_map: FloatArray | None
    """As the mask, in [0, 1], 1 = repaint; ``None``: the mask says it all."""
    prompt: str
    truth: ImageArray
    """H W 3: the renderer's own picture of the edited scene."""
    regions: tuple[tuple[MaskArray, str], ...] = ()
    """Parts of the mask that have prompts of their own."""
    expand: tuple[int, int, int, int] | None = None
    """Pixels of new canvas left, above, right and below: the mask's True ones."""
    guidance_end: float = 1.0
    """Share of the run after which the prompt is followed without guidance."""


def demo_scenes(size: int | tuple[int, int] = 128) -> list[DemoEdit]:
    """Five edits of held-out scenes, each of a kind: day turns to dusk from left to right, winter
    comes to a house that stays, a boat leaves the sea, two things come at once, a view goes on.
    """
    return [_dusk(size), _winter(size), _removal(size), _two_things(size), _wider(size)]


def sample_edits(size: int | tuple[int, int] = 128) -> list[DemoEdit]:
    """Edits of held-out scenes by one map and one prompt: insert, remove, replace, recolour, and,
    with soft maps, change the land and the time of day.

    Masks are not cut along the answer: they are generous boxes and grown footprints, as a person
    would paint them.
    """
    return [
        _insertion(size),
        _removal(size),
        _replacement(size),
        _recolouring(size),
        _winter(size),
        _dusk(size),
    ]


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
    # the house itself: the rest of its footprint, its shadow on the grass, turns white too
    same = before.masks[0] & (before.image == changed.image).all(axis=-1)
    kept = feathered(same, _pixels(before.image, 0.015))
    soft = np.asarray(soft * (1 - kept), np.float32)
    truth = np.where((soft > 0)[..., None], changed.image, before.image)
    prompt = "the snow by day"
    return DemoEdit("winter", before.image, soft > 0.5, soft, prompt, truth)


def _dusk(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_004_285)
    while spec.objects:
        spec = spec.without(0)
    day, dusk = render(spec, size).image, render(dataclasses.replace(spec, time="sunset"), size)
    height, width = day.shape[:2]
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    ramp = np.clip((columns - 0.1) / 0.9, 0, 1)
    # eight tenths of a run are enough for another light, and leave the mountains where they are
    soft = np.repeat(np.float32(0.8) * ramp[None], height, axis=0)
    truth = (day + (dusk.image - day.astype(np.float32)) * ramp[:, None]).round()
    prompt = "mountains at sunset"
    # where strengths are low only the last steps count, and guided ones leap to the other light
    return DemoEdit("dusk", day, soft > 0.3, soft, prompt, truth.astype(np.uint8), guidance_end=0.7)


def _two_things(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_004_089)
    while spec.objects:
        spec = spec.without(0)
    house = SceneObject("house", "red", 0.3, 0.9, 0.34)
    balloon = SceneObject("balloon", "orange", 0.68, 0.45, 0.36)
    before, after = render(spec, size), render(spec.with_object(house).with_object(balloon), size)
    masks = [box_around(mask, margin=0.05) for mask in after.masks]
    prompts = [
        "a red house on a green meadow by day",
        "an orange balloon by day",
    ]
    return DemoEdit(
        "two things",
        before.image,
        masks[0] | masks[1],
        None,
        "a green meadow by day",
        after.image,
        regions=tuple(zip(masks, prompts, strict=True)),
    )


def _wider(size: int | tuple[int, int]) -> DemoEdit:
    spec = sample_scene(1_004_155)
    while spec.objects:
        spec = spec.without(0)
    spec = dataclasses.replace(spec, time="sunset")
    whole = render(spec, size).image
    added = whole.shape[1] // 32 * 8
    mask = np.zeros(whole.shape[:2], bool)
    mask[:, -added:] = True
    return DemoEdit(
        "wider",
        np.ascontiguousarray(whole[:, :-added]),
        mask,
        None,
        "mountains at sunset",
        whole,
        expand=(0, 0, added, 0),
    )


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
