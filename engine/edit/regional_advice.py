"""What ``strategy="auto"`` does with an edit of several regions: each run as an edit of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from engine.edit.advice import Advice, advise, asks_for_nothing
from engine.edit.placing import Layout, numbers_of
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.edit.placing import Placed
    from engine.models import Backbone
    from engine.request.regions import Region
    from engine.request.request import EditRequest


@dataclass(frozen=True)
class RegionalAdvice(Advice):
    """Advice for each run of an edit of regions whose strategy is ``auto``. Task and strategy of
    the whole are those of its own map, or else of the first run.
    """

    each: tuple[tuple[tuple[int, ...], Advice], ...]
    """The regions of each run by their numbers, from 1 (0 is the edit's own map), and what is done
    there, by one strategy."""
    named: tuple[tuple[int, ...], ...]
    """The runs that name a strategy themselves."""

    @classmethod
    def of(
        cls,
        each: Sequence[tuple[tuple[int, ...], Advice]],
        named: Sequence[tuple[int, ...]] = (),
    ) -> RegionalAdvice:
        """Of the advice for each run."""
        several = [advice for _, advice in each]
        own = next((advice for numbers, advice in each if 0 in numbers), several[0])
        return cls(
            task=own.task,
            strategies=own.strategies,
            candidates=max(advice.candidates for advice in several),
            runs=sum(advice.runs for advice in several),
            most=sum(advice.most for advice in several),
            reasons=(),
            each=tuple(each),
            named=tuple(named),
        )

    def applied(self, request: EditRequest) -> EditRequest:
        """The edit as it is advised; what a run has otherwise than the whole, its regions say."""
        regions = list(request.regions or ())
        for numbers, advice in self.each:
            if (advice.strategies, advice.task) != (self.strategies, self.task):
                for number in numbers:
                    regions[number - 1] = _told(regions[number - 1], advice, request)
        for number in (number for numbers in self.named for number in numbers):
            region = regions[number - 1]
            regions[number - 1] = replace(region, task=region.task or request.task)
        return replace(super().applied(request), regions=tuple(regions))

    def lines(self) -> list[str]:
        """For a person."""
        lines = []
        for numbers, advice in self.each:
            _, *others = advice.lines()
            lines += [f"{_names(numbers)}: {advice.task}", *others]
        lines += [f"{_names(numbers)}: as named" for numbers in self.named]
        return lines


def advised(request: EditRequest, backbone: Backbone) -> Advice:
    """What is to be done with an edit of one prompt, of regions or not.

    Raises:
        InputError: as for :func:`engine.edit.advice.advise` and :func:`advise_regions`.
    """
    return (advise if request.regions is None else advise_regions)(request, backbone)


def advise_regions(request: EditRequest, backbone: Backbone) -> RegionalAdvice:
    """What is to be done with each region of an edit that names no strategy of its own.

    Raises:
        InputError: the picture or a map cannot be used, regions touch that cannot share a run, or
            each names a strategy.
    """
    layout = Layout.of(request, backbone)
    plain = layout.unplaced(request)
    each, named = [], []
    for group in layout.groups:
        numbers = numbers_of(group)
        if any(one.region is not None and one.region.strategy is not None for one in group):
            named.append(numbers)
        else:
            each.append((numbers, advise(_as_one(group, plain), backbone, most=1)))
    if not each:
        raise InputError("every region names its strategy: there is nothing to be advised on.")
    return RegionalAdvice.of(sorted(each, key=lambda one: one[0]), sorted(named))


def _as_one(group: Sequence[Placed], request: EditRequest) -> EditRequest:
    """A run of one region or several as an edit without regions, by what its first region says,
    and by the first prompt that asks for something.
    """
    settings = [each.settings(request) for each in group]
    texts = [each.get("prompt", request.text) for each in settings]
    prompt = next((text for text in texts if not asks_for_nothing(text)), texts[0])
    strength_map = reduce(np.maximum, (each.map for each in group))
    one = {**settings[0], "prompt": prompt, "strength_map": strength_map}
    return replace(request, **one, controls=None, ip_adapter_image=None)


def _told(region: Region, advice: Advice, request: EditRequest) -> Region:
    options = region.options or request.options
    return replace(region, strategy=advice.strategies[0], task=advice.task, options=options)


def _names(numbers: Sequence[int]) -> str:
    """A run's regions in words."""
    regions = ", ".join(str(number) for number in numbers if number)
    parts = ["the edit's own map"] if 0 in numbers else []
    parts += [f"region{'s' if ',' in regions else ''} {regions}"] if regions else []
    return " and ".join(parts)
