"""`softpaint compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.app import app, note, say
from engine.cli.checks import check, opened
from engine.cli.command import PanelCommand
from engine.cli.files import STREAM, Files, save
from engine.cli.options import Asked, editing, load, names_in
from engine.errors import InputError

if TYPE_CHECKING:
    from controls import Control


@app.command(cls=PanelCommand)
@editing
def compare(
    asked: Asked,
    strategies: Annotated[
        str | None,
        typer.Option(help="Names with commas between. [default: all that the model can run]"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="A web page with sliders too, in one file.", metavar="FILE"),
    ] = None,
) -> None:
    """One edit through several strategies, side by side.

    A control with several scales is swept: one picture for each, in the strategy's row.

    \b
    Examples:
      softpaint compare photo.png --mask mask.png --prompt "a red house" -o sheet.png
      softpaint compare photo.png -m mask.png -p "a boat" --strategies blend,differential -o s.png
      softpaint compare photo.png -m mask.png -p "a barn" --control canny:0,0.5,1 -o sheet.png
      softpaint compare photo.png -m mask.png -p "a boat" -o sheet.png --html sheet.html
    """
    from engine.picture.commit import Commit
    from engine.picture.write import write_text

    files = Files()
    _, output = asked.need()
    asked = opened(asked, files)
    names = names_in(strategies)
    controls = _swept(asked.controls)
    check(asked, names, asked.settings)
    files.writes("--output", output)
    if html == STREAM:
        raise InputError("--html is a file; only the sheet can go to standard output (-o -).")
    if html is not None:
        files.writes("--html", html, image=False)
    comparison = load(asked.load, quiet=asked.quiet).compare(
        image=asked.photo,
        strategies=names or None,
        controls=controls,
        ip_adapter_image=asked.references or None,
        **asked.region,
        **asked.settings,
        **asked.options,
        progress=False if asked.quiet else None,
    )
    with Commit() as commit:
        save(commit, comparison.grid(), output)
        if html is not None:
            from engine.report.comparison import comparison_page

            page = comparison_page(comparison, title=asked.settings["prompt"])
            write_text(html, page, commit=commit)
    say(comparison.table(), err=output == STREAM)
    note(" ".join(str(path) for path in (output, html) if path), quiet=asked.quiet)


def _swept(controls: Sequence[Sequence[Control]]) -> list[Control] | dict[str, list[Control]]:
    """The controls; where one has several scales, them all with each of these, by its label."""
    swept = [several for several in controls if len(several) > 1]
    if len(swept) > 1:
        raise InputError(
            "one control can be swept at a time; give several scales to one of "
            f"{', '.join(str(several[0].label) for several in swept)}."
        )
    rest = [each for several in controls if len(several) == 1 for each in several]
    if not swept:
        return rest
    return {f"{each.label} {each.scale:g}": [*rest, each] for each in swept[0]}
