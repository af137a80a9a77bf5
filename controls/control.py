"""A control as it is asked for: which network and control image, how strongly, when and where."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

from controls.annotators import list_annotators
from controls.place import Source
from controls.registry import ControlInfo, get_control, list_controls
from engine.errors import InputError, UnknownNameError

Scale: TypeAlias = "float | Sequence[float] | Callable[[float], float]"
"""A weight; weights spread evenly over the run, between which it is interpolated; or a function of
the run's progress, from 0 at the first step to 1 at the last."""

HOLES = {"inpaint": -1.0, "repaint": 0.0}
"""Control images that are the edited picture with this value (of [0, 1]) in the repainted region:
what inpaint-ControlNets read. -1: SD 1.5's; 0, black: ControlNet-Union ProMax and most for SDXL."""

_PLACE = r"(?:[A-Za-z]:[\\/])?[^:=]+"  # the colon of a drive letter is no separator
_TEXT = re.compile(
    rf"(?P<name>{_PLACE})(=(?P<image>{_PLACE}))?"
    r"(:(?P<scales>[^:]+)(:(?P<start>[^:-]+)-(?P<end>[^:-]+))?)?"
)


@dataclass(frozen=True, eq=False)
class Control:
    """One control of an edit.

    Args:
        model: a name of :func:`controls.list_controls`, or a ControlNet, ControlNet-Union or
            T2I-Adapter: a folder, a hub id, a ``.safetensors`` file, or a loaded diffusers model.
        image: the control image, of the picture's size (path, Pillow image, array, tensor, or a
            list with one for each picture of the edit); or an annotator's name, ``"inpaint"`` or
            ``"repaint"``, to make it from the picture. None is the named control's own annotator.
        scale: weight of the control's residuals, see :data:`Scale`; 0 is off.
        start, end: the share of the run, in [0, 1], in which the control is on: from ``start``
            until before ``end``, so that two controls can take turns without sharing a step.
        mask: where the control holds: a strength map of the picture's size, 1 = fully.
        mode: for ControlNet-Union: its number, or the name of the control whose number it is.
            Needed if neither ``model`` nor ``image`` tells.
        exact: outside the mask the latents are those of the edit without this control (with the
            controls before it in the list). That edit is denoised beside it, in the same calls:
            each masked control costs one more run, unless its mask covers all that is repainted.
            False only multiplies what the control adds by the mask, which costs nothing more, but
            the network carries the change on. No effect without a mask, nor with ``compat``.

    Raises:
        InputError: a value that is not accepted; the message says what is.

    Example:
        >>> edges = Control("canny", scale=0.8, end=0.6)  # drawn from the picture itself
        >>> result = engine.edit(
        ...     image="photo.png",
        ...     mask="mask.png",
        ...     prompt="a red house",
        ...     num_inference_steps=2,
        ...     controls=edges,
        ... )
    """

    model: Any
    image: Any = None
    scale: Any = 1.0
    start: float = 0.0
    end: float = 1.0
    mask: Any = None
    mode: int | str | None = None
    exact: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.model, str) and self.info is None and not _is_place(self.model):
            raise UnknownNameError("control", self.model, list_controls())
        if self.model is None:
            raise InputError("a control needs a name or a model.")
        if self.image is None and self.info is None:
            raise InputError(
                f"{self}: the control image is missing; give image= a picture or one of "
                f"{', '.join((*list_annotators(), *HOLES))}."
            )
        if isinstance(self.image, str) and self.annotator is None and not _is_place(self.image):
            raise UnknownNameError("annotator", self.image, (*list_annotators(), *HOLES))
        self._check_scale()
        self._check_window()
        if not isinstance(self.exact, bool):
            raise InputError(f"{self}: exact must be True or False, not {self.exact!r}.")
        mode: object = self.mode
        if isinstance(mode, str):
            get_control(mode)
        elif mode is not None and (
            isinstance(mode, bool) or not isinstance(mode, Integral) or int(mode) < 0
        ):
            raise InputError(f"{self}: mode must be a number from 0 or a control's name.")

    def __str__(self) -> str:
        return f"control {self.label!r}"

    def _check_scale(self) -> None:
        if isinstance(self.scale, Sequence) and not isinstance(self.scale, str):
            object.__setattr__(self, "scale", tuple(self.scale))
            if not self.scale:
                raise InputError(f"{self}: the list of scales is empty.")
            for value in self.scale:
                self._number("scale", value)
        elif not callable(self.scale):
            self._number("scale", self.scale)

    def _check_window(self) -> None:
        for name in ("start", "end"):
            value = self._number(name, getattr(self, name))
            if not 0 <= value <= 1:
                raise InputError(f"{self}: {name} must be from 0 to 1, not {value:g}.")
        if self.start >= self.end:
            raise InputError(
                f"{self}: start ({self.start:g}) must lie before end ({self.end:g}); "
                "the control would be on at no step."
            )

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(f"{self}: {name} must be a finite number, not {value!r}.")
        return float(value)

    @classmethod
    def parse(cls, text: str, mask: Any = None) -> list[Control]:
        """The control that ``NAME[=IMAGE][:SCALE[:START-END]]`` asks for: ``"canny:0.8:0-0.6"``,
        ``"canny=edges.png"``; several where there are several scales: ``"canny:0.2,0.5,1"``.

        ``NAME`` is what ``model`` takes, ``IMAGE`` a file or an annotator's name. Files may have
        colons and equals signs in their names: where a text can be read in several ways, the one
        with the longest name of an existing file is taken.

        Raises:
            InputError: it cannot be read.
        """
        found = _with_file(text.strip()) or _TEXT.fullmatch(text.strip())
        numbers = None if found is None else _numbers(found["scales"], found["start"], found["end"])
        if found is None or numbers is None:
            raise InputError(
                f"the control {text!r} cannot be read: NAME[=IMAGE][:SCALE[:START-END]] is "
                "expected, as in canny:0.8:0-0.6 or canny=edges.png."
            )
        scales, window = numbers
        return [cls(found["name"], found["image"], each, mask=mask, **window) for each in scales]

    @property
    def info(self) -> ControlInfo | None:
        """What is registered under ``model``, if that is a registered name."""
        known = isinstance(self.model, str) and self.model in list_controls()
        return get_control(self.model) if known else None

    @property
    def file(self) -> os.PathLike[str] | None:
        """Where the control image is, if it is a file."""
        if self.annotator is not None or not isinstance(self.image, str | os.PathLike):
            return None
        return Path(self.image) if isinstance(self.image, str) else self.image

    @property
    def label(self) -> str:
        """How messages and records call it."""
        if isinstance(self.model, str | os.PathLike):
            return str(self.model)
        return type(self.model).__name__

    @property
    def annotator(self) -> Any:
        """The annotator (a name, one of :data:`HOLES`, or a function) that makes the control image;
        None if an image is given.
        """
        if self.image is None:
            return self.info.annotator if self.info else None
        known = isinstance(self.image, str) and self.image in (*list_annotators(), *HOLES)
        return self.image if known else None

    def weight_at(self, progress: float) -> float:
        """The scale at ``progress``, 0 (first step) to 1 (last step) of the run."""
        if callable(self.scale):
            return self._number("scale", self.scale(progress))
        if not isinstance(self.scale, tuple):
            return float(self.scale)
        place = progress * (len(self.scale) - 1)
        before = min(int(place), len(self.scale) - 1)
        after = min(before + 1, len(self.scale) - 1)
        share = place - before
        return float((1 - share) * self.scale[before] + share * self.scale[after])

    def union_mode(self, count: int, numbers: Mapping[str, int] | None = None) -> int:
        """Its number in a ControlNet-Union network that knows ``count`` kinds of control images, by
        the controls' names if it has ``numbers`` of its own.

        Raises:
            InputError: nothing tells the kind, or this network does not know it.
        """
        mode = self.mode
        if mode is None:
            names = [self.model, self.image]
            mode = next((n for n in names if isinstance(n, str) and n in list_controls()), None)
            if mode is None and isinstance(self.image, str):
                mode = next((n for n in list_controls() if self._annotates(n)), None)
        number = mode if not isinstance(mode, str) else _number(mode, numbers)
        if number is None:
            raise InputError(
                f"{self}: a ControlNet-Union network must be told what its control image shows; "
                f"give mode= a number below {count} or one of {', '.join(_union_names())}."
            )
        if number >= count:
            raise InputError(
                f"{self}: mode {mode!r} is number {number}; this ControlNet-Union network knows "
                f"{count} kinds, 0 to {count - 1}."
            )
        return int(number)

    def _annotates(self, name: str) -> bool:
        info = get_control(name)
        return info.annotator == self.image and info.union_mode is not None

    def describe(self) -> dict[str, Any]:
        """What a record keeps of it: values that JSON can hold."""
        scale = list(self.scale) if isinstance(self.scale, tuple) else self.scale
        return {
            "model": self.label,
            "image": self.annotator if isinstance(self.annotator, str) else "given",
            "scale": "a function" if callable(scale) else scale,
            "start": self.start,
            "end": self.end,
            "mask": self.mask is not None,
            "exact": self.exact,
            "mode": self.mode,
        }


