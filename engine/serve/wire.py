"""Settings and pictures as they come in requests.

Nothing that a request says is a path or an address to this machine: pictures come as bytes, and
settings are numbers, flags, texts and names out of those that are registered. A setting of a kind
that is not known here is not taken.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import numpy as np
from PIL import Image

from controls import list_annotators, list_controls
from engine.errors import InputError, UnknownNameError
from engine.picture.deep import shallow
from engine.picture.opening import DECODE_ERRORS, open_upright
from engine.picture.read import Picture, load_image
from engine.picture.source import OWN_ALPHA, STANDARD_INPUT, Source
from engine.request.aliases import ALIASES
from engine.request.field import Field, Group, Names, fields_of
from engine.request.fields import Fields
from engine.request.regions import SETTINGS as REGION_SETTINGS
from engine.request.regions import read_regions
from engine.request.texts import value_of
from engine.serve.errors import TooLargeError
from engine.serve.references import SETTING as REFERENCES
from engine.serve.references import reference, references
from strategies import list_strategies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.request.request import EditRequest
    from engine.serve.limits import Limits

FIELDS: Mapping[str, Field] = {
    name: field for name, field in fields_of(Fields).items() if field.group is not Group.OUTPUT
}
"""The settings that a request may give."""
IMAGES = tuple(
    name
    for name, field in FIELDS.items()
    if field.json is not None and "contentMediaType" in field.json.schema
)
"""Those that are pictures."""
FORMATS = frozenset({"PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "MPO", "PPM"})
"""Pillow's names of the picture files that are read."""
_PLAIN = re.compile(r"[\w+,= -]*")
"""An option's text that cannot name a file or an address."""


# --- pictures -------------------------------------------------------------------------------------


def picture(data: bytes, what: str, limits: Limits) -> tuple[Source, tuple[int, int]]:
    """A picture's bytes as the engine takes them, and (width, height) as it will be seen.

    Only the header is read.

    Raises:
        InputError: no picture, or of a format that is not read.
        TooLargeError: too many pixels.
    """
    if not data:
        raise InputError(f"{what} is empty.")
    size, format_ = _header(data, what)
    if format_ not in FORMATS:
        raise InputError(f"{what} is a {format_} file; PNG, JPEG, WebP, TIFF or AVIF are read.")
    check_pixels(*size, what, limits)
    return Source(STANDARD_INPUT, data), size


def _header(data: bytes, what: str) -> tuple[tuple[int, int], str]:
    """Size (upright) and Pillow's name of a file's format."""
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
            # Of a PNG, getexif() would decode all of it.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            turned = exif.get(0x0112, 1) in {5, 6, 7, 8}
            return (height, width) if turned else (width, height), str(image.format)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(f"{what} has far too many pixels.") from None
    except DECODE_ERRORS:
        raise InputError(f"{what} is not a picture that can be read (PNG, JPEG, ...).") from None


def check_pixels(width: int, height: int, what: str, limits: Limits) -> None:
    """Raise ``TooLargeError`` for a size beyond the limit."""
    if width * height > limits.pixels:
        raise TooLargeError(
            f"{what} has {width} x {height} px; at most {limits.pixels} pixels are taken."
        )


def decoded(source: Source, what: str) -> Image.Image:
    """A picture that :func:`picture` has let pass, decoded, upright by its EXIF orientation.

    Raises:
        InputError: it is damaged, or has several frames.
    """
    return open_upright(source, what)


