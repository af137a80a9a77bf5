"""What ``strategy="auto"`` does with an edit, why, and what it costs.

What an edit is for is said (``task=``), or guessed from its map and its prompt. Which strategy does
that best was measured (:data:`MEASURED`, which ``examples/measured.md`` shows); how many starts it
gets is a matter of what is preferred.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.edit.halving import cost
from engine.edit.inputs import Inputs
from engine.errors import InputError
from engine.picture.fill import find_prefill, prefilled
from engine.picture.judging import enough_for
from engine.picture.masks import is_hard, resize_map
from engine.picture.measures import colour_inside
from strategies import create_strategy, get_strategy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.models import Backbone
    from engine.request.request import EditRequest

MEASURED: Final = Path(__file__).with_name("measured.json")

ORDER: Final[Mapping[str, tuple[str, ...]]] = {
    "remove": ("remove", "inpaint9", "fill", "erase", "differential"),
    "add": ("inpaint9", "fill", "think", "differential"),
    "replace": ("inpaint9", "fill", "think", "differential"),
    "recolour": ("inpaint9", "fill", "differential"),
    "restyle": ("differential", "soft-blend", "inpaint9+differential", "fill+differential"),
    "extend": ("inpaint9", "fill", "differential"),
}
"""For each task what is good at it, the best first; what needs a network that is not loaded is left
out."""
STARTS: Final[Mapping[str, tuple[int, int]]] = {
    "speed": (1, 1),
    "balance": (1, 4),
    "quality": (2, 8),
}
"""By what is preferred: of how many strategies, and how many starts of them together."""

MOST_STARTS: Final = max(starts for _, starts in STARTS.values())

STANDS_OUT: Final = 11.0
"""Mean Delta-E from the surroundings' colours from which on something stands in the mask."""
MOST: Final = 0.6
"""Share of the picture beyond which all of it is meant."""
_SIDE: Final = 256  # px, at which it is looked at
_GOING = re.compile(r"^\W*($|(remove|erase|delete|nothing|empty)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Advice:
    """What is done with an edit whose strategy is ``auto``."""

    task: str
    strategies: tuple[str, ...]
    candidates: int
    runs: float
    """What it costs: model calls over those of one full run."""
    most: float
    """The same where the judge does not find what is asked for, and all starts are finished."""
    reasons: tuple[str, ...]
    """One sentence each."""

    def applied(self, request: EditRequest) -> EditRequest:
        """The edit as it is advised."""
        settings: dict[str, Any] = {
            "strategy": ",".join(self.strategies),
            "candidates": self.candidates,
            "task": self.task,
        }
        return replace(request, **settings)

    def lines(self) -> list[str]:
        """For a person."""
        several = f", {self.candidates} starts of which the best is kept"
        most = f", {self.most:.2g} at most" if self.most > self.runs else ""
        return [
            f"task      {self.task}",
            f"strategy  {' and '.join(self.strategies)}{several if self.candidates > 1 else ''}",
            f"costs     {self.runs:.2g} full runs{most}",
            *(f"because   {reason}" for reason in self.reasons),
        ]


def advise(request: EditRequest, backbone: Backbone, *, most: int | None = None) -> Advice:
    """What is to be done with an edit of one prompt and no regions, whatever strategy it names.

    Args:
        request: the edit.
        backbone: the model.
        most: at most so many strategies.

    Raises:
        InputError: the picture or the map cannot be used, or latents were given.
    """
    inputs = Inputs.of(request, backbone)
    if inputs.pictures is None:
        raise InputError("advice is about pictures; latents were given as image.")
    reasons: list[str] = []
    task: str = request.task
    if task == "auto":
        task, why = guess_task(request, inputs.pictures[0].rgb, inputs.maps[0])
        reasons.append(f"{why}: {task} (a task that is named is taken as it is)")
    able = [name for name in ORDER[task] if _runs_on(name, backbone)]
    missing = [name for name in ORDER[task] if name not in able]
    count, starts = STARTS[request.prefer]
    strategies = tuple(able[: min(count, most or count)])
    starts = max(request.candidates or starts, len(strategies), request.keep or 1)
    reasons += [_known_of(task, name) for name in strategies]
    if missing[:1] == [ORDER[task][0]] and "fill" not in able:
        reasons.append(f"{missing[0]} is better at it, but needs a 9-channel network")
    guided = backbone.family.guidance(request.guidance_scale).active
    lengths = [
        sum(
            stage.strength * stage.strategy.effort(guided=guided)
            for stage in create_strategy(name).stages
        )
        for name in strategies
    ]
    enough = enough_for(request.judge, backbone.judge, request.enough)
    runs, length = cost(starts, request.keep or 1), fmean(lengths)
    all_runs = starts if enough else runs
    return Advice(task, strategies, starts, runs * length, all_runs * length, tuple(reasons))


def asks_for_nothing(prompt: str) -> bool:
    """Whether a prompt asks for something to go, and for nothing new."""
    return bool(_GOING.search(prompt))


def guess_task(
    request: EditRequest, rgb: NDArray[np.uint8], strength_map: NDArray[np.float32]
) -> tuple[str, str]:
    """What an edit is for, and what tells: the canvas that grows, the words, the strengths, and
    whether something stands where it is repainted.

    ``rgb``: H W 3; ``strength_map``: H W in [0, 1].
    """
    if request.expand is not None:
        return "extend", "the canvas grows"
    if asks_for_nothing(request.text):
        return "remove", "the prompt asks for nothing new"
    if request.strength < 1 or not is_hard(strength_map):
        return "restyle", "strengths below 1 keep something of the picture"
    if (strength_map > 0).mean() > MOST:
        return "restyle", "most of the picture is repainted"
    if _stands_out(rgb, strength_map) >= STANDS_OUT:
        return "replace", "something stands where it is repainted"
    return "add", "what is repainted looks like its surroundings"


def _stands_out(rgb: NDArray[np.uint8], strength_map: NDArray[np.float32]) -> float:
    """Mean Delta-E of what is repainted from the colours around it; NaN where there are none."""
    from PIL import Image

    height, width = strength_map.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
    mask = resize_map(strength_map, size) > 0
    return colour_inside(small, prefilled(find_prefill("blur"), small, mask), mask)


def _runs_on(name: str, backbone: Backbone) -> bool:
    strategies = [stage.strategy for stage in create_strategy(name).stages]
    return all(
        each.network in backbone.networks
        and (backbone.networks[each.network].redirects or not each.redirects)
        for each in strategies
    )


def _known_of(task: str, strategy: str) -> str:
    """What is known of a strategy at a task, as a sentence."""
    known = _measured()["tasks"].get(task, {}).get(strategy)
    if known is None:
        parts = [get_strategy(part).description for part in strategy.split("+")]
        return f"{strategy}: {'; with '.join(parts)}"
    colour, seam, prompt = known
    return (
        f"{strategy}: colour error {colour:g}, seam error {seam:g}, prompt found {prompt:.0%} in "
        f"{_measured()['scenes']} scenes"
    )


@cache
def _measured() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return loaded
