"""What a record keeps of the files that an edit was made from, and of what it was steered by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.picture.source import STANDARD_INPUT, Source, is_address, is_own_alpha

if TYPE_CHECKING:
    from controls import Control
    from engine.request.regions import Region


@dataclass(frozen=True)
class InputFile:
    """A file that an edit was made from: where it was, and the SHA-256 of its bytes."""

    path: str
    """Relative to the folder of the result, so that a folder can be moved as a whole."""
    absolute: str
    sha256: str

    @classmethod
    def of(cls, source: Source, *, beside: Path) -> InputFile:
        """Describe what was read for a result that is written to ``beside``."""
        if source.is_stream or is_own_alpha(source) or source.is_address:
            return cls(source.path, source.path, source.sha256)
        absolute = os.path.realpath(source)
        try:
            relative = os.path.relpath(absolute, Path(os.path.realpath(beside)).parent)
        except ValueError:  # another drive
            relative = absolute
        return cls(Path(relative).as_posix(), absolute, source.sha256)

    def places(self, *, beside: Path) -> list[Path]:
        """Where it may be: beside the result, or where it was."""
        if self.absolute == STANDARD_INPUT or is_address(self.absolute):
            return []
        return [Path(os.path.realpath(beside)).parent / self.path, Path(self.absolute)]


def file_of(value: Any, *, beside: Path) -> InputFile | None:
    """Describe a picture that was given as a file for a result that is written to ``beside``; None
    for one that was not.

    Raises:
        InputError: the file is gone.
    """
    if not isinstance(value, str | os.PathLike):
        return None
    try:
        source = value if isinstance(value, Source) else Source.read(value)
    except OSError as error:
        raise InputError(f"{os.fspath(value)!r}, an input of this edit, is gone.") from error
    return InputFile.of(source, beside=beside)


@dataclass(frozen=True)
class RecordedControl:
    """A control of an edit, by its files."""

    model: str
    image: InputFile | str | None
    """A file, or the annotator that made it of the picture."""
    scale: float
    start: float
    end: float
    mask: InputFile | None
    exact: bool

    @classmethod
    def of(cls, control: Control | str, *, beside: Path) -> RecordedControl:
        """Describe a control, or the one of that name, for a result written to ``beside``."""
        if isinstance(control, str):
            return cls(control, None, 1.0, 0.0, 1.0, None, exact=True)
        model = Path(control.label)
        image = file_of(control.file, beside=beside) or control.annotator
        return cls(
            model=os.path.realpath(model) if model.exists() else control.label,
            image="given" if image is None or callable(image) else image,
            scale=control.scale,
            start=control.start,
            end=control.end,
            mask=file_of(control.mask, beside=beside),
            exact=control.exact,
        )


@dataclass(frozen=True)
class RecordedReference:
    """A picture that an IP-Adapter read, by its files."""

    image: InputFile | None
    """None where it was no file."""
    scale: float
    mask: InputFile | None
    masked: bool
    """It had a mask, be it a file or not."""

    @classmethod
    def of(cls, given: Any, *, beside: Path) -> RecordedReference:
        """Describe a :class:`~controls.reference.Reference`, or a picture that stands for one, for
        a result written to ``beside``.
        """
        if not hasattr(given, "embeds"):
            return cls(file_of(given, beside=beside), 1.0, None, masked=False)
        return cls(
            image=file_of(given.image, beside=beside),
            scale=float(given.scale),
            mask=file_of(given.mask, beside=beside),
            masked=given.mask is not None,
        )


@dataclass(frozen=True)
class RecordedRegion:
    """A region of an edit, by its files."""

    map: InputFile | None
    """None where it was no file."""
    settings: Mapping[str, Any]
    """Its own, of :data:`engine.request.regions.SETTINGS`."""
    controls: Sequence[RecordedControl] | None
    """None where they were the edit's."""
    reference: InputFile | None
    reference_scale: float

    @classmethod
    def of(cls, region: Region, *, beside: Path) -> RecordedRegion:
        """Describe a region for a result written to ``beside``."""
        told = region.describe()
        controls, reference = region.controls, region.reference
        several = controls if isinstance(controls, list | tuple) else [controls]
        picture = getattr(reference, "image", reference)
        return cls(
            map=file_of(region.map, beside=beside),
            settings=told,
            controls=None
            if controls is None
            else [RecordedControl.of(each, beside=beside) for each in several],
            reference=file_of(picture, beside=beside),
            reference_scale=float(getattr(reference, "scale", 1.0)),
        )
