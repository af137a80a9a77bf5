"""Help texts whose options stand under headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class PanelCommand(TyperCommand):
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
