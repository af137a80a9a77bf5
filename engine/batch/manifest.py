"""The items of a manifest: a file with a row for each edit."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from io import TextIOWrapper
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from engine.batch.drive import drive_at, split
from engine.batch.items import INSIDE, Item, output_name, split_files
from engine.batch.known import Tally
from engine.errors import InputError
from engine.picture.metadata import FORMATS

_Rows = Generator[tuple[int, dict[str, Any]], None, None]
_PROMPTS: Final = ("prompt", "negative_prompt", "text", "caption")
_CAPTIONS: Final = ("text", "caption")
"""Columns that are prompts where there is none of that name, as data sets call them."""
_BATCH: Final = 1024
"""Rows of a Parquet file in memory at a time."""


def items_of_manifest(path: str) -> Iterator[Item]:
    """An item for each row of a file of :data:`MANIFESTS`; one for each of a row's prompts.

    Columns are settings by name. ``file_name`` is ``image`` too, ``text`` and ``caption`` are
    ``prompt``, and ``output`` says where the result goes. Paths are relative to the manifest.

    Raises:
        InputError: a row that is wrong, by its number.
    """
    folder, name = split(path)
    counts = Tally()
    read = MANIFESTS[PurePosixPath(name).suffix.lower()]
    with drive_at(folder).open(name) as file, closing(read(file, name)) as rows:
        for number, row in rows:
            where = f"{name}, line {number}"
            for edit in _edits(row, where):
                try:
                    yield _item(edit, folder, counts)
                except InputError as error:
                    raise InputError(f"{where}: {error}") from None


def _item(row: dict[str, Any], folder: str, counts: Tally) -> Item:
    image = row.pop("image", None) or row.pop("file_name", None)
    row.pop("file_name", None)
    if isinstance(image, Mapping):  # a data set's own pictures
        raise InputError("image holds a picture; a manifest says where pictures are.")
    if not image:
        raise InputError("image is missing.")
    for caption in _CAPTIONS:
        if (text := row.pop(caption, None)) is not None:
            row.setdefault("prompt", text)
    output = row.pop("output", None)
    name = str(output) if output else _free(output_name(_inside(str(image))), counts)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise InputError(f"output {name!r} is not inside the batch's folder.")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"output {name!r} has none of the suffixes {', '.join(FORMATS)}.")
    _check_names(row)
    settings, files = split_files({"image": str(image), **row}, folder)
    return Item(name, files, settings)


def _edits(row: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """A row for each of its prompts, with the seeds that an edit of them all would use."""
    prompts = row.get("prompt")
    if not isinstance(prompts, list):
        yield row
        return
    if not prompts:
        raise InputError(f"{where}: prompt is an empty list.")
    negative = row.get("negative_prompt")
    if isinstance(negative, list) and len(negative) != len(prompts):
        raise InputError(f"{where}: {len(negative)} negative prompts for {len(prompts)} prompts.")
    seed = row.get("seed")
    for index, prompt in enumerate(prompts):
        own = {**row, "prompt": prompt}
        if isinstance(negative, list):
            own["negative_prompt"] = negative[index]
        if isinstance(seed, int) and seed >= 0:
            own["seed"] = seed + index * row.get("num_images", 1)
        if row.get("output"):
            path = PurePosixPath(str(row["output"]))
            own["output"] = path.with_name(f"{path.stem}-{index + 1}{path.suffix}").as_posix()
        yield own


def _json_rows(file: IO[bytes], name: str) -> _Rows:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{name}, line {number} is no JSON: {error}.") from None
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number} is no JSON object.")
        yield number, row


def _csv_rows(file: IO[bytes], name: str) -> _Rows:
    """Cells with commas, semicolons or tabs between, as the first line has most of; empty ones say
    nothing.
    """
    with TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        try:
            head = lines.readline()
            between = max(",;\t", key=head.count)
            reader = csv.DictReader(chain([head], lines), delimiter=between, skipinitialspace=True)
            reader.fieldnames = [each.strip() for each in reader.fieldnames or ()]
            for row in reader:
                if None in row:
                    raise InputError(f"{name}, line {reader.line_num} has too many cells.")
                told = {
                    key: _cell(key, text) for key, text in row.items() if text not in (None, "")
                }
                yield reader.line_num, told
        except UnicodeDecodeError:
            raise InputError(
                f"{name} is no text in UTF-8 (spreadsheets call it CSV UTF-8)."
            ) from None


def _cell(key: str, text: str) -> Any:
    """What a cell says: words as they stand or in JSON's quotes, several prompts as a JSON list."""
    from engine.request.texts import value_of

    if text.startswith(('"', "[")) and isinstance(value := _value(text), str | list):
        return value
    return text if key in _PROMPTS else value_of(key, text)


def _parquet_rows(file: IO[bytes], name: str) -> _Rows:
    """A null says nothing; controls, regions and options may be columns of lists and structs, or
    JSON in texts.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow: pip install 'softpaint[parquet]' or any pyarrow."
        ) from None
    try:
        table = parquet.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{name} is no Parquet file: {error}.") from None
    number = 0
    for batch in table.iter_batches(_BATCH):
        for row in batch.to_pylist():
            number += 1
            told = {key: value for key, value in row.items() if value is not None}
            for key in (*INSIDE, "options", "expand"):
                if isinstance(told.get(key), str):
                    told[key] = _value(told[key])
            yield number, told


MANIFESTS: Final[Mapping[str, Callable[[IO[bytes], str], _Rows]]] = {
    ".jsonl": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""What reads the files that list edits, by their suffixes: rows with their numbers, from 1."""


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _inside(image: str) -> str:
    """A photo's path as one inside the batch's folder: without what leads out of it."""
    _, address, inside = image.rpartition("://")
    parts = PurePosixPath(inside if address else Path(image).as_posix()).parts
    return "/".join(part for part in parts if part not in {"/", "..", "."} and ":" not in part)


def _free(name: str, counts: Tally) -> str:
    """``name``, or with a number where a photo is edited again."""
    count = counts.add(name)
    if count == 1:
        return name
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}-{count}{path.suffix}").as_posix()


def _check_names(row: Mapping[str, Any]) -> None:
    """A column that is no setting is an option of a strategy, unless it looks misspelt."""
    from engine.request.elsewhere import check_settings
    from engine.request.field import Group, fields_of
    from engine.request.fields import Fields
    from strategies import list_strategies, options_of

    known = fields_of(Fields)
    for name in row.keys() & known.keys():
        if known[name].group is Group.OUTPUT and known[name].recorded is None:
            raise InputError(f"{name} is a setting of Python's callers, not of a manifest.")
    check_settings(row.keys() - known.keys(), options_of(*list_strategies()))
