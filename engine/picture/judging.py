"""How good an edit is whose right answer nobody knows: one score, of what can be seen of it.

Seam, colours and what became of the known region are measured against the original. What the
picture shows is for a judge that can read: to add one, register a :class:`JudgeInfo`, or name it as
an entry point of the group ``softpaint.judges``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.errors import InputError, UnknownNameError
from engine.picture.measures import colour_ring, seam
from engine.registry import Registry

if TYPE_CHECKING:
    from engine.picture.measures import Map, Pixels

Judge: TypeAlias = "Callable[[Pixels, str], float]"
"""How well a picture (uint8, H W 3) shows a text, from 0 to 1; NaN where it cannot tell."""

HALVES: dict[str, float] = {"seam": 60.0, "colour": 12.0, "drift": 12.0}
"""At which seam (levels), colour error (Delta-E) and drift (levels) a term counts half."""
WEIGHTS: dict[str, float] = {"prompt": 3.0, "seam": 0.5, "colour": 0.5, "drift": 0.5}
"""Of the terms in the score: that the thing is there matters more than all else together. Drift
counts in finished pictures only: on the way, what dares more drifts more, and comes out better."""


@dataclass(frozen=True)
class JudgeInfo:
    """Somebody who can tell what a picture shows, by name."""

    name: str
    description: str
    load: Callable[[str], Judge]
    """Makes the judge, of what stands behind the name's colon (empty without one)."""
    argument: str = ""
    """What stands behind a colon, such as ``"FOLDER"``; empty where nothing may."""
    enough: float | None = None
    """What it says, from 0 to 1, of a picture that shows all that a text asks for, or all but a
    little; None where it only tells which of two is nearer."""


JUDGES = Registry("judge", JudgeInfo, "softpaint.judges", reserved=":,")


def list_judges() -> list[str]:
    """The names that ``judge=`` accepts."""
    return ["auto", "none", *JUDGES.names()]


def check_judge(judge: Any) -> None:
    """Raise ``InputError`` for what cannot judge, without loading anything."""
    if callable(judge):
        return
    if not isinstance(judge, str):
        raise InputError(
            "judge must be a name, or callable: judge(picture, prompt) -> 0 to 1; not "
            f"{type(judge).__name__}."
        )
    if judge in {"auto", "none"}:
        return
    name, colon, argument = judge.partition(":")
    if name not in JUDGES:
        takes = [f"{info.name}:{info.argument}" for info in JUDGES if info.argument]
        raise UnknownNameError("judge", judge, ["auto", "none", *JUDGES.names(), *takes])
    needs = JUDGES.get(name).argument
    if needs and not argument:
        raise InputError(f"judge {name!r} wants {name}:{needs}.")
    if colon and not needs:
        raise InputError(f"judge {name!r} takes nothing behind a colon; {judge!r} was given.")


def find_judge(judge: Any, own: str = "") -> Judge | None:
    """The judge that is asked for; None where only seam and colours are to be judged.

    Args:
        judge: a name that :func:`check_judge` accepts, or the judge itself.
        own: name of the one that knows the model at hand, which ``auto`` is; empty for none.

    Raises:
        InputError: as :func:`check_judge`.
        ModelError: its network is missing.
    """
    check_judge(judge)
    if callable(judge):
        named: Judge = judge
        return named
    kind, _, argument = name_of(judge, own).partition(":")
    return JUDGES.get(kind).load(argument) if kind else None


def enough_for(judge: Any, own: str, asked: float | None) -> float | None:
    """From which score on that judge (as for :func:`find_judge`) has found what a text asks for:
    what is ``asked``, or what the judge says itself; None where neither does.
    """
    if asked is not None or callable(judge):
        return asked
    kind, _, _ = name_of(judge, own).partition(":")
    return JUDGES.get(kind).enough if kind else None


def name_of(judge: Any, own: str = "") -> str:
    """Of the judge that is asked for, with its argument; empty for none. ``given`` is one of the
    caller's.
    """
    if callable(judge):
        return "given"
    name = own if judge == "auto" else judge
    return "" if name == "none" else str(name)


@dataclass(frozen=True)
class Look:
    """A region of an edit, or of what it is heading for, at the size at which it is judged."""

    result: Pixels
    """Laid over the original."""
    decoded: Pixels
    """What the model made, before that."""
    original: Pixels
    strength_map: Map


@dataclass(frozen=True)
class Scores:
    """What was found, and what it comes to."""

    total: float
    """From 0 to 1; higher is better."""
    seam: float
    """Gradient error on the edge of what is repainted, in grey levels; NaN without an edge."""
    colour: float
    """Delta-E 2000 around that edge; NaN without one."""
    drift: float
    """Mean change of what is kept, in grey levels, before the original was laid over it."""
    prompt: float
    """What the judge said, from 0 to 1; NaN without one."""

    def told(self) -> dict[str, float]:
        """The numbers that are there, by name, for records and tables."""
        return {name: round(v, 4) for name, v in vars(self).items() if math.isfinite(v)}


def score(
    looks: Sequence[Look],
    asked: Sequence[tuple[Pixels, str]],
    judge: Judge | None,
    *,
    finished: bool = True,
) -> Scores:
    """Judge an edit.

    Args:
        looks: its regions.
        asked: what ``judge`` is shown, and what that is to show: of several the mean counts.
        judge: who tells whether it does.
        finished: it is no prediction on the way.

    Raises:
        InputError: the judge said something that is not between 0 and 1.
    """
    areas = [float((look.strength_map > 0).mean() * look.strength_map.size) for look in looks]
    found = {
        "seam": _mean([seam(k.result, k.original, k.strength_map > 0) for k in looks], areas),
        "colour": _mean(
            [colour_ring(k.result, k.original, k.strength_map > 0) for k in looks], areas
        ),
        "drift": _mean([_drift(look) for look in looks], areas),
        "prompt": math.nan,
    }
    if judge is not None:
        said = [_said(judge(picture, prompt)) for picture, prompt in asked]
        found["prompt"] = _mean(said, [1.0] * len(said))
    return Scores(weighed(found, finished=finished), **found)


def weighed(found: Mapping[str, float], *, finished: bool = True) -> float:
    """The score of what was ``found``, by the names of :class:`Scores`; terms may be missing."""
    terms = {n: 1 / (1 + found[n] / half) for n, half in HALVES.items() if n in found}
    terms["prompt"] = found.get("prompt", math.nan)
    there = [
        name
        for name, term in terms.items()
        if math.isfinite(term) and (finished or name != "drift")
    ]
    weight = sum(WEIGHTS[name] for name in there)
    return sum(WEIGHTS[name] * terms[name] for name in there) / weight if there else 0.0


def _drift(look: Look) -> float:
    kept = look.strength_map == 0
    if not kept.any():
        return math.nan
    change = look.decoded[kept].astype(np.int16) - look.original[kept]
    return float(np.abs(change).mean())


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean of those that are defined."""
    pairs = [(v, w) for v, w in zip(values, weights, strict=True) if math.isfinite(v)]
    total = sum(weight for _, weight in pairs)
    if not total:
        return fmean(v for v, _ in pairs) if pairs else math.nan
    return sum(v * w for v, w in pairs) / total


def _said(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"a judge gives a number from 0 to 1, not {value!r}.") from error
    if not math.isnan(number) and not 0 <= number <= 1:
        raise InputError(f"a judge gives a number from 0 to 1, not {number:g}.")
    return number
