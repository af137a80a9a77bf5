"""Everything that a batch is to edit, listed anew as often as it is asked for: millions of items
are never in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.batch.drive import drive_at, split
from engine.batch.items import Item, Places
from engine.batch.manifest import MANIFESTS, items_of_manifest
from engine.batch.photos import items_of_photos
from engine.errors import InputError
from engine.picture.source import is_address


@dataclass(frozen=True)
class Items:
    """What :func:`items_of` gives. Whoever has come to the end knows that they can be done:

    Raises:
        InputError: a row is wrong, no photo has a mask, or two items would be written to one place.
            A photo without a mask beside others that have one is an item with an error.
    """

    source: str
    masks: str | None
    masked: bool

    def __iter__(self) -> Iterator[Item]:
        places, wrong = Places(), ""
        able = False
        for item in self._listed():
            places.add(item)
            able = able or not item.error
            wrong = wrong or item.error
            yield item
        if not places:
            raise InputError(f"there is nothing to edit in {self.source!r}.")
        if not able:
            raise InputError(wrong)
        places.check(self._listed())

    def _listed(self) -> Iterator[Item]:
        if _is_manifest(self.source):
            return items_of_manifest(self.source)
        return items_of_photos(self.source, self.masks, masked=self.masked)


def items_of(source: str | Path, *, masks: str | Path | None = None, masked: bool = False) -> Items:
    """The items of a folder of photos, or of a manifest, in the order of their names or rows.

    Args:
        source: a folder, which is searched with all folders in it, or a manifest of
            :data:`engine.batch.manifest.MANIFESTS`; a path, or an address that fsspec reaches.
        masks: a folder in which each photo's mask has the photo's name (or that with ``_mask``),
            whatever its suffix; ``"alpha"`` for the photos' own transparency; None: masks named
            ``photo_mask`` stand beside the photos.
        masked: the batch has one mask, map or canvas for all, so that photos need none.

    Raises:
        InputError: nothing is there.
    """
    place = str(source)
    if not _is_manifest(place) and not (is_address(place) or Path(place).is_dir()):
        raise InputError(
            f"{place!r} is neither a folder of photos nor a manifest ({', '.join(MANIFESTS)})."
        )
    return Items(place, None if masks is None else str(masks), masked)


def _is_manifest(place: str) -> bool:
    folder, name = split(place)
    if PurePosixPath(name).suffix.lower() not in MANIFESTS:
        return False
    return drive_at(folder).exists(name) if is_address(place) else Path(place).is_file()
