"""The options that commands share, and what becomes of them.

A command that edits is written as ``@editing`` over a function that takes an :class:`Asked` and
then its own options. One line in ``SETTINGS`` gives both `edit` and `compare` a new option.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from engine.errors import InputError

if TYPE_CHECKING:
    from controls import Control
    from engine.engine import InpaintEngine

Photo = Annotated[Path | None, typer.Argument(metavar="PHOTO", help="The picture to edit.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where the result goes.", metavar="FILE")
]
StrategyOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="An option of the strategy; may be repeated.", metavar="K=V"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="pocket, a diffusers folder, a hub id or a .safetensors file. [default: pocket]"
    ),
]
InpaintModel = Annotated[
    str | None, typer.Option(help="The same, for strategies that need a 9-channel network.")
]
Device = Annotated[str | None, typer.Option(help="Such as cuda, mps, cpu. [default: the best]")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16. [default: the device's]")
]

REGION: dict[str, Any] = {
    "mask": Annotated[
        Path | None,
        typer.Option("--mask", "-m", help="White is repainted, black is kept.", metavar="FILE"),
    ],
    "strength_map": Annotated[
        Path | None,
        typer.Option(
            "--strength-map",
            "-s",
            help="Instead of a mask: how strongly each pixel is repainted, white = wholly.",
            metavar="FILE",
        ),
    ],
}
"""Where to repaint: files, by the engine's names."""

LOAD: dict[str, Any] = {
    "model": Model,
    "inpaint_model": InpaintModel,
    "device": Device,
    "dtype": Dtype,
}
"""The arguments of ``InpaintEngine.from_pretrained``."""

SETTINGS: dict[str, Any] = {
    "prompt": Annotated[
        str | None, typer.Option("--prompt", "-p", help="What is to be seen.", metavar="TEXT")
    ],
    "negative_prompt": Annotated[
        str | None,
        typer.Option("--negative-prompt", help="What is not to be seen.", metavar="TEXT"),
    ],
    "num_inference_steps": Annotated[
        int | None, typer.Option("--steps", help="Denoising steps. [default: 30]")
    ],
    "guidance_scale": Annotated[
        float | None,
        typer.Option("--guidance", help="How strictly the prompt is followed. [default: 5]"),
    ],
    "guidance_rescale": Annotated[
        float | None,
        typer.Option("--guidance-rescale", help="0 to 1, against overexposure. [default: 0]"),
    ],
    "guidance_start": Annotated[
        float | None,
        typer.Option(help="Share of the run, 0 to 1, from which it is guided. [default: 0]"),
    ],
    "guidance_end": Annotated[
        float | None,
        typer.Option(help="And until which; steps outside cost half. [default: 1]"),
    ],
    "strength": Annotated[
        float | None, typer.Option(help="Above 0, to 1: strength of the whole edit. [default: 1]")
    ],
    "seed": Annotated[int | None, typer.Option(help="Drawn, and recorded, where it is not given.")],
    "scheduler": Annotated[
        str | None,
        typer.Option(help="Such as euler, ddim, dpmpp-2m-karras. [default: the model's]"),
    ],
    "colour": Annotated[
        str | None,
        typer.Option(
            help="How the edit's colours are matched to the picture's: field, lab, histogram or "
            "none. [default: field]"
        ),
    ],
    "invert": Annotated[
        bool | None, typer.Option("--invert/--no-invert", help="Repaint black instead of white.")
    ],
    "feather": Annotated[
        float | None,
        typer.Option(
            help="Width of the soft seam, in pixels; up to twice that where the picture goes on "
            "inside the mask as around it, and on new canvas. [default: 4]"
        ),
    ],
    "guess_mode": Annotated[
        bool | None,
        typer.Option("--guess-mode", help="Controls lead, the prompt hardly matters."),
    ],
    "skip": Annotated[
        bool | None,
        typer.Option(
            "--skip/--no-skip",
            help="Leave out the steps that cannot change a pixel. [default: skip]",
        ),
    ],
    "region": Annotated[
        str | None,
        typer.Option(
            help="auto, full, or mask: edit a cut-out around the mask at the model's own size. "
            "[default: auto]"
        ),
    ],
    "context": Annotated[
        float | None,
        typer.Option(help="Sides of the cut-out over the mask's, from 1. [default: 2]"),
    ],
    "native_size": Annotated[
        int | None,
        typer.Option(
            "--native-size", help="Side at which cut-outs are edited. [default: the model's]"
        ),
    ],
    "zoom": Annotated[
        float | None,
        typer.Option(help="How far small cut-outs may be enlarged, from 1. [default: 1]"),
    ],
    "prefill": Annotated[
        str | None,
        typer.Option(
            help="What the hole starts from: auto, original, blur, telea, ns, patch, neutral, "
            "noise, gan or gan:FILE. [default: auto]"
        ),
    ],
    "paste": Annotated[
        str | None,
        typer.Option(
            help="How the result is laid over: alpha, adaptive, multiband or poisson. "
            "[default: alpha]"
        ),
    ],
    "expand": Annotated[
        str | None,
        typer.Option(help="Grow the canvas by so many pixels, and paint them.", metavar="L,T,R,B"),
    ],
}
"""The settings of an edit, by the engine's names."""

