"""Strategies as an edit may name them: by name, as parts, as a part's class, or built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from controls import split_controls
from engine.denoise.strategy import AnyStrategy, Part, StagedStrategy, Strategy
from engine.errors import InputError, UnknownNameError
from engine.request.elsewhere import check_settings
from strategies import create_strategy, list_strategies, options_of
from strategies.registry import STRATEGIES

OF_A_STAGE = (
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "scheduler",
    "instruct",
)
"""Settings that go with a stage's model: not the edit's where that is another one."""


def build_strategy(
    strategy: Any, options: Mapping[str, Any], *, partial: bool = False
) -> AnyStrategy:
    """Build a strategy.

    Args:
        strategy: a name, which may hold controls' names too; a :class:`Part`; a class of parts; a
            list of these, which compose; or a strategy that is built, which stays as it is.
        options: for what is not built yet.
        partial: leave out the options that it does not have.

    Raises:
        InputError: an unknown name or option, options beside what is built, or parts that do not
            compose.
    """
    several = strategy if isinstance(strategy, list | tuple) else [strategy]
    if not several:
        raise InputError("strategy is an empty list.")
    known = set().union(*map(_options_of, several))
    unknown = options.keys() - known
    if unknown and not partial:
        _refuse(min(unknown), strategy, known)
    taken = {name: value for name, value in options.items() if name in known}
    built = [
        _build(one, {name: taken[name] for name in taken.keys() & _options_of(one)})
        for one in several
    ]
    if len(built) == 1:
        return built[0]
    parts = [part for one in built if isinstance(one, Strategy) for part in one.parts]
    if any(isinstance(one, StagedStrategy) for one in built):
        raise InputError("a strategy with stages of its own cannot be composed with others.")
    return Strategy("+".join(one.name for one in built), tuple(parts))


def named_in(strategy: Any) -> list[Any]:
    """The strategies of an edit's candidates: names with commas between, or the one given."""
    if not isinstance(strategy, str) or "," not in strategy:
        return [strategy]
    return [name.strip() for name in strategy.split(",") if name.strip()]


def build_each(
    strategies: Sequence[str | AnyStrategy], options: Mapping[str, Any]
) -> list[AnyStrategy]:
    """Strategies to be run beside each other; an option goes to those that have it.

    Raises:
        InputError: a name that is unknown or given twice, or an option that none has.
    """
    built = [build_strategy(strategy, options, partial=True) for strategy in strategies]
    if len({strategy.name for strategy in built}) < len(built):
        raise InputError("strategies must not be named twice.")
    if unused := set(options) - {name for strategy in built for name in strategy.options}:
        check_settings(unused)
        raise InputError(f"no compared strategy has the option {min(unused)!r}.")
    return built


def _build(strategy: Any, options: Mapping[str, Any]) -> AnyStrategy:
    if isinstance(strategy, Strategy | StagedStrategy):
        return strategy
    if isinstance(strategy, str):
        plain, named = split_controls(strategy, list_strategies())
        built = create_strategy(plain, **options)
        return replace(built, name=strategy) if named else built
    part = strategy(**options) if isinstance(strategy, type) else strategy
    return Strategy(_name_of(type(part)), (part,))


def _options_of(strategy: Any) -> set[str]:
    """Names of the options that can be given for it."""
    if isinstance(strategy, str):
        return options_of(split_controls(strategy, list_strategies())[0])
    if isinstance(strategy, type) and issubclass(strategy, Part):
        return set(getattr(strategy, "__dataclass_fields__", ()))
    if isinstance(strategy, Part | Strategy | StagedStrategy):
        return set()
    raise InputError(
        "strategy must be a name, a Part, a class of parts, a list of these or a Strategy, not "
        f"{strategy!r}."
    )


def _name_of(kind: type[Part]) -> str:
    """The name under which a class of parts is registered, else the class's own."""
    infos = map(STRATEGIES.get, STRATEGIES.names())
    return next((info.name for info in infos if info.build is kind), kind.__name__)


def _refuse(option: str, strategy: Any, known: set[str]) -> None:
    """Say what an option that nobody has may have been meant for."""
    owners = [name for name in list_strategies() if option in options_of(name)]
    check_settings([option], known, [option] if owners else ())
    if not isinstance(strategy, str | type | list | tuple):
        raise InputError("options go into the strategy object itself, not beside it.")
    name = strategy if isinstance(strategy, str) else _label(strategy)
    if owners:
        raise InputError(
            f"unknown option of strategy {name!r}: {option!r}, which is one of "
            f"{', '.join(owners)}. Known: {', '.join(sorted(known)) or 'none'}."
        )
    raise UnknownNameError(f"option of strategy {name!r}:", option, known)


def _label(strategy: type | Sequence[Any]) -> str:
    if isinstance(strategy, type):
        return strategy.__name__
    return "+".join(str(getattr(each, "__name__", each)) for each in strategy)
