"""An edit as it is asked for, checked before any model work."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, setting
from engine.picture.source import Source
from engine.request.aliases import own_names
from engine.request.elsewhere import check_given
from engine.request.field import check_number, check_text, fields_of
from engine.request.fields import SEEDS, Fields
from engine.request.regions import read_regions, with_maps

if TYPE_CHECKING:
    from engine.picture.crop import RegionRule


EMBEDS = tuple(
    f"{sign}{kind}prompt_embeds" for kind in ("", "pooled_") for sign in ("", "negative_")
)
_FILES = ("image", "mask", "strength_map")
"""What a record names by its file."""


@dataclass(frozen=True, kw_only=True)
class EditRequest(Fields):
    """The arguments of :meth:`engine.engine.InpaintEngine.edit`, which documents them.

    Raises:
        InputError: a value that is not accepted; the message says what is.

    Example:
        >>> request = EditRequest(image="photo.png", mask="mask.png", prompt="a red house")
        >>> request.feather
        4.0
        >>> EditRequest(image="photo.png", mask="mask.png", prompt="a boat", feather=-1)
        Traceback (most recent call last):
        engine.errors.InputError: feather must be from 0 to 4096, not -1.
    """

    @classmethod
    def read(
        cls,
        arguments: Mapping[str, Any],
        pipe: Any = None,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> EditRequest:
        """A request from the arguments of ``InpaintEngine.edit``, diffusers' names of them
        included. Those that are no settings are the strategy's options.

        Args:
            arguments: by name.
            pipe: what a diffusers callback is given as its pipeline.
            defaults: settings of the model that is used, for those that are not given.
        """
        given_as: object = arguments
        if not isinstance(given_as, Mapping):
            raise InputError(
                f"an edit is a mapping of its arguments or an EditRequest, not {arguments!r:.80}."
            )
        own = {**defaults, **own_names(arguments, pipe)}
        if own.get("regions") is not None:
            own["regions"] = with_maps(read_regions(own["regions"]), _as_read)
            own.setdefault("prompt", "")  # of what lies between them
        if own.get("prompt_embeds") is not None and own.get("prompt") is None:
            own["prompt"] = ""
        for needed in ("image", "prompt"):
            if needed not in own:
                check_given(needed, own)
        own |= {name: _as_read(own[name]) for name in _FILES if name in own}
        known = fields_of(cls)
        given = {name: value for name, value in own.items() if name in known}
        single = {name: value for name, value in own.items() if name not in known}
        if not single:
            return cls(**given)
        options = given.pop("options", {})
        if doubled := set(options) & set(single):
            raise InputError(f"{min(doubled)!r} is given twice: in options= and beside it.")
        return cls(**given, options={**options, **single})

    def __post_init__(self) -> None:
        if self.image is None:
            raise InputError("image is missing.")
        for field in fields_of(type(self)).values():
            value = getattr(self, field.name)
            field.check(value)
            object.__setattr__(self, field.name, field.plain(value))
        if self.seed == -1:  # as other programs ask for any
            object.__setattr__(self, "seed", None)
        if isinstance(self.strategy, str) and "," in self.strategy:
            names = [name.strip() for name in self.strategy.split(",") if name.strip()]
            if not names:
                raise InputError(f"strategy {self.strategy!r} names none.")
            object.__setattr__(self, "strategy", ",".join(names))
        if self.regions is not None:
            object.__setattr__(self, "regions", read_regions(self.regions))
        self._check_texts()
        self._check_map()
        self._check_run()
        self._check_region()
        self._check_compat()
        self._check_candidates()
        self._check_regions()
        if not isinstance(self.options, Mapping):
            raise InputError(f"options must be a mapping, not {type(self.options).__name__}.")
        for name in self.options:
            named: object = name
            if not isinstance(named, str):
                raise InputError(f"options are named by texts, not {named!r}.")
        if self.callback is not None and not callable(self.callback):
            raise InputError("callback must be callable: callback(Snapshot) -> False to cancel.")

    # --- candidates -------------------------------------------------------------------------

    @property
    def chooses(self) -> bool:
        """Whether several starts are tried, and the best kept."""
        several = isinstance(self.strategy, str) and "," in self.strategy
        return several or self.advised or (self.candidates or 1) > 1

    @property
    def advised(self) -> bool:
        """Whether what is done is left to what was measured."""
        return isinstance(self.strategy, str) and self.strategy == "auto"

    def contenders(self, strategies: int) -> int:
        """How many starts there are with so many strategies: each has at least one."""
        return max(strategies, self.candidates or 1)

    # --- several prompts --------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The one prompt."""
        return self._single("prompt") or ""

    @property
    def negative_text(self) -> str | None:
        """The one negative prompt."""
        return self._single("negative_prompt")

    @property
    def syntax(self) -> str:
        """How the prompts are read."""
        return self.prompt_syntax or ("plain" if self.compat else "weights")

    @property
    def embeds(self) -> dict[str, Any]:
        """The embedded prompts that were given, by their settings' names."""
        given = {name: getattr(self, name) for name in EMBEDS}
        return {name: each for name, each in given.items() if each is not None}

    def split(self) -> list[EditRequest]:
        """One request for each prompt; this one where there is one.

        Prompt k edits picture k where there are as many pictures as prompts, else the one picture,
        with the seed that picture k of a batch would have, or the k-th of as many generators.

        Raises:
            InputError: as many pictures, masks or generators as prompts were needed.
        """
        if isinstance(self.prompt, str):
            return [self]
        count = len(self.prompt)
        several = {
            name: self._one_each(name, count)
            for name in ("image", "mask", "strength_map", "negative_prompt")
        }
        draws = self._draws(count)
        return [
            replace(
                self,
                prompt=prompt,
                **{name: values[index] for name, values in several.items()},
                **draws[index],
            )
            for index, prompt in enumerate(self.prompt)
        ]

    def _single(self, name: str) -> str | None:
        value = getattr(self, name)
        if value is None or isinstance(value, str):
            return value
        raise InputError(f"this is about a request with one {name}; split() gives them.")

    def _one_each(self, name: str, count: int) -> Sequence[Any]:
        """``count`` values of a setting: its list, its batch, or the one value again and again."""
        value = getattr(self, name)
        is_batch = isinstance(value, list | tuple) or (
            len(getattr(value, "shape", ())) == 4 and value.shape[0] > 1
        )
        if not is_batch:
            return [value] * count
        if len(value) not in {1, count}:
            raise InputError(f"{len(value)} for {name} and {count} prompts: give one, or one each.")
        return list(value) * (count // len(value))

    def _draws(self, count: int) -> list[dict[str, Any]]:
        """Seed or generators of each of ``count`` prompts. A generator draws a seed for each."""
        each, generator = max(self.num_images, self.candidates or 1), self.generator
        if isinstance(generator, list | tuple):
            if len(generator) != count * each:
                raise InputError(f"{len(generator)} generators for {count * each} pictures.")
            return [{"generator": list(generator[i * each : (i + 1) * each])} for i in range(count)]
        if generator is not None:
            import torch

            place = {"generator": generator, "device": generator.device}
            seeds = torch.randint(2**31, (count,), **place).tolist()
        else:
            first = secrets.randbelow(2**31) if self.seed is None else self.seed
            seeds = [(first + index * each) % SEEDS for index in range(count)]
        return [{"seed": seed, "generator": None} for seed in seeds]

    # --- what the settings say together -----------------------------------------------------

    def _check_texts(self) -> None:
        prompt: object = self.prompt
        if not _is_text(prompt):
            raise InputError(f"prompt must be a string, not {type(prompt).__name__}.")
        if self.negative_prompt is not None and not _is_text(self.negative_prompt):
            raise InputError("negative_prompt must be a string or None.")
        for name in ("prompt", "negative_prompt"):
            check_text(name, getattr(self, name))
        for name in EMBEDS:
            text = "negative_prompt" if name.startswith("negative_") else "prompt"
            if getattr(self, name) is not None and getattr(self, text):
                raise InputError(f"give either {text}= or {name}=, not both.")
        if isinstance(self.negative_prompt, str | None):
            return
        if isinstance(self.prompt, str) or len(self.negative_prompt) != len(self.prompt):
            raise InputError("several negative prompts go with as many prompts.")

    def _check_map(self) -> None:
        if self.mask is not None and self.strength_map is not None:
            raise InputError(
                "give either mask= (hard: repaint or keep) or strength_map= (a strength for every "
                "pixel), not both."
            )
        given = (self.mask, self.strength_map, self.expand, self.regions)
        if all(each is None for each in given):
            raise InputError("mask=, strength_map=, regions= or expand=: one of them is needed.")
        expand: object = self.expand
        if expand is None:
            return
        if not isinstance(expand, list | tuple) or len(expand) != 4:
            raise InputError(f"expand must be (left, top, right, bottom), not {expand!r}.")
        limits = fields_of(Fields)["expand"].limits
        for name, value in zip(("left", "top", "right", "bottom"), expand, strict=True):
            check_number(f"expand's {name}", value, limits, whole=True)
        object.__setattr__(self, "expand", tuple(map(int, expand)))
        if not any(expand):
            raise InputError("expand is all zeros: nothing to paint.")

    def _check_run(self) -> None:
        if self.guidance_start > self.guidance_end:
            raise InputError(
                f"{setting('guidance_start')} ({self.guidance_start}) must not lie after "
                f"{setting('guidance_end')} ({self.guidance_end})."
            )
        start, end = self.denoising_start, self.denoising_end
        if start is not None and end is not None and start >= end:
            raise InputError(f"denoising_start ({start}) must lie before denoising_end ({end}).")
        if start is not None and self.strength != 1:
            raise InputError(
                "denoising_start says where a run starts in strength's place: give one."
            )
        if self.seed is not None and self.generator is not None:
            raise InputError("give either seed= or generator=, not both.")
        if self.latents is not None and start is None:
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
        if self.region == "mask" and (reason := self._needs_full_frame):
            raise InputError(
                f"{setting('region', 'mask')} cannot be combined with {reason}: full frame only."
            )
        if self.context_mask is not None and self.region_rule == "full":
            raise InputError("context_mask says what a cut-out holds; the full frame has none.")

    def _check_compat(self) -> None:
        if not self.compat:
            return
        if (self.guidance_start, self.guidance_end) != (0, 1):
            raise InputError('a guidance interval is not part of compat="diffusers".')
        for name in ("expand", "exact_steps"):
            if getattr(self, name):
                raise InputError(f'{name} is not part of compat="diffusers".')
        for name in ("grow_mask", "prefill", "prefill_mask", "paste", "paste_mask"):
            if getattr(self, name) not in (0, None, "auto", "original", "alpha"):
                raise InputError(f'{name} is not part of compat="diffusers".')

    def _check_candidates(self) -> None:
        if (self.keep or 1) > 1 and not self.chooses:
            raise InputError(
                f"{setting('keep')} says how many of several are finished: give more than one of "
                f"{setting('candidates')} too, or several strategies."
            )
        if not self.chooses:
            return
        if self.candidates is not None and (self.keep or 1) > self.candidates:
            raise InputError(
                f"{setting('keep')} ({self.keep}) must not be above {setting('candidates')} "
                f"({self.candidates})."
            )
        several = setting("num_images"), setting("keep")
        excluded = {
            f"{several[0]} ({several[1]} says how many are returned)": self.num_images > 1,
            "generator= (seed= says where they begin)": self.generator is not None,
            "latents=": self.latents is not None,
            "denoising_end=": self.denoising_end is not None,
            'output_type="latent"': self.output_type == "latent",
            'compat="diffusers"': self.compat,
        }
        for name, given in excluded.items():
            if given:
                what = setting("strategy", "auto") if self.advised else "several strategies"
                what = what if self.candidates is None else setting("candidates")
                raise InputError(f"{what} cannot be combined with {name}.")

    def _check_regions(self) -> None:
        if self.regions is None:
            return
        excluded = {
            "expand= (expand first, then edit regions of the result)": self.expand is not None,
            "generator= (seed= says where they begin)": self.generator is not None,
            "latents=": self.latents is not None,
            "denoising_end=": self.denoising_end is not None,
            'output_type="latent"': self.output_type == "latent",
            'compat="diffusers"': self.compat,
        }
        for name, given in excluded.items():
            if given:
                raise InputError(f"regions cannot be combined with {name}.")

    # --- the record ---------------------------------------------------------------------------

    def recorded(self) -> dict[str, Any]:
        """The settings that a record takes as they were asked for, as values that JSON can hold."""
        return {
            field.name: _jsonable(getattr(self, field.name))
            for field in fields_of(type(self)).values()
            if field.recorded is not None and not field.recorded.resolved
        }


def _as_read(value: Any) -> Any:
    """A file's bytes as they are now, in the place of its path: what becomes of it later changes
    nothing. What cannot be read is left to its reader, who says why.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(value, Source):
        return value
    try:
        return Source.read(value) if Path(value).is_file() else value
    except (OSError, ValueError):
        return value


def _is_text(value: object) -> bool:
    """Whether it is a string, or at least one in a list."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
