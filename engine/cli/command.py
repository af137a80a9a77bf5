"""How commands read their options, and list them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from engine.errors import InputError


class Command(TyperCommand):
    """A command that takes none of its options for the value of another."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """
        Raises:
            InputError: an option stands where the value of another is to be. The parser would take
                it for that value, and what follows for something else.
        """
        options = [each for each in self.get_params(ctx) if each.param_type_name == "option"]
        known = {flag for each in options for flag in (*each.opts, *each.secondary_opts)}
        take = {
            flag for each in options if not getattr(each, "is_flag", False) for flag in each.opts
        }
        words = iter(args)
        for word in words:
            if word == "--":
                break
            value = next(words, None) if word in take else None
            if value in known:
                meant = f"; {word}={value} if that is its value" if word.startswith("--") else ""
                raise InputError(f"{word} needs a value, and {value} is another option{meant}.")
        rest: list[str] = super().parse_args(ctx, args)
        return rest


class PanelCommand(Command):
    """A command that lists its options by their ``rich_help_panel``; those without one come last.

    typer does so with rich, which takes longer to import than the rest of ``--help``.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            is_argument = param.param_type_name == "argument"
            panel = getattr(param, "rich_help_panel", None)
            heading = "Arguments" if is_argument else panel or "Options"
            panels.setdefault(heading, []).append(record)
        panels["Options"] = panels.pop("Options", [])  # last
        for heading, records in panels.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
