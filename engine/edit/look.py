"""What an edit is heading for, as a small picture that can be looked at and judged.

It is decoded by the model's own VAE, around what is repainted only and at most :data:`SIDE` px a
side: of something larger the latents are made smaller first. So a look costs a part of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image

from engine.edit.growth import underlay
from engine.edit.views import model_pixels
from engine.picture.colour import match_colours
from engine.picture.geometry import Box, Size, crop, pad_to_multiple
from engine.picture.judging import Look
from engine.picture.masks import resize_map
from engine.picture.pixels import as_grey, paste, to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.edit.shared import Shared
    from engine.edit.views import View

SIDE = 512
"""Longest side in px of what is judged."""
MARGIN = 2
"""Latent cells around what is repainted that are decoded too: seams and colours are judged there,
and the decoder sees its surroundings."""

_COLOUR = "lab"
"""How colours are matched in a look: for a small part of what the local field takes."""


@dataclass(frozen=True)
class Sight:
    """What can be seen of a picture."""

    looks: Sequence[Look]
    """Of its regions."""
    picture: NDArray[np.uint8]
    """All of it, H W 3, at most :data:`SIDE` px a side."""
    original: NDArray[np.uint8]
    """What it is made of, likewise."""
    asked: Sequence[tuple[NDArray[np.uint8], str]]
    """What is to be judged by its text: a picture as large, and what it is to show."""

    def preview(self) -> Image.Image:
        return Image.fromarray(self.picture)


@dataclass(frozen=True, eq=False)
class Frame:
    """A view as it is judged: what does not change while it is denoised."""

    cells: Box
    """What is decoded of its latents."""
    size: Size
    """Of what is judged."""
    original: NDArray[np.uint8]
    strength_map: NDArray[np.float32]
    alpha: NDArray[np.float32]
    """The paste's opacity."""
    where: tuple[float, float, float, float]
    """left, top, right, bottom on the picture's own canvas, in px."""


def sight(shared: Shared, clean: Sequence[torch.Tensor], texts: Sequence[str]) -> Sight:
    """What the first picture of a request is heading for.

    Args:
        shared: the request's.
        clean: clean latents (1 c h w) of each of its views, at any scale.
        texts: what it is to show.
    """
    scale = min(1.0, SIDE / max(shared.inputs.size))
    original = shared.remember(("canvas", scale), lambda: _canvas(shared, scale))
    canvas = original.copy()
    looks = []
    for view, latents in zip(shared.inputs.views_of(0), clean, strict=True):
        grid = tuple(latents.shape[-2:])
        frame = shared.remember(("frame", view, grid), partial(_frame, shared, view, grid))
        look = _look(shared, view, frame, latents)
        looks.append(look)
        left, top, right, bottom = (max(0, round(each * scale)) for each in frame.where)
        region = canvas[top : max(bottom, top + 1), left : max(right, left + 1)]
        shown = region.shape[1::-1]
        inside = resize_map(look.strength_map, shown, hard=True) > 0
        region[inside] = _resized(look.result, shown)[inside]
    return Sight(looks, canvas, original, [(canvas, text) for text in texts])


def together(sights: Sequence[Sight]) -> Sight:
    """What several edits of one picture are heading for together. Each is judged alone by its own
    text: a thing that another has painted is none of its.
    """
    canvas = sights[0].picture.copy()
    for each in sights[1:]:
        changed = (each.picture != each.original).any(axis=2)
        canvas[changed] = each.picture[changed]
    looks = [look for each in sights for look in each.looks]
    return Sight(looks, canvas, sights[0].original, [pair for s in sights for pair in s.asked])


def _canvas(shared: Shared, scale: float) -> NDArray[np.uint8]:
    """What the looks are laid over: the first picture, on new canvas its border's colours."""
    assert shared.inputs.pictures is not None  # noqa: S101 - only pictures can be seen
    width, height = shared.inputs.size
    whole = underlay(shared.inputs.pictures[0].rgb, shared.request.expand)
    return _resized(whole, (max(1, round(width * scale)), max(1, round(height * scale))))


def _frame(shared: Shared, view: View, grid: tuple[int, ...]) -> Frame:
    """``grid``: (height, width) of the latents."""
    assert shared.inputs.pictures is not None  # noqa: S101 - only pictures can be seen
    cells = _around(view.strength_map, grid)
    height, width = view.strength_map.shape
    across, down = width / grid[1], height / grid[0]
    inside = Box(
        round(cells.left * across),
        round(cells.top * down),
        round(cells.right * across),
        round(cells.bottom * down),
    )
    region, box, cell = view.region, view.region.box, shared.backbone.cell
    shrunk = min(1.0, SIDE / (cell * max(cells.width, cells.height)))
    size = Size(*(cell * max(1, round(side * shrunk)) for side in cells.size))
    rgb = crop(underlay(shared.inputs.pictures[view.source].rgb, shared.request.expand), box)
    pixels = to_pixels(model_pixels(rgb, region, shared.backbone.align))[0]
    alpha = cv2.resize(
        crop(shared.inputs.alphas[view.source], box), region.size, interpolation=cv2.INTER_AREA
    )
    alpha = np.asarray(pad_to_multiple(alpha, shared.backbone.align)[0])
    right, lower = box.width / region.size.width, box.height / region.size.height
    return Frame(
        cells,
        size,
        _resized(crop(pixels, inside), size),
        resize_map(crop(view.strength_map, inside), size),
        np.asarray(cv2.resize(crop(alpha, inside), size, interpolation=cv2.INTER_AREA)),
        (
            box.left + inside.left * right,
            box.top + inside.top * lower,
            min(box.left + inside.right * right, box.right),
            min(box.top + inside.bottom * lower, box.bottom),
        ),
    )


def _around(strength_map: NDArray[np.float32], grid: tuple[int, ...]) -> Box:
    """The cells of a ``grid`` (height, width) in which something is repainted, and some around."""
    height, width = grid
    touched = resize_map((strength_map > 0).astype(np.float32), (width, height), hard=True) > 0
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    if not rows.size:
        return Box(0, 0, width, height)
    return Box(
        max(0, int(columns[0]) - MARGIN),
        max(0, int(rows[0]) - MARGIN),
        min(width, int(columns[-1]) + 1 + MARGIN),
        min(height, int(rows[-1]) + 1 + MARGIN),
    )


def _look(shared: Shared, view: View, frame: Frame, latents: torch.Tensor) -> Look:
    cells, cell = frame.cells, shared.backbone.cell
    part = latents[..., cells.top : cells.bottom, cells.left : cells.right]
    small = tuple(side // cell for side in frame.size.shape)
    with torch.no_grad():
        if tuple(part.shape[-2:]) != small:
            part = torch.nn.functional.interpolate(part, size=small, mode="area")
        decoded = to_pixels(shared.backbone.decode(part).float())[0]
    matched = match_colours(
        decoded,
        frame.original,
        frame.strength_map,
        alpha=frame.alpha,
        method="none" if shared.request.colour == "none" else _COLOUR,
        cell=cell,
    )
    assert shared.inputs.pictures is not None  # noqa: S101 - only pictures can be seen
    if shared.inputs.pictures[view.source].grey and shared.request.keep_grey:
        matched = as_grey(matched)
    result = np.asarray(paste(frame.original, matched, frame.alpha), np.uint8)
    return Look(result, decoded, frame.original, frame.strength_map)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``pixels`` (H W 3) at ``size`` (width, height)."""
    if pixels.shape[1::-1] == size:
        return pixels
    shrinks = pixels.shape[1] * pixels.shape[0] >= size[0] * size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)
