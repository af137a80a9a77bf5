"""`softpaint tune content`, `colour`, `memory`: what teaches a model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from engine.cli.app import note, say
from engine.cli.command import Command, PanelCommand
from engine.cli.options import LOAD, Quiet, given, load, needed
from engine.cli.tune import tunes
from engine.errors import InputError, UnknownNameError
from engine.tune.recipe import COLOUR, COLOUR_ONLY, CONTENT_ONLY

if TYPE_CHECKING:
    from engine.tune.recipe import Line, Recipe
    from engine.tune.trainer import Progress

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


def teaching(
    *without: str, defaults: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a recipe (``recipe``: those that are given) and of what is
    loaded (``loads``), where it has arguments of these names.

    Args:
        without: settings of the recipe that the command has not.
        defaults: what its help says of settings that have other defaults there.
    """
    from engine.tune.recipe import Recipe, lines_of

    lines = {
        name: replace(line, default=defaults.get(name, line.default))
        for name, line in lines_of(Recipe).items()
        if name not in without
    }
    several = {
        "recipe": {name: _option_of(line) for name, line in lines.items()},
        "loads": {name: LOAD[name] for name in LOADED},
    }
    return partial(_with_options, several)


def _with_options(
    several: Mapping[str, Mapping[str, Any]], command: Callable[..., None]
) -> Callable[..., None]:
    """``command`` with options in place of its arguments that are ``several`` values by name."""
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)
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
@teaching(*COLOUR_ONLY)
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


PARTS = ("network", "decoder")


@tunes.command(cls=PanelCommand)
@teaching(*CONTENT_ONLY, defaults=COLOUR)
def colour(
    *,
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER", help="Pictures, or folders of them: the more, the better."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Of the network's part a new .safetensors file, of the decoder's a new folder.",
            metavar="PLACE",
            rich_help_panel=WHAT,
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="network: a LoRA of the 9-channel one. decoder: the VAE's, its encoder stays.",
            metavar="|".join(PARTS),
            rich_help_panel=WHAT,
        ),
    ] = "network",
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            help="What they show; PHOTO.txt beside a photo is its own. [default: nothing is told]",
            metavar="TEXT",
            rich_help_panel=WHAT,
        ),
    ] = None,
    recipe: dict[str, Any],
    loads: dict[str, Any],
    quiet: Quiet = False,
) -> None:
    """Teach a model to keep colours: holes whose colours drift are to become what they were.

    Ctrl-C keeps what is learnt: the same command goes on. PLACE.tune beside the output has the log
    and sample sheets, with colours as they come. Try it before you rely on it: what it gives is
    measured in examples/tuning.md.

    \b
    Examples:
      softpaint tune colour photos/ -o colour.safetensors
      softpaint edit photo.png -m mask.png -p "a boat" --strategy inpaint9 --colour none \\
        --lora colour.safetensors -o out.png
      softpaint tune colour photos/ --part decoder -o decoder
      softpaint edit photo.png -m mask.png -p "a boat" --vae decoder -o out.png
    """
    from engine.tune.content import Teaching, teach
    from engine.tune.decoder import teach_decoder
    from engine.tune.photos import find_photos, read_photos
    from engine.tune.recipe import Recipe

    teachers = {"network": (teach, "lora"), "decoder": (teach_decoder, "vae")}
    if part not in teachers:
        raise UnknownNameError("part", part, teachers)
    teacher, option = teachers[part]
    places = find_photos(photos or [])
    target, chosen = needed(output, "--output"), Recipe(**{**COLOUR, **recipe})
    asked = Teaching(
        photos=read_photos(places, prompt, captioned=False),
        output=target,
        recipe=chosen,
        network="inpaint" if part == "network" else None,
        part=part,
        load=loads,
    )
    asked.folder()
    with _shown(chosen, quiet=quiet) as told:
        engine = load(loads, quiet=quiet)
        teacher(engine, asked, told=told, say=lambda text: note(text, quiet=quiet))
    say(f"{target}: edits take it as --{option} {target}")


def _check_network(network: str | None) -> None:
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


@tunes.command(cls=Command)
@teaching(*COLOUR_ONLY, *CONTENT_ONLY)
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
