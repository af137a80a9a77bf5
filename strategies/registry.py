"""Strategies by name.

A strategy's name is one registered part, or several joined by ``+``. Third-party packages add
parts through the entry-point group ``softpaint.strategies``: each entry point names a
:class:`StrategyInfo`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from engine.errors import InputError, UnknownNameError
from engine.strategy import Network, Part, Strategy

ENTRY_POINT_GROUP = "softpaint.strategies"


@dataclass(frozen=True)
class StrategyInfo:
    """What there is to know about a registered strategy.

    ``part`` builds it; its keyword arguments are the strategy's options.
    """

    name: str
    description: str
    """One line: what it is good at."""
    cost: str
    """One line: model calls per step, and anything beside them."""
    part: Callable[..., Part]
    paper: str = ""
    network: Network = "base"

    @property
    def options(self) -> dict[str, tuple[Any, str]]:
        """Option name -> (default, what it does)."""
        if not (isinstance(self.part, type) and dataclasses.is_dataclass(self.part)):
            return {}
        return {
            each.name: (each.default, str(each.metadata.get("help", "")))
            for each in dataclasses.fields(self.part)
        }


_REGISTRY: dict[str, StrategyInfo] = {}


def register(info: StrategyInfo) -> StrategyInfo:
    """Add a strategy. Raises ``InputError`` if the name is taken or contains ``+``."""
    if "+" in info.name or not info.name:
        raise InputError(f"a strategy's name is not empty and has no '+': {info.name!r}.")
    if info.name in _REGISTRY:
        raise InputError(f"a strategy named {info.name!r} is registered already.")
    _REGISTRY[info.name] = info
    return info


@cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        info = point.load()
        if not isinstance(info, StrategyInfo):
            raise InputError(
                f"entry point {point.name!r} of {ENTRY_POINT_GROUP} is no StrategyInfo."
            )
        register(info)


def list_strategies() -> list[str]:
    """The registered names, built-in ones first."""
    _load_entry_points()
    return list(_REGISTRY)


def get_strategy(name: str) -> StrategyInfo:
    """What is registered under ``name``. Raises ``UnknownNameError`` with the nearest match."""
    _load_entry_points()
    if name not in _REGISTRY:
        raise UnknownNameError("strategy", name, _REGISTRY)
    return _REGISTRY[name]


def create_strategy(name: str, **options: Any) -> Strategy:
    """Build ``name``, which may compose several parts with ``+``, with its options.

    An option goes to every part that has it.

    Raises:
        InputError: unknown name or option, a value the part refuses, or parts that do not compose.
    """
    if not isinstance(name, str):
        raise InputError(f"strategy must be a name, not {type(name).__name__}.")
    infos = [get_strategy(part.strip()) for part in name.split("+")]
    known = {option for info in infos for option in info.options}
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of strategy {name!r}:", option, known)
    parts = tuple(
        info.part(**{key: value for key, value in options.items() if key in info.options})
        for info in infos
    )
    return Strategy(name, parts)
