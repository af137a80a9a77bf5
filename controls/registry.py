"""Controls by name.

A :class:`ControlInfo` says how a control image of its kind is made from a picture, and which
published ControlNet reads it. Third-party packages add controls through the entry-point group
``softpaint.controls``: each entry point names a :class:`ControlInfo`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.registry import Registry

if TYPE_CHECKING:
    from controls.annotators import Annotator


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
    """Base model (``"sdxl"``, ``"sd"``) -> the ControlNet: a hub id or a folder."""
    union_mode: int | None = None
    """Its number in ControlNet-Union networks (xinsir's for SDXL: 0 to 5, ProMax: 0 to 7)."""


CONTROLS = Registry("control", ControlInfo, "softpaint.controls", reserved="+:=")

register = CONTROLS.register
list_controls = CONTROLS.names
get_control = CONTROLS.get


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
