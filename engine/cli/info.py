"""`softpaint strategies`, `models` and `show`: what there is to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.app import app, say
from engine.cli.command import Command
from engine.cli.files import Files


@app.command(cls=Command)
def strategies() -> None:
    """Explain each strategy, with its options.

    \b
    Example:
      softpaint strategies
    """
    from strategies import get_strategy, list_strategies

    for name in list_strategies():
        info = get_strategy(name)
        network = "4-channel network" if info.network == "base" else "9-channel network"
        say(f"{name:<13} {info.description}")
        say(f"{'':<13} costs {info.cost}; {network}; {info.paper}")
        for option, (default, help_text) in info.options.items():
            say(f"{'':<13}   --option {option}={default}  {help_text}")


@app.command(cls=Command)
def models() -> None:
    """List the embedded model and how to give others.

    \b
    Example:
      softpaint models
    """
    from engine.report.demo import describe_models

    say(describe_models())


@app.command(cls=Command)
def show(
    png: Annotated[
        Path,
        typer.Argument(metavar="PNG", help="A result of `softpaint edit`; - is stdin."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """Print the settings of a result, or of a picture of stable-diffusion-webui, ComfyUI or
    InvokeAI.

    \b
    Example:
      softpaint show out.png
    """
    from dataclasses import asdict

    from engine.request.foreign import record_of

    own, foreign = record_of(Files().read("image", png))
    record = foreign or own
    if as_json:
        say(json.dumps(asdict(record), indent=2, ensure_ascii=False))
    else:
        say("\n".join(record.lines()))
