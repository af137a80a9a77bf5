"""The pictures and maps of a request, checked, cut and laid out as the model sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from controls.canvas import Canvas
from engine.edit.growth import expanded, fade_opacity, sides
from engine.edit.views import View, model_pixels
from engine.errors import InputError
from engine.picture.crop import Cutter, Region
from engine.picture.fill import prefilled
from engine.picture.geometry import Box, check_canvas, crop
from engine.picture.map_files import (
    check_strength,
    load_mask,
    load_strength_map,
    split_batch,
)
from engine.picture.map_tools import grow
from engine.picture.pixels import paste
from engine.picture.read import Picture, load_image
from engine.picture.shadows import shadow_of
from engine.picture.source import is_own_alpha
from engine.picture.transparency import with_visible_colours

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from engine.models import Backbone
    from engine.request.request import EditRequest


@dataclass(frozen=True)
class Inputs:
    """The checked pictures (or latents) and maps of a request."""

    size: tuple[int, int]
    """(width, height) in px."""
    count: int
    maps: list[NDArray[np.float32]]
    """H W each; one for all pictures, or one for each."""
    regions: list[list[Region]]
    """Of each map."""
    prefill_maps: list[NDArray[np.float32]]
    """What is prefilled, and how strongly: H W each in [0, 1], as many as maps."""
    alphas: list[NDArray[np.float32]]
    """The paste's opacity: H W each, as many as pictures; 0 where the strength is."""
    pictures: list[Picture] | None
    views: list[View]
    """Of all pictures, in order."""
    align: int
    latents: torch.Tensor | None
    """b c h w, where they were given in place of pictures."""

    @classmethod
    def of(cls, request: EditRequest, backbone: Backbone) -> Inputs:
        latents = _as_latents(request.image, backbone)
        pictures = None
        if latents is None:
            pictures = load_pictures(request.image)
            if request.expand is not None:
                check_canvas(pictures[0].size, request.expand)
            size, count, align = pictures[0].size, len(pictures), backbone.align
        else:
            count, _, height, width = latents.shape
            size, align = (width * backbone.cell, height * backbone.cell), backbone.cell
            _refuse_for_latents(request)
        context, prefill, opacity = (
            _load_extra(request, name, size)
            for name in ("context_mask", "prefill_mask", "paste_mask")
        )
        maps = _load_maps(request, size, count, pictures)
        if pictures is not None:
            pictures = [with_visible_colours(picture) for picture in pictures]
        if request.expand is not None and pictures is not None:
            pictures, maps = expanded(pictures, maps, request.expand)
            size = pictures[0].size
        context_share = request.context if request.padding is None else 1.0
        cutter = Cutter(
            request.native_size or backbone.native_size, align, context_share, request.zoom
        )
        rule = "full" if latents is not None else request.region_rule
        regions = [
            cutter.regions(each, rule, _surroundings(each, context, request.padding))
            for each in maps
        ]
        views = [
            View.of(
                i,
                region,
                maps[i % len(maps)],
                pictures[i].rgb if pictures else None,
                align,
            )
            for i in range(count)
            for region in regions[i % len(maps)]
        ]
        return cls(
            size=size,
            count=count,
            maps=maps,
            regions=regions,
            prefill_maps=maps if prefill is None else [prefill] * len(maps),
            alphas=[
                fade_opacity(own, picture.rgb, request) if opacity is None else opacity * (own > 0)
                for own, picture in zip(cycle(maps), pictures or (), strict=False)
            ],
            pictures=pictures,
            views=views,
            align=align,
            latents=latents,
        )

    def views_of(self, source: int) -> list[View]:
        """The views of one of the pictures, in the order of its regions."""
        return [view for view in self.views if view.source == source]

    def map_of(self, source: int) -> NDArray[np.float32]:
        """The strength map (H W) of one of the pictures."""
        return self.maps[source % len(self.maps)]

    @property
    def original(self) -> Image.Image:
        """The first picture; grey where latents were given."""
        if self.pictures is None:
            return Image.new("RGB", self.size, "grey")
        return self.pictures[0].to_pil()

    def filled(self, view: View, fill: Callable[..., NDArray[np.uint8]]) -> torch.Tensor:
        """A view's pixels with its hole prefilled, as strongly as the prefill map says."""
        assert self.pictures is not None  # noqa: S101 - refused where latents were given
        box = view.region.box
        rgb = crop(self.pictures[view.source].rgb, box)
        weight = crop(self.prefill_maps[view.source % len(self.prefill_maps)], box)
        filled = paste(rgb, prefilled(fill, rgb, weight > 0), weight)
        return model_pixels(filled, view.region, self.align)

    def levels_of(self, view: View) -> int:
        """How many distinct strengths a view's map had before it was scaled."""
        strength_map = self.maps[view.source % len(self.maps)]
        return len(np.unique(crop(strength_map, view.region.box)))

    def canvas(self, request: EditRequest) -> Canvas:
        """What controls need to know of the pictures."""
        width, height = self.size
        left, top, right, bottom = request.expand or (0, 0, 0, 0)
        return Canvas(
            self.size,
            None if self.pictures is None else [picture.rgb for picture in self.pictures],
            self.maps,
            self.align,
            Box(left, top, width - right, height - bottom),
        )