CONTROLS: dict[str, Any] = {
    "control": Annotated[
        list[str] | None,
        typer.Option(
            help="A ControlNet by name, and what it reads: canny, canny=edges.png, "
            "canny:0.8:0-0.6; may be repeated.",
            metavar="NAME[=IMAGE][:SCALE[:START-END]]",
        ),
    ],
    "control_mask": Annotated[
        list[str] | None,
        typer.Option(
            help="Where that control holds, white = fully; may be repeated. Elsewhere the edit is "
            "what it is without that control, for one more run.",
            metavar="NAME=FILE",
        ),
    ],
    "loose_masks": Annotated[
        bool | None,
        typer.Option(
            "--loose-masks",
            help="No more runs for control masks; their controls' effect spreads beyond them.",
        ),
    ],
}
"""What steers an edit beside its text."""


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
    options: dict[str, Any]
    """The strategy's."""
    load: dict[str, Any]
    output: Path | None
    quiet: bool

    def need(self) -> tuple[Any, Path]:
        """Photo and output, once all that an edit needs is there."""
        photo = needed(self.photo, "PHOTO")
        needed(self.settings.get("prompt"), "--prompt")
        if not self.region and "expand" not in self.settings:
            raise InputError(
                "give --mask, --strength-map or --expand: which part of the picture is repainted?"
            )
        return photo, needed(self.output, "--output")


def editing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command (``asked: Asked``, then its own options) the shared options."""
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    texts = {name: SETTINGS[name] for name in ("prompt", "negative_prompt")}
    listed = {
        "photo": Photo,
        **REGION,
        **texts,
        "output": Output,
        **{name: hints[name] for name in own if name != "asked"},
        **CONTROLS,
        **LOAD,
        "option": StrategyOption,
        **SETTINGS,
        "quiet": Quiet,
    }
    defaults = {name: own[name].default for name in own} | {"quiet": False}
    parameters = [
        inspect.Parameter(name, keyword, default=defaults.get(name), annotation=annotation)
        for name, annotation in listed.items()
    ]

    def run(**values: Any) -> None:
        command(
            Asked(
                photo=values["photo"],
                region=_region(**{name: values[name] for name in REGION}),
                settings=_settings(**{name: values[name] for name in SETTINGS}),
                controls=_controls(**{name: values[name] for name in CONTROLS}),
                options=parse_options(values["option"] or []),
                load=given(**{name: values[name] for name in LOAD}),
                output=values["output"],
                quiet=values["quiet"],
            ),
            **{name: values[name] for name in own if name != "asked"},
        )

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


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


def load(arguments: dict[str, Any]) -> InpaintEngine:
    """The engine around the model that the arguments name."""
    from engine.engine import InpaintEngine

    return InpaintEngine.from_pretrained(**arguments)


def parse_options(pairs: Sequence[str], where: str = "--option") -> dict[str, Any]:
    """``key=value`` pairs; a value is read as JSON where it is JSON, else it is text."""
    options = {}
    for pair in pairs:
        key, text = _pair(pair, where, "key=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        options[key.replace("-", "_")] = value
    return options


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{option} takes {form}, not {text!r}.")
    return key.strip(), value


def _region(mask: Path | None, strength_map: Path | None) -> dict[str, Any]:
    """The mask or the map under the engine's name for it, or nothing."""
    if mask and strength_map:
        raise InputError("give --mask or --strength-map, not both.")
    return given(mask=mask, strength_map=strength_map)


def _controls(
    control: Sequence[str] | None,
    control_mask: Sequence[str] | None,
    loose_masks: bool | None,
) -> list[list[Control]]:
    """Each ``--control``, with its ``--control-mask``."""
    if loose_masks and not control_mask:
        raise InputError("--loose-masks is about --control-mask, and there is none.")
    if not control and not control_mask:
        return []
    from controls import Control

    masks = dict(_pair(text, "--control-mask", "NAME=FILE") for text in control_mask or ())
    parsed = [Control.parse(text) for text in control or ()]
    names = {several[0].model for several in parsed}
    if unused := masks.keys() - names:
        raise InputError(f"--control-mask {min(unused)}=...: there is no --control {min(unused)}.")
    exact = not loose_masks
    return [
        [dataclasses.replace(each, mask=masks.get(each.model), exact=exact) for each in several]
        for several in parsed
    ]


def _settings(**values: Any) -> dict[str, Any]:
    if values["expand"] is not None:
        values["expand"] = _borders(values["expand"])
    return given(**values)


def _borders(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"--expand takes four whole numbers, not {text!r}.") from None
