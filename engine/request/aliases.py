"""diffusers' names of an edit's arguments, for code and habits that come from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import InputError

if TYPE_CHECKING:
    from engine.types import Snapshot


@dataclass(frozen=True)
class Alias:
    """An argument of diffusers' inpainting pipelines.

    ``translate(value, arguments, pipe)`` gives the engine's own arguments; it may raise
    ``InputError``.
    """

    name: str
    translate: Callable[[Any, Mapping[str, Any], Any], Mapping[str, Any]]


def own_names(arguments: Mapping[str, Any], pipe: Any = None) -> dict[str, Any]:
    """``arguments`` with the engine's own names in place of diffusers'.

    Raises:
        InputError: a setting is given under both names, or as diffusers takes it and the engine
            does not; the message says what to give instead.
    """
    own = {name: value for name, value in arguments.items() if name not in ALIASES}
    for name, value in arguments.items():
        if name not in ALIASES or value is None:
            continue
        for key, translated in ALIASES[name].translate(value, arguments, pipe).items():
            if own.get(key) is not None:
                raise InputError(f"give either {key}= or {name}= (diffusers' name), not both.")
            own[key] = translated
    return own


@dataclass(frozen=True)
class StepEnd:
    """A ``callback_on_step_end`` of diffusers, called as the engine calls its own.

    Args:
        function: ``function(pipe, step, timestep, callback_kwargs) -> callback_kwargs``. It is
            called for each picture. Setting ``pipe._interrupt`` cancels, as in diffusers.
        inputs: what ``callback_kwargs`` holds: ``latents``, ``denoised``.
        pipe: the pipeline that it is given.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    pipe: Any

    def __call__(self, shot: Snapshot) -> bool:
        """Call it with a snapshot; False cancels.

        Raises:
            InputError: it changed what it was shown.
        """
        given = {name: getattr(shot, name) for name in self.inputs}
        versions = {name: tensor._version for name, tensor in given.items()}  # noqa: SLF001 - torch
        returned = self.function(self.pipe, shot.index, shot.timestep, dict(given)) or {}
        for name, tensor in given.items():
            if returned.get(name, tensor) is not tensor or tensor._version != versions[name]:  # noqa: SLF001
                raise InputError(
                    f"callback_on_step_end changed {name}: a callback only looks on; a Part's "
                    "after_step or denoised changes what is denoised."
                )
        if getattr(self.pipe, "_interrupt", False):
            self.pipe._interrupt = False  # noqa: SLF001 - diffusers' own way to stop a run
            return False
        return True


_INPUTS = ("latents", "denoised")


def _step_end(value: Any, arguments: Mapping[str, Any], pipe: Any) -> Mapping[str, Any]:
    if not callable(value):
        raise InputError(
            "callback_on_step_end must be callable: function(pipe, step, timestep, kwargs)."
        )
    inputs = arguments.get("callback_on_step_end_tensor_inputs") or ("latents",)
    for name in inputs:
        if name not in _INPUTS:
            raise InputError(
                f"callback_on_step_end_tensor_inputs takes {' and '.join(_INPUTS)}, not {name!r}."
            )
    return {"callback": StepEnd(value, tuple(inputs), pipe)}


def _renamed(own: str) -> Callable[..., Mapping[str, Any]]:
    return lambda value, _arguments, _pipe: {own: value}


def _instead(advice: str) -> Callable[..., Mapping[str, Any]]:
    def refuse(_value: Any, _arguments: Mapping[str, Any], _pipe: Any) -> Mapping[str, Any]:
        raise InputError(advice)

    return refuse


_CONTROLS = (
    "{}= is diffusers' way to say it: give controls=Control(model, image, scale=..., start=..., "
    "end=...)."
)
_SECOND = "{}= is no setting: both text encoders read prompt= (and negative_prompt=)."

ALIASES: Mapping[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias("mask_image", _renamed("mask")),
        Alias("num_images_per_prompt", _renamed("num_images")),
        Alias(
            "padding_mask_crop",
            lambda value, _arguments, _pipe: {"region": "mask", "padding": value},
        ),
        Alias("callback_on_step_end", _step_end),
        Alias("callback_on_step_end_tensor_inputs", lambda *_: {}),  # with callback_on_step_end
        *(
            Alias(name, _instead(_CONTROLS.format(name)))
            for name in (
                *("control_image", "controlnet_conditioning_scale", "control_guidance_start"),
                *("control_guidance_end", "control_mode"),
            )
        ),
        *(
            Alias(name, _instead(_SECOND.format(name)))
            for name in ("prompt_2", "negative_prompt_2")
        ),
        *(
            Alias(name, _instead(f"{name}= is no setting: a result is as large as its picture is."))
            for name in ("height", "width")
        ),
        Alias(
            "ip_adapter_image_embeds",
            _instead("ip_adapter_image_embeds= is no setting: give pictures as ip_adapter_image=."),
        ),
        Alias(
            "masked_image_latents",
            _instead("masked_image_latents= is no setting: they are encoded where needed."),
        ),
    )
}
"""By diffusers' name."""