def _with_file(text: str) -> dict[str, str | None] | None:
    """The parts of a control's ``text`` where one of them is an existing file or folder whose name
    the plain notation would cut; None where none is.
    """
    parts = text.split(":")
    for count in range(min(3, len(parts))):  # of settings behind the names
        body, settings = ":".join(parts[: len(parts) - count]), parts[len(parts) - count :]
        scales = settings[0] if settings else None
        start, _, end = settings[1].partition("-") if count == 2 else (None, "", None)
        if _numbers(scales, start, end) is None:
            continue
        found = {"name": body, "image": None, "scales": scales, "start": start, "end": end}
        if body and Path(body).exists():
            return found
        for place in (at for at, sign in enumerate(body) if sign == "=" and at):
            name, image = body[:place], body[place + 1 :]
            if Path(image).is_file() or (image and ":" not in image and Path(name).exists()):
                return {**found, "name": name, "image": image}
    return None


def _numbers(
    scales: str | None, start: str | None, end: str | None
) -> tuple[list[float], dict[str, Any]] | None:
    """The scales and the window that are written so; None where they are no numbers."""
    window = {"start": start, "end": end}
    try:
        return [float(each) for each in (scales or "1").split(",")], {
            key: float(value) for key, value in window.items() if value is not None
        }
    except ValueError:
        return None


