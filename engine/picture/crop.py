"""Where a picture is edited: cut-outs around the mask, at the size that the model was trained for.

A :class:`Region` is a box of the picture in integer pixels and the size at which the model works on
it. The picture is never resampled as a whole: what lies outside the boxes, and every pixel of
strength 0 inside them, is the original's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal, TypeAlias

import cv2
import numpy as np
from scipy.ndimage import find_objects

from engine.picture.geometry import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

RegionRule = Literal["auto", "full", "mask"]
REGIONS: tuple[RegionRule, ...] = ("auto", "full", "mask")

STRETCH = 1.5
"""Side of the largest cut-out that is edited unscaled, over the native side. SD and SDXL still draw
one scene, not a tiling of it, up to about there; larger cut-outs are scaled down to it."""

MAX_SHARE = 0.5
"""``region="auto"`` cuts out where the boxes have at most this share of the picture's pixels."""

MAX_ISLANDS = 16
"""A mask of more separate islands is gathered by a grid into fewer, larger ones."""

MAX_GATHERED = 48
"""The grid's cells that hold something: cut-outs of a mask of any number of specks."""

COARSEST = 0.5
"""Cut-outs that are scaled down further than this lose what can be seen; they are drawn at the size
that the model can draw first, then gone over at a larger one."""

REFINED = 24.0
"""Over how many times the native area an edit is gone over, all its cut-outs together."""


MARGIN = 1 / 8
"""Context on each side of gathered islands, over the native side."""

_Group: TypeAlias = "tuple[list[int], Box]"
"""The labels of islands that are edited together, and the box around them."""


@dataclass(frozen=True)
class Region:
    """A part of the picture that is edited on its own."""

    box: Box
    """In the picture's pixels."""
    size: Size
    """At which it is edited: the box's own, or multiples of the model's
    alignment where it is scaled."""
    own: NDArray[np.bool_] | None = None
    """Which of the box's pixels (H W) it gives back; None is all. The others belong to other
    regions whose boxes overlap this one."""
    coarse: float = 1.0
    """Side at which the scene is laid out first, over the side of ``size``, in (0, 1]. Below 1 a
    second pass goes over it at ``size``, in tiles."""

    @property
    def scaled(self) -> bool:
        """Whether pixels are resampled on the way to the model and back."""
        return self.size != (self.box.width, self.box.height)

    @property
    def area(self) -> int:
        """Pixels that the model works on at the most."""
        return self.size.width * self.size.height

    @classmethod
    def whole(cls, size: Size) -> Region:
        """The full frame of a picture of ``size``."""
        return cls(Box(0, 0, *size), size)


