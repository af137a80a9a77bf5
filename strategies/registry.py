"""Strategies by name.

A strategy's name is one registered part, or several joined by ``+``. Third-party packages add
parts through the entry-point group ``softpaint.strategies``: each entry point names a
:class:`StrategyInfo`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.denoise.strategy import Network, Part, StagedStrategy, Strategy
from engine.errors import InputError, UnknownNameError
from engine.registry import Registry
from engine.request.request import EditRequest

if TYPE_CHECKING:
    from engine.models.network import Network as DenoisingNetwork


@dataclass(frozen=True)
class StrategyInfo:
    """What there is to know about a registered strategy.

    ``build`` makes the part (or, for strategies of several stages, the whole); its keyword
    arguments are the strategy's options.
    """

    name: str
    description: str
    """One line: what it is good at."""
    cost: str
    """One line: model calls per step, and anything beside them."""
    build: Callable[..., Part | StagedStrategy]
    paper: str = ""
    network: Network = "base"
    only: str = ""
    """The one kind of edit that it is for, if there is one. Such a strategy runs where it is named
    and in evaluations' task of that name, and is left out where all are tried.
    """

    def runs_on(self, networks: Mapping[str, DenoisingNetwork]) -> bool:
        """Whether a model with these networks, by kind, can run it."""
        network = networks.get(self.network)
        wants = getattr(self.build, "redirects", False)
        return network is not None and (network.redirects or not wants)

    @property
    def options(self) -> dict[str, tuple[Any, str]]:
        """Option name -> (default, what it does)."""
        builder: Any = self.build
        if dataclasses.is_dataclass(builder):
            return {
                each.name: (each.default, str(each.metadata.get("help", "")))
                for each in dataclasses.fields(builder)
            }
        return {
            each.name: (each.default, dict(getattr(builder, "help", {})).get(each.name, ""))
            for each in inspect.signature(builder).parameters.values()
        }


class _Strategies(Registry[StrategyInfo]):
    def check(self, info: StrategyInfo) -> None:
        """Raise ``InputError`` if an option is named as an argument of
        :meth:`engine.engine.InpaintEngine.edit` is.
        """
        if taken := set(info.options) & set(EditRequest.__dataclass_fields__):
            raise InputError(
                f"strategy {info.name!r} has an option {min(taken)!r}, which is an argument of "
                "every edit; give it another name."
            )


STRATEGIES = _Strategies("strategy", StrategyInfo, "softpaint.strategies", reserved="+")

register = STRATEGIES.register
list_strategies = STRATEGIES.names
get_strategy = STRATEGIES.get


def options_of(*names: str) -> set[str]:
    """Names of the options that any of ``names`` (parts joined by ``+``) accepts."""
    return {option for name in names for part in _parts_of(name) for option in part.options}


def create_strategy(name: str, **options: Any) -> Strategy | StagedStrategy:
    """Build ``name``, which may compose several parts with ``+``, with its options.

    An option goes to every part that has it.

    Raises:
        InputError: unknown name or option, a value the part refuses, or parts that do not compose.
    """
    infos = _parts_of(name)
    known = options_of(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of strategy {name!r}:", option, known)
    built = [
        info.build(**{key: value for key, value in options.items() if key in info.options})
        for info in infos
    ]
    parts = tuple(each for each in built if isinstance(each, Part))
    if len(parts) == len(built):
        return Strategy(name, parts)
    staged = next(each for each in built if isinstance(each, StagedStrategy))
    if len(built) > 1:
        raise InputError(
            f"strategy {name!r}: {staged.name} has stages of its own and cannot be composed; "
            "compose its stages (stages='inpaint9+blend,differential')."
        )
    return staged


def _parts_of(name: str) -> list[StrategyInfo]:
    if not isinstance(name, str):
        raise InputError(f"strategy must be a name, not {type(name).__name__}.")
    return [get_strategy(part.strip()) for part in name.split("+")]
