"""`softpaint tune`, and its conversions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.app import app, note, say
from engine.cli.command import Command
from engine.cli.options import Device, Quiet  # noqa: TC001 - typer reads them

tunes = typer.Typer(
    help="Teach a model, or make an inpainting model of one.", rich_markup_mode=None
)
app.add_typer(tunes, name="tune")
conversions = typer.Typer(
    help="Make inpainting models and LoRAs by arithmetic; nothing is trained.",
    rich_markup_mode=None,
)
tunes.add_typer(conversions, name="convert")

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="A new .safetensors file, or a folder for the UNet alone.",
        metavar="PLACE",
    ),
]
FROM = "A folder, a hub id, or a .safetensors file, whole or the UNet alone."
Base = Annotated[str, typer.Option(help="The 4-channel model that both were trained from.")]


@conversions.command(cls=Command)
def widen(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=FROM)], *, output: Output
) -> None:
    """Make a 9-channel UNet of a 4-channel one that paints the same, for trainings to begin with.

    \b
    Example:
      softpaint tune convert widen sdxl-base.safetensors -o sdxl-9.safetensors
    """
    from engine.tune.convert import widen as make

    network = make(model, output)
    say(f"{output}: {2 * network.latents + 1} channels, the new ones are zeros")


@conversions.command(cls=Command)
def add_difference(
    custom: Annotated[str, typer.Argument(metavar="CUSTOM", help=FROM)],
    *,
    inpaint: Annotated[str, typer.Option(help="The 9-channel model, trained from the same base.")],
    base: Base,
    output: Output,
    scale: Annotated[float, typer.Option(help="How much of CUSTOM.", min=-10, max=10)] = 1.0,
) -> None:
    """Make an inpainting model that paints like CUSTOM: inpaint + scale x (custom - base).

    \b
    Examples:
      softpaint tune convert add-difference juggernaut.safetensors \\
        --inpaint sdxl-inpaint/ --base sdxl-base.safetensors -o juggernaut-9.safetensors
      softpaint edit photo.png -m mask.png -p "a boat" -o out.png --strategy inpaint9 \\
        --model juggernaut.safetensors --inpaint-model juggernaut-9.safetensors
    """
    from engine.tune.convert import add_difference as make

    make(custom, inpaint, base, output, scale)
    say(f"{output}: {inpaint} that paints like {custom}")


@conversions.command(cls=Command)
def extract_lora(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help=FROM)],
    *,
    base: Annotated[str, typer.Option(help="What it was trained from.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A new .safetensors file.", metavar="FILE"),
    ],
    rank: Annotated[int, typer.Option(help="Of each pair of matrices.", min=1)] = 16,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Write what a fine-tuned model has over its base as a LoRA.

    \b
    Example:
      softpaint tune convert extract-lora juggernaut.safetensors \\
        --base sdxl-base.safetensors --rank 32 -o juggernaut-lora.safetensors
    """
    from engine.tune.extract import extract

    watched = not quiet and sys.stderr.isatty()
    found = extract(
        tuned, base, output, rank, device=device, progress=_counted if watched else None
    )
    rest = f"; {found.left} biases, norms and the like are left out" if found.left else ""
    say(f"{output}: {len(found.pairs)} modules, {found.kept:.1%} of their change{rest}")


def _counted(done: int, count: int) -> None:
    if done % 50 == 0 or done == count:
        note(f"{done} of {count} layers")
