"""An edit as it is asked for, checked before any model work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from engine.errors import InputError, UnknownNameError
from engine.schedule import check_scheduler

OUTPUT_TYPES = ("pil", "np", "latent")
COMPAT = (None, "diffusers")
OutputType = Literal["pil", "np", "latent"]


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """The arguments of :meth:`engine.engine.InpaintEngine.edit`, which documents them.

    Raises:
        InputError: a value that is not accepted; the message says what is.
    """

    image: Any
    prompt: str
    mask: Any = None
    strength_map: Any = None
    negative_prompt: str | None = None
    num_inference_steps: int = 30
    guidance_scale: float = 5.0
    guidance_rescale: float = 0.0
    strength: float = 1.0
    seed: int | None = None
    generator: Any = None
    num_images: int = 1
    scheduler: Any = None
    eta: float | None = None
    invert: bool = False
    feather: float = 4.0
    output_type: OutputType = "pil"
    compat: Literal["diffusers"] | None = None
    callback: Callable[..., Any] | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.image is None:
            raise InputError("image is missing.")
        if (self.mask is None) == (self.strength_map is None):
            raise InputError(
                "give either mask= (hard: repaint or keep) or strength_map= (a strength for every "
                "pixel), " + ("not both." if self.mask is not None else "one of them is needed.")
            )
        if not isinstance(self.prompt, str):
            raise InputError(f"prompt must be a string, not {type(self.prompt).__name__}.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InputError("negative_prompt must be a string or None.")
        self._whole("num_inference_steps", self.num_inference_steps, 1, 1000)
        self._whole("num_images", self.num_images, 1, 1024)
        if self.seed is not None:
            self._whole("seed", self.seed, 0, 2**63 - 1)
            if self.generator is not None:
                raise InputError("give either seed= or generator=, not both.")
        self._number("guidance_scale", self.guidance_scale, 0.0, math.inf)
        self._number("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        self._number("strength", self.strength, 0.0, 1.0, open_low=True)
        self._number("feather", self.feather, 0.0, 4096.0)
        if self.eta is not None:
            self._number("eta", self.eta, 0.0, 1.0)
        check_scheduler(self.scheduler)
        if self.output_type not in OUTPUT_TYPES:
            raise UnknownNameError("output_type", str(self.output_type), OUTPUT_TYPES)
        if self.compat not in COMPAT:
            raise UnknownNameError("compat mode", str(self.compat), ["diffusers"])
        if self.callback is not None and not callable(self.callback):
            raise InputError("callback must be callable: callback(Snapshot) -> False to cancel.")

    @staticmethod
    def _whole(name: str, value: object, low: int, high: int) -> None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise InputError(f"{name} must be a whole number, not {value!r}.")
        if not low <= int(value) <= high:
            raise InputError(f"{name} must be from {low} to {high}, not {value}.")

    @staticmethod
    def _number(
        name: str, value: object, low: float, high: float, *, open_low: bool = False
    ) -> None:
        if (
            isinstance(value, bool)
            or not isinstance(value, Real)
            or not math.isfinite(float(value))
        ):
            raise InputError(f"{name} must be a finite number, not {value!r}.")
        number = float(value)
        if not low <= number <= high or (open_low and number == low):
            bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
            more = f" (and above {low:g})" if open_low else ""
            raise InputError(f"{name} must be {bounds}{more}, not {value}.")
