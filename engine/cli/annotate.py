"""`softpaint annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.app import app, note, say
from engine.cli.command import Command
from engine.cli.files import Files, save
from engine.cli.options import Output, Quiet, needed
from engine.errors import InputError, UnknownNameError


@app.command(cls=Command)
def annotate(
    photo: Annotated[
        Path | None, typer.Argument(metavar="PHOTO", help="The picture to read.")
    ] = None,
    control: Annotated[
        str | None, typer.Option("--control", "-c", help="A control or an annotator by name.")
    ] = None,
    output: Output = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the names and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a control image of a picture: its edges, its depth and the like.

    \b
    Examples:
      softpaint annotate photo.png --control canny -o edges.png
      softpaint annotate --list
    """
    if list_:
        say(_listed())
        return
    from PIL import Image

    from controls import annotate
    from engine.picture.commit import Commit
    from engine.picture.read import load_image

    files = Files()
    photo, output = needed(photo, "PHOTO"), needed(output, "--output")
    annotator = _annotator(needed(control, "--control"))
    picture = load_image(files.read("image", photo))
    files.writes("--output", output)
    drawn = Image.fromarray(annotate(picture.rgb, annotator))
    with Commit() as commit:
        save(commit, drawn, output)
    note(str(output), quiet=quiet)


def _annotator(name: str) -> Any:
    """What makes the control images of a control, or the annotator of that name."""
    from controls import get_control, list_annotators, list_controls
    from controls.control import HOLES

    if name in HOLES:
        raise InputError(
            f"{name!r} shows the picture without what its mask covers; `softpaint edit` makes it."
        )
    if name in list_controls():
        return get_control(name).annotator
    if name not in list_annotators():
        raise UnknownNameError("control or annotator", name, {*list_controls(), *list_annotators()})
    return name


def _listed() -> str:
    """All annotators, then the controls and what makes their images."""
    from controls import get_annotator, get_control, list_annotators, list_controls

    lines = ["annotators:"]
    for name in list_annotators():
        info = get_annotator(name)
        weights = "" if info.offline else "  (loads weights on first use)"
        lines.append(f"  {name:<14} {info.description}{weights}")
    lines.append("controls, and the annotators that make their images:")
    for name in list_controls():
        control = get_control(name)
        made = control.annotator if isinstance(control.annotator, str) else "its own"
        lines.append(f"  {name:<14} {made:<10} {control.description}")
    return "\n".join(lines)
