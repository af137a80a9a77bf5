"""An edit as it is asked for, checked before any model work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from engine.errors import InputError, UnknownNameError
from engine.picture.colour import COLOURS
from engine.picture.crop import REGIONS, RegionRule
from engine.picture.fill import find_prefill
from engine.picture.paste import PASTES
from engine.solvers.schedule import check_scheduler

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
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    strength: float = 1.0
    seed: int | None = None
    generator: Any = None
    num_images: int = 1
    controls: Any = None
    guess_mode: bool = False
    ip_adapter_image: Any = None
    expand: Any = None
    denoising_start: float | None = None
    denoising_end: float | None = None
    latents: Any = None
    scheduler: Any = None
    eta: float | None = None
    colour: str = "field"
    invert: bool = False
    feather: float = 4.0
    skip: bool = True
    region: RegionRule = "auto"
    context: float = 2.0
    context_mask: Any = None
    native_size: int | None = None
    zoom: float = 1.0
    prefill: str = "auto"
    prefill_mask: Any = None
    paste: str = "alpha"
    paste_mask: Any = None
    output_type: OutputType = "pil"
    compat: Literal["diffusers"] | None = None
    callback: Callable[..., Any] | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        self._check_picture_and_map()
        self._check_text()
        self._check_numbers()
        self._check_draws()
        self._check_region()
        self._check_prefill_and_paste()
        check_scheduler(self.scheduler)
        COLOURS.get(self.colour)
        for name in ("guess_mode", "skip"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, not {getattr(self, name)!r}.")
        if self.output_type not in OUTPUT_TYPES:
            raise UnknownNameError("output_type", str(self.output_type), OUTPUT_TYPES)
        if self.compat not in COMPAT:
            raise UnknownNameError("compat mode", str(self.compat), ["diffusers"])
        if self.callback is not None and not callable(self.callback):
            raise InputError("callback must be callable: callback(Snapshot) -> False to cancel.")

    def _check_picture_and_map(self) -> None:
        if self.image is None:
            raise InputError("image is missing.")
        if self.mask is not None and self.strength_map is not None:
            raise InputError(
                "give either mask= (hard: repaint or keep) or strength_map= (a strength for every "
                "pixel), not both."
            )
        if self.mask is None and self.strength_map is None and self.expand is None:
            raise InputError("mask=, strength_map= or expand=: one of them is needed.")
        self._check_expand()

    def _check_text(self) -> None:
        if not isinstance(self.prompt, str):
            raise InputError(f"prompt must be a string, not {type(self.prompt).__name__}.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InputError("negative_prompt must be a string or None.")

    def _check_numbers(self) -> None:
        self._whole("num_inference_steps", self.num_inference_steps, 1, 1000)
        self._whole("num_images", self.num_images, 1, 1024)
        self._number("guidance_scale", self.guidance_scale, 0.0, math.inf)
        self._number("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        for name in ("guidance_start", "guidance_end"):
            self._number(name, getattr(self, name), 0.0, 1.0)
        if self.guidance_start > self.guidance_end:
            raise InputError(
                f"guidance_start ({self.guidance_start}) must not lie after guidance_end "
                f"({self.guidance_end})."
            )
        if self.compat and (self.guidance_start, self.guidance_end) != (0, 1):
            raise InputError('a guidance interval is not part of compat="diffusers".')
        self._number("strength", self.strength, 0.0, 1.0, open_low=True)
        self._number("feather", self.feather, 0.0, 4096.0)
        if self.eta is not None:
            self._number("eta", self.eta, 0.0, 1.0)
        start, end = self.denoising_start, self.denoising_end
        for name, share in (("denoising_start", start), ("denoising_end", end)):
            if share is not None:
                self._number(name, share, 0.0, 1.0, open_low=True)
                if share == 1:
                    raise InputError(f"{name} must be below 1.")
        if start is not None and end is not None and start >= end:
            raise InputError(f"denoising_start ({start}) must lie before denoising_end ({end}).")

    def _check_draws(self) -> None:
        if self.seed is not None:
            self._whole("seed", self.seed, 0, 2**63 - 1)
            if self.generator is not None:
                raise InputError("give either seed= or generator=, not both.")
        if self.latents is not None and self.denoising_start is None:
            raise InputError("latents= continues a run; say where with denoising_start=.")

    @property
    def region_rule(self) -> RegionRule:
        """``region``, but ``"full"`` where only the full frame makes sense."""
        return "full" if self._needs_full_frame else self.region

    @property
    def _needs_full_frame(self) -> str:
        """What in this request works on the full frame only; empty if nothing does."""
        needs = {
            'compat="diffusers"': self.compat,
            'output_type="latent"': self.output_type == "latent",
            "latents=": self.latents is not None,
            "denoising_end=": self.denoising_end is not None,
        }
        return next((name for name, is_set in needs.items() if is_set), "")

    def _check_region(self) -> None:
        if self.region not in REGIONS:
            raise UnknownNameError("region", str(self.region), REGIONS)
        if self.region == "mask" and (reason := self._needs_full_frame):
            raise InputError(f'region="mask" cannot be combined with {reason}: full frame only.')
        if self.context_mask is not None and self.region_rule == "full":
            raise InputError("context_mask says what a cut-out holds; the full frame has none.")
        self._number("context", self.context, 1.0, 100.0)
        self._number("zoom", self.zoom, 1.0, 16.0)
        if self.native_size is not None:
            self._whole("native_size", self.native_size, 8, 16384)

    def _check_prefill_and_paste(self) -> None:
        if not isinstance(self.prefill, str):
            raise InputError(f"prefill must be a name, not {type(self.prefill).__name__}.")
        if self.prefill != "auto":
            find_prefill(self.prefill)
        PASTES.get(self.paste)
        for name in ("prefill", "prefill_mask", "paste", "paste_mask"):
            if self.compat and getattr(self, name) not in (None, "auto", "original", "alpha"):
                raise InputError(f'{name} is not part of compat="diffusers".')

    def _check_expand(self) -> None:
        if self.expand is None:
            return
        if not isinstance(self.expand, list | tuple) or len(self.expand) != 4:
            raise InputError(f"expand must be (left, top, right, bottom), not {self.expand!r}.")
        for name, value in zip(("left", "top", "right", "bottom"), self.expand, strict=True):
            self._whole(f"expand's {name}", value, 0, 16384)
        if not any(self.expand):
            raise InputError("expand is all zeros: nothing to paint.")
        if self.compat:
            raise InputError('expand is not part of compat="diffusers".')

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
