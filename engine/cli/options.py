"""The options that commands share, and what becomes of them.

A command that edits is written as ``@editing`` over a function that takes an :class:`Asked` and
then its own options. The settings' options are those that :mod:`engine.request.fields` gives them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from engine.cli.app import note
from engine.cli.pairs import parse_options
from engine.cli.regions import REGIONS, regions_of
from engine.cli.steering import CONTROLS, controls_of, references_of
from engine.errors import InputError
from engine.request.field import REQUIRED, Field, Group, fields_of
from engine.request.fields import Fields

if TYPE_CHECKING:
    from controls import Control, Reference
    from engine.engine import InpaintEngine

FIELDS = fields_of(Fields)
MODEL = "Model"
"""The heading of what is loaded."""

Photo = Annotated[Path | None, typer.Argument(metavar="PHOTO", help=FIELDS["image"].help.text)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Where the result goes.",
        metavar="FILE",
        rich_help_panel=str(Group.PICTURE),
    ),
]
StrategyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="An option of the strategy; may be repeated.",
        metavar="K=V",
        rich_help_panel=str(Group.STRATEGY),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="pocket, pocket-flow, a diffusers folder, a hub id, or a .safetensors or .gguf file. "
        "[default: pocket]",
        rich_help_panel=MODEL,
    ),
]
InpaintModel = Annotated[
    str | None,
    typer.Option(
        help="The same, for strategies that need a 9-channel network.", rich_help_panel=MODEL
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Such as cuda, mps, cpu. [default: the best]", rich_help_panel=MODEL),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, float16 or bfloat16. [default: the device's]", rich_help_panel=MODEL
    ),
]
InpaintPatch = Annotated[
    str | None,
    typer.Option(
        help="In its place, Fooocus' patch for SDXL, its head's file beside it.",
        metavar="FILE",
        rich_help_panel=MODEL,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="A LoRA over the model, such as style.safetensors:0.8; may be repeated.",
        metavar="FILE[:WEIGHT]",
        rich_help_panel=MODEL,
    ),
]
EmbeddingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        help="A textual inversion, and its word if that is not the file's name; may be repeated.",
        metavar="FILE[:TOKEN]",
        rich_help_panel=MODEL,
    ),
]

VAE = Annotated[
    str | None,
    typer.Option(
        "--vae",
        help="Where the VAE is that takes the place of the model's own.",
        rich_help_panel=MODEL,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="For a transformer alone in a file: the whole model that has the rest. "
        "[default: its family's on the hub]",
        metavar="FOLDER",
        rich_help_panel=MODEL,
    ),
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        help="Where the text encoder is that takes the place of the model's own; several with "
        "commas.",
        metavar="FILE[,FILE]",
        rich_help_panel=MODEL,
    ),
]
PredictionType = Annotated[
    str | None,
    typer.Option(
        help="epsilon or v_prediction, where the model does not say. [default: the model's]",
        metavar="NAME",
        rich_help_panel=MODEL,
    ),
]

LOAD: dict[str, Any] = {
    "model": Model,
    "inpaint_model": InpaintModel,
    "inpaint_patch": InpaintPatch,
    "lora": LoraOption,
    "embedding": EmbeddingOption,
    "vae": VAE,
    "base": Base,
    "text_encoder": TextEncoder,
    "prediction_type": PredictionType,
    "device": Device,
    "dtype": Dtype,
}
"""The arguments of ``InpaintEngine.from_pretrained``."""


def option_of(field: Field) -> Any:
    """A setting's option as typer reads it from an annotation; None where it has none."""
    form = field.option
    if form is None:
        return None
    kind = Path if form.file else field.kind if field.kind in {bool, int, float} else str
    default = form.default or _shown(field.default)
    return Annotated[
        kind | None,
        typer.Option(
            *form.flags,
            help=field.help.text + (f" [default: {default}]" if default else ""),
            metavar=form.metavar,
            rich_help_panel=str(field.group),
        ),
    ]


def _shown(default: Any) -> str:
    """A default in a help text; empty where it goes without saying."""
    if default is None or default is REQUIRED or isinstance(default, bool):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


@dataclass
class Asked:
    """What was given of the shared options: the engine knows the defaults of the others."""

    photo: Any
    """A path; a :class:`~engine.picture.source.Source` once it is read."""
    region: dict[str, Any]
    """Files, by the engine's names."""
    settings: dict[str, Any]
    controls: list[list[Control]]
    """For each ``--control`` its control, several where it has several scales."""
    references: list[list[Reference]]
    """For each of the IP-Adapters in ``load`` the pictures that it reads."""
    options: dict[str, Any]
    """The strategy's."""
    load: dict[str, Any]
    output: Path | None
    quiet: bool

    def need(self) -> tuple[Any, Path]:
        """Photo and output, once all that an edit needs is there."""
        photo = needed(self.photo, "PHOTO")
        if self.settings.get("regions"):
            self.settings.setdefault("prompt", "")  # of what lies between them
        needed(self.settings.get("prompt"), "--prompt")
        self.need_region()
        return photo, needed(self.output, "--output")

    def need_region(self) -> None:
        """Raise ``InputError`` where nothing says what is repainted."""
        if not self.region and not {"expand", "regions"} & set(self.settings):
            raise InputError(
                "give --mask, --strength-map, --region-edit or --expand: which part of the picture "
                "is repainted?"
            )