def resized(
    source: Source,
    what: str,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image | Picture:
    """A picture as it is seen, or its part ``box`` (left, top, right, bottom), at ``size`` (width,
    height), with all its bits; numbered colours become real ones, which can be interpolated.

    Raises:
        InputError: as :func:`decoded` does.
    """
    image = decoded(source, what)
    if image.mode in {"RGB", "RGBA"} and (picture := load_image(source)).deep is not None:
        return _deep_resized(picture, size, box)
    if image.mode in {"P", "PA", "1"}:  # numbers of colours have nothing between them
        colours = "RGBA" if image.has_transparency_data else "RGB"
        image = image.convert("L" if image.mode == "1" else colours)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def _deep_resized(
    picture: Picture, size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> Picture:
    """The same of 16 bits a channel: Pillow resizes one channel of floats at a time."""
    channels = [
        np.asarray(
            Image.fromarray(channel.astype(np.float32)).resize(
                size, Image.Resampling.LANCZOS, box=box
            )
        )
        for channel in np.moveaxis(picture.deepest, 2, 0)
    ]
    deep = np.stack(channels, 2).round().clip(0, 65535).astype(np.uint16)
    alpha = shallow(deep[:, :, 3]) if deep.shape[2] == 4 else None
    return replace(picture, rgb=shallow(deep[:, :, :3]), alpha=alpha, deep=deep, orientation=1)


def grey_map(source: Source, what: str = "map") -> NDArray[np.float32]:
    """The values of a grey picture of 8 or 16 bits, H W in [0, 1].

    Raises:
        InputError: it is damaged.
    """
    image = decoded(source, what)
    if image.mode.startswith("I"):
        return (np.asarray(image).astype(np.float32) / np.float32(65535)).clip(0, 1)
    return np.asarray(image.convert("L")).astype(np.float32) / np.float32(255)


def from_base64(text: str, what: str) -> bytes:
    """The bytes of base64, or of a ``data:`` address.

    Raises:
        InputError: it is none of them.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InputError(f"{what} is a data: address without base64.")
    elif "://" in text[:16]:
        raise InputError(f"{what} is an address; nothing is fetched: send the picture itself.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{what} is not base64.") from None


# --- settings -------------------------------------------------------------------------------------


def settings(
    given: Mapping[str, Any], limits: Limits, adapters: Sequence[str] = ()
) -> dict[str, Any]:
    """The engine's arguments of a request's settings. Names that are no setting are options of the
    strategy.

    Args:
        given: the settings by their names.
        limits: what is taken at most.
        adapters: names of the IP-Adapters that are loaded.

    Raises:
        InputError: a setting that is not taken, or a value that is not accepted.
        TooLargeError: one that is beyond the limits.
    """
    taken: dict[str, Any] = {}
    for name, value in given.items():
        if name in FIELDS:
            if value is not None:
                taken[name] = _value(FIELDS[name], value, limits, adapters)
        elif name in fields_of(Fields):
            raise InputError(f"{name} is a setting of Python's callers, not of the service.")
        else:
            taken[name] = _option(name, value)
    _check_limits(taken, limits)
    return taken


def read_texts(given: Mapping[str, str]) -> dict[str, Any]:
    """A form's fields, which are texts, as the values that their settings take."""
    return {name: value_of(name, text) for name, text in given.items()}


def from_json(text: str, what: str = "settings") -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{what} is not JSON.") from None
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a JSON object.")
    return value


def _value(field: Field, value: Any, limits: Limits, adapters: Sequence[str]) -> Any:
    """A setting's value, of a kind that is known to name nothing of this machine."""
    name = field.name
    own: dict[str, Callable[[], Any]] = {
        **dict.fromkeys(IMAGES, lambda: _image(name, value, limits)),
        **dict.fromkeys(("prompt", "negative_prompt"), lambda: _text(name, value, limits)),
        "strategy": lambda: _strategy(value),
        "options": lambda: _options(value),
        "controls": lambda: _controls(value),
        "regions": lambda: _regions(value, limits, adapters),
        REFERENCES: lambda: references(value, adapters, partial(_sent, limits=limits), limits.n),
    }
    if name in own:
        return own[name]()
    if field.names is not None:
        return _listed(field.names, value)
    kind = field.kind
    if get_origin(kind) is tuple:
        count = len(get_args(kind))
        if not isinstance(value, list) or len(value) != count:
            raise InputError(f"{name} must be a list of {count} numbers, not {value!r}.")
        value = tuple(value)
    elif kind not in {bool, int, float} and get_origin(kind) not in {Literal, tuple}:
        raise InputError(f"{name} is not taken by the service.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    field.check(value)
    return value


def _image(name: str, value: Any, limits: Limits) -> Source:
    """A picture among the settings: base64, or for mask and map the word alpha."""
    if isinstance(value, Source):
        return value
    if name in {"mask", "strength_map"} and value == OWN_ALPHA:
        return Source(OWN_ALPHA, b"")  # of the picture, which is read anyway
    return _sent(value, name, limits)


def _sent(value: Any, what: str, limits: Limits) -> Source:
    """A picture as bytes, or as base64."""
    if not isinstance(value, str | bytes):
        raise InputError(f"{what} must be a picture.")
    data = from_base64(value, what) if isinstance(value, str) else value
    return picture(data, what, limits)[0]


def _listed(names: Names, value: Any) -> Any:
    """A name that is listed: what else its setting takes may be a file of this machine."""
    listed = list(names.listed())
    if value not in listed:
        raise UnknownNameError(names.kind, str(value), listed)
    return value


def _text(name: str, value: Any, limits: Limits) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be one string.")
    if len(value) > limits.prompt:
        raise InputError(f"{name} has {len(value)} characters; at most {limits.prompt} are taken.")
    return value


def _strategy(value: Any) -> str:
    """A strategy's name, of registered parts and controls only, several with commas, or auto."""
    if not isinstance(value, str):
        raise InputError("strategy must be a name.")
    if value == "auto":
        return value
    known = {*list_strategies(), *list_controls()}
    for part in map(str.strip, value.replace(",", "+").split("+")):
        if part not in known:
            raise UnknownNameError("strategy", part, ["auto", *list_strategies()])
    return value


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError("options must be an object.")
    return {str(name): _option(str(name), each) for name, each in value.items()}


def _option(name: str, value: Any) -> Any:
    if name in ALIASES and not isinstance(value, int | float | None):
        raise InputError(f"{name} is diffusers' name of a setting; use this service's own.")
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(f"{name} must be a number, a flag or a text.")
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise InputError(f"{name} holds characters that no option needs: {value[:40]!r}.")
    return value


def _controls(value: Any) -> list[Any]:
    """Controls by name, or as objects: ``{"name", "scale", "start", "end", "annotator"}``."""
    from controls import Control
    from controls.control import HOLES

    several = value if isinstance(value, list) else [value]
    known, readers = list_controls(), {*list_annotators(), *HOLES}
    taken = []
    for each in several:
        told = {"name": each} if isinstance(each, str) else each
        if not isinstance(told, Mapping) or told.get("name") not in known:
            name = told.get("name") if isinstance(told, Mapping) else each
            raise UnknownNameError("control", str(name), known)
        if unknown := set(told) - {"name", "scale", "start", "end", "annotator"}:
            raise InputError(f"a control takes name, scale, start, end, annotator: {min(unknown)}.")
        own: dict[str, Any] = {k: told[k] for k in ("scale", "start", "end") if k in told}
        for key, number in own.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise InputError(f"a control's {key} must be a number.")
        if (annotator := told.get("annotator")) is not None and annotator not in readers:
            raise UnknownNameError("annotator", str(annotator), readers)
        taken.append(Control(told["name"], image=annotator, **own))
    return taken


_REGION = (*(name for name in REGION_SETTINGS if name != "lora"), "controls")
"""What a region may say beside its map, its reference and its LoRAs: settings of edits."""


def _regions(value: Any, limits: Limits, adapters: Sequence[str]) -> list[Any]:
    """Regions as objects: a ``map`` in base64, settings of an edit, and a ``reference``."""
    several = value if isinstance(value, list) else [value]
    taken = []
    for number, each in enumerate(several, start=1):
        if not isinstance(each, Mapping) or "map" not in each:
            raise InputError(f"region {number} must be an object with a map.")
        if unknown := set(each) - {"map", "reference", "lora", *_REGION}:
            known = ", ".join(("map", *_REGION, "reference", "lora"))
            raise InputError(f"region {number}: {min(unknown)!r} is none of {known}.")
        try:
            own = _region(each, limits, adapters)
        except InputError as error:
            raise InputError(f"region {number}: {error}") from None
        taken.append({"map": _image(f"region {number}'s map", each["map"], limits), **own})
    read_regions(taken)
    return taken


def _region(told: Mapping[str, Any], limits: Limits, adapters: Sequence[str]) -> dict[str, Any]:
    """What a region says beside its map."""
    own = {
        name: _value(FIELDS[name], told[name], limits, adapters)
        for name in _REGION
        if told.get(name) is not None
    }
    if told.get("reference") is not None:
        own["reference"] = reference(told["reference"], adapters, partial(_sent, limits=limits))
    if told.get("lora") is not None:  # by name, of those that are loaded: no file is opened
        own["lora"] = told["lora"]
    return own


def _check_limits(taken: Mapping[str, Any], limits: Limits) -> None:
    """Raise for what is valid and too much."""
    most_of = {
        "num_inference_steps": limits.steps,
        "num_images": limits.n,
        "candidates": limits.candidates,
        "keep": limits.n,
    }
    for name, most in most_of.items():
        if (value := taken.get(name)) is not None and value > most:
            raise InputError(f"{name} is {value}; this server takes at most {most}.")
    if (side := taken.get("native_size")) is not None:
        check_pixels(side, side, "native_size", limits)


def check_canvas(size: Sequence[int], request: EditRequest, limits: Limits) -> None:
    """Raise ``TooLargeError`` where an edit's canvas grows beyond the limits."""
    left, top, right, bottom = request.expand or (0, 0, 0, 0)
    check_pixels(size[0] + left + right, size[1] + top + bottom, "the canvas", limits)