@dataclass(frozen=True)
class Cutter:
    """How cut-outs are made.

    Args:
        native: side in px of the square that the model was trained on.
        align: the model takes multiples of this many px.
        context: sides of the cut-out over the sides of the mask's bounding box, at least 1.
        zoom: how far a cut-out smaller than native may be enlarged; 1 is not at all.
        refine: whether large cut-outs are gone over at a larger size.
    """

    native: int
    align: int
    context: float = 2.0
    zoom: float = 1.0
    refine: bool = True

    def regions(
        self,
        strength_map: NDArray[np.float32],
        rule: RegionRule = "auto",
        context_mask: NDArray[np.bool_] | None = None,
    ) -> list[Region]:
        """Where to edit a picture.

        Islands of the mask (its parts that lie more than an eighth of the native side apart) have
        their own regions, but those whose common region is no larger than theirs together. A region
        holds the island's bounding box times ``context``; it has at least the native side
        (over ``zoom``) and is at least half as wide as it is long, as far as the picture reaches.
        It is drawn unscaled up to :data:`STRETCH` times the native side (by area), smaller than
        that only where ``zoom`` asks for it. More than :data:`MAX_ISLANDS` islands are gathered by
        a grid into at most :data:`MAX_GATHERED`. So the model's work is bounded by its own size
        times the number of regions, whatever the picture.

        Args:
            strength_map: H W in [0, 1].
            rule: ``"mask"`` cuts out always, ``"full"`` never, ``"auto"`` where the regions (and
                what the model sees of them) have at most :data:`MAX_SHARE` of the picture's pixels,
                and where the picture is larger than the model can draw.
            context_mask: H W; one region then holds all of it and the whole mask.

        Returns:
            At least one region. Together they give back every pixel of strength above 0, each
            pixel once; those of the same size share model calls.
        """
        height, width = strength_map.shape
        whole = Region.whole(Size(width, height))
        support = strength_map > 0
        if rule == "full" or not support.any():
            return [whole]
        if context_mask is not None:
            regions = [self._region([_bounds(support | context_mask)], whole.size)]
        else:
            regions = self._islands(support, whole.size)
        share = sum(max(each.area, each.box.width * each.box.height) for each in regions)
        drawable = whole.area <= (STRETCH * self.native) ** 2
        if rule == "auto" and drawable and share > MAX_SHARE * whole.area:
            return [whole]
        return regions

    def _islands(self, support: NDArray[np.bool_], canvas: tuple[int, int]) -> list[Region]:
        labels, groups = self._groups(support)
        gathered = len(groups) > MAX_ISLANDS
        while not gathered and (pair := self._cheapest(groups, canvas)) is not None:
            one, two = pair
            groups = [group for group in groups if group is not one and group is not two]
            groups.append((one[0] + two[0], _hull([one[1], two[1]])))
        if gathered:
            groups = self._gathered(groups)
        groups.sort(key=lambda group: (group[1].top, group[1].left))
        regions = []
        for numbers, bounds in groups:
            region = self._region([bounds], canvas, parts=len(groups), narrow=gathered)
            box = region.box
            own = np.isin(labels[box.top : box.bottom, box.left : box.right], numbers)
            alone = len(groups) == 1
            regions.append(replace(region, own=None if alone else own))
        return regions

    def _groups(self, support: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[_Group]]:
        """The islands of ``support``: a label for each pixel, and the label and box of each."""
        gap = max(self.native // 8, 1)
        joined = cv2.dilate(support.astype(np.uint8), np.ones((gap, gap), np.uint8))
        _, found = cv2.connectedComponents(joined, connectivity=8)
        labels: NDArray[np.int32] = np.where(support, found, 0).astype(np.int32)
        return labels, [
            ([number], Box(columns.start, rows.start, columns.stop, rows.stop))
            for number, (rows, columns) in enumerate(find_objects(labels), start=1)
        ]

    def _gathered(self, groups: Sequence[_Group]) -> list[_Group]:
        """Many islands as few: those whose middles lie in the same cell of a grid. A cell is as
        large as what can be drawn with a margin around, and larger where too many are occupied.
        """
        side = (STRETCH - 2 * MARGIN) * self.native
        while True:
            cells: dict[tuple[int, int], list[_Group]] = {}
            for group in groups:
                box = group[1]
                middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
                cells.setdefault((int(middle[0] // side), int(middle[1] // side)), []).append(group)
            if len(cells) <= MAX_GATHERED:
                return [
                    (
                        [number for numbers, _ in members for number in numbers],
                        _hull([box for _, box in members]),
                    )
                    for members in cells.values()
                ]
            side *= 1.25

    def _cheapest(
        self, groups: Sequence[_Group], canvas: tuple[int, int]
    ) -> tuple[_Group, _Group] | None:
        """The two islands that save most by sharing a region; None where none do."""

        def saved(one: Box, two: Box) -> int:
            apart = self._region([one], canvas).area + self._region([two], canvas).area
            return apart - self._region([one, two], canvas).area

        best = max(
            combinations(groups, 2), key=lambda pair: saved(pair[0][1], pair[1][1]), default=None
        )
        return best if best is not None and saved(best[0][1], best[1][1]) >= 0 else None

    def _region(
        self,
        boxes: Iterable[Box],
        canvas: tuple[int, int],
        *,
        parts: int = 1,
        narrow: bool = False,
    ) -> Region:
        """The region around ``boxes``, one of ``parts``; a ``narrow`` one has a margin in place of
        ``context`` times its size.
        """
        bounds = _hull(boxes)
        asked = [
            min(side + 2 * MARGIN * self.native if narrow else self.context * side, limit)
            for side, limit in zip((bounds.width, bounds.height), canvas, strict=True)
        ]
        least = max(self.native / self.zoom, max(asked) / 2)
        sides = [
            min(math.ceil(max(side, least)), limit)
            for side, limit in zip(asked, canvas, strict=True)
        ]
        scale, coarse = self._scales(math.sqrt(sides[0] * sides[1]), parts)
        # Up, so that the box, which follows the size, still holds what was asked for.
        size = [math.ceil(scale * side / self.align) * self.align for side in sides]
        sides = [min(round(s / scale), limit) for s, limit in zip(size, canvas, strict=True)]
        # A side as long as the picture's is padded, not stretched, to the alignment.
        size = sides if scale == 1 else size
        left, top = (
            min(max(start - (side - length) // 2, 0), limit - side)
            for start, length, side, limit in zip(
                (bounds.left, bounds.top), (bounds.width, bounds.height), sides, canvas, strict=True
            )
        )
        box = Box(left, top, left + sides[0], top + sides[1])
        return Region(box, Size(*size), coarse=coarse)

    def _scales(self, side: float, parts: int) -> tuple[float, float]:
        """Working side over the cut-out's own (both as square roots of areas), and the side of the
        first pass over the working side.
        """
        if side < self.native:
            return min(self.zoom, self.native / side), 1.0
        drawn = min(1.0, STRETCH * self.native / side)
        if not self.refine or drawn >= COARSEST:
            return drawn, 1.0
        scale = min(1.0, math.sqrt(REFINED / parts) * self.native / side)
        if scale <= drawn:
            return drawn, 1.0
        return scale, self.native / side / scale


def _bounds(support: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _hull(boxes: Iterable[Box]) -> Box:
    several = list(boxes)
    return Box(
        min(box.left for box in several),
        min(box.top for box in several),
        max(box.right for box in several),
        max(box.bottom for box in several),
    )
