"""The command line: parse, call the engine, print.

Nothing heavy is imported before a command needs it, so ``softpaint --help`` stays quick.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import InputError, SoftpaintError

if TYPE_CHECKING:
    from engine.engine import InpaintEngine
    from engine.results import EditResult
    from engine.settings import EditRecord

EXIT_FAILED, EXIT_BAD_USE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="softpaint",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help costs more than the rest of --help together
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"softpaint {version('softpaint')}")
        raise typer.Exit


@app.callback(epilog="Begin with: softpaint demo")
def _softpaint(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Repaint parts of pictures with diffusion models: soft strength maps, several strategies."""


# ----------------------------------------------------------------------- what commands share

Photo = Annotated[Path | None, typer.Argument(metavar="PHOTO", help="The picture to edit.")]
Mask = Annotated[
    Path | None,
    typer.Option("--mask", "-m", help="White is repainted, black is kept.", metavar="FILE"),
]
StrengthMap = Annotated[
    Path | None,
    typer.Option(
        "--strength-map",
        "-s",
        help="Instead of a mask: how strongly each pixel is repainted, white = wholly.",
        metavar="FILE",
    ),
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", "-p", help="What is to be seen.", metavar="TEXT")
]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", help="What is not to be seen.", metavar="TEXT")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where the result goes.", metavar="FILE")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="pocket, a diffusers folder, a hub id or a .safetensors file. [default: pocket]"
    ),
]
InpaintModel = Annotated[
    str | None, typer.Option(help="The same, for strategies that need a 9-channel network.")
]
Strategy = Annotated[
    str | None, typer.Option(help="See `softpaint strategies`. [default: differential]")
]
StrategyOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="An option of the strategy; may be repeated.", metavar="K=V"),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps. [default: 30]")]
Guidance = Annotated[
    float | None, typer.Option(help="How strictly the prompt is followed. [default: 5]")
]
GuidanceRescale = Annotated[
    float | None, typer.Option(help="0 to 1, against overexposure. [default: 0]")
]
Strength = Annotated[
    float | None, typer.Option(help="Above 0, to 1: strength of the whole edit. [default: 1]")
]
Seed = Annotated[int | None, typer.Option(help="Drawn, and recorded, where it is not given.")]
NumImages = Annotated[int | None, typer.Option(help="How many results. [default: 1]")]
Scheduler = Annotated[
    str | None, typer.Option(help="Such as euler, ddim, dpmpp-2m-karras. [default: the model's]")
]
Invert = Annotated[
    bool | None, typer.Option("--invert/--no-invert", help="Repaint black instead of white.")
]
Feather = Annotated[
    float | None,
    typer.Option(help="Width of the soft seam, in pixels. [default: 4]"),
]
Expand = Annotated[
    str | None,
    typer.Option(help="Grow the canvas by so many pixels, and paint them.", metavar="L,T,R,B"),
]
Device = Annotated[str | None, typer.Option(help="Such as cuda, mps, cpu. [default: the best]")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16. [default: the device's]")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]


def _parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` pairs; a value is read as JSON where it is JSON, else it is text."""
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--option takes key=value, not {pair!r}.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        options[key.strip().replace("-", "_")] = value
    return options


def _given(**values: Any) -> dict[str, Any]:
    """The arguments that were given: the engine knows the defaults of the others."""
    return {name: value for name, value in values.items() if value is not None}


def _note(text: str, *, quiet: bool = False) -> None:
    if not quiet:
        typer.echo(text, err=True)


def _say(text: str = "") -> None:
    typer.echo(text)


def _region(mask: Path | None, strength_map: Path | None) -> dict[str, Path]:
    """The mask or the map under the engine's name for it, or nothing."""
    if mask and strength_map:
        raise InputError("give --mask or --strength-map, not both.")
    return _given(mask=mask, strength_map=strength_map)


def _borders(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"--expand takes four whole numbers, not {text!r}.") from None


def _needed_region(region: dict[str, Path], expand: str | None) -> None:
    if not region and expand is None:
        raise InputError(
            "give --mask, --strength-map or --expand: which part of the picture is repainted?"
        )


def _needed(value: Any, what: str) -> Any:
    if value is None:
        raise InputError(f"{what} is missing.")
    return value


def _check(
    photo: Path,
    region: dict[str, Path],
    outputs: Sequence[Path],
    strategies: Sequence[str],
    settings: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Refuse whatever can be refused before a model is loaded, which may take minutes."""
    from engine.canvas import load_image
    from engine.files import check_writable
    from engine.masks import load_mask, load_strength_map
    from engine.request import EditRequest
    from strategies import create_strategy, get_strategy

    request: dict[str, Any] = {"image": photo, **region, **settings}
    EditRequest(**request)
    if len(strategies) == 1:
        create_strategy(strategies[0], **options)
    for name in strategies:
        for part in name.split("+"):
            get_strategy(part.strip())
    for name in options:
        if name in EditRequest.__dataclass_fields__:
            raise InputError(f"{name!r} is no option of a strategy.")
    picture = load_image(photo)
    for kind, path in region.items():
        read = load_mask if kind == "mask" else load_strength_map
        read(path, picture.size, invert=settings.get("invert", False))
    for path in outputs:
        if path.exists() and any(path.samefile(each) for each in (photo, *region.values())):
            raise InputError(f"{path} is an input of this edit; give another --output.")
        check_writable(path, transparent=picture.alpha is not None)


# --------------------------------------------------------------------------------- commands


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the sheet.", metavar="FOLDER")
    ] = Path(),
    model: Model = None,
    inpaint_model: InpaintModel = None,
    size: Annotated[
        int, typer.Option(min=64, help="Side of the scenes in pixels; real models want 1024.")
    ] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    seed: Annotated[int, typer.Option(help="The same pictures every time.")] = 7,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:
    """Edit the bundled scenes; time and draw the results.

    \b
    Example:
      softpaint demo
      softpaint demo --model ./sdxl-base --size 1024 --device cuda
    """
    from engine.demo import SHEET, run_demo
    from engine.files import check_writable

    if size % 8:
        raise InputError(f"--size must be a multiple of 8, not {size}.")
    check_writable(output / SHEET)
    load = _given(model=model, inpaint_model=inpaint_model, device=device, dtype=dtype)
    run_demo(
        _load(load),
        output / SHEET,
        size=size,
        steps=steps,
        seed=seed,
        progress=not quiet and sys.stderr.isatty(),
        say=_say,
    )


@app.command()
def edit(
    photo: Photo = None,
    mask: Mask = None,
    strength_map: StrengthMap = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    output: Output = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A result: repeat its edit; other options override.", metavar="PNG"
        ),
    ] = None,
    model: Model = None,
    inpaint_model: InpaintModel = None,
    strategy: Strategy = None,
    option: StrategyOption = None,
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_rescale: GuidanceRescale = None,
    strength: Strength = None,
    seed: Seed = None,
    num_images: NumImages = None,
    scheduler: Scheduler = None,
    invert: Invert = None,
    feather: Feather = None,
    expand: Expand = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:
    """Repaint part of a picture.

    The result is as large as the picture, and pixels of strength 0 come back as they were. A PNG
    remembers every setting: `softpaint show` prints them and `--from` repeats the edit.

    \b
    Examples:
      softpaint edit photo.png --mask mask.png --prompt "a red house" -o out.png
      softpaint edit photo.png -s map.png -p "snow" -o out.png --model ./sdxl-base --steps 40
      softpaint edit --from out.png --seed 8 -o other.png
    """
    from engine.settings import EditRecord

    load = _given(model=model, inpaint_model=inpaint_model, device=device, dtype=dtype)
    settings = _given(
        prompt=prompt,
        negative_prompt=negative_prompt,
        strategy=strategy,
        num_inference_steps=steps,
        guidance_scale=guidance,
        guidance_rescale=guidance_rescale,
        strength=strength,
        seed=seed,
        num_images=num_images,
        scheduler=scheduler,
        invert=invert,
        feather=feather,
        expand=_borders(expand),
    )
    options = _parse_options(option or [])
    record = pick = None
    if from_ is not None:
        record = EditRecord.read(from_)
        photo = record.image.find(kind="image", beside=from_, given=photo)
        region = record.find_region(_region(mask, strength_map), beside=from_)
        if strategy is None or strategy == record.edit.get("strategy"):
            options = {**record.edit.get("options", {}), **options}
        load = {**record.load, **load}
        if seed is None and num_images is None:
            pick = record.index  # of several, this one; they are made together, to the same bits
        repeated = {name: value for name, value in record.edit.items() if name != "options"}
        settings = {**repeated, **settings}
    else:
        photo = _needed(photo, "PHOTO")
        _needed(prompt, "--prompt")
        region = _region(mask, strength_map)
        _needed_region(region, expand)
    output = _needed(output, "--output")
    result = _edit(photo, region, output, load, settings, options, pick, quiet=quiet)
    if record is not None:
        _note_differences(record, result, quiet=quiet)


def _edit(
    photo: Path,
    region: dict[str, Path],
    output: Path,
    load: dict[str, Any],
    settings: dict[str, Any],
    options: dict[str, Any],
    pick: int | None,
    *,
    quiet: bool,
) -> EditResult:
    """Run one edit and write all of its pictures, or only the one with the index ``pick``."""
    from engine.settings import EditRecord, InputFile

    count = settings.get("num_images", 1)
    outputs = _numbered(output, count) if pick is None else [output]
    strategy = settings.pop("strategy", "differential")
    _check(photo, region, outputs, [strategy], settings, options)
    request: dict[str, Any] = {"image": photo, **region, **settings, **options}
    result = _load(load).edit(strategy=strategy, progress=False if quiet else None, **request)
    indices = range(count) if pick is None else [pick]
    records = [
        EditRecord.of(
            result,
            index=index,
            image=InputFile.of(photo, beside=path),
            region={kind: InputFile.of(each, beside=path) for kind, each in region.items()},
            load=_portable(load),
            scheduler=settings.get("scheduler"),
        )
        for index, path in zip(indices, outputs, strict=True)
    ]
    _write_all([result.images[index] for index in indices], outputs, records)
    for index, path in zip(indices, outputs, strict=True):
        seconds = result.timings["total"]
        _note(f"{path}  (seed {result.seeds[index]}, {seconds:.1f} s)", quiet=quiet)
    return result


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(count)]


def _note_differences(record: EditRecord, result: EditResult, *, quiet: bool) -> None:
    """Say what a repeated edit was made with that is not the same here."""
    for name in ("device", "dtype", "versions"):
        then, now = record.settings.get(name), result.settings.get(name)
        if then != now:
            _note(f"made with {name} {then}, repeated with {now}: pixels may differ", quiet=quiet)


def _load(load: dict[str, Any]) -> InpaintEngine:
    from engine.engine import InpaintEngine

    return InpaintEngine.from_pretrained(**load)


def _portable(load: dict[str, Any]) -> dict[str, Any]:
    """Model folders as absolute paths, so that the record holds from everywhere."""
    return {
        name: str(Path(value).resolve())
        if name in {"model", "inpaint_model"} and value != "pocket" and Path(value).exists()
        else value
        for name, value in load.items()
    }


def _write_all(
    images: Sequence[Any], outputs: Sequence[Path], records: Sequence[EditRecord]
) -> None:
    """Write every image or none."""
    from engine.files import save_image

    written: list[Path] = []
    try:
        for image, path, record in zip(images, outputs, records, strict=True):
            save_image(image, path, metadata=record.metadata())
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


@app.command()
def compare(
    photo: Photo = None,
    mask: Mask = None,
    strength_map: StrengthMap = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    output: Output = None,
    strategies: Annotated[
        str | None,
        typer.Option(help="Names with commas between. [default: all that the model can run]"),
    ] = None,
    model: Model = None,
    inpaint_model: InpaintModel = None,
    option: StrategyOption = None,
    steps: Steps = None,
    guidance: Guidance = None,
    guidance_rescale: GuidanceRescale = None,
    strength: Strength = None,
    seed: Seed = None,
    scheduler: Scheduler = None,
    invert: Invert = None,
    feather: Feather = None,
    expand: Expand = None,
    device: Device = None,
    dtype: Dtype = None,
    quiet: Quiet = False,
) -> None:
    """One edit through several strategies, side by side.

    \b
    Example:
      softpaint compare photo.png --mask mask.png --prompt "a red house" -o sheet.png
      softpaint compare photo.png -m mask.png -p "a boat" --strategies blend,differential -o s.png
    """
    from engine.files import save_image

    photo = _needed(photo, "PHOTO")
    _needed(prompt, "--prompt")
    region = _region(mask, strength_map)
    _needed_region(region, expand)
    output = _needed(output, "--output")
    load = _given(model=model, inpaint_model=inpaint_model, device=device, dtype=dtype)
    settings = _given(
        prompt=prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        guidance_rescale=guidance_rescale,
        strength=strength,
        seed=seed,
        scheduler=scheduler,
        invert=invert,
        feather=feather,
        expand=_borders(expand),
    )
    options = _parse_options(option or [])
    names = [name.strip() for name in (strategies or "").split(",") if name.strip()]
    _check(photo, region, [output], names, settings, options)
    comparison = _load(load).compare(
        image=photo,
        strategies=names or None,
        **region,
        **settings,
        **options,
        progress=False if quiet else None,
    )
    save_image(comparison.grid(), output)
    _say(comparison.table())
    _note(str(output), quiet=quiet)


@app.command()
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
        _say(f"{name:<13} {info.description}")
        _say(f"{'':<13} costs {info.cost}; {network}; {info.paper}")
        for option, (default, help_text) in info.options.items():
            _say(f"{'':<13}   --option {option}={default}  {help_text}")


@app.command()
def models() -> None:
    """List the embedded model and how to give others.

    \b
    Example:
      softpaint models
    """
    from engine.demo import describe_models

    _say(describe_models())


@app.command()
def show(
    png: Annotated[Path, typer.Argument(metavar="PNG", help="A result of `softpaint edit`.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """Print the settings of a PNG result.

    \b
    Example:
      softpaint show out.png
    """
    from dataclasses import asdict

    from engine.settings import EditRecord

    record = EditRecord.read(png)
    if as_json:
        _say(json.dumps(asdict(record), indent=2, ensure_ascii=False))
    else:
        _say("\n".join(record.lines()))


# ------------------------------------------------------------------------------------- main


def main() -> None:
    """Run the command line: one line for each error, never a traceback."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``arguments`` (default: the process's own); the exit code."""
    debug = os.environ.get("SOFTPAINT_DEBUG", "") not in {"", "0"}
    # The libraries below log and warn about matters of their own.
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if not sys.stderr.isatty():  # their progress bars too are for a person who waits
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
    if not debug:
        warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        return _run(arguments)
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    except KeyboardInterrupt:
        if debug:
            raise
        _note("softpaint: interrupted; nothing was written")
        return EXIT_INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = app(given or ["--help"], prog_name="softpaint", standalone_mode=False)
    if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into an exit code of its own
        raise KeyboardInterrupt
    sys.stdout.flush()
    return code or 0


def _explain(error: Exception) -> int:
    """Say ``error`` in one line; the exit code."""
    if isinstance(error, typer.TyperException):
        message, code = error.format_message(), error.exit_code
    elif isinstance(error, InputError):
        message, code = str(error), EXIT_BAD_USE
    elif isinstance(error, SoftpaintError):
        message, code = str(error), EXIT_FAILED
    elif isinstance(error, BrokenPipeError):
        # The reader left (`softpaint strategies | head -1`): the rest has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    elif isinstance(error, OSError):
        message, code = f"{error.strerror or error}: {error.filename or ''}", EXIT_FAILED
    else:
        message, code = f"unexpected {type(error).__name__}: {error}", EXIT_FAILED
        message += " (SOFTPAINT_DEBUG=1 shows where)"
    _note(f"softpaint: error: {' '.join(message.split())}")
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Show what concerns the user in one line, and nothing of the libraries' own housekeeping."""
    if issubclass(category, UserWarning):
        _note(f"softpaint: warning: {' '.join(str(message).split())}")


if __name__ == "__main__":
    main()
