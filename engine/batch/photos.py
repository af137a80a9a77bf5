"""The items of a folder of photos, each with its mask and its caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from engine.batch.drive import Drive, drive_at, read_file
from engine.batch.items import Item, output_name
from engine.errors import InputError
from engine.picture.source import is_own_alpha

_MARKS: Final = ("", "_mask", "-mask")
"""What the name of a photo's mask ends in, after the photo's own."""


def items_of_photos(folder: str, masks: str | None, *, masked: bool) -> Iterator[Item]:
    """An item for each picture in ``folder`` and the folders in it, in the order of their names.

    Args:
        folder: a path or an address.
        masks: see :func:`engine.batch.listing.items_of`.
        masked: no photo needs a mask of its own.

    Raises:
        InputError: there is no such folder of masks, or a caption is no text.
    """
    photos = drive_at(folder)
    own = masks is None
    search = None if masked or masks is None or is_own_alpha(masks) else drive_at(masks)
    if search is not None and search.is_empty():
        raise InputError(f"--masks {masks!r} is no folder with masks.")
    for inside, names in photos.walk():
        above = f"{inside}/" if inside else ""
        around = _Masks(photos if search is None else search, inside, own=own)
        captions = {name for name in names if name.endswith(".txt")}
        for name in names:
            stem, suffix = _split(name)
            if suffix not in _readable() or (own and not masked and stem.endswith(_MARKS[1:])):
                continue
            files = {"image": photos.path(above + name)}
            if masks is not None and is_own_alpha(masks):
                files["mask"] = masks
            elif not masked:
                try:
                    files["mask"] = around.of(name, stem, suffix)
                except InputError as missing:
                    yield Item(output_name(above + name), files, error=str(missing))
                    continue
            settings = _caption(photos, above, stem) if f"{stem}.txt" in captions else {}
            yield Item(output_name(above + name), files, settings)


class _Masks:
    """The masks of one folder's photos.

    Args:
        drive: where they are.
        folder: in it.
        own: the photos themselves are there too, and are none.
    """

    def __init__(self, drive: Drive, folder: str, *, own: bool) -> None:
        self.drive, self.folder = drive, folder
        self._above = f"{folder}/" if folder else ""
        self._marks = _MARKS[1:] if own else _MARKS
        self._listed: Mapping[str, Sequence[str]] | None = None

    def of(self, photo: str, stem: str, suffix: str) -> str:
        """Where the mask of a photo of that name is; ``stem`` and ``suffix``: as it is split.

        Raises:
            InputError: there is none, or several.
        """
        if self._listed is None:
            self._listed = _by_stem(self.drive.names(self.folder))
        found = [name for mark in self._marks for name in self._listed.get(f"{stem}{mark}", ())]
        if len(found) > 1:  # a.jpg and a.png: the mask that has the photo's whole name is meant
            exact = [name for name in found if name.startswith(photo)]
            exact = exact or [name for name in found if _split(name)[1] == suffix]
            found = exact if len(exact) == 1 else found
        where = repr(self.drive.path(self.folder) if self.folder else self.drive.place)
        if not found:
            wanted = " or ".join(f"{stem}{mark}.*" for mark in self._marks)
            raise InputError(f"{photo!r} has no mask: there is no {wanted} in {where}.")
        if len(found) > 1:
            raise InputError(f"{photo!r} has several masks in {where}: {', '.join(sorted(found))}.")
        return self.drive.path(self._above + found[0])


def _by_stem(names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Pictures by their names, without suffix and without a second one (``a.jpg.png`` is a mask of
    ``a.jpg``).
    """
    listed: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = _split(name)
        if suffix in _readable() and not name.startswith("."):
            first, second = _split(stem) if "." in stem else (stem, "")
            listed.setdefault(first if second in _readable() else stem, []).append(name)
    return listed


def _split(name: str) -> tuple[str, str]:
    """A file's name without its suffix, and that in small letters."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot and stem else (name, "")


@cache
def _readable() -> frozenset[str]:
    """Suffixes of what is read as a picture."""
    from PIL import Image

    Image.init()
    readable = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    vectors = {".eps", ".ps", ".emf", ".wmf", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib"}
    return frozenset(readable - vectors | {".heic", ".heif"})


def _caption(photos: Drive, above: str, stem: str) -> dict[str, Any]:
    """The prompt in the text file of a photo's name."""
    path = photos.path(f"{above}{stem}.txt")
    try:
        prompt = read_file(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError(f"{path!r} is no text in UTF-8.") from None
    return {"prompt": prompt} if prompt else {}
