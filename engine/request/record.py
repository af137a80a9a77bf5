"""What a PNG result remembers of its edit, and how the edit is found again from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controls import Control
from engine.errors import InputError
from engine.picture.metadata import read_metadata
from engine.picture.opening import sha256

if TYPE_CHECKING:
    from engine.request.result import EditResult

KEY = "edit"
"""The entry of the file's metadata that holds the record, as JSON."""
FORMAT = 1
_REPEATED = (
    "prompt",
    "negative_prompt",
    "strategy",
    "options",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "guidance_start",
    "guidance_end",
    "strength",
    "num_images",
    "eta",
    "colour",
    "keep_grey",
    "invert",
    "feather",
    "expand",
    "guess_mode",
    "skip",
    "region",
    "context",
    "native_size",
    "zoom",
    "prefill",
    "paste",
)


@dataclass(frozen=True)
class InputFile:
    """A file that an edit was made from: where it was, and the SHA-256 of its bytes."""

    path: str
    """Relative to the folder of the result, so that a folder can be moved as a whole."""
    absolute: str
    sha256: str

    @classmethod
    def of(cls, path: Path, *, beside: Path) -> InputFile:
        """Describe ``path`` for a result that is written to ``beside``."""
        absolute = path.resolve()
        try:
            relative = os.path.relpath(absolute, beside.resolve().parent)
        except ValueError:  # another drive
            relative = str(absolute)
        return cls(Path(relative).as_posix(), str(absolute), sha256(path))

    def find(self, *, kind: str, beside: Path, given: Path | None = None) -> Path:
        """The file, unchanged: where the caller says it is, beside the result, or where it was."""
        places = [given] if given else [beside.resolve().parent / self.path, Path(self.absolute)]
        existing = [place for place in places if place.is_file()]
        for place in existing:
            if sha256(place) == self.sha256:
                return place
        if existing:
            raise InputError(
                f"{existing[0]} is not the {kind} that {beside} was made from (its contents "
                f"differ); give the {kind}'s place, or start afresh without --from."
            )
        raise InputError(
            f"the {kind} that {beside} was made from is missing: {places[-1]}; "
            "say where it is now on the command line."
        )


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
    def of(cls, control: Control, *, beside: Path) -> RecordedControl:
        """Describe ``control`` for a result that is written to ``beside``."""
        model, file = Path(control.label), control.file
        return cls(
            model=str(model.resolve()) if model.exists() else control.label,
            image=InputFile.of(file, beside=beside) if file else control.annotator,
            scale=control.scale,
            start=control.start,
            end=control.end,
            mask=InputFile.of(Path(control.mask), beside=beside) if control.mask else None,
            exact=control.exact,
        )

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> RecordedControl:
        files = {key: fields[key] for key in ("image", "mask") if isinstance(fields[key], dict)}
        return cls(**{**fields, **{key: InputFile(**each) for key, each in files.items()}})

    def find(self, *, beside: Path) -> Control:
        """The same control, its files unchanged."""
        files = {
            key: each.find(kind=f"{self.model} control's {key}", beside=beside)
            for key, each in (("image", self.image), ("mask", self.mask))
            if isinstance(each, InputFile)
        }
        return Control(**{**vars(self), **files})


@dataclass(frozen=True)
class EditRecord:
    """One edit, complete: enough to make the same pixels again."""

    version: str
    """Softpaint's version."""
    image: InputFile
    region: Mapping[str, InputFile]
    """The file under ``mask`` or ``strength_map``; empty where the canvas only grew."""
    load: Mapping[str, Any]
    """Arguments of ``InpaintEngine.from_pretrained``."""
    edit: Mapping[str, Any]
    """Arguments of ``InpaintEngine.edit``, the strategy's own under ``options``."""
    index: int
    """Which of the edit's pictures this is. Pictures of one edit share model calls, whose last
    bits depend on what else is in them: to get the same pixels all are made again."""
    settings: Mapping[str, Any]
    """Everything that was used, defaults and versions included, as the engine reports it."""
    timings: Mapping[str, float]
    controls: Sequence[RecordedControl] = ()
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        result: EditResult,
        *,
        index: int,
        image: InputFile,
        region: Mapping[str, InputFile],
        controls: Sequence[RecordedControl],
        load: Mapping[str, Any],
        scheduler: str | None,
    ) -> EditRecord:
        """The record of picture ``index`` of ``result``."""
        used = result.settings
        edit = {name: used[name] for name in _REPEATED if used.get(name) is not None}
        edit |= {"seed": result.seeds[0]} | ({"scheduler": scheduler} if scheduler else {})
        return cls(
            version=version("softpaint"),
            image=image,
            region=region,
            load=load,
            edit=edit,
            index=index,
            settings={**used, "seeds": [result.seeds[index]]},
            timings=result.timings,
            controls=controls,
        )

    def metadata(self) -> dict[str, str]:
        """The text chunks for the PNG."""
        return {KEY: json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)}

    @classmethod
    def read(cls, path: Path) -> EditRecord:
        """The record of the PNG at ``path``; ``InputError`` where there is none."""
        text = read_metadata(path).get(KEY)
        if text is None:
            raise InputError(f"{path} was not made by `softpaint edit`: it holds no edit.")
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise InputError(
                    f"{path} was written by Softpaint {fields['version']} in another format "
                    f"({fields['format']}; this version reads {FORMAT})."
                )
            fields["image"] = InputFile(**fields["image"])
            fields["region"] = {k: InputFile(**each) for k, each in fields["region"].items()}
            fields["controls"] = [RecordedControl.read(each) for each in fields["controls"]]
            return cls(**fields)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} holds damaged Softpaint settings: {error}.") from error

    def find_region(self, given: Mapping[str, Path], *, beside: Path) -> dict[str, Path]:
        """The mask or map, unchanged; ``given`` says where it is now, if it was moved."""
        if given and set(given) != set(self.region):
            kind = "".join(self.region).replace("_", " ") or "grown canvas only"
            raise InputError(f"{beside} was made with a {kind}.")
        return {
            kind: each.find(kind=kind.replace("_", " "), beside=beside, given=given.get(kind))
            for kind, each in self.region.items()
        }

    def find_controls(self, *, beside: Path) -> list[Control]:
        """The controls, their files unchanged."""
        return [each.find(beside=beside) for each in self.controls]

    def lines(self) -> list[str]:
        """The record for a person, one ``name: value`` a line."""
        shown: dict[str, Any] = {
            "softpaint": self.version,
            "image": f"{self.image.path} (sha256 {self.image.sha256[:12]})",
            **{
                kind: f"{each.path} (sha256 {each.sha256[:12]})"
                for kind, each in {**self.region, **self._control_files()}.items()
            },
            **_flat({**self.load, **self.settings}),
        }
        width = max(map(len, shown))
        lines = [f"{name:<{width}}  {_shown(value)}" for name, value in shown.items()]
        seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in self.timings.items())
        return [*lines, f"{'seconds':<{width}}  {seconds}"]

    def _control_files(self) -> dict[str, InputFile]:
        return {
            f"{control.model} {key}": each
            for control in self.controls
            for key, each in (("image", control.image), ("mask", control.mask))
            if isinstance(each, InputFile)
        }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
