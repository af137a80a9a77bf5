"""`softpaint demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.app import app, say
from engine.cli.checks import announce_models
from engine.cli.command import Command
from engine.cli.files import Files
from engine.cli.options import Quiet, load, loading
from engine.errors import InputError


@app.command(cls=Command)
@loading
def demo(
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the sheet.", metavar="FOLDER")
    ] = Path(),
    loads: dict[str, Any],
    size: Annotated[
        int, typer.Option(min=64, help="Side of the scenes in pixels; real models want 1024.")
    ] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    seed: Annotated[int, typer.Option(help="The same pictures every time.")] = 7,
    quiet: Quiet = False,
) -> None:
    """Edit the bundled scenes; time and draw the results.

    \b
    Example:
      softpaint demo
      softpaint demo --model ./sdxl-base --size 1024 --device cuda
    """
    from engine.report.demo import SHEET, run_demo

    if size % 8:
        raise InputError(f"--size must be a multiple of 8, not {size}.")
    files = Files()
    announce_models(files, loads)
    files.writes("--output", output / SHEET)
    run_demo(
        load(loads),
        output / SHEET,
        size=size,
        steps=steps,
        seed=seed,
        progress=not quiet and sys.stderr.isatty(),
        say=say,
    )