def _refuse_for_latents(request: EditRequest) -> None:
    for name in ("expand", "context_mask", "prefill_mask", "paste_mask"):
        if getattr(request, name) is not None:
            raise InputError(f"{name} needs pixels; latents were given as image.")
    for name, value in (
        ("region", request.region == "mask"),
        ("paste", request.paste != "alpha"),
        ("grain", request.grain != "none"),
    ):
        if value:
            raise InputError(
                f"{name}={getattr(request, name)!r} needs pixels; latents were given as image."
            )
    if request.prefill not in {"auto", "original"}:
        raise InputError("prefill needs pixels; latents were given as image.")


def _load_extra(
    request: EditRequest, name: str, size: tuple[int, int]
) -> NDArray[np.float32] | None:
    """The map under ``name``, if it is given. On an expanded canvas the new area is 1, but it is
    no context.
    """
    if getattr(request, name) is None:
        return None
    loaded = load_strength_map(getattr(request, name), size)
    if request.expand is None:
        return loaded
    value = float(name != "context_mask")
    return np.pad(loaded, sides(request.expand), constant_values=value)


def _surroundings(
    strength_map: NDArray[np.float32], context: NDArray[np.float32] | None, padding: int | None
) -> NDArray[np.bool_] | None:
    """What one cut-out holds beside the mask (H W): the context mask, and ``padding`` px around the
    mask's bounding box; None if there is neither.
    """
    if padding is None or not (strength_map > 0).any():
        return None if context is None else context > 0
    held = np.zeros(strength_map.shape, bool) if context is None else context > 0
    places = [np.flatnonzero((strength_map > 0).any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, p[0] - padding), p[-1] + 1 + padding) for p in places)
    held[rows, columns] = True
    return held


def _as_latents(image: Any, backbone: Backbone) -> torch.Tensor | None:
    """``image`` if it is a tensor of latents (b c h w).

    Latents of 4 channels have the shape of RGBA pictures. Those of any picture have values below 0,
    and RGBA pictures none; a tensor of one value only could be either.

    Raises:
        InputError: It could be either, or holds NaN or infinite values.
    """
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if not hasattr(image, "detach") or len(shape) != 4 or shape[1] != backbone.latent_channels:
        return None
    latents: torch.Tensor = image.detach()
    if shape[1] == 4:
        if not latents.is_floating_point():
            return None
        low, high = float(latents.min()), float(latents.max())
        if low == high:
            raise InputError(
                f"image is a tensor of the shape {tuple(shape)} that holds nothing but {low:g}: "
                "latents (b 4 h w) or an RGBA picture? Give a picture as RGB (b 3 h w) or as an "
                "array (h w 4); latents of a picture have different values"
            )
        if low >= 0 and high <= 1:
            return None
    if not bool(latents.isfinite().all()):
        raise InputError("the latents given as image hold NaN or infinite values.")
    return latents


def load_pictures(image: Any) -> list[Picture]:
    """One picture, or those of a batch (b c h w tensor, b h w c array, or a list)."""
    if isinstance(image, (list, tuple)):
        if not image:
            raise InputError("image is an empty list.")
        pictures = [load_image(each) for each in image]
    elif len(getattr(image, "shape", ())) == 4 and image.shape[0] > 1:
        pictures = [load_image(each) for each in image]
    else:
        pictures = [load_image(image)]
    if len({picture.size for picture in pictures}) > 1:
        raise InputError("the pictures of one request must have one size; edit them one by one.")
    return pictures


def load_base(
    request: EditRequest, size: tuple[int, int], pictures: Sequence[Picture]
) -> NDArray[np.float32] | None:
    """The edit's own map (H W) beside its regions; None where it has none."""
    if request.mask is None and request.strength_map is None:
        return None
    maps = _load_maps(request, size, len(pictures), pictures)
    if len(maps) > 1:
        raise InputError("several pictures with regions take one map.")
    return maps[0]


def _load_maps(
    request: EditRequest, size: tuple[int, int], count: int, pictures: Sequence[Picture] | None
) -> list[NDArray[np.float32]]:
    """One map for all pictures, or one for each."""
    if request.mask is None and request.strength_map is None:
        return [np.zeros((size[1], size[0]), np.float32)]
    source = request.mask if request.mask is not None else request.strength_map
    sources = split_batch(source, count, size)
    if is_own_alpha(source):
        sources *= count  # each picture has its own
    of = [None] * count if pictures is None else list(pictures)
    grows = request.expand is not None  # new canvas is repainted, whatever the map says
    if request.mask is not None:
        maps = [
            load_mask(each, size, invert=request.invert, picture=picture, may_be_empty=grows)
            for each, picture in zip(sources, of, strict=False)
        ]
    else:
        maps = [
            load_strength_map(each, size, invert=request.invert, picture=picture)
            for each, picture in zip(sources, of, strict=False)
        ]
        for each in maps:
            check_strength(each, may_be_empty=grows)
    if request.take == "shadow" and pictures is not None:  # each picture has its own
        own = maps * len(pictures) if len(maps) == 1 else maps
        maps = [
            np.maximum(each, shadow_of(picture.rgb, each))
            for each, picture in zip(own, pictures, strict=True)
        ]
    return [grow(each, request.grow_mask) for each in maps] if request.grow_mask else maps
