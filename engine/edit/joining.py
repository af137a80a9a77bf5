"""Regions apart that cost less together: guided for a part of their runs, decoded as one picture.

Several prompts in one run are cheap, and things are left out: the network draws one of them where
there is room for it, and the other nowhere. In runs of their own each is drawn, and each costs a
whole run. But what stands where is settled early in a run, and guidance decides it; what guidance
adds later hardly changes any more (Castillo et al. 2023, "Adaptive Guidance"). So each region asks
for it in the share :data:`GUIDED` of its run and goes on with what it was last, which is half the
rows of each later step, and where they have come to their end their latents are laid together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch

from engine.edit.after import own_row
from engine.edit.memory import Memory
from engine.edit.placing import own_of
from engine.picture.masks import to_latent_grid
from engine.picture.pixels import depth

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.edit.after import Decoded
    from engine.edit.before import PreparedEdit
    from engine.edit.placing import Placed
    from engine.edit.views import View

Group = Sequence["Placed"]


GUIDED: Final = 0.3
"""Share of a run in which regions ask for what guidance adds."""


class Joined:
    """Edits of regions of one view that differ in nothing but maps, prompts and seeds.

    Args:
        parts: the region of each, and its edit, in order.
    """

    def __init__(self, parts: Sequence[tuple[Placed, PreparedEdit]]) -> None:
        self.parts = [part for _, part in parts]
        self.numbers = [placed.number for placed, _ in parts]
        for part in self.parts:
            part.shared.memory = Memory()  # no render goes on from what is not a full run's

    def begin(self, jobs: Iterable[Job]) -> None:
        """Let the jobs that the parts have started do without guidance's rows when they can."""
        for job in jobs:
            first = job.schedule.steps[job.index]
            held = first.position / job.schedule.num_steps
            job.guided_until = held + GUIDED * (1 - held)

    def decoded(self, ended: Sequence[Sequence[Sequence[Job]]]) -> list[list[Decoded]]:
        """Each part's views, of pictures that are decoded once; ``ended``: its chains."""
        first = self.parts[0]
        shown = []
        with first.clock.phase("decode"), torch.no_grad():
            for chains in zip(*ended, strict=True):
                jobs = [chain[-1] for chain in chains]
                source = jobs[0].output // first.request.num_images
                view = first.shared.inputs.views_of(source)[0]
                merged = self._merged([own_row(job.latents) for job in jobs], view)
                shown.append(first.shared.decoded(merged, view.region))
        return [part.decoded(chains, shown) for part, chains in zip(self.parts, ended, strict=True)]

    def _merged(self, latents: Sequence[torch.Tensor], view: View) -> torch.Tensor:
        """One tensor (1 c h w) of each part's."""
        owners, merged = self._owners(view).to(latents[0].device), latents[0]
        for number, own in enumerate(latents[1:], start=1):
            merged = own.where(owners == number, merged)
        return merged

    def _owners(self, view: View) -> torch.Tensor:
        """Whose latents count at each place (1 1 h w): the part's that it lies deepest in, and
        outside of all the nearest one's.
        """
        cell, source = self.parts[0].backbone.cell, view.source
        whole = [part.shared.inputs.views_of(source)[0].strength_map for part in self.parts]
        maps = [to_latent_grid(depth(each), cell, hard=False) for each in whole]
        away = [_distances(each) for each in maps]
        deepest, nearest = np.argmax(maps, axis=0), np.argmin(away, axis=0)
        owners = np.where(np.max(maps, axis=0) > 0, deepest, nearest)
        return torch.from_numpy(owners)[None, None]


def joined(groups: Sequence[Group], parts: Sequence[PreparedEdit]) -> list[Joined]:
    """Which edits of groups go together: those of one view."""
    equal: dict[Hashable, list[tuple[Placed, PreparedEdit]]] = {}
    for group, part in zip(groups, parts, strict=True):
        if (key := _key(group, part)) is not None:
            equal.setdefault(key, []).append((group[0], part))
    return [Joined(several) for several in equal.values() if len(several) > 1]


def _key(group: Group, part: PreparedEdit) -> Hashable:
    """What is equal for edits that can go together; None for one that can with no other."""
    own = [own_of(group[0], name) for name in ("strength", "controls", "reference", "lora")]
    (stage, *others), request = part.stages, part.request
    views = part.shared.inputs.views
    if (
        len(group) > 1
        or any(each is not None for each in own)
        or others
        or stage.scale != 1
        or any(view.region.coarse != 1 for view in views)
        or not part.steering.idle
        or request.instruct
        or request.latents is not None
        or len(views) != part.shared.inputs.count
    ):
        return None
    told = part.strategy.name, repr(part.strategy.options), stage.strength, stage.guidance
    places = tuple((view.source, view.box, view.region.size) for view in views)
    return places, told


def _distances(own: Any) -> Any:
    """How far each place (H W) is from where a map is above 0."""
    distances, _ = cv2.distanceTransformWithLabels(
        (own == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return distances
