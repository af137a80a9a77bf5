"""What `--from` makes of a result: the same edit again, or its settings on another picture.

Whoever made the file, nothing that it names is loaded unless the user names it too or says
`--trust`: weights can be anything, and asking a hub tells it who asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.app import note
from engine.cli.files import STREAM, Files, read_file
from engine.cli.options import LOAD, Asked
from engine.errors import InputError

if TYPE_CHECKING:
    from controls import Control, Reference
    from engine.picture.source import Source
    from engine.request.foreign import ForeignRecord
    from engine.request.record import EditRecord
    from engine.request.recorded import InputFile, RecordedControl, RecordedReference
    from engine.request.regions import Region

_HARMLESS = {"device", "dtype", "prediction_type"}
"""What a record says of loading that names nothing to load."""


@dataclass(frozen=True)
class Recipe:
    """A result's record, and where the result is."""

    record: EditRecord
    name: Path
    foreign: ForeignRecord | None = None
    """Another program's, which ``record`` was made of."""

    @classmethod
    def read(cls, path: Path, files: Files) -> Recipe:
        """The record of the result at ``path``.

        Raises:
            InputError: there is none.
        """
        from engine.request.foreign import record_of

        record, foreign = record_of(files.read("--from result", path))
        if strange := sorted(record.load.keys() - {*LOAD, "ip_adapter"}):
            raise InputError(f"{str(path)!r} holds damaged Softpaint settings: {strange[0]!r}.")
        return cls(record, path, foreign)

    def applied(self, asked: Asked, files: Files, *, trust: bool) -> tuple[Asked, int | None]:
        """The recorded edit with what is asked for in its place, and which of several pictures is
        wanted (None: all).

        A photo of other bytes than the recorded one is edited with the record's settings, and its
        mask has to be given.

        Raises:
            InputError: a file of the record is missing or changed, or the record names a model
                that is neither asked for nor trusted.
        """
        if not trust:
            self._refuse_strangers(asked)
        given = None if asked.photo is None else files.read("image", asked.photo)
        image = self.record.image
        if given is None or (image is not None and given.sha256 == image.sha256):
            return self._repeated(asked, files, given)
        return self._transferred(asked, given), None

    def _repeated(
        self, asked: Asked, files: Files, given: Source | None
    ) -> tuple[Asked, int | None]:
        record = self.record
        region = asked.region or {
            kind: self._found(each, kind.replace("_", " "), files)
            for kind, each in record.region.items()
        }
        controls = asked.controls or [[self._control(each, files)] for each in record.controls]
        changed = self._settings(asked)
        if record.regions and "regions" not in asked.settings:
            changed["settings"]["regions"] = self._regions(files)
        other = "prompt" in asked.settings and isinstance(record.edit.get("prompt"), list)
        one = (other or _chooses(asked.settings)) and "num_images" not in asked.settings
        if one:
            self._as_one(asked, changed["settings"])
        again = replace(
            asked,
            photo=given or self._photo(files),
            region=region,
            controls=controls,
            references=asked.references or self._references(files),
            **changed,
        )
        # of several, this one; they are made together, to the same bits
        alone = not one and not {"seed", "num_images"} & asked.settings.keys()
        return again, record.index if alone else None

    def _regions(self, files: Files) -> list[Region]:
        """The recorded regions, their files unchanged."""
        from controls import Reference
        from engine.request.regions import Region

        regions = []
        for number, each in enumerate(self.record.regions, start=1):
            if each.map is None:
                raise InputError(
                    f"the map of region {number} of {str(self.name)!r} was no file; give the "
                    "regions: --region-edit or --regions."
                )
            reference = each.reference
            found = None if reference is None else self._found(reference, "reference", files)
            regions.append(
                Region(
                    map=self._found(each.map, f"map of region {number}", files),
                    controls=None
                    if each.controls is None
                    else [self._control(control, files) for control in each.controls],
                    reference=None if found is None else Reference(found, each.reference_scale),
                    **each.settings,
                )
            )
        return regions

    def _photo(self, files: Files) -> Source:
        if self.record.image is None:
            raise InputError(
                f"the picture that {str(self.name)!r} was made from was no file; give PHOTO, and "
                "--mask or --strength-map."
            )
        return self._found(self.record.image, "image", files)

    def _transferred(self, asked: Asked, photo: Source) -> Asked:
        """The record's settings for another picture."""
        record = self.record
        changed = self._settings(asked)
        settings: dict[str, Any] = changed["settings"]
        if not asked.region and not {"expand", "regions"} & set(settings):
            raise InputError(
                f"{photo.path!r} is not the image that {str(self.name)!r} was made from, so only "
                "the settings are taken from there: give --mask or --strength-map for this one (or "
                "no PHOTO, to repeat the edit)."
            )
        if "num_images" not in asked.settings:
            self._as_one(asked, settings)
        elif "seed" not in asked.settings and "seed" in settings:
            settings["seed"] += record.index
        left = ["its image", *(f"its {kind.replace('_', ' ')}" for kind in record.region)]
        left += [f"region {number}" for number in range(1, len(record.regions) + 1)]
        if self.foreign is not None:
            left = list(self.foreign.left)
        if record.region and "invert" not in asked.settings and settings.pop("invert", False):
            left.append("--invert")
        controls = asked.controls
        if not controls:
            fit = [each for each in record.controls if not _has_files(each)]
            controls = [[self._control(each, Files())] for each in fit]
            left += [
                f"control {each.model} (its files)" for each in record.controls if each not in fit
            ]
        note(
            f"settings of {self.name} on {photo.path}; not taken over: "
            f"{', '.join(left) or 'nothing'}",
            quiet=asked.quiet,
        )
        references = asked.references
        if not references and any(each.masked for few in record.references for each in few):
            raise InputError(
                f"the references of {str(self.name)!r} have masks of its own picture's size; give "
                "--ip-adapter and --ip-adapter-mask for this one."
            )
        references = references or self._references(Files())
        return replace(asked, photo=photo, controls=controls, references=references, **changed)

    def _as_one(self, asked: Asked, settings: dict[str, Any]) -> None:
        """Ask for one picture, which begins as the one at hand was drawn, with its prompt."""
        each = settings.pop("num_images", 1)
        for name in {"prompt", "negative_prompt"} - asked.settings.keys():
            if isinstance(settings.get(name), list):
                settings[name] = settings[name][self.record.index // each]
        if "seed" not in asked.settings and "seed" in settings:
            settings["seed"] += self.record.index

    def _settings(self, asked: Asked) -> dict[str, Any]:
        """Recorded settings, the strategy's options and the model, overridden by what is given."""
        edit = dict(self.record.edit)
        options = edit.pop("options", {})
        if asked.settings.get("strategy", edit.get("strategy")) != edit.get("strategy"):
            options = {}
        return {
            "settings": {**edit, **asked.settings},
            "options": {**options, **asked.options},
            "load": {**self.record.load, **asked.load},
        }

    def _refuse_strangers(self, asked: Asked) -> None:
        if strangers := list(self._strangers(asked)):
            raise InputError(
                f"{str(self.name)!r} names what would be loaded: {', '.join(strangers)}. If you "
                "trust it, add --trust, or give these options yourself."
            )

    def _strangers(self, asked: Asked) -> Iterator[str]:
        """What the record alone asks to load, as options."""
        from controls import list_controls
        from engine.models.checkpoints import CHECKPOINTS

        for name, place in self.record.load.items():
            named = name in asked.load or name in _HARMLESS
            for each in place if isinstance(place, list) else [place]:
                if not named and each is not None and each not in CHECKPOINTS:
                    yield f"--{name.replace('_', '-')} {each}"
        if not asked.controls:
            for control in self.record.controls:
                if control.model not in list_controls():
                    yield f"--control {control.model}"
        for region in () if "regions" in asked.settings else self.record.regions:
            for control in region.controls or ():
                if control.model not in list_controls():
                    yield f"a region's control {control.model}"
        prefill = str(self.record.edit.get("prefill", ""))
        if ":" in prefill and "prefill" not in asked.settings:
            yield f"--prefill {prefill}"

    def _control(self, recorded: RecordedControl, files: Files) -> Control:
        """The same control, its files unchanged."""
        from controls import Control
        from engine.request.recorded import InputFile

        found = {
            key: self._found(each, f"{recorded.model} control's {key}", files)
            for key, each in (("image", recorded.image), ("mask", recorded.mask))
            if isinstance(each, InputFile)
        }
        control = Control(**{**vars(recorded), **found})
        if control.file is not None and "image" not in found:
            raise InputError(
                f"{str(self.name)!r} holds damaged Softpaint settings: {recorded.image!r}."
            )
        return control

    def _references(self, files: Files) -> list[list[Reference]]:
        """The same pictures for the same adapters, their files unchanged."""
        return [
            [self._reference(each, files) for each in several] for several in self.record.references
        ]

    def _reference(self, recorded: RecordedReference, files: Files) -> Reference:
        from controls import Reference

        if recorded.image is None or (recorded.masked and recorded.mask is None):
            raise InputError(
                f"a reference that {str(self.name)!r} was made with was no file; give --ip-adapter."
            )
        mask = recorded.mask
        return Reference(
            self._found(recorded.image, "reference picture", files),
            recorded.scale,
            mask=None if mask is None else self._found(mask, "reference's mask", files),
        )

    def _found(self, recorded: InputFile, kind: str, files: Files) -> Source:
        """A recorded file, unchanged: beside the result, or where it was."""
        from engine.picture.source import Source, is_own_alpha

        if is_own_alpha(recorded.absolute):
            return Source(recorded.absolute, b"")
        where = self.name if self.name != STREAM else Path.cwd() / "-"
        places = recorded.places(beside=where)
        existing = [place for place in places if _is_file(place)]
        for place in existing:
            source = read_file(kind, place)
            if source.sha256 == recorded.sha256:
                files.uses(kind, place)
                return source
        if existing:
            raise InputError(
                f"{existing[0]} is not the {kind} that {self.name} was made from (its contents "
                f"differ); give the {kind} on the command line, or start afresh without --from."
            )
        raise InputError(
            f"the {kind} that {self.name} was made from is missing: "
            f"{places[-1] if places else 'it came through standard input'}; say where it is now on "
            "the command line."
        )


def _chooses(settings: Mapping[str, Any]) -> bool:
    """Whether several starts are asked for, of which the best are kept."""
    strategy = str(settings.get("strategy", ""))
    return settings.get("candidates", 1) > 1 or strategy == "auto" or "," in strategy


def _has_files(control: RecordedControl) -> bool:
    from engine.request.recorded import InputFile

    return isinstance(control.image, InputFile) or control.mask is not None


def _is_file(place: Path) -> bool:
    """Whether a regular file is there. A share of another machine is not even looked for: a record
    must not make this one sign in there.
    """
    if os.fspath(place).startswith(("\\\\", "//")):
        return False
    try:
        return place.is_file()
    except (OSError, ValueError):  # no name of a file at all
        return False
