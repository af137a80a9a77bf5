"""`softpaint compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.app import app, note, say
from engine.cli.options import Asked, check, editing, load


@app.command()
@editing
def compare(
    asked: Asked,
    strategies: Annotated[
        str | None,
        typer.Option(help="Names with commas between. [default: all that the model can run]"),
    ] = None,
) -> None:
    """One edit through several strategies, side by side.

    \b
    Example:
      softpaint compare photo.png --mask mask.png --prompt "a red house" -o sheet.png
      softpaint compare photo.png -m mask.png -p "a boat" --strategies blend,differential -o s.png
    """
    from engine.files import save_image

    photo, output = asked.need()
    names = [name.strip() for name in (strategies or "").split(",") if name.strip()]
    check(asked, names, [output], asked.settings)
    comparison = load(asked.load).compare(
        image=photo,
        strategies=names or None,
        **asked.region,
        **asked.settings,
        **asked.options,
        progress=False if asked.quiet else None,
    )
    save_image(comparison.grid(), output)
    say(comparison.table())
    note(str(output), quiet=asked.quiet)
