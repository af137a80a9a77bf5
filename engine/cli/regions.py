"""The command line's ways to say ``regions``: an option for each, or a file for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.pairs import parse_options
from engine.errors import InputError
from engine.request.field import Group

if TYPE_CHECKING:
    from engine.request.regions import Region

REGIONS: dict[str, Any] = {
    "region_edit": Annotated[
        list[str] | None,
        typer.Option(
            help='A region with a prompt of its own: map.png::"a red barn", and settings behind '
            "further colons: map.png::a barn::strength=0.6::seed=8; may be repeated.",
            metavar="MAP::PROMPT[::K=V]...",
            rich_help_panel=str(Group.PICTURE),
        ),
    ],
    "regions": Annotated[
        Path | None,
        typer.Option(
            help='Regions in a JSON file: [{"map": "map.png", "prompt": "a red barn", "controls": '
            '["canny:0.8"], ...}, ...], files beside it.',
            metavar="FILE.json",
            rich_help_panel=str(Group.PICTURE),
        ),
    ],
}


def regions_of(region_edit: Sequence[str] | None, regions: Path | None) -> list[Region] | None:
    """The regions of ``--region-edit`` and ``--regions``; None without any.

    Raises:
        InputError: a form or a setting that is not known.
    """
    if not region_edit and regions is None:
        return None
    from engine.request.regions import read_regions

    told = [*(_of_option(text) for text in region_edit or ()), *_of_file(regions)]
    return list(read_regions([_typed(each) for each in told]))


def _of_option(text: str) -> dict[str, Any]:
    place, *rest = text.split("::")
    if not place or not rest:
        raise InputError(f"--region-edit takes MAP::PROMPT[::K=V]..., not {text!r}.")
    return {"map": place, "prompt": rest[0], **parse_options(rest[1:], "--region-edit")}


def _of_file(file: Path | None) -> list[Any]:
    if file is None:
        return []
    try:
        told = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--regions {str(file)!r} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"--regions {str(file)!r} is not JSON.") from None
    if not isinstance(told, list):
        raise InputError(f"--regions {str(file)!r} must be a list of objects, one for each region.")
    return [_beside(each, file.parent) for each in told]


def _beside(told: Any, folder: Path) -> Any:
    """A region of a file, with its own files as paths from here."""
    if not isinstance(told, Mapping):
        return told
    own = dict(told)
    for name in ("map", "reference"):
        if isinstance(own.get(name), str):
            own[name] = str(folder / own[name])
    return own


def _typed(told: Any) -> Any:
    """A region's settings with controls as the command line writes them."""
    if not isinstance(told, Mapping) or told.get("controls") is None:
        return told
    from controls import Control

    given = told["controls"]
    controls = []
    for text in given if isinstance(given, list) else [given]:
        if not isinstance(text, str):
            raise InputError(f"a region's controls are texts such as 'canny:0.8', not {text!r}.")
        several = Control.parse(text)
        if len(several) > 1:
            raise InputError(f"a region's control takes one scale, not {text!r}.")
        controls += several
    return {**told, "controls": controls}
