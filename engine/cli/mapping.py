"""`softpaint map`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.app import app, note, say
from engine.cli.command import Command
from engine.cli.files import STREAM, Files, save
from engine.cli.options import Device, Model, Output, Quiet, given, load, needed
from engine.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from engine.picture.read import Picture
    from engine.picture.source import Source


@app.command(name="map", cls=Command)
def map_(
    source: Annotated[
        Path | None, typer.Argument(metavar="MAP", help="A mask or strength map to begin with.")
    ] = None,
    output: Output = None,
    photo: Annotated[
        Path | None,
        typer.Option(
            help="The picture that it is for, for --select and --overlay.", metavar="FILE"
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Begin with this colour in the photo; may be repeated.", metavar="R,G,B"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="How far from it, in Delta-E 2000; 1 is just noticeable. [default: 10]",
            metavar="NUMBER",
        ),
    ] = None,
    from_change: Annotated[
        str | None,
        typer.Option(
            help="Begin with what this text changes in the photo: the model's predictions for it "
            "and for --was differ there. Models that edit take an instruction, without --was.",
            metavar="TEXT",
        ),
    ] = None,
    was: Annotated[
        str | None,
        typer.Option(help="What the photo shows now, for --from-change.", metavar="TEXT"),
    ] = None,
    from_words: Annotated[
        list[str] | None,
        typer.Option(
            help="Begin with where the model sees these words in the photo; may be repeated.",
            metavar="TEXT",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            help="The sentence about the photo in which they stand. [default: a picture of them]",
            metavar="TEXT",
        ),
    ] = None,
    from_click: Annotated[
        list[str] | None,
        typer.Option(help="Begin with the thing at this point; may be repeated.", metavar="X,Y"),
    ] = None,
    not_click: Annotated[
        list[str] | None,
        typer.Option(help="A point that is on none of it; may be repeated.", metavar="X,Y"),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="A Segment Anything model that finds it: a folder or hub id. [default: GrabCut]"
        ),
    ] = None,
    from_alpha: Annotated[
        bool, typer.Option("--from-alpha", help="Begin with where the photo is transparent.")
    ] = False,
    soft: Annotated[
        bool,
        typer.Option("--soft", help="Of --from-change and --from-words: not cut along edges."),
    ] = False,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="Begin with a gradient from the first point (0) to the second (1).",
            metavar="X,Y,X,Y",
        ),
    ] = None,
    paint: Annotated[
        list[str] | None,
        typer.Option(
            help="Paint rectangle:L,T,R,B or ellipse:L,T,R,B or polygon:X,Y,X,Y,... over it, with "
            "@LEVEL at the end for another strength than 1; may be repeated.",
            metavar="SHAPE",
        ),
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--with", help="Combine it with this map.", metavar="FILE")
    ] = None,
    how: Annotated[
        str | None,
        typer.Option(
            help="How: max, min, add, subtract or multiply. [default: max]", metavar="HOW"
        ),
    ] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Only 0 and 1: what is at least 0.5 becomes 1.")
    ] = False,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Close what is enclosed.")
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="With the shadow at the foot of what it covers in the photo, if found."
        ),
    ] = False,
    grow: Annotated[float | None, typer.Option(help="Spread by so many pixels.")] = None,
    shrink: Annotated[float | None, typer.Option(help="Take so many pixels off.")] = None,
    falloff: Annotated[
        float | None, typer.Option(help="Fall from 1 to 0 over so many pixels around it.")
    ] = None,
    feather: Annotated[float | None, typer.Option(help="Soften edges over so many pixels.")] = None,
    outward: Annotated[
        bool, typer.Option("--outward", help="Feather outward only: 1 stays 1.")
    ] = False,
    scale: Annotated[float | None, typer.Option(help="Multiply every strength.")] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Keep what was repainted, repaint what was kept.")
    ] = False,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Write the photo with the map over it, to look at."),
    ] = False,
    quiet: Quiet = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """Make or change a strength map; the options act in the order in which they are listed.

    \b
    Example:
      softpaint map mask.png --grow 8 --feather 16 --outward -o map.png
      softpaint map --photo photo.png --select 90,140,220 --fill-holes -o sky.png
      softpaint map --photo photo.png --from-words "red house" -o house.png
      softpaint map --photo photo.png --from-change "a tent" --was "a house" -o there.png
      softpaint map --photo photo.png --from-click 60,80 --grow 4 -o thing.png
      softpaint map thing.png --photo photo.png --shadow --grow 2 -o both.png
      softpaint map sky.png --photo photo.png --overlay -o look.png
    """
    from engine.picture.commit import Commit
    from engine.picture.read import load_image
    from engine.picture.sheet import heat_map

    amounts = {
        "--grow": grow,
        "--shrink": shrink,
        "--falloff": falloff,
        "--feather": feather,
        "--scale": scale,
    }
    _check_amounts(amounts)
    finds = {"--from-change": from_change, "--from-words": from_words, "--from-click": from_click}
    soft_ones = {name: finds[name] for name in ("--from-change", "--from-words")}
    _check_used("--tolerance", tolerance, {"--select": select})
    _check_used("--was", was, {"--from-change": from_change})
    _check_used("--prompt", prompt, {"--from-words": from_words})
    _check_used("--not-click", not_click, {"--from-click": from_click})
    _check_used("--segmenter", segmenter, {"--from-click": from_click})
    _check_used("--soft", soft or None, soft_ones)
    _check_used("--how", how, {"--with": other})
    _check_used("--outward", outward or None, {"--feather": feather})
    _check_used("--model", model, finds)
    _check_used("--device", device, finds)
    files = Files()
    target = needed(output, "--output")
    _check_photo(photo, overlay=overlay, shadow=shadow)
    picture = None if photo is None else load_image(files.read("photo", photo))
    begin = None if source is None else files.read("map", source)
    added = None if other is None else files.read("map", other)
    files.writes("--output", target)
    sources: dict[str, dict[str, Any]] = {
        "change": {"prompt": from_change, "was": was or ""} if from_change is not None else {},
        "words": {"words": tuple(from_words), "prompt": prompt or ""} if from_words else {},
        "click": {
            "inside": [_point(each, "--from-click") for each in from_click],
            "outside": [_point(each, "--not-click") for each in not_click or ()],
            "segmenter": segmenter,
        }
        if from_click
        else {},
        "alpha": {"refine": False} if from_alpha else {},
    }
    asked = {how: {"refine": not soft, **wanted} for how, wanted in sources.items() if wanted}
    if asked:
        others = source is not None or bool(select) or gradient is not None
        strength = _found(asked, picture, others=others, loads=given(model=model, device=device))
    else:
        near = 10.0 if tolerance is None else tolerance
        strength = _begin(begin, picture, select, near, gradient, painted=bool(paint))
    strength = _painted(strength, paint or [], added, how or "max", hard=hard)
    shadowed = picture if shadow else None
    strength = _changed(strength, amounts, shadowed, fill_holes=fill_holes, outward=outward)
    if invert:
        strength = 1 - strength
    deep = any(map(_is_deep, filter(None, (begin, added))))
    shown = _as_image(strength, deep=deep)
    if overlay and picture:
        shown = heat_map(picture.to_pil(), strength)
    with Commit() as commit:
        save(commit, shown, target)
    say(
        f"{strength.shape[1]} x {strength.shape[0]} px: {(strength == 0).mean():.1%} kept, "
        f"{((strength > 0) & (strength < 1)).mean():.1%} repainted in part, "
        f"{(strength == 1).mean():.1%} wholly",
        err=target == STREAM,
    )
    note(str(target), quiet=quiet)


def _check_amounts(amounts: Mapping[str, float | None]) -> None:
    from engine.picture.map_tools import check_length

    for option, amount in amounts.items():
        if amount is not None:
            check_length(option, amount)


def _check_used(option: str, value: object, needs: Mapping[str, object]) -> None:
    """Refuse what would have no effect, as none of what it is about is there."""
    if value is not None and not any(needs.values()):
        raise InputError(f"{option} is about {' and '.join(needs)}, and there is none.")


def _painted(
    strength: NDArray[np.float32],
    shapes: list[str],
    added: Source | None,
    how: str,
    *,
    hard: bool,
) -> NDArray[np.float32]:
    """With the shapes and the other map over it."""
    import numpy as np

    from engine.picture import map_tools

    for each in shapes:
        strength = map_tools.paint(strength, *_shape(each))
    if added is not None:
        strength = map_tools.combine(strength, _load(added, strength.shape[::-1]), how)
    return (strength >= 0.5).astype(np.float32) if hard else strength


def _changed(
    strength: NDArray[np.float32],
    amounts: Mapping[str, float | None],
    shadowed: Picture | None,
    *,
    fill_holes: bool,
    outward: bool,
) -> NDArray[np.float32]:
    """By the tools, in the order in which their options are listed."""
    import numpy as np

    from engine.picture import map_tools
    from engine.picture.shadows import shadow_of

    if fill_holes:
        strength = map_tools.fill_holes(strength)
    if shadowed is not None:
        strength = np.maximum(strength, shadow_of(shadowed.rgb, strength))
    tools: dict[str, Callable[..., NDArray[np.float32]]] = {
        "--grow": map_tools.grow,
        "--shrink": map_tools.shrink,
        "--falloff": map_tools.falloff,
        "--feather": partial(map_tools.feather, outward=outward),
        "--scale": map_tools.scale,
    }
    for option, tool in tools.items():
        if (amount := amounts[option]) is not None:
            strength = tool(strength, amount)
    return strength


def _check_photo(photo: Path | None, *, overlay: bool, shadow: bool) -> None:
    if photo is None and overlay:
        raise InputError("--overlay needs --photo: the picture to lay the map over.")
    if photo is None and shadow:
        raise InputError("--shadow needs --photo: the picture that it is looked for in.")


def _found(
    asked: Mapping[str, Any], picture: Any, *, others: bool, loads: dict[str, Any]
) -> NDArray[np.float32]:
    """The map that one of the ``--from-...`` finds."""
    if len(asked) > 1 or others:
        raise InputError(
            "begin with one of MAP, --select, --gradient and the --from-...; --with combines maps."
        )
    ((how, wanted),) = asked.items()
    if picture is None:
        raise InputError(f"--from-{how} needs --photo: the picture that it is found in.")
    from engine.edit.map_sources import MAP_SOURCES, find_map

    if not MAP_SOURCES.get(how).needs_model:
        return find_map(how, None, {"image": picture, **wanted})
    return load(loads).map_from(how, image=picture, **wanted)


def _point(text: str, option: str) -> tuple[float, float]:
    x, y = _numbers(text, option, 2)
    return x, y


def _begin(
    source: Source | None,
    picture: Any,
    select: list[str] | None,
    tolerance: float,
    gradient: str | None,
    *,
    painted: bool,
) -> NDArray[np.float32]:
    """The map that the tools begin with."""
    import numpy as np

    from engine.picture import map_tools

    if sum([source is not None, bool(select), gradient is not None]) > 1:
        raise InputError("begin with one of MAP, --select and --gradient; --with combines maps.")
    size = None if picture is None else picture.size
    if source is not None:
        return _load(source, size)
    if size is None:
        raise InputError("give a MAP, or --photo and one of --select, --gradient and --paint.")
    if select:
        colours = [_colour(each) for each in select]
        return map_tools.select_colours(picture.rgb, colours, tolerance)
    if gradient is not None:
        x0, y0, x1, y1 = _numbers(gradient, "--gradient", 4)
        return map_tools.gradient(size, (x0, y0), (x1, y1))
    if painted:
        return np.zeros(size[::-1], np.float32)
    raise InputError("give a MAP, or one of --select, --gradient and --paint.")


def _load(source: Source, size: tuple[int, ...] | None) -> NDArray[np.float32]:
    from engine.picture.map_files import load_strength_map
    from engine.picture.opening import open_upright

    width, height = size or open_upright(source, f"map {source.path!r}").size
    return load_strength_map(source, (width, height))


def _is_deep(source: Source) -> bool:
    """Whether a map's file says more than 8 bits of a pixel."""
    from engine.picture.opening import open_image

    with open_image(source, f"map {source.path!r}") as image:
        return image.mode.startswith(("I", "F"))


