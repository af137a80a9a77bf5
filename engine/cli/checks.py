"""What becomes of the shared options before a model is loaded, which may take minutes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import Asked, needed
from engine.errors import InputError, setting
from engine.picture.source import Source, is_own_alpha

if TYPE_CHECKING:
    from controls import Control, Reference
    from engine.cli.files import Files


def opened(asked: Asked, files: Files, *, edits: bool = True) -> Asked:
    """What was asked for with its files read; what becomes of them later changes nothing.

    ``edits``: prompt and output are needed too.

    Raises:
        InputError: something that every edit needs is missing, or a file cannot be read.
    """
    photo = asked.need()[0] if edits else needed(asked.photo, "PHOTO")
    announce_models(files, asked.load)
    _announce(files, "prefill", str(asked.settings.get("prefill", "")).removeprefix("gan:"))
    return replace(
        asked,
        photo=_read(files, "image", photo),
        region={
            kind: _read(files, kind.replace("_", " "), path) for kind, path in asked.region.items()
        },
        controls=[[_opened(each, files) for each in several] for several in asked.controls],
        references=[[_read_reference(each, files) for each in one] for one in asked.references],
        settings={**asked.settings, **_regions(asked, files)},
    )


def _regions(asked: Asked, files: Files) -> dict[str, Any]:
    """The regions with their files read, if there are any."""
    opened_ = []
    for number, region in enumerate(asked.settings.get("regions") or (), start=1):
        changes: dict[str, Any] = {}
        for name in ("map", "reference"):
            value = getattr(region, name)
            if isinstance(value, str) and not isinstance(value, Source) and not is_own_alpha(value):
                changes[name] = files.read(f"region {number}'s {name}", Path(value))
        if region.controls is not None:
            changes["controls"] = [_opened(each, files) for each in region.controls]
        opened_.append(replace(region, **changes))
    return {"regions": opened_} if opened_ else {}


def announce_models(files: Files, load: Mapping[str, Any]) -> None:
    """Protect the models that will be loaded: a command's results may not overwrite them."""
    from engine.models.formats.adapters import Embedding, Lora

    parts: dict[str, Any] = {"lora": Lora.of, "embedding": Embedding.of}
    for name, given in load.items():
        for each in given if isinstance(given, list) else [given]:
            place = parts[name](each).place if name in parts else each
            _announce(files, name.replace("_", " "), place)


def _read(files: Files, what: str, given: Any) -> Any:
    """A file's bytes; what was read already stays as it is."""
    return files.read(what, given) if isinstance(given, Path) else given


def _announce(files: Files, what: str, place: Any) -> None:
    """Protect a model's file or folder, which the engine reads by itself."""
    if place and isinstance(place, str | Path) and Path(place).exists():
        files.uses(what, Path(place))


def _opened(control: Control, files: Files) -> Control:
    _announce(files, f"{control.label} control", control.label)
    changes: dict[str, Any] = {}
    if isinstance(control.file, Path):
        changes["image"] = files.read(f"{control.label} control's image", control.file)
    if isinstance(control.mask, str | Path):
        changes["mask"] = files.read(f"{control.label} control's mask", Path(control.mask))
    return replace(control, **changes) if changes else control


def _read_reference(reference: Reference, files: Files) -> Reference:
    return replace(
        reference,
        image=_read(files, "reference picture", reference.image),
        mask=_read(files, "reference's mask", reference.mask),
    )


def check(
    asked: Asked,
    strategies: Sequence[str],
    settings: dict[str, Any],
    output: Path | None = None,
) -> None:
    """Refuse whatever can be refused before a model is loaded.

    Args:
        asked: with its files read.
        strategies: their names, empty for all.
        settings: of the edit, without the strategy.
        output: the file that is to hold a result as large as the canvas.

    Raises:
        InputError: the engine would refuse it too, later.
    """
    from engine.edit.strategies import build_each, build_strategy
    from engine.picture.geometry import check_canvas
    from engine.picture.map_files import check_strength, load_mask, load_strength_map
    from engine.picture.read import load_image
    from engine.picture.transparency import opacity_after
    from engine.picture.write import check_fits
    from engine.request.request import EditRequest
    from strategies import list_strategies

    EditRequest(image=asked.photo, **asked.region, **settings)
    for name in asked.options:
        if name in EditRequest.__dataclass_fields__:
            raise InputError(f"{name!r} is no option of a strategy: give it as {setting(name)}.")
    if len(strategies) == 1:
        build_strategy(strategies[0], asked.options)
    else:
        build_each(strategies or list_strategies(), asked.options)
    picture = load_image(needed(asked.photo, "PHOTO"))
    expand = settings.get("expand", (0, 0, 0, 0))
    size = check_canvas(picture.size, expand)
    transparent = picture.is_transparent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine reads them again, and warns then
        for kind, source in asked.region.items():
            how = {"invert": settings.get("invert", False), "picture": picture}
            if kind == "mask":
                found = load_mask(source, picture.size, may_be_empty=any(expand), **how)
            else:
                found = load_strength_map(source, picture.size, **how)
                check_strength(found, may_be_empty=any(expand))
            if picture.alpha is not None:
                feather = settings.get("feather", EditRequest.feather)
                transparent = bool(opacity_after(picture.alpha, found, feather).min() < 255)
        for number, region in enumerate(settings.get("regions") or (), start=1):
            try:
                check_strength(load_strength_map(region.map, picture.size, picture=picture))
            except InputError as error:
                raise InputError(f"region {number}: {error}") from None
    if asked.controls or asked.references:
        _check_control_files(asked, picture.size, expand)
    if output is not None:
        check_fits(output, size, transparent=transparent)


def _check_control_files(asked: Asked, size: tuple[int, int], expand: Sequence[int]) -> None:
    """Refuse files of controls and references that do not go with a picture of ``size`` (width,
    height).
    """
    from controls.canvas import Canvas
    from engine.picture.geometry import Box
    from engine.picture.read import load_image

    left, top, right, bottom = expand
    inner = Box(left, top, left + size[0], top + size[1])
    canvas = (left + size[0] + right, top + size[1] + bottom)
    board = Canvas(canvas, None, [], align=1, inner=inner)
    for control in (each for several in asked.controls for each in several):
        if control.file is not None:
            board.place(control.file)
        if control.mask is not None:
            board.place_mask(control.mask)
    for reference in (each for several in asked.references for each in several):
        load_image(reference.image)
        if reference.mask is not None:
            board.place_mask(reference.mask)
