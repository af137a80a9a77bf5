"""What settings are called elsewhere (in other programs, in other libraries), for whoever types
such a name here: it is not taken, and the answer says what it is called.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from engine.errors import InputError, setting, told
from engine.request.field import fields_of
from engine.request.fields import Fields

_CALLED: Final[Mapping[str, tuple[str, ...]]] = {
    "image": (
        *("init_image", "input_image", "source_image", "src_image", "init_images", "image_path"),
        *("images", "photo", "picture", "source", "img"),
    ),
    "mask": ("mask_img", "mask_path", "mask_file", "masks", "inpaint_mask", "mask_images"),
    "strength_map": ("map", "change_map", "soft_mask", "strength_mask", "map_path"),
    "prompt": ("text", "caption", "instruction", "positive_prompt", "positive"),
    "negative_prompt": ("negative", "neg_prompt", "uc", "negative_text"),
    "num_inference_steps": (
        *("steps", "num_steps", "n_steps", "step", "ddim_steps", "sampling_steps"),
        *("steps_count", "step_count"),
    ),
    "guidance_scale": ("guidance", "cfg", "cfg_scale", "scale", "cfg_guidance"),
    "strength": (
        *("denoise", "denoising", "denoising_strength", "denoise_strength", "image_strength"),
        *("inpaint_strength", "prompt_strength"),
    ),
    "num_images": ("n", "batch_size", "num_outputs", "n_samples", "samples", "batch_count"),
    "scheduler": ("sampler", "sampler_name", "sampling_method", "sample_method"),
    "seed": ("noise_seed", "random_seed", "manual_seed"),
    "controls": ("control", "controlnet", "controlnets", "controlnet_model"),
    "ip_adapter_image": ("reference", "references", "reference_image", "image_prompt"),
    "expand": ("outpaint", "outpainting", "extend", "uncrop"),
    "feather": ("mask_blur", "blur", "feathering", "blur_mask"),
    "grow_mask": ("grow", "dilate", "dilate_mask", "grow_mask_by", "mask_padding", "mask_grow"),
    "invert": ("invert_mask", "inpainting_mask_invert", "mask_invert"),
    "prefill": ("inpainting_fill", "masked_content", "fill"),
    "region": ("inpaint_full_res", "only_masked", "inpaint_area"),
    "padding": ("inpaint_full_res_padding", "padding_mask", "mask_crop"),
    "options": ("strategy_options",),
    "callback": ("callback_on_step", "step_callback"),
    "clip_skip": ("clip_stop_at_last_layers",),
    "output_type": ("return_type", "output_format"),
    "progress": ("verbose", "show_progress", "progress_bar"),
}
"""By this engine's name."""
ELSEWHERE: Final[Mapping[str, str]] = {
    name: own for own, names in _CALLED.items() for name in names
}
"""This engine's name by the others'."""
CALLED: Final[Mapping[str, str]] = {
    **ELSEWHERE,
    "mask_image": "mask",
    "num_images_per_prompt": "num_images",
    "padding_mask_crop": "padding",
}
"""The same with diffusers' names, which Python's callers may give."""
OF_A_MODEL: Final = frozenset(
    {"model", "checkpoint", "device", "dtype", "torch_dtype", "vae", "lora", "loras", "embedding"}
    | {"embeddings", "inpaint_model", "text_encoder", "prediction_type", "unet", "ip_adapter"}
)
"""What belongs to a model and not to an edit."""


def check_settings(
    unknown: Iterable[str], options: Collection[str] = (), others: Collection[str] = ()
) -> None:
    """Raise ``InputError`` where an unknown argument is what a setting is called elsewhere, or
    looks like one that is misspelt, more than like one of the strategy's ``options``. Options of
    ``others`` are no misspelt settings.
    """
    known = fields_of(Fields)
    for name in unknown:
        if name in options:
            continue
        if name in ELSEWHERE:
            raise InputError(
                f"unknown setting {name!r}: here it is called {setting(ELSEWHERE[name])}."
            )
        if name in OF_A_MODEL:
            where = told(python="help(InpaintEngine.from_pretrained)", command="--help")
            raise InputError(
                f"{name!r} goes with a model when it is loaded, not with an edit: {where} says how."
            )
        if name in others:
            continue
        near = difflib.get_close_matches(name, [*known, *options], n=1, cutoff=0.75)
        if near and near[0] in known:
            raise InputError(
                f"unknown setting {name!r}. Did you mean {near[0]!r}? "
                f"{told(python='help(InpaintEngine.edit)', command='--help')} lists them all."
            )


def check_given(needed: str, given: Iterable[str]) -> None:
    """Raise ``InputError`` of a setting that is ``needed`` and not among those that are ``given``,
    with the other name under which it may have come.
    """
    other = next((name for name in given if ELSEWHERE.get(name) == needed), None)
    if other is not None:
        raise InputError(f"{needed} is missing; here {other!r} is called {needed}.")
    raise InputError(f"{needed} is missing.")