def _as_image(strength: NDArray[np.float32], *, deep: bool) -> Image.Image:
    """A map as a grey picture, of 16 bits if ``deep``."""
    import numpy as np
    from PIL import Image

    from engine.picture.deep import KEY, shallow

    if not deep:
        return Image.fromarray((strength * 255).round().astype(np.uint8))
    values = (strength * 65535).round().astype(np.uint16)
    image = Image.fromarray(shallow(values))
    image.info[KEY] = values[:, :, None]
    return image


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = (round(value) for value in _numbers(text, "--select", 3))
    return red, green, blue


def _shape(text: str) -> tuple[str, list[float], float]:
    """``SHAPE:NUMBERS[@LEVEL]``."""
    what, _, level = text.partition("@")
    shape, colon, points = what.partition(":")
    if not colon:
        raise InputError(f"--paint takes SHAPE:NUMBERS[@LEVEL], not {text!r}.")
    strength = _numbers(level, "--paint's level", 1)[0] if level else 1.0
    return shape.strip(), _numbers(points, "--paint"), strength


def _numbers(text: str, option: str, count: int | None = None) -> list[float]:
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or (count is not None and len(numbers) != count):
        raise InputError(f"{option} takes {count or 'some'} numbers with commas, not {text!r}.")
    return numbers
