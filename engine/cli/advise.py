"""`softpaint advise`."""

from __future__ import annotations

from engine.cli.app import app, say
from engine.cli.checks import opened
from engine.cli.command import PanelCommand
from engine.cli.files import Files
from engine.cli.options import Asked, editing, load, needed


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
      softpaint advise photo.png --region-edit car.png:: --region-edit hill.png::"a red barn"
    """
    needed(asked.photo, "PHOTO")
    asked.need_region()
    asked = opened(asked, Files(), edits=False)
    engine = load(asked.load, quiet=asked.quiet)
    told = engine.advise(image=asked.photo, **asked.region, **asked.settings)
    say("\n".join(told.lines()))
