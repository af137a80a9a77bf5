"""Regions that start apart and go on as one run, once what each is to show is laid out.

Several prompts in one run from its start are cheap, and things are left out: the network draws one
of them where there is room for it, and the other nowhere. In runs of their own each is drawn, and
each costs a whole run. But what stands where is settled early in a run, and what comes later is
surface. So each region begins by itself, told of its own place only, and where they have come the
share :data:`APART` of their way, their latents are laid together, and one run of coupled prompts
goes on with them all: of the later steps there is one in place of one for each region, and it sees
the picture as a whole. It still loses some of what is drawn apart: ``examples/using.md``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch

from engine.denoise.resume import Entry
from engine.edit.before import PreparedEdit
from engine.edit.common import coupled, couples
from engine.edit.placing import AT_ONCE, own_of
from engine.edit.shared import Shared
from engine.errors import InputError
from engine.picture.masks import to_latent_grid
from engine.picture.pixels import depth

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.edit.memory import Memory
    from engine.edit.placing import Placed
    from engine.edit.views import View
    from engine.models import Backbone
    from engine.request.request import EditRequest

Group = Sequence["Placed"]

APART: Final = 0.4
"""Share of a run that regions have by themselves: less saves little more
(``examples/benchmarks/measure_regions.py``)."""


class Joined:
    """Edits of one view that go on as one.

    Args:
        parts: the groups of regions, and the edit of each, in order.
        common: the edit of all of them.
        until: the model call from which on it is theirs.
    """

    def __init__(
        self, parts: Sequence[tuple[Group, PreparedEdit]], common: PreparedEdit, until: int
    ) -> None:
        self.parts = [part for _, part in parts]
        self.numbers = [each.number for group, _ in parts for each in group]
        self.common, self.until = common, until
        self.jobs: dict[int, Job] = {}
        """Of the common run, by which picture they are for."""
        self._arrived: dict[int, dict[int, Job]] = {}
        for number, part in enumerate(self.parts):
            part.until, part.then = until, partial(self._arrive, number)

    @property
    def steps(self) -> int:
        """Of all its jobs together."""
        whole = self.common.steps
        count = len(self.common.shared.seeds)
        return whole + count * self.until * (len(self.parts) - 1)

    @property
    def chains(self) -> list[list[Job]]:
        """The common run's finished jobs, by picture."""
        return [[self.jobs[output]] for output in sorted(self.jobs)]

    def _arrive(self, number: int, view: View, finished: Job) -> Job | None:
        """The common job, where ``finished``, of part ``number``, is the last to come."""
        here = self._arrived.setdefault(finished.output, {})
        here[number] = finished
        if len(here) < len(self.parts):
            return None
        del self._arrived[finished.output]
        several = [job for _, job in sorted(here.items())]
        owner = self._owners(view).to(finished.latents.device)

        def pick(latents: Sequence[torch.Tensor]) -> torch.Tensor:
            picked = latents[0]
            for place, own in enumerate(latents[1:], start=1):
                picked = own.where(owner == place, picked)
            return picked

        job = self.common.entered(finished.output, Entry.of(several, pick), several[0].generator)
        self.jobs[finished.output] = job
        return job

    def _owners(self, view: View) -> torch.Tensor:
        """Whose latents count at each place (1 1 h w): the part's that it lies deepest in, and
        outside of all the nearest one's. An average would have too little noise.
        """
        cell, source = self.common.backbone.cell, view.source
        whole = [part.shared.inputs.views_of(source)[0].strength_map for part in self.parts]
        maps = [to_latent_grid(depth(each), cell, hard=False) for each in whole]
        away = [_distances(each) for each in maps]
        deepest, nearest = np.argmax(maps, axis=0), np.argmin(away, axis=0)
        owners = np.where(np.max(maps, axis=0) > 0, deepest, nearest)
        return torch.from_numpy(owners)[None, None]


def joined(
    groups: Sequence[Group],
    parts: Sequence[PreparedEdit],
    plain: EditRequest,
    memory: Memory,
) -> list[Joined]:
    """Which edits of groups go on as one: those of one view that differ in nothing but maps,
    prompts and seeds, where that is less work.
    """
    backbone = parts[0].backbone
    if plain.coupling != "joined":
        return []
    if not couples(backbone):
        raise InputError(
            "coupling='joined': this model's network cannot follow several prompts in one call; "
            "'auto' makes regions apart."
        )
    alike: dict[Hashable, list[tuple[Group, PreparedEdit]]] = {}
    for group, part in zip(groups, parts, strict=True):
        if (key := _key(group, part)) is not None:
            alike.setdefault(key, []).append((group, part))
    several = [pack for own in alike.values() for pack in _packs(own) if len(pack) > 1]
    made = (_joined(pack, plain, backbone, memory) for pack in several)
    return [each for each in made if each is not None]


def _joined(
    pack: Sequence[tuple[Group, PreparedEdit]],
    plain: EditRequest,
    backbone: Backbone,
    memory: Memory,
) -> Joined | None:
    group = sorted((each for own, _ in pack for each in own), key=lambda each: each.order)
    request, coupling = coupled(group, plain, backbone)
    common = PreparedEdit(Shared(backbone, request, memory), request, coupling=coupling)
    if any(_filled(part) != _filled(common) for _, part in pack):
        return None
    if [_places(part) for _, part in pack[:1]] != [_places(common)]:
        return None
    peaks = [min(1.0, float(each.map.max())) for each in group]
    until = _until(common, 1 - min(peaks))
    return None if until is None else Joined(pack, common, until)


def _key(group: Group, part: PreparedEdit) -> Hashable:
    """What is equal for edits that can go on as one; None for one that can with no other."""
    views = part.shared.inputs.views
    own = (
        own_of(each, name)
        for each in group
        for name in ("strength", "controls", "reference", "lora")
    )
    (stage, *others), request = part.stages, part.request
    if (
        any(each is not None for each in own)
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
    return _places(part), told, _filled(part)


def _filled(part: PreparedEdit) -> str | None:
    """What an edit's holes are filled with, where some of that stays."""
    return part.prefilled if part.request.strength < 1 else None


def _places(part: PreparedEdit) -> Hashable:
    """Which of its pictures' pixels an edit sees, and how large."""
    return tuple((view.source, view.box, view.region.size) for view in part.shared.inputs.views)


def _packs(
    parts: Sequence[tuple[Group, PreparedEdit]],
) -> list[list[tuple[Group, PreparedEdit]]]:
    """Parts in as few packs as a run has room for their prompts."""
    packs: list[list[tuple[Group, PreparedEdit]]] = []
    for part in parts:
        prompts = sum(len(group) for group, _ in packs[-1]) if packs else AT_ONCE
        if prompts + len(part[0]) > AT_ONCE:
            packs.append([])
        packs[-1].append(part)
    return packs


def _until(common: PreparedEdit, held: float) -> int | None:
    """The model call before which regions join; None where none is left then.

    ``held``: the share of the run in which the weakest of them may still be held as it was.
    """
    view = common.shared.inputs.views[0]
    schedule = common.shared.schedules(common.stages[0].strength, common.shared.size_at(view, 1.0))
    least = math.ceil(round(schedule.num_steps * (held + APART * (1 - held)), 6))
    starts = (step.index for step in schedule.steps if step.starts and step.position >= least)
    return next(starts, None)


def _distances(own: Any) -> Any:
    """How far each place (H W) is from where a map is above 0."""
    distances, _ = cv2.distanceTransformWithLabels(
        (own == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return distances
