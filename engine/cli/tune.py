"""`softpaint tune`: models taught and converted."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from engine.cli.app import app, note, say
from engine.cli.options import LOAD, Device, Quiet, given, load, needed
from engine.cli.panels import PanelCommand
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.tune.recipe import Line, Recipe
    from engine.tune.trainer import Progress

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


@conversions.command()
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


@conversions.command()
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


@conversions.command()
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


# Teaching -----------------------------------------------------------------------------------------

WHAT, TEACHING = "What", "Recipe"
LOADED = ("model", "inpaint_model", "vae", "prediction_type", "device", "dtype")
"""What of :data:`LOAD` a training takes: adapters laid over the model are none of it."""


def _option_of(line: Line) -> Any:
    """A recipe's setting as typer reads it from an annotation."""
    kind, default = line.kind, line.default
    flag = f"--{line.name.replace('_', '-')}"
    flags = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
    shown = f"{default:g}" if kind in {int, float} and default is not None else default
    told = "" if default is None or kind is bool else f" [default: {shown}]"
    names = "|".join(line.names.names) if line.names else None
    return Annotated[
        kind | None,
        typer.Option(*flags, help=line.help.text + told, metavar=names, rich_help_panel=TEACHING),
    ]


def teaching(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a recipe (``recipe``: those that are given) and of what is
    loaded (``loads``), where it has arguments of these names.
    """
    from engine.tune.recipe import Recipe, lines_of

    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)
    several = {
        "recipe": {name: _option_of(line) for name, line in lines_of(Recipe).items()},
        "loads": {name: LOAD[name] for name in LOADED},
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = []
    for name, each in own.items():
        options = several.get(name, {})
        if not options:
            parameters.append(each.replace(kind=keyword, annotation=hints[name]))
        parameters += [
            inspect.Parameter(option, keyword, default=None, annotation=annotation)
            for option, annotation in options.items()
        ]

    @wraps(command)
    def run(**values: Any) -> None:
        command(
            **{
                name: given(**{option: values[option] for option in several[name]})
                if name in several
                else values[name]
                for name in own
            }
        )

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


@tunes.command(cls=PanelCommand)
@teaching
def content(
    *,
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTOS", help="Pictures, or folders of them: 1 to 30 are usual."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A new .safetensors file.", metavar="FILE", rich_help_panel=WHAT
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            help="What they show; PHOTO.txt beside a photo is its own. [default with --reference: "
            "a photo of sks]",
            metavar="TEXT",
            rich_help_panel=WHAT,
        ),
    ] = None,
    prior_prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="What is to be painted as before; may be repeated.",
            metavar="TEXT",
            rich_help_panel=WHAT,
        ),
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="A photo of the same place, to fill the one PHOTO from; may be repeated.",
            metavar="FILE",
            rich_help_panel=WHAT,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            "-m",
            help="With --reference: white is to be filled. [default: PHOTO's transparency]",
            metavar="FILE",
            rich_help_panel=WHAT,
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Which is taught: inpaint (9 channels) or base. [default: inpaint, if there]",
            metavar="inpaint|base",
            rich_help_panel=WHAT,
        ),
    ] = None,
    recipe: dict[str, Any],
    loads: dict[str, Any],
    quiet: Quiet = False,
) -> None:
    """Teach a LoRA a subject, a style or a scene from a few pictures; edits take it as --lora.

    Ctrl-C keeps what is learnt: the same command goes on. NAME.tune beside the file has the log and
    sample sheets. With --reference a picture is filled from photos of the same place (RealFill).

    \b
    Examples:
      softpaint tune content lighthouses/ -p "a lighthouse" -o lighthouse.safetensors \\
        --prior-prompt "a red house" --prior-prompt "a green tree"
      softpaint edit photo.png -m mask.png -p "a lighthouse" --lora lighthouse.safetensors -o x.png
      softpaint tune content square.png -m hole.png --reference a.jpg --reference b.jpg \\
        -o square.safetensors
    """
    from engine.tune.content import Teaching, teach
    from engine.tune.filling import filling
    from engine.tune.photos import find_photos, read_photos
    from engine.tune.recipe import REALFILL, Recipe

    places = find_photos(photos or [])
    target = needed(output, "--output")
    _check_network(network)
    if reference:
        if len(places) != 1:
            raise InputError(f"--reference fills one picture; {len(places)} are given.")
        learnt = filling(places[0], mask, find_photos(reference), prompt)
        chosen = Recipe(**{**REALFILL, **recipe})
    elif mask is not None:
        raise InputError("--mask is of a picture that is filled from others: give --reference.")
    else:
        learnt, chosen = read_photos(places, prompt), Recipe(**recipe)
    asked = Teaching(
        photos=learnt,
        output=target,
        recipe=chosen,
        network=network,
        prior_prompts=prior_prompt or [],
        load=loads,
    )
    asked.folder()
    with _shown(chosen, quiet=quiet) as told:
        teach(load(loads, quiet=quiet), asked, told=told, say=lambda text: note(text, quiet=quiet))
    say(f"{target}: edits take it as --lora {target}")


def _check_network(network: str | None) -> None:
    from engine.errors import UnknownNameError

    if network not in {None, "inpaint", "base"}:
        raise UnknownNameError("network", str(network), ("inpaint", "base"))


@contextmanager
def _shown(recipe: Recipe, *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Shows how far a training is: a bar for who watches, a line now and then for a log."""
    from time import monotonic

    last = monotonic()

    def line(progress: Progress) -> None:
        nonlocal last
        if monotonic() - last > 10 or progress.step == progress.steps:
            last = monotonic()
            note(str(progress), quiet=quiet)

    if quiet or not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=recipe.steps)
        yield lambda each: bar.update(task, completed=each.step, description=str(each))


@tunes.command()
@teaching
def memory(
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="sdxl, sd1 or sd2.")],
    inpaint: Annotated[bool, typer.Option("--inpaint", help="Its 9-channel UNet.")] = False,
    recipe: dict[str, Any],
) -> None:
    """Count the memory that teaching a LoRA takes of a GPU, on this computer, without one.

    \b
    Example:
      softpaint tune memory sdxl --checkpointing
    """
    from engine.picture.sheet import text_table
    from engine.tune.memory import memory_of
    from engine.tune.recipe import Recipe

    counted = memory_of(kind, Recipe(**recipe), inpaint=inpaint)
    rows = [(name, f"{size / 2**30:.2f} GiB") for name, size in counted.parts.items()]
    say(text_table([*rows, ("in all, beside CUDA's own", f"{counted.total / 2**30:.2f} GiB")]))
