"""What a line of the table of settings can say, and how a value is checked against it.

A setting is an annotated attribute of :class:`engine.request.fields.Fields`; the marks in its
annotation are defined here, and :class:`Field` is such a line read.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from engine.errors import InputError, UnknownNameError, setting

REQUIRED = dataclasses.MISSING
"""The default of a setting that has none."""

Mark = TypeVar("Mark")


class Group(StrEnum):
    """What settings are listed together, under this heading."""

    PICTURE = "What and where"
    STRATEGY = "Strategy"
    RUN = "Denoising"
    CHOICE = "Candidates"
    STEERING = "Controls"
    REGION = "Canvas and cut-outs"
    FINISH = "Fill, colours and paste"
    OUTPUT = "From Python"


@dataclass(frozen=True)
class Help:
    """What a setting does: one line for every face, and what Python's documentation adds."""

    text: str
    more: str = ""


@dataclass(frozen=True)
class Range:
    """The numbers that are accepted; of a sequence, for each of its entries."""

    low: float
    high: float = math.inf
    above: bool = False
    """``low`` itself is not accepted."""
    below: bool = False
    """``high`` itself is not accepted."""

    def __contains__(self, number: float) -> bool:
        return (
            self.low <= number <= self.high
            and not (self.above and number == self.low)
            and not (self.below and number == self.high)
        )

    def __str__(self) -> str:
        ends = [self.low, *([] if math.isinf(self.high) else [self.high])]
        # A float would show 2**63 - 1 as another number.
        texts = [str(end) if isinstance(end, int) else f"{end:g}" for end in ends]
        bounds = f"at least {texts[0]}" if len(texts) == 1 else f"from {texts[0]} to {texts[1]}"
        excluded = [f"above {texts[0]}"] * self.above + [f"below {texts[-1]}"] * self.below
        return bounds + (f" (and {' and '.join(excluded)})" if excluded else "")


@dataclass(frozen=True)
class Names:
    """A name out of those that something lists; asked for when a value is checked, as listing
    may import what is heavy.
    """

    kind: str
    """What messages call one of them."""
    listed: Callable[[], Iterable[str]]
    check: Callable[[Any], object] | None = None
    """Raises ``InputError`` for what is not accepted, where more is than the listed names."""


@dataclass(frozen=True)
class Recorded:
    """The setting stands in a result's record, and an edit that is repeated takes it from there."""

    resolved: bool = False
    """What was used is recorded (the seed that was drawn), not what was asked for."""


@dataclass(frozen=True, init=False)
class Option:
    """The setting's form on the command line. ``edit``, ``compare`` and ``batch`` have it."""

    flags: tuple[str, ...]
    """As typer takes them; none is ``--name-with-dashes``."""
    metavar: str | None
    default: str
    """What the help calls the default where it is not a value."""
    only: tuple[str, ...]
    """The commands that have it; empty is all."""
    file: bool
    """It takes a picture's file."""

    def __init__(
        self,
        *flags: str,
        metavar: str | None = None,
        default: str = "",
        only: tuple[str, ...] = (),
        file: bool = False,
    ) -> None:
        object.__setattr__(self, "flags", flags)
        object.__setattr__(self, "metavar", metavar)
        object.__setattr__(self, "default", default)
        object.__setattr__(self, "only", only)
        object.__setattr__(self, "file", file)


