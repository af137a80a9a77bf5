"""What a PNG result remembers of its edit, and how the edit is found again from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from engine.errors import InputError
from engine.picture.metadata import read_metadata
from engine.request.field import fields_of
from engine.request.fields import Fields
from engine.request.recorded import (
    InputFile,
    RecordedControl,
    RecordedReference,
    RecordedRegion,
    file_of,
)
from engine.request.regions import SETTINGS

if TYPE_CHECKING:
    from engine.request.result import EditResult

KEY = "edit"
"""The entry of the file's metadata that holds the record, as JSON."""
FORMAT = 1


def repeated() -> list[str]:
    """The settings that a record holds for a repetition of its edit."""
    return [name for name, field in fields_of(Fields).items() if field.recorded is not None]


@dataclass(frozen=True)
class EditRecord:
    """One edit, complete: enough to make the same pixels again."""

    version: str
    """Softpaint's version."""
    image: InputFile | None
    """None where the picture was no file."""
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
    references: Sequence[Sequence[RecordedReference]] = ()
    """For each IP-Adapter."""
    regions: Sequence[RecordedRegion] = ()
    format: int = FORMAT

    @classmethod
    def of(cls, result: EditResult, *, index: int, beside: Path) -> EditRecord:
        """The record of picture ``index`` of ``result``, for the file ``beside``.

        Raises:
            InputError: the result does not know its request, or a file of it is gone.
        """
        if result.parts:
            return cls.of(result.parts[index], index=0, beside=beside)
        request, used = result.request, result.settings
        if request is None:
            raise InputError("this result does not know its request, so it has no record.")
        scheduler = request.scheduler if isinstance(request.scheduler, str) else None
        known = {**used, "seed": result.seeds[0], "scheduler": scheduler}
        if request.prompt_embeds is not None:
            known["prompt"] = None  # whoever repeats it has to say what is to be seen
        own = index
        if any(seed != (result.seeds[0] or 0) + i for i, seed in enumerate(result.seeds)):
            # Seeds that a generator drew: the picture is repeated by its own.
            count = len(result.seeds)
            texts = {
                name: used[name][index * len(used[name]) // count]
                for name in ("prompt", "negative_prompt")
                if isinstance(used[name], list)
            }
            known |= {"seed": result.seeds[index], "num_images": 1, **texts}
            own = 0
        region = ("mask", "strength_map")
        return cls(
            version=version("softpaint"),
            image=file_of(request.image, beside=beside),
            region={
                name: file
                for name in region
                if (file := file_of(getattr(request, name), beside=beside)) is not None
            },
            load=result.load,
            edit={name: known[name] for name in repeated() if known.get(name) is not None},
            index=own,
            settings={**used, "seeds": [result.seeds[index]]},
            timings=result.timings,
            controls=[
                RecordedControl.of(each, beside=beside) for each in _several(request.controls)
            ],
            references=[
                [RecordedReference.of(each, beside=beside) for each in _several(of_one)]
                for of_one in _several(request.ip_adapter_image)
            ],
            regions=[RecordedRegion.of(each, beside=beside) for each in request.regions or ()],
        )

    def metadata(self) -> dict[str, str]:
        """The text chunks for the PNG."""
        return {KEY: json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)}

    @classmethod
    def read(cls, source: str | os.PathLike[str]) -> EditRecord:
        """Read the record of a result. Whoever wrote the file, every field is of its kind after.

        Raises:
            InputError: there is none, or it is damaged or of another version's format.
        """
        name = os.fspath(source)
        text = read_metadata(source).get(KEY)
        if text is None:
            raise InputError(f"{name!r} was not made by `softpaint edit`: it holds no edit.")
        return read_record(text, name)

    def lines(self) -> list[str]:
        """The record for a person, one ``name: value`` a line."""
        shown: dict[str, Any] = {
            "softpaint": self.version,
            "image": "no file"
            if self.image is None
            else f"{self.image.path} (sha256 {self.image.sha256[:12]})",
            **{
                kind: f"{each.path} (sha256 {each.sha256[:12]})"
                for kind, each in {
                    **self.region,
                    **self._control_files(),
                    **self._reference_files(),
                    **self._region_files(),
                }.items()
            },
            **_flat({**self.load, **self.settings}),
        }
        width = max(map(len, shown))
        lines = [f"{name:<{width}}  {_shown(value)}" for name, value in shown.items()]
        seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in self.timings.items())
        return [*lines, f"{'seconds':<{width}}  {seconds}"]

    def _region_files(self) -> dict[str, InputFile]:
        return {
            f"region {number} map": each.map
            for number, each in enumerate(self.regions, start=1)
            if each.map is not None
        }

    def _control_files(self) -> dict[str, InputFile]:
        return {
            f"{control.model} {key}": each
            for control in self.controls
            for key, each in (("image", control.image), ("mask", control.mask))
            if isinstance(each, InputFile)
        }

    def _reference_files(self) -> dict[str, InputFile]:
        every = [each for several in self.references for each in several]
        return {
            f"reference {number} {key}": file
            for number, each in enumerate(every, 1)
            for key, file in (("image", each.image), ("mask", each.mask))
            if file is not None
        }


