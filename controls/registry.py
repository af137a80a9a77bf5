"""Controls by name.

A :class:`ControlInfo` says how a control image of its kind is made from a picture, and which
published ControlNet reads it. Third-party packages add controls through the entry-point group
``softpaint.controls``: each entry point names a :class:`ControlInfo`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from engine.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from controls.annotators import Annotator

ENTRY_POINT_GROUP = "softpaint.controls"


@dataclass(frozen=True)
class ControlInfo:
    """What there is to know about a registered control."""

    name: str
    description: str
    """One line: what it holds on to."""
    annotator: str | Annotator
    """A name of :func:`controls.annotators.list_annotators`, or a function of the same kind: how
    the control image is made when none is given."""
    models: Mapping[str, str]
    """Base model (``"sdxl"``, ``"sd"``, ``"pocket"``) -> the ControlNet: a hub id or a folder."""
    union_mode: int | None = None
    """Its number in ControlNet-Union networks (xinsir's for SDXL: 0 to 5, ProMax: 0 to 7)."""


_REGISTRY: dict[str, ControlInfo] = {}


def register(info: ControlInfo) -> ControlInfo:
    """Add a control. Raises ``InputError`` if the name is taken, empty, or holds ``+`` or ``:``."""
    if not info.name or set("+:") & set(info.name):
        raise InputError(f"a control's name is not empty and has no '+' or ':': {info.name!r}.")
    if info.name in _REGISTRY:
        raise InputError(f"a control named {info.name!r} is registered already.")
    _REGISTRY[info.name] = info
    return info


@cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        info = point.load()
        if not isinstance(info, ControlInfo):
            raise InputError(
                f"entry point {point.name!r} of {ENTRY_POINT_GROUP} is no ControlInfo."
            )
        register(info)


def list_controls() -> list[str]:
    """The registered names, built-in ones first."""
    _load_entry_points()
    return list(_REGISTRY)


def get_control(name: str) -> ControlInfo:
    """What is registered under ``name``. Raises ``UnknownNameError`` with the nearest match."""
    _load_entry_points()
    if name not in _REGISTRY:
        raise UnknownNameError("control", name, _REGISTRY)
    return _REGISTRY[name]


def split_controls(name: str, strategies: Collection[str]) -> tuple[str, list[str]]:
    """Part the controls from a composed name: ``"differential+canny"`` is the strategy
    ``"differential"`` with the control ``"canny"``.

    ``strategies`` are the names of strategies, which go before controls of the same name. Names
    that are neither stay with the strategy, whose registry knows what to say about them; so does a
    name of controls alone.
    """
    parts = [part.strip() for part in name.split("+")]
    known = set(list_controls()) - set(strategies)
    strategy = "+".join(part for part in parts if part not in known)
    if not strategy:
        return name, []
    return strategy, [part for part in parts if part in known]
