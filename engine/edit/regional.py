"""An edit of several regions: those that touch in one run, the others each in their own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch

from engine.edit.after import delivered, empty_canvas, latents_of, own_row, painted, places
from engine.edit.before import PreparedEdit
from engine.edit.chosen import models_of
from engine.edit.common import coupled
from engine.edit.look import together
from engine.edit.placing import Layout, Placed, numbers_of
from engine.edit.prepared import Prepared
from engine.edit.seeds import draw_seed
from engine.edit.shared import Shared
from engine.picture.masks import distance_to
from engine.picture.pixels import depth, lay
from engine.request.fields import SEEDS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from engine.denoise.job import Job
    from engine.edit.look import Sight
    from engine.edit.memory import Memory
    from engine.edit.views import View
    from engine.models import Backbone
    from engine.request.request import EditRequest


class Frame(NamedTuple):
    """A finished job of one of the runs."""

    part: PreparedEdit
    place: int
    """Among its part's jobs."""
    view: View
    row: torch.Tensor
    """Its latents, 1 c h w."""


def nearest(rows: Sequence[torch.Tensor], maps: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """Of latents (1 c h w each), at each position those whose map (H W) is nearest, or inside whose
    map it lies deepest.
    """
    _, _, height, width = rows[0].shape

    def away(strength_map: NDArray[np.float32]) -> NDArray[np.float32]:
        inside = strength_map > 0
        signed = distance_to(inside) - distance_to(~inside).clip(max=1e4)
        return np.asarray(cv2.resize(signed, (width, height), interpolation=cv2.INTER_AREA))

    first = torch.from_numpy(np.argmin([away(each) for each in maps], axis=0)).to(rows[0].device)
    merged = rows[0]
    for number, row in enumerate(rows[1:], start=1):
        merged = row.where(first == number, merged)
    return merged


class PreparedRegions(Prepared):
    """An edit of regions: a :class:`PreparedEdit` for each run.

    Args:
        backbone: the model.
        request: the edit.
        memory: what its runs take over from earlier edits.
        layout: its picture and its runs, or those of its runs that are made.

    Raises:
        InputError: a map that is empty or of another size, regions that touch and cannot share a
            run, or what any edit refuses.
    """

    def __init__(
        self,
        backbone: Backbone,
        request: EditRequest,
        memory: Memory,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(backbone, request)
        layout = layout or Layout.of(request, backbone)
        seed = draw_seed() if request.seed is None else request.seed
        plain = replace(layout.unplaced(request), seed=seed)
        count = len(layout.pictures) * request.num_images
        self.seeds = [(seed + i) % SEEDS for i in range(count)]
        self.groups = layout.groups
        self.parts = [self._part(group, plain, memory) for group in self.groups]
        for part in self.parts:
            part.clock = self.clock
        self.steps = sum(part.steps for part in self.parts)
        self._counts: list[int] = []
        """Jobs of each part."""

    def _part(self, group: Sequence[Placed], request: EditRequest, memory: Memory) -> PreparedEdit:
        models = models_of(group, self.backbone)
        if len(group) == 1:
            alone = group[0]
            own = replace(request, strength_map=alone.map, **alone.settings(request))
            return PreparedEdit(Shared(models[0], own, memory), own)
        common, coupling = coupled(group, request, models)
        return PreparedEdit(Shared(models[0], common, memory), common, coupling=coupling)

    @property
    def made_by(self) -> str:
        """Of a part of an edit its runs' own, which may not be the edit's."""
        names = dict.fromkeys(part.strategy.name for part in self.parts)
        return ", ".join(names) if self.is_part else super().made_by

    @property
    def original(self) -> Image.Image:
        return self.parts[0].original

    @property
    def strength_map(self) -> NDArray[np.float32]:
        return reduce(np.maximum, (part.strength_map for part in self.parts))

    @property
    def regions(self) -> list[list[int]]:
        return [box for part in self.parts for box in part.regions]

    @property
    def can_be_seen(self) -> bool:
        return all(part.can_be_seen for part in self.parts)

    def sight(self, clean: Sequence[torch.Tensor]) -> Sight:
        queue = iter(clean)
        counts = zip(self.parts, self._counts, strict=True)
        return together([part.sight([next(queue) for _ in range(n)]) for part, n in counts])

    def start(self) -> list[Job]:
        for part in self.parts:
            part.judged = self.judged
        started = [part.start() for part in self.parts]
        self._counts = [len(jobs) for jobs in started]
        return [job for jobs in started for job in jobs]

    def jobs_of(self, jobs: Sequence[Job]) -> dict[tuple[int, ...], Sequence[Job]]:
        """The jobs of :meth:`start` by the numbers of the regions whose run they are."""
        queue = iter(jobs)
        return {
            numbers_of(group): [next(queue) for _ in range(count)]
            for group, count in zip(self.groups, self._counts, strict=True)
        }

    def take(self, jobs: Mapping[tuple[int, ...], Sequence[Job]]) -> list[Job]:
        """In place of :meth:`start`: finished jobs of the same runs, from elsewhere."""
        own = [jobs[numbers_of(group)] for group in self.groups]
        self._counts = [len(several) for several in own]
        return [job for several in own for job in several]

    def finishing(
        self, chains: Sequence[Sequence[Job]]
    ) -> Callable[[], tuple[Any, torch.Tensor | None]]:
        """Each run's picture is made over the original, and what it repaints is taken from it: no
        run's seam sees another's, so their order does not matter. Where two overlap a little, the
        one that lies deeper inside its region shows, with all between.
        """
        queue, first = iter(chains), self.parts[0].shared
        runs = {
            part: [next(queue) for _ in range(count)]
            for part, count in zip(self.parts, self._counts, strict=True)
        }
        latents = latents_of([chain for several in runs.values() for chain in several])
        pixels = self._together(runs)
        made = [(part, part.decoded(own, pixels[part])) for part, own in runs.items()]

        def finish() -> tuple[Any, torch.Tensor | None]:
            canvases = [
                empty_canvas(first, output // self.request.num_images).copy()
                for output in range(len(self.seeds))
            ]
            paintings = [painted(part.shared, decoded, self.clock) for part, decoded in made]
            weights = [depth(part.strength_map) for part, _ in made]
            for canvas, several in zip(canvases, zip(*paintings, strict=True), strict=True):
                lay(canvas, several, weights)
            return delivered(first, canvases, lambda _: self.strength_map), latents

        return finish

    def _together(
        self, runs: Mapping[PreparedEdit, Sequence[Sequence[Job]]]
    ) -> dict[PreparedEdit, dict[int, NDArray[np.uint8]]]:
        """What the runs that see the same frame of a picture have made of it, decoded at once: each
        latent position is that of the run whose region is nearest. By the place of each run's jobs.
        """
        frames: dict[Hashable, list[Frame]] = {}
        for part, chains in runs.items():
            for place, ((output, _, view), chain) in enumerate(
                zip(places(part.shared), chains, strict=True)
            ):
                row = own_row(chain[-1].latents)
                frame = view.region.box, view.region.size, row.shape
                key = id(part.backbone.codec), output, *frame
                frames.setdefault(key, []).append(Frame(part, place, view, row))
        made: dict[PreparedEdit, dict[int, NDArray[np.uint8]]] = {part: {} for part in runs}
        with self.clock.phase("decode"), torch.no_grad():
            for several in frames.values():
                if len(several) == 1:
                    continue
                maps = [each.view.strength_map for each in several]
                merged = nearest([each.row for each in several], maps)
                pixels = several[0].part.shared.decoded(merged, several[0].view.region)
                for each in several:
                    made[each.part][each.place] = pixels
        return made

    def _settings(self, job: Job, model: str) -> dict[str, Any]:
        prefills = {part.prefilled for part in self.parts}
        regions = self.request.regions or ()
        return {
            **super()._settings(job, model),
            "prefilled": prefills.pop() if len(prefills) == 1 else None,
            "region_edits": [each.describe() for each in regions],
            "runs": [list(numbers_of(group)) for group in self.groups],
        }
