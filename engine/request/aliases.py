"""diffusers' names of an edit's arguments, for code and habits that come from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise InputError(
            f"callback_on_step_end_tensor_inputs must be a list of names, not {inputs!r}."
        )
    inputs = tuple(inputs)
    for name in inputs:
        if name not in _INPUTS:
            raise InputError(
                f"callback_on_step_end_tensor_inputs takes {' and '.join(_INPUTS)}, not {name!r}."
            )
    return {"callback": StepEnd(value, inputs, pipe)}


def _return_dict(value: Any, _arguments: Mapping[str, Any], _pipe: Any) -> Mapping[str, Any]:
    if value is not True:
        raise InputError(
            f"return_dict={value!r} is no setting: an EditResult is returned, and its pictures are "
            "in .images."
        )
    return {}


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
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "both text encoders read prompt= (and negative_prompt=)": (
        *("prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3"),
    ),
    "a result is as large as its picture is": ("height", "width"),
    "give pictures as ip_adapter_image=": ("ip_adapter_image_embeds",),
    "they are encoded where needed": ("masked_image_latents",),
    "noise levels are the scheduler's: give num_inference_steps=, strength= and scheduler=, a name "
    "or a diffusers scheduler with levels of its own": ("timesteps", "sigmas"),
    "LoRAs and their weights are the model's, not an edit's: engine.load_lora(file, weight) or "
    "engine.pipe.set_adapters(...)": (
        *("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs"),
    ),
    "the network is told the size of the picture that it works on, uncropped": (
        *("original_size", "target_size", "crops_coords_top_left", "negative_original_size"),
        *("negative_target_size", "negative_crops_coords_top_left"),
    ),
    "a refiner is told diffusers' own scores, 6.0 and 2.5": (
        *("aesthetic_score", "negative_aesthetic_score"),
    ),
    "callback= is called after every step, and chooses for itself": ("callback_steps",),
    "guidance_scale= is the strength of guidance with a negative prompt": ("true_cfg_scale",),
    "as many tokens are read as the model takes": ("max_sequence_length",),
}
"""What diffusers' pipelines take and an edit does not: what holds instead, and the names."""

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
        Alias("return_dict", _return_dict),
        *(
            Alias(name, _instead(f"{name}= is no setting: {instead}."))
            for instead, names in _REFUSED.items()
            for name in names
        ),
    )
}
"""By diffusers' name."""
