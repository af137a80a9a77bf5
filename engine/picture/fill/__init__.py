"""What stands in the hole before the denoising starts.

A fill takes ``rgb`` (uint8, H W 3) and ``hole`` (bool, H W) and returns a picture in which the hole
is filled and every other pixel is as it was. It only decides where the run starts from: what is
held, and what is pasted, is always the true original. To add one, register a :class:`FillInfo`, or
name it as an entry point of the group ``softpaint.fills``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from engine.errors import InputError, UnknownNameError
from engine.picture.fill.classic import blur, neutral, noise, ns, original, telea
from engine.picture.fill.gan import GANS, GanInfo, gan
from engine.picture.fill.patch import patch
from engine.picture.masks import is_hard
from engine.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rgb = NDArray[np.uint8]
    Hole = NDArray[np.bool_]

__all__ = [
    "FILLS",
    "GANS",
    "Fill",
    "FillInfo",
    "GanInfo",
    "choose_prefill",
    "find_prefill",
    "list_prefills",
    "prefilled",
]

Fill: TypeAlias = "Callable[[Rgb, Hole], Rgb]"


@dataclass(frozen=True)
class FillInfo:
    """A fill by name."""

    name: str
    description: str
    build: Callable[[str], Fill]
    """Makes the fill, of what stands behind the name's colon (empty without one)."""
    argument: str = ""
    """What may stand behind a colon, such as ``"PATH"``; empty where nothing may."""


FILLS = Registry("prefill", FillInfo, "softpaint.fills", reserved=":")


def _always(fill: Fill) -> Callable[[str], Fill]:
    """How a fill that takes no argument is built."""
    return lambda _: fill


for _fill, _description in (
    (original, "what stands there"),
    (blur, "the known colours around, averaged"),
    (telea, "fast marching; small holes"),
    (ns, "Navier-Stokes; small holes"),
    (patch, "copied from where the surroundings look alike"),
    (neutral, "mid grey"),
    (noise, "the known colours in any order"),
):
    FILLS.register(FillInfo(_fill.__name__, _description, _always(_fill)))
FILLS.register(FillInfo("gan", "drawn by an inpainting network", gan, argument="PATH"))


def list_prefills() -> list[str]:
    """The names that ``prefill=`` accepts, beside ``"auto"`` and ``"gan:PATH"``.

    Example:
        >>> "telea" in list_prefills()
        True
    """
    return FILLS.names()


def find_prefill(name: str) -> Fill:
    """The fill called ``name``: one of :func:`list_prefills`, with an argument behind a colon where
    it takes one (``"gan:PATH"``, see :func:`engine.picture.fill.gan.gan`).

    Raises:
        UnknownNameError: there is none of that name.
        InputError: an argument that it does not take, or a GAN whose file is missing.
    """
    kind, colon, argument = name.partition(":")
    if kind not in FILLS:
        takes = [f"{info.name}:{info.argument}" for info in FILLS if info.argument]
        raise UnknownNameError("prefill", name, ["auto", *FILLS.names(), *takes])
    info = FILLS.get(kind)
    if colon and not info.argument:
        raise InputError(f"prefill {kind!r} takes nothing behind a colon; {name!r} was given.")
    return info.build(argument)


CHANGED = ("add", "replace", "recolour", "restyle")
"""Tasks in which what stands in the hole is no hindrance."""


def choose_prefill(
    strength_maps: Iterable[NDArray[np.float32]], strength: float, task: str = "auto"
) -> str:
    """The fill of ``prefill="auto"``.

    ``original`` where the original is to shine through (soft maps, strengths below 1), else
    ``blur``: a run at strength 1 does not start from pure noise either, and what would show through
    is the very thing that is to go. (Removals on the pocket model come 2.9 Delta-E 2000 nearer to
    the truth by it, insertions and recolourings 0.5 to 1.2 further away: those take ``original``
    where the ``task`` is named.)
    """
    if task in CHANGED:
        return "original"
    return "blur" if strength == 1 and all(map(is_hard, strength_maps)) else "original"


def prefilled(fill: Fill, rgb: Rgb, hole: Hole) -> Rgb:
    """``rgb`` with its hole filled, and the rest as it was; as it is where there is no hole, or
    nothing beside it to fill it from.
    """
    if not hole.any() or hole.all():
        return rgb
    return np.where(hole[..., None], fill(rgb, hole), rgb).astype(np.uint8)