def check_controls(controls: Any) -> tuple[Control | Source, ...]:
    """``controls`` (None, a control, its name or text as for :meth:`Control.parse`, or a list of
    such) as a tuple of controls.

    Raises:
        InputError: something else, or a name that is not known.
    """
    if controls is None:
        return ()
    several = controls if isinstance(controls, list | tuple) else [controls]
    checked: list[Control | Source] = []
    for each in several:
        if not isinstance(each, str | Control | Source):
            raise InputError(
                f"controls must be Control objects or names, not {type(each).__name__}."
            )
        checked.append(_told(each) if isinstance(each, str) else each)
    return tuple(checked)


def _told(text: str) -> Control:
    """The control of this name, or that a text such as ``"canny:0.8"`` asks for."""
    if not set(text) & set(":=") or Path(text).exists():
        return Control(text)
    parsed = Control.parse(text)
    if len(parsed) > 1:
        raise InputError(f"the control {text!r} has several scales; an edit takes one.")
    return parsed[0]


def _is_place(text: str) -> bool:
    """Whether a string can only be meant as a path or a hub id."""
    return "/" in text or "\\" in text or bool(Path(text).suffix) or Path(text).exists()


def _union_names() -> list[str]:
    return [name for name in list_controls() if get_control(name).union_mode is not None]


def _number(name: str, numbers: Mapping[str, int] | None) -> int | None:
    """Of the control ``name`` in ControlNet-Union networks, if they know it."""
    return get_control(name).union_mode if numbers is None else numbers.get(name)
