"""The regions of an edit with their maps read, and which of them share a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from engine.denoise.resume import alike
from engine.edit.inputs import load_base, load_pictures
from engine.errors import InputError
from engine.picture.crop import Cutter
from engine.picture.map_files import check_strength, load_strength_map
from engine.picture.map_tools import grow
from engine.picture.shadows import shadow_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

    from engine.models import Backbone
    from engine.picture.read import Picture
    from engine.request.regions import Region
    from engine.request.request import EditRequest

AT_ONCE: Final = 8
"""Prompts in one run."""
OVERLAP: Final = 1 / 3
"""Share of the smaller of two regions from which on what they have in common is one picture."""
BORDER: Final = 0.9
"""Share of a region's border from which on it is that of others too, so that it is a piece of one
picture with them (sky and land) and no seam may show. The picture's own edge is none."""
SIDE: Final = 0.2
"""Share of such a region's border that makes another one of them."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A region with its map read; the edit's own map is one too, of number 0 and without a
    region.
    """

    number: int
    """From 1, as it was given."""
    region: Region | None
    map: NDArray[np.float32]
    """H W in [0, 1]."""

    def __str__(self) -> str:
        return "the edit's own map" if self.region is None else f"region {self.number}"

    @property
    def order(self) -> tuple[Any, ...]:
        """By place and words: the same whatever order regions are given in."""
        rows, columns = np.nonzero(self.map)
        said = "" if self.region is None else str(self.region.describe())
        return self.region is not None, rows.min(), columns.min(), rows.max(), columns.max(), said

    def settings(self, request: EditRequest) -> dict[str, Any]:
        """The request's with its own in their place."""
        if self.region is None:
            return {}
        own = self.region.given()
        own.pop("lora", None)
        if "strategy" in own and "options" not in own:
            own["options"] = {}
        if self.region.controls is not None:
            own["controls"] = self.region.controls
        if self.region.reference is not None:
            own["ip_adapter_image"] = self.region.reference
        return own


@dataclass(frozen=True, eq=False)
class Layout:
    """An edit of regions before anything is made: its picture, and what shares a run."""

    pictures: Sequence[Picture]
    groups: Sequence[Sequence[Placed]]
    """The runs, in an order that is the same whatever order regions are given in."""

    @classmethod
    def of(cls, request: EditRequest, backbone: Backbone) -> Layout:
        """Read the picture and the maps.

        Raises:
            InputError: one cannot be used, or regions touch that cannot share a run.
        """
        pictures = load_pictures(request.image)
        placed = placed_of(request, pictures)
        layout = cls(pictures, [placed])
        return replace(layout, groups=grouped(placed, layout.unplaced(request), backbone))

    def unplaced(self, request: EditRequest) -> EditRequest:
        """``request`` without its regions and maps: what a run's own settings are put into."""
        return replace(
            request,
            image=self.pictures,
            regions=None,
            mask=None,
            strength_map=np.ones_like(self.groups[0][0].map),
            invert=False,
            grow_mask=0.0,
            take="map",
        )


def numbers_of(group: Sequence[Placed]) -> tuple[int, ...]:
    """The numbers of a run's regions: from 1, and 0 for the edit's own map."""
    return tuple(each.number for each in group)


# --- reading -------------------------------------------------------------------------------------


def placed_of(request: EditRequest, pictures: Sequence[Any]) -> list[Placed]:
    """The regions with their maps, in an order of their own, and the edit's own map before them if
    it has one.
    """
    size = pictures[0].size
    placed = []
    for number, region in enumerate(request.regions or (), start=1):
        try:
            own = load_strength_map(region.map, size, invert=request.invert, picture=pictures[0])
            check_strength(own, "its map")
        except InputError as error:
            raise InputError(f"region {number}: {error}") from None
        if request.take == "shadow":
            own = np.maximum(own, shadow_of(pictures[0].rgb, own))
        if request.grow_mask:
            own = grow(own, request.grow_mask)
        placed.append(Placed(number, region, own))
    base = load_base(request, size, pictures)
    if base is not None:
        covered = np.minimum(1, sum((each.map for each in placed), np.zeros_like(base)))
        rest = np.asarray(base * (1 - covered), np.float32)
        if rest.any():
            placed.append(Placed(0, None, rest))
    return sorted(placed, key=lambda each: each.order)


# --- which share a run ---------------------------------------------------------------------------


