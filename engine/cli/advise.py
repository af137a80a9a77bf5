"""`softpaint advise`."""

from __future__ import annotations

from engine.cli.app import app, say
from engine.cli.checks import opened
from engine.cli.command import PanelCommand
from engine.cli.files import Files
from engine.cli.options import Asked, editing, load, needed
from engine.errors import InputError


@app.command(cls=PanelCommand)
@editing
def advise(asked: Asked) -> None:
    """Say what the strategy auto would do with an edit, why, and what it costs.

    Takes the options of an edit; nothing is painted. What it says is from measurements.

    \b
    Examples:
      softpaint advise photo.png --mask mask.png
      softpaint advise photo.png --mask mask.png --prompt "a red house" --prefer quality
      softpaint advise photo.png --expand 128,0,128,0
    """
    needed(asked.photo, "PHOTO")
    if not asked.region and "expand" not in asked.settings:
        raise InputError("give --mask, --strength-map or --expand: what is to be repainted?")
    asked = opened(asked, Files(), edits=False)
    engine = load(asked.load, quiet=asked.quiet)
    told = engine.advise(image=asked.photo, **asked.region, **asked.settings)
    say("\n".join(told.lines()))
