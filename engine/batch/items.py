"""What a batch is made of: an item for each edit, from a folder of photos or a manifest."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from engine.errors import InputError
from engine.picture.source import is_own_alpha

MANIFESTS: Final = (".jsonl", ".csv")
"""Suffixes of files that list edits."""
FILES: Final = ("image", "mask", "strength_map")
"""Settings that are files of an item's own."""
REGIONS: Final = "regions."
"""How the files begin that are the maps of an item's regions."""
_MARKS: Final = ("", "_mask", "-mask")
"""What the name of a photo's mask ends in, after the photo's own."""


@dataclass(frozen=True)
class Item:
    """One edit of a batch."""

    name: str
    """Where its result goes, relative to the batch's folder, with ``/`` between folders."""
    files: Mapping[str, str]
    """``image``, and ``mask`` or ``strength_map`` where it has one of its own: paths."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it has of its own beside the batch's."""
    error: str = ""
    """Why it cannot be edited, where that is known already."""


def items_of(source: Path, *, masks: str | None = None, masked: bool = False) -> list[Item]:
    """The items of a folder of photos, or of a manifest, in the order of their names or rows.

    Args:
        source: a folder, which is searched with all folders in it, or a ``.jsonl`` or ``.csv``.
        masks: a folder in which each photo's mask has the photo's name (or that with ``_mask``),
            whatever its suffix; ``"alpha"`` for the photos' own transparency; None: masks named
            ``photo_mask`` stand beside the photos.
        masked: the batch has one mask, map or canvas for all, so that photos need none.

    Raises:
        InputError: nothing is there, no photo has a mask, a row is wrong, or two items would be
            written to one place. A photo without a mask beside others that have one is an item
            with an error.
    """
    if source.is_dir():
        items = list(_of_folder(source, masks, masked=masked))
    elif source.suffix.lower() in MANIFESTS and source.is_file():
        items = list(_of_manifest(source))
    else:
        raise InputError(
            f"{str(source)!r} is neither a folder of photos nor a manifest "
            f"({', '.join(MANIFESTS)})."
        )
    if not items:
        raise InputError(f"there is nothing to edit in {str(source)!r}.")
    if all(item.error for item in items):
        raise InputError(items[0].error)
    _refuse_same_places(items)
    return items


def output_name(relative: PurePosixPath) -> str:
    """Where a photo's result goes: its own name, with ``.png`` behind where its format cannot be
    written.
    """
    from engine.picture.metadata import FORMATS

    text = relative.as_posix()
    return text if relative.suffix.lower() in FORMATS else f"{text}.png"


# --- a folder ------------------------------------------------------------------------------------


def _of_folder(folder: Path, masks: str | None, *, masked: bool) -> Iterator[Item]:
    beside = masks is None and not masked
    photos = [
        photo for photo in _pictures(folder) if not (beside and photo.stem.endswith(_MARKS[1:]))
    ]
    search = None if masked or masks is None or is_own_alpha(masks) else Path(masks)
    if search is not None and not search.is_dir():
        raise InputError(f"--masks {str(search)!r} is no folder.")
    for photo in photos:
        relative = PurePosixPath(photo.relative_to(folder).as_posix())
        files = {"image": os.fspath(photo)}
        if masks is not None and is_own_alpha(masks):
            files["mask"] = masks
        elif not masked:
            around = photo.parent if search is None else search / relative.parent
            try:
                files["mask"] = os.fspath(_mask_of(photo, around, own=search is None))
            except InputError as missing:
                yield Item(output_name(relative), files, error=str(missing))
                continue
        yield Item(output_name(relative), files, _caption(photo))


def _pictures(folder: Path) -> list[Path]:
    """All pictures in a folder and those in it, by name; hidden ones are left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in _readable():
                found.append(Path(place, name))  # noqa: PERF401 - a condition of two lines
    return found


@cache
def _readable() -> frozenset[str]:
    """Suffixes of what is read as a picture."""
    from PIL import Image

    Image.init()
    readable = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    vectors = {".eps", ".ps", ".emf", ".wmf", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib"}
    return frozenset(readable - vectors | {".heic", ".heif"})


def _mask_of(photo: Path, folder: Path, *, own: bool) -> Path:
    """A photo's mask in ``folder``; ``own``: the photo itself is there too, and is none."""
    marks = _MARKS[1:] if own else _MARKS
    found = [each for mark in marks for each in _by_stem(folder).get(f"{photo.stem}{mark}", ())]
    if len(found) > 1:  # a.jpg and a.png: the mask that has the photo's whole name is meant
        exact = [each for each in found if each.name.startswith(photo.name)]
        exact = exact or [each for each in found if each.suffix == photo.suffix]
        found = exact if len(exact) == 1 else found
    if not found:
        wanted = " or ".join(f"{photo.stem}{mark}.*" for mark in marks)
        raise InputError(f"{str(photo)!r} has no mask: there is no {wanted} in {str(folder)!r}.")
    if len(found) > 1:
        names = ", ".join(sorted(each.name for each in found))
        raise InputError(f"{str(photo)!r} has several masks in {str(folder)!r}: {names}.")
    return found[0]


