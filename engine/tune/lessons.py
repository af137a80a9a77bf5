"""Photos as what a network is shown: latents, captions, masks; made once, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.picture.geometry import Size
from engine.picture.masks import to_latent_grid
from engine.tune.drift import drifted
from engine.tune.masks import mask_around, random_mask

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from engine.models.backbone import Backbone
    from engine.tune.photos import Photo
    from engine.types import Conditioning

MASKS = 32
"""Drawn for each picture of an inpainting network; their masked pictures are encoded once."""
FEWEST, ALL = 4, 1024
"""Of many pictures each has fewer masks, that they are not more than :data:`ALL` together; but so
many at least.
"""
AROUND = 0.75
"""The share of a picture's masks that lie round its whole subject, where that is told."""
GREY = 128
TOGETHER = 8
"""Pictures that are encoded at a time."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A picture to learn."""

    latents: torch.Tensor
    """1 c h w, of the picture."""
    known: torch.Tensor
    """1 1 h w, 1 where it is learnt and 0 where the picture is unknown."""
    told: Conditioning
    untold: Conditioning
    """Without the caption."""
    holes: torch.Tensor | None
    """n (1 + c) h w: masks (1 = repaint), below them the latents of the masked picture; None where
    the network takes latents alone."""
    own: bool
    """The network's own: it is to answer as it did."""
    moved: torch.Tensor | None = None
    """n c h w, as ``holes``: the picture with other colours in each hole; None: they are not
    moved.
    """


def masks_each(pictures: int) -> int:
    """How many masks are drawn for each of so many pictures."""
    return min(MASKS, max(FEWEST, ALL // max(1, pictures)))


def lessons_of(
    photos: Sequence[Photo], backbone: Backbone, *, inpaint: bool, seed: int, drift: float = 0.0
) -> list[Lesson]:
    """What ``photos`` are to a model: pixels encoded (the mode), captions too.

    Args:
        photos: the pictures.
        backbone: the model.
        inpaint: for its inpainting network.
        seed: of masks, and of how colours are moved.
        drift: how far colours are moved in holes, as a share of the range.
    """
    import torch

    lessons, masks = [], masks_each(len(photos))
    with torch.no_grad():
        for number, photo in enumerate(photos):
            size = Size.of(photo.pixels.shape[:2])
            told, untold = _conditioning(backbone, photo.caption, size)
            (latents,) = encoded([photo.pixels], backbone)
            unknown = to_latent_grid(photo.unknown.astype(np.float32), backbone.cell)
            known = torch.from_numpy(1 - unknown)[None, None]
            rng = np.random.default_rng([seed, number, 77])
            holes = moved = None
            if inpaint:
                holes, moved = _holes(photo, backbone, rng, masks, drift)
            lessons.append(
                Lesson(
                    latents[None],
                    (known if known.any() else torch.ones_like(known)).to(latents.device),
                    told,
                    untold,
                    holes,
                    photo.own,
                    moved,
                )
            )
    return lessons


def _conditioning(backbone: Backbone, caption: str, size: Size) -> tuple[Any, Any]:
    told, untold = backbone.encode_prompt(caption, None, guided=True, size=size)
    assert untold is not None  # noqa: S101 - it was asked for
    network = backbone.main
    if network.embeds_guidance:  # such networks are taught at guidance 1, where nothing is added
        told, untold = (network.with_guidance(each, 1.0) for each in (told, untold))
    return told, untold


def _holes(
    photo: Photo, backbone: Backbone, rng: np.random.Generator, count: int, drift: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    import torch

    masks = masks_of(photo, rng, count)
    pictures = [np.where(mask[..., None], np.uint8(GREY), photo.pixels) for mask in masks]
    latents = encoded(pictures, backbone)
    grid = on_grid(masks, backbone).to(latents)
    moved = None
    if drift and not photo.own:
        moved = encoded([drifted(photo.pixels, each, rng, drift) for each in masks], backbone)
    return torch.cat([grid, latents], dim=1), moved


def masks_of(photo: Photo, rng: np.random.Generator, count: int) -> list[NDArray[np.bool_]]:
    """Random masks (H W, 1 = repaint) of a picture; what is unknown is in all of them."""
    height, width = photo.unknown.shape
    around = 0 if photo.subject is None else round(AROUND * count)
    return [
        (
            random_mask(rng, height, width)
            if number >= around or photo.subject is None
            else mask_around(rng, photo.subject)
        )
        | photo.unknown
        for number in range(count)
    ]


def on_grid(masks: Sequence[NDArray[np.bool_]], backbone: Backbone) -> torch.Tensor:
    """Masks (H W, one size) on the latents' grid: n 1 h w, 1 where any pixel of a cell is."""
    import torch

    grids = [to_latent_grid(mask.astype(np.float32), backbone.cell) for mask in masks]
    return torch.from_numpy(np.stack(grids))[:, None]


def encoded(pictures: Sequence[NDArray[np.uint8]], backbone: Backbone) -> torch.Tensor:
    """Latents (n c h w) of pictures (H W 3, one size)."""
    import torch

    parts = []
    for start in range(0, len(pictures), TOGETHER):
        pixels = torch.from_numpy(np.stack(pictures[start : start + TOGETHER]))
        scaled = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append(backbone.codec.encode(scaled, backbone.device, backbone.dtype))
    return torch.cat(parts)