@dataclass(frozen=True)
class Json:
    """The setting's JSON schema, where its type does not tell."""

    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """One setting."""

    name: str
    annotation: Any
    """Its type without the marks."""
    default: Any
    """:data:`REQUIRED` if there is none."""
    group: Group
    help: Help
    limits: Range | None
    names: Names | None
    recorded: Recorded | None
    option: Option | None
    json: Json | None

    @property
    def optional(self) -> bool:
        """Whether None is accepted."""
        return self.annotation is Any or type(None) in get_args(self.annotation)

    @property
    def kind(self) -> Any:
        """The type of a value that is not None."""
        kinds = [each for each in get_args(self.annotation) if each is not type(None)]
        return kinds[0] if _is_union(self.annotation) and len(kinds) == 1 else self.annotation

    def check(self, value: Any) -> None:
        """Raise ``InputError`` for a value that is not accepted, whatever the other settings are.
        Values of type ``Any`` are checked by those who read them.
        """
        if value is None and self.optional:
            return
        if self.names is not None:
            self._check_name(self.names, value)
        elif get_origin(self.kind) is Literal:
            if value not in get_args(self.kind):
                raise UnknownNameError(self.name, str(value), map(str, get_args(self.kind)))
        elif self.kind is bool and type(value).__name__ not in {"bool", "bool_"}:  # numpy's too
            raise InputError(f"{setting(self.name)} must be True or False, not {value!r}.")
        elif self.kind is str and not isinstance(value, str):
            kind = type(value).__name__
            raise InputError(f"{setting(self.name)} must be a string, not {kind}.")
        elif self.kind in {int, float}:
            check_number(setting(self.name), value, self.limits, whole=self.kind is int)

    def plain(self, value: Any) -> Any:
        """A value that :meth:`check` has let pass, numpy's numbers and flags as Python's own, which
        JSON can hold.
        """
        kind = self.kind
        if value is None or kind not in {bool, int, float} or type(value) in {bool, int, float}:
            return value
        return int(value) if kind is float and isinstance(value, Integral) else kind(value)

    @staticmethod
    def _check_name(names: Names, value: Any) -> None:
        if names.check is not None:
            names.check(value)
            return
        known = list(names.listed())
        if value not in known:
            raise UnknownNameError(names.kind, str(value), known)


def check_number(name: str, value: object, limits: Range | None, *, whole: bool) -> None:
    """Raise ``InputError`` unless ``value`` is a finite (and whole) number within ``limits``."""
    if isinstance(value, bool | Fraction) or not isinstance(value, Integral if whole else Real):
        what = "whole" if whole else "finite"
        raise InputError(f"{name} must be a {what} number, not {value!r}.")
    try:
        finite = math.isfinite(float(value))
    except OverflowError:  # a whole number of more than 300 digits
        raise InputError(f"{name} must be {limits}, not a number of such a size.") from None
    if not finite:
        raise InputError(f"{name} must be a finite number, not {value!r}.")
    if limits is not None and value not in limits:  # type: ignore[operator]  # a Real is ordered
        raise InputError(f"{name} must be {limits}, not {value}.")


def check_text(name: str, texts: str | Iterable[str] | None) -> None:
    """Raise ``InputError`` for a text with bytes that were none in the terminal's encoding."""
    for text in [texts] if isinstance(texts, str) else texts or ():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{setting(name)} is no text in UTF-8: {text!r:.60}.") from None


def fields_of(table: type) -> Mapping[str, Field]:
    """The lines of a table of settings (a dataclass), by name, in its order."""
    return _lines(table)


@cache
def _lines(table: type) -> Mapping[str, Field]:
    hints = get_type_hints(table, include_extras=True)
    return types.MappingProxyType(
        {each.name: _read(each, hints[each.name]) for each in dataclasses.fields(table)}
    )


def _read(line: dataclasses.Field[Any], hint: Any) -> Field:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"the setting {line.name!r} has no marks: Annotated[type, Group, Help].")
    annotation, *marks = get_args(hint)
    group, text = _mark(marks, Group), _mark(marks, Help)
    if group is None or text is None:
        raise TypeError(f"the setting {line.name!r} needs a Group and a Help.")
    default = line.default if line.default_factory is REQUIRED else line.default_factory()
    return Field(
        name=line.name,
        annotation=annotation,
        default=default,
        group=group,
        help=text,
        limits=_mark(marks, Range),
        names=_mark(marks, Names),
        recorded=_mark(marks, Recorded),
        option=_mark(marks, Option),
        json=_mark(marks, Json),
    )


def _mark(marks: Iterable[Any], kind: type[Mark]) -> Mark | None:
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in {Union, types.UnionType}