def editing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command (``asked: Asked``, then its own options) the shared options."""
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)
    settings = _settings_of(command.__name__)
    listed = {"photo": Photo, **_listed(settings, {n: hints[n] for n in own if n != "asked"})}
    defaults = {name: own[name].default for name in own} | {"quiet": False}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name),
            annotation=annotation,
        )
        for name, annotation in listed.items()
    ]

    def run(**values: Any) -> None:
        command(_asked(settings, values), **{name: values[name] for name in own if name != "asked"})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def loading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command (``loads``, the arguments of ``from_pretrained``, among its own options) the
    options of what is loaded.
    """
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = []
    for name, each in own.items():
        if name != "loads":
            parameters.append(each.replace(kind=keyword, annotation=hints[name]))
            continue
        parameters += [
            inspect.Parameter(option, keyword, default=None, annotation=annotation)
            for option, annotation in LOAD.items()
        ]

    def run(**values: Any) -> None:
        loads = _loads(values)
        command(**{name: loads if name == "loads" else values[name] for name in own})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _loads(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of :data:`LOAD`; an option that may be repeated is empty where it is not."""
    return given(**{name: values[name] or None for name in LOAD})


def _settings_of(command: str) -> dict[str, Field]:
    """The settings that ``command`` has options for."""
    return {
        name: field
        for name, field in FIELDS.items()
        if field.option is not None and command in (field.option.only or (command,))
    }


def _listed(settings: Mapping[str, Field], own: Mapping[str, Any]) -> dict[str, Any]:
    """All options in the order of the help, the command's own after what every edit needs."""
    options = {name: option_of(field) for name, field in settings.items()}
    panel = [name for name, field in settings.items() if field.group is Group.PICTURE]
    needed = {name: options.pop(name) for name in panel}
    steering = [name for name, field in settings.items() if field.group is Group.STEERING]
    controls = CONTROLS | {name: options.pop(name) for name in steering}
    strategy = {name: options.pop(name) for name in ("strategy",) if name in options}
    return {
        **needed,
        **REGIONS,
        "output": Output,
        **own,
        **strategy,
        "option": StrategyOption,
        **LOAD,
        **options,
        **controls,
        "quiet": Quiet,
    }


def _asked(settings: Mapping[str, Field], values: Mapping[str, Any]) -> Asked:
    """The values of the shared options, sorted."""
    files = [name for name, field in settings.items() if field.option and field.option.file]
    references = references_of(values["ip_adapter"] or (), values["ip_adapter_mask"] or ())
    return Asked(
        photo=values["photo"],
        region=_region(**{name: values[name] for name in files}),
        settings=_settings(
            regions=regions_of(**{name: values[name] for name in REGIONS}),
            **{name: values[name] for name in settings if name not in files},
        ),
        controls=controls_of(values["control"], values["control_mask"], values["loose_masks"]),
        references=list(references.values()),
        options=parse_options(values["option"] or []),
        load=_loads(values) | ({"ip_adapter": list(references)} if references else {}),
        output=values["output"],
        quiet=values["quiet"],
    )


def names_in(text: str | None) -> list[str]:
    """The names in a text, with commas between."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def given(**values: Any) -> dict[str, Any]:
    """The arguments that were given."""
    return {name: value for name, value in values.items() if value is not None}


def needed(value: Any, what: str) -> Any:
    """``value``, which must have been given."""
    if value is None:
        raise InputError(f"{what} is missing.")
    return value


def load(arguments: dict[str, Any], *, quiet: bool = False) -> InpaintEngine:
    """The engine around the model that the arguments name; says what was found out about it."""
    from engine.engine import InpaintEngine

    engine = InpaintEngine.from_pretrained(**arguments)
    for told in engine.notes:
        note(f"softpaint: {told}", quiet=quiet)
    return engine


def _region(mask: Path | None, strength_map: Path | None) -> dict[str, Any]:
    """The mask or the map under the engine's name for it, or nothing."""
    if mask and strength_map:
        raise InputError("give --mask or --strength-map, not both.")
    return given(mask=mask, strength_map=strength_map)


def _settings(**values: Any) -> dict[str, Any]:
    if values["expand"] is not None:
        values["expand"] = _borders(values["expand"])
    return given(**values)


def _borders(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"--expand takes four whole numbers, not {text!r}.") from None