@cache
def _by_stem(folder: Path) -> Mapping[str, Sequence[Path]]:
    """The pictures in one folder by their names, without suffix and without a second one
    (``a.jpg.png`` is a mask of ``a.jpg``).
    """
    listed: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in _readable() and not path.name.startswith("."):
                stem = Path(path.stem)
                name = stem.stem if stem.suffix.lower() in _readable() else path.stem
                listed.setdefault(name, []).append(path)
    return listed


def _caption(photo: Path) -> dict[str, Any]:
    """The prompt in the text file of a photo's name, if there is one."""
    text = photo.with_suffix(".txt")
    try:
        prompt = text.read_text("utf-8").strip() if text.is_file() else ""
    except UnicodeDecodeError:
        raise InputError(f"{str(text)!r} is no text in UTF-8.") from None
    return {"prompt": prompt} if prompt else {}


# --- a manifest ----------------------------------------------------------------------------------


def _of_manifest(manifest: Path) -> Iterator[Item]:
    """Rows of settings by name; ``file_name`` is ``image`` too, ``output`` says where the result
    goes. Paths are relative to the manifest.
    """
    read = _json_rows if manifest.suffix.lower() == ".jsonl" else _csv_rows
    counts: dict[str, int] = {}
    for number, row in read(manifest):
        where = f"{manifest.name}, line {number}"
        image = row.pop("image", None) or row.pop("file_name", None)
        row.pop("file_name", None)
        if not image:
            raise InputError(f"{where}: image is missing.")
        files = {"image": _beside(manifest, image)}
        for kind in FILES[1:]:
            if path := row.pop(kind, None):
                files[kind] = path if is_own_alpha(path) else _beside(manifest, path)
        files |= _region_maps(manifest, row, where)
        name = row.pop("output", None) or _free(output_name(_inside(image)), counts)
        _refuse_outside(name, where)
        _check_names(row, where)
        yield Item(str(name), files, row)


def _region_maps(manifest: Path, row: Mapping[str, Any], where: str) -> dict[str, str]:
    """The maps of a row's regions, as files: ``regions.0`` and so on."""
    regions = row.get("regions") or []
    if not isinstance(regions, list) or not all(
        isinstance(each, dict) and isinstance(each.get("map"), str) for each in regions
    ):
        raise InputError(f'{where}: regions is a list of objects, each with a "map".')
    return {
        f"{REGIONS}{number}": _beside(manifest, region["map"])
        for number, region in enumerate(regions)
    }


def _json_rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with manifest.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{manifest.name}, line {number} is no JSON: {error.msg}."
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"{manifest.name}, line {number} is no JSON object.")
            yield number, row


def _csv_rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A value is read as JSON where it is JSON, else it is text; empty cells say nothing."""
    with manifest.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            if None in row:
                raise InputError(f"{manifest.name}, line {reader.line_num} has too many cells.")
            yield (
                reader.line_num,
                {name: _value(text) for name, text in row.items() if text not in (None, "")},
            )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _beside(manifest: Path, path: object) -> str:
    return os.fspath(manifest.parent / str(path))


def _inside(image: object) -> PurePosixPath:
    """A photo's path as one inside the batch's folder: without what leads out of it."""
    parts = PurePosixPath(Path(str(image)).as_posix()).parts
    return PurePosixPath(*[part for part in parts if part not in {"/", "..", "."}])


def _free(name: str, counts: dict[str, int]) -> str:
    """``name``, or with a number where a photo is edited again."""
    counts[name] = counts.get(name, 0) + 1
    if counts[name] == 1:
        return name
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}-{counts[name]}{path.suffix}").as_posix()


def _refuse_outside(name: object, where: str) -> None:
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts or "\\" in str(name):
        raise InputError(f"{where}: output {str(name)!r} is not inside the batch's folder.")


def _check_names(row: Mapping[str, Any], where: str) -> None:
    """A column that is no setting is an option of the strategy, unless it looks misspelt."""
    from engine.request.field import fields_of
    from engine.request.fields import Fields, check_settings

    try:
        check_settings(row.keys() - fields_of(Fields).keys())
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _refuse_same_places(items: Sequence[Item]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item.name.casefold(), item)
        if other is not item:
            raise InputError(
                f"{item.files['image']!r} and {other.files['image']!r} would both be written to "
                f"{item.name!r}."
            )