def grouped(
    placed: Sequence[Placed], request: EditRequest, backbone: Backbone
) -> list[list[Placed]]:
    """Which regions share a run: those that touch (come into the same latent cells) so much that
    they are one picture, see :data:`OVERLAP` and :data:`BORDER`; the edit's own map is one with all
    that it touches.

    Where the coupling is named, all that touch, and also those apart whose common cut-out is
    smaller than theirs together and that differ in nothing but their prompts: that is less work,
    but a model that sees several things in one picture may leave one out that it draws alone.

    Raises:
        InputError: regions touch that cannot share one.
    """
    reach = np.ones((2 * backbone.cell + 1,) * 2, np.uint8)
    near = [cv2.dilate((each.map > 0).astype(np.uint8), reach) > 0 for each in placed]
    maps = [each.map > 0 for each in placed]
    groups: list[list[int]] = []

    def meet(one: int, two: int) -> bool:
        if not (near[one] & (placed[two].map > 0)).any():
            return False
        own = placed[one].region is None or placed[two].region is None
        return request.coupling != "auto" or own or _are_one(maps, one, two, backbone.cell)

    for number in range(len(placed)):
        met = [g for g in groups if any(meet(other, number) for other in g)]
        joined = [number, *(other for g in met for other in g)]
        groups = [g for g in groups if g not in met] + [joined]
    together = [[placed[number] for number in sorted(group)] for group in groups]
    for group in together:
        _check_group(group)
    if request.coupling == "auto":
        return sorted(together, key=lambda group: group[0].order)
    return _gathered(together, request, backbone)


def _are_one(maps: Sequence[Mask], one: int, two: int, cell: int) -> bool:
    """Whether regions ``one`` and ``two`` of all (H W each) overlap by much, or are pieces of one
    picture: borders are common less than half a latent ``cell`` (px) apart.
    """
    common = (maps[one] & maps[two]).sum()
    if common > OVERLAP * min(maps[one].sum(), maps[two].sum()):
        return True

    def shared(own: int, others: Sequence[int]) -> float:
        around = np.pad(maps[own], 1, mode="edge").astype(np.uint8)
        inner = cv2.erode(around, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
        border = maps[own] & ~inner
        union = np.any([maps[other] for other in others], axis=0).astype(np.uint8)
        beside = cv2.dilate(union, np.ones((cell + 1, cell + 1), np.uint8)) > 0
        return float((border & beside).sum() / max(1, border.sum()))

    return any(
        shared(own, [other]) > SIDE
        and shared(own, [n for n in range(len(maps)) if n != own]) > BORDER
        for own, other in ((one, two), (two, one))
    )


def _check_group(group: Sequence[Placed]) -> None:
    if len(group) == 1:
        return
    names = " and ".join(str(each) for each in group[:2])
    if len(group) > AT_ONCE:
        raise InputError(
            f"{len(group)} regions touch or overlap ({names} among them); at most {AT_ONCE} can "
            "share a run: move them apart, or make two edits of them."
        )
    first = group[0]
    for other in group[1:]:
        for name in ("strategy", "options", "task"):
            one, two = (own_of(each, name) for each in (first, other))
            if not alike(one, two):
                raise InputError(
                    f"{first} and {other} touch or overlap, so they share a run, and differ in "
                    f"{name}: give them one, move them apart, or make two edits."
                )


def own_of(placed: Placed, name: str) -> Any:
    """A region's own setting by name; None (of options: none) where it has not said it."""
    if placed.region is None:
        return {} if name == "options" else None
    value = getattr(placed.region, name)
    return dict(value) if isinstance(value, Mapping) else value


def _gathered(
    groups: list[list[Placed]], request: EditRequest, backbone: Backbone
) -> list[list[Placed]]:
    """Runs that cost less together, joined, the cheapest pair first."""
    native = request.native_size or backbone.native_size
    context = request.context if request.padding is None else 1.0
    cutter = Cutter(native, backbone.align, context, request.zoom)

    def area(group: Sequence[Placed]) -> int:
        union = reduce(np.maximum, (each.map for each in group))
        return sum(region.area for region in cutter.regions(union, request.region_rule))

    areas = {id(group): area(group) for group in groups}
    while True:
        best, saved = None, -1
        for i, one in enumerate(groups):
            for two in groups[i + 1 :]:
                if len(one) + len(two) > AT_ONCE or not _plain(one) or not _plain(two):
                    continue
                gain = areas[id(one)] + areas[id(two)] - area([*one, *two])
                if gain > max(saved, 0):
                    best, saved = (one, two), gain
        if best is None:
            return sorted(groups, key=lambda group: group[0].order)
        joined = sorted([*best[0], *best[1]], key=lambda each: each.order)
        groups = [group for group in groups if group is not best[0] and group is not best[1]]
        groups.append(joined)
        areas[id(joined)] = area(joined)


def _plain(group: Sequence[Placed]) -> bool:
    """Nothing but maps and prompts tells the regions of a group from the edit."""
    others = ("strategy", "task", "strength", "seed", "controls", "reference", "lora")
    return all(
        each.region is None or all(getattr(each.region, name) is None for name in others)
        for each in group
    )
