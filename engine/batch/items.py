"""What a batch is made of: an item for each edit."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Final

from engine.batch.drive import joined
from engine.errors import InputError
from engine.picture.source import is_own_alpha
from engine.request.field import fields_of
from engine.request.fields import Fields


@dataclass(frozen=True)
class Item:
    """One edit of a batch."""

    name: str
    """Where its result goes, relative to the batch's folder, with ``/`` between folders."""
    files: Mapping[str, str]
    """Where its files are: paths or addresses by their settings' names; those of a control or a
    region by its place, as in ``controls.0.image``.
    """
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it has of its own beside the batch's; JSON-able."""
    error: str = ""
    """Why it cannot be edited, where that is known already."""

    @property
    def own(self) -> str:
        """Its own settings as they are compared and kept."""
        if not self.settings:  # most items of a folder, by the hundred thousand
            return "{}"
        return json.dumps(self.settings, sort_keys=True, ensure_ascii=False, default=str)

    def line(self) -> str:
        """It, as a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, default=str) + "\n"

    @classmethod
    def of(cls, line: str | bytes) -> Item:
        """The item of such a line."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Inside:
    """A setting that is a list of objects with files of their own."""

    files: tuple[str, ...]
    """Which of an object's values are files."""
    read: Callable[[Any], dict[str, Any]]
    """An object's arguments, of whatever a manifest says of it; raises ``InputError``."""
    make: Callable[[Mapping[str, Any]], Any]
    """The object itself, when its files are read."""
    is_file: Callable[[str, Any], bool] = lambda _, value: isinstance(value, str)
    """Whether that value of it is one."""


def _control_arguments(told: Any) -> dict[str, Any]:
    from controls import Control

    if isinstance(told, str):
        parsed = Control.parse(told)
        if len(parsed) > 1:
            raise InputError(f"the control {told!r} has several scales; give each its own row.")
        told = {
            name: value
            for name in ("model", "image", "scale", "start", "end")
            if (value := getattr(parsed[0], name)) is not None
        }
    if not isinstance(told, Mapping):
        raise InputError(f"a control is a text or an object, not {told!r}.")
    known = {"name": "model", "annotator": "image"}
    own = {
        known.get(str(name), str(name)): value for name, value in told.items() if value is not None
    }
    allowed = {each.name for each in fields(Control)}
    if unknown := own.keys() - allowed:
        raise InputError(f"a control takes {', '.join(sorted(allowed))}; not {min(unknown)!r}.")
    Control(**own)
    return own


def plain_control(control: Any) -> dict[str, Any]:
    """A control's arguments, JSON-able: paths and numbers."""
    told = {each.name: getattr(control, each.name) for each in fields(control)}
    return {
        name: os.path.realpath(value) if isinstance(value, os.PathLike) else value
        for name, value in told.items()
        if value is not None
    }


def _control(arguments: Mapping[str, Any]) -> Any:
    from controls import Control

    return Control(**arguments)


def _is_control_file(part: str, value: Any) -> bool:
    from controls.annotators import list_annotators
    from controls.control import HOLES

    named = part == "image" and value in (*list_annotators(), *HOLES)
    return isinstance(value, str) and not named


def _region_arguments(told: Any) -> dict[str, Any]:
    from engine.request.regions import read_regions

    own = {k: v for k, v in told.items() if v is not None} if isinstance(told, Mapping) else told
    read_regions([own])
    return dict(own)


INSIDE: Final[Mapping[str, Inside]] = {
    "controls": Inside(("image", "mask"), _control_arguments, _control, _is_control_file),
    "regions": Inside(("map", "reference"), _region_arguments, dict),
}
"""Settings that are lists of objects with files."""


@cache
def file_settings() -> tuple[str, ...]:
    """The settings that are pictures, ``image`` first."""
    return tuple(
        name
        for name, known in fields_of(Fields).items()
        if (known.json is not None and "contentMediaType" in known.json.schema)
        or name == "ip_adapter_image"
    )


def split_files(settings: Mapping[str, Any], folder: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings without their files, and those: where they are, by their settings' names.

    Args:
        settings: as a manifest's row or a command line has them. Controls are texts as for
            :meth:`controls.Control.parse`, or objects with a control's arguments.
        folder: what paths are relative to.

    Raises:
        InputError: a control or a region that is none.
    """
    own, files = dict(settings), dict[str, str]()
    for name in file_settings():
        if (path := own.pop(name, None)) is not None:
            if not isinstance(path, str):
                raise InputError(f"{name} must be a path or an address, not {type(path).__name__}.")
            files[name] = path if is_own_alpha(path) else joined(folder, path)
    for name, kind in INSIDE.items():
        if own.get(name) is None:
            continue
        entries = [kind.read(each) for each in as_list(own[name])]
        for number, entry in enumerate(entries):
            for part in kind.files:
                if kind.is_file(part, entry.get(part)):
                    files[f"{name}.{number}.{part}"] = joined(folder, entry.pop(part))
        own[name] = entries
    return own, files


def with_files(settings: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an edit: settings with files, or what was read of them, in their places."""
    put: dict[str, Any] = {
        name: [dict(entry) for entry in value] if name in INSIDE and value else value
        for name, value in settings.items()
    }
    for key, value in files.items():
        name, *inside = key.split(".")
        if inside:
            put[name][int(inside[0])][inside[1]] = value
        else:
            put[name] = value
    for name, kind in INSIDE.items():
        if put.get(name):
            put[name] = [kind.make(entry) for entry in put[name]]
    return put


def as_list(value: Any) -> list[Any]:
    """Several, or the one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def output_name(relative: str) -> str:
    """Where a photo's result goes: its own name, with ``.png`` behind where its format cannot be
    written.
    """
    from engine.picture.metadata import FORMATS

    stem, dot, suffix = relative.rpartition("/")[2].rpartition(".")
    known = bool(dot and stem) and f".{suffix.lower()}" in FORMATS
    return relative if known else f"{relative}.png"


# --- all of them ---------------------------------------------------------------------------------


def key_of(name: str) -> int:
    """A number for an item's name, 64 bits: what is kept of millions."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Places:
    """Where results go: no two to one place, whatever the case of its letters (a disk may not tell
    them apart). Eight bytes an item.
    """

    def __init__(self) -> None:
        self._keys = array("Q")

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, item: Item) -> None:
        """Take an item in."""
        self._keys.append(key_of(item.name.casefold()))

    def check(self, items: Iterable[Item]) -> None:
        """Look at all that were taken in.

        Args:
            items: the same again, for their names.

        Raises:
            InputError: two of them would be written to one place.
        """
        import numpy as np

        keys = np.sort(np.frombuffer(self._keys, np.uint64)) if self._keys else np.zeros(0)
        twice = {int(key) for key in keys[1:][keys[1:] == keys[:-1]]}
        if not twice:
            return
        seen: dict[str, Item] = {}
        for item in items:
            place = item.name.casefold()
            if key_of(place) not in twice:
                continue
            other = seen.setdefault(place, item)
            if other is not item:
                raise InputError(
                    f"{item.files['image']!r} and {other.files['image']!r} would both be written "
                    f"to {item.name!r}."
                )
