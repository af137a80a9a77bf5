"""A method's signature and documentation, read from the table of settings.

Type checkers follow :func:`takes` by the table's own constructor: ``engine.edit(fether=3)`` is an
error that they see. ``help(InpaintEngine.edit)``, ``inspect.signature`` and notebooks are told at
run time.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from engine.request.field import REQUIRED, Field, fields_of

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_WIDTH = 92
_OPTIONS = "The strategy's options, one by one."


def takes(
    table: Callable[Arguments, Any],
) -> Callable[[Callable[..., Returned]], Callable[Concatenate[Any, Arguments], Returned]]:
    """Give a method that takes ``**arguments`` the settings of ``table`` (a class of
    :class:`engine.request.fields.Fields`) as its arguments, for type checkers and for readers.
    ``{settings}`` in its docstring becomes their documentation.
    """

    def decorate(
        method: Callable[..., Returned],
    ) -> Callable[Concatenate[Any, Arguments], Returned]:
        assert isinstance(table, type)  # noqa: S101 - of a dataclass, whose constructor is meant
        fields = fields_of(table)
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(
                inspect.Parameter(
                    field.name,
                    keyword,
                    default=inspect.Parameter.empty if field.default is REQUIRED else field.default,
                    annotation=field.annotation,
                )
                for field in fields.values()
            ),
            inspect.Parameter("options_", inspect.Parameter.VAR_KEYWORD, annotation=Any),
        ]
        hint = method.__annotations__.get("return", inspect.Signature.empty)
        signature = inspect.Signature(parameters, return_annotation=hint)
        method.__signature__ = signature  # type: ignore[attr-defined]
        told = "\n".join([*map(_entry, fields.values()), _wrapped("**options_", _OPTIONS)])
        method.__doc__ = _filled(inspect.cleandoc(method.__doc__ or ""), told)
        return method

    return decorate


def _entry(field: Field) -> str:
    """A setting's lines in a docstring."""
    return _wrapped(field.name, " ".join(_told(field)))


def _told(field: Field) -> Iterator[str]:
    yield field.help.text
    if field.limits is not None and str(field.limits):
        yield f"{str(field.limits)[:1].upper()}{str(field.limits)[1:]}."
    if field.help.more:
        yield field.help.more


def _wrapped(name: str, text: str) -> str:
    return textwrap.fill(
        f"{name}: {text}",
        width=_WIDTH,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _filled(docstring: str, told: str) -> str:
    """``docstring`` with ``told`` in place of the line ``{settings}``, as deep as that stands."""
    lines = []
    for line in docstring.splitlines():
        if line.strip() == "{settings}":
            lines.append(textwrap.indent(told, line[: len(line) - len(line.lstrip())]))
        else:
            lines.append(line)
    return "\n".join(lines)