def _several(given: Any) -> Sequence[Any]:
    """What is given as a list, one or nothing."""
    if given is None or given == "":
        return ()
    return given if isinstance(given, list | tuple) else (given,)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: Any) -> str:
    """One line, whatever the text holds."""
    if isinstance(value, str) and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def read_record(text: str, name: str) -> EditRecord:
    """The record that a file ``name`` holds as ``text``.

    Raises:
        InputError: it is damaged or of another version's format.
    """
    try:
        fields = _table(json.loads(text))
        if fields.get("format") != FORMAT:
            version, form = _text(fields.get("version")), fields.get("format")
            raise InputError(
                f"{name!r} was written by Softpaint {version} in another format ({form!r}; this "
                f"version reads {FORMAT})."
            )
        region = {kind: _file(each) for kind, each in _table(fields["region"]).items()}
        controls = [_control(each) for each in _list(fields["controls"])]
        references = [
            [_reference(each) for each in _list(of_one)]
            for of_one in _list(fields.get("references", []))
        ]
        record = EditRecord(
            **{
                **fields,
                "version": _text(fields["version"]),
                "image": None if fields["image"] is None else _file(fields["image"]),
                "region": region,
                "load": {name: _loaded(each) for name, each in _table(fields["load"]).items()},
                "edit": _edit(_table(fields["edit"])),
                "settings": _table(fields["settings"]),
                "timings": {k: float(_number(v)) for k, v in _table(fields["timings"]).items()},
                "controls": controls,
                "references": references,
                "regions": [_region(each) for each in _list(fields.get("regions", []))],
            }
        )
        prompt = record.edit.get("prompt", "")
        prompts = 1 if isinstance(prompt, str) else len(prompt)
        pictures = record.edit.get("num_images", 1) * prompts
        _require(len(region) <= 1 and region.keys() <= {"mask", "strength_map"}, "region")
        _require(type(record.index) is int and 0 <= record.index < pictures, "index")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name!r} holds damaged Softpaint settings: {error}.") from error
    return record


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} is not what Softpaint writes")


def _table(value: Any) -> dict[str, Any]:
    _require(isinstance(value, dict), f"{str(value)[:40]!r}, where a table is expected,")
    table: dict[str, Any] = value
    return table


def _list(value: Any) -> list[Any]:
    _require(isinstance(value, list), f"{str(value)[:40]!r}, where a list is expected,")
    several: list[Any] = value
    return several


def _text(value: Any) -> str:
    _require(isinstance(value, str), f"{str(value)[:40]!r}, where a text is expected,")
    return str(value)


def _loaded(value: Any) -> str | list[str]:
    """What is loaded: a place, or several."""
    return [_text(each) for each in value] if isinstance(value, list) else _text(value)


def _number(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(number, f"{str(value)[:40]!r}, where a number is expected,")
    return float(value)


def _edit(values: dict[str, Any]) -> dict[str, Any]:
    """The edit's arguments. Their values are checked as everybody's are, when the edit begins."""
    fields = fields_of(Fields)
    for name, value in values.items():
        _require(name in repeated(), f"the setting {name[:40]!r}")
        kind = fields[name].kind
        if kind in {bool, int, float}:
            _require(isinstance(value, int | float), f"the value of {name}")
        elif get_origin(kind) is tuple:
            _list(value)
        elif get_origin(kind) is Mapping:
            _table(value)
        else:
            several = isinstance(value, list) and Sequence[str] in get_args(kind)
            for text in value if several else [value]:
                _text(text)
    return values


def _file(fields: Any) -> InputFile:
    return InputFile(**{key: _text(value) for key, value in _table(fields).items()})


def _reference(fields: Any) -> RecordedReference:
    fields = _table(fields)
    image, mask = (None if fields[key] is None else _file(fields[key]) for key in ("image", "mask"))
    _number(fields["scale"])
    _require(isinstance(fields["masked"], bool), "masked")
    return RecordedReference(**{**fields, "image": image, "mask": mask})


def _region(fields: Any) -> RecordedRegion:
    fields = _table(fields)
    files = {
        name: None if fields[name] is None else _file(fields[name]) for name in ("map", "reference")
    }
    controls = fields["controls"]
    told = dict(_table(fields["settings"]))
    _require(told.keys() <= set(SETTINGS), "a region")
    lora = {"lora": [_text(each) for each in _list(told.pop("lora"))]} if "lora" in told else {}
    settings = {**_edit(told), **lora}
    return RecordedRegion(
        settings=settings,
        controls=None if controls is None else [_control(each) for each in _list(controls)],
        reference_scale=_number(fields["reference_scale"]),
        **files,
    )


def _control(fields: Any) -> RecordedControl:
    fields = _table(fields)
    image, mask = fields["image"], fields["mask"]
    control = RecordedControl(
        **{
            **fields,
            "model": _text(fields["model"]),
            "image": _file(image) if isinstance(image, dict) else image,
            "mask": mask if mask is None else _file(mask),
        }
    )
    if not isinstance(control.image, InputFile):
        _require(control.image is None or isinstance(control.image, str), "a control's annotator")
    for name in ("scale", "start", "end"):
        _number(getattr(control, name))
    _require(isinstance(control.exact, bool), "exact")
    return control
