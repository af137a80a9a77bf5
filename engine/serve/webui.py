"""A1111's names of samplers, schedulers and fills, and ours of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from engine.errors import InputError
from engine.request import infotext
from engine.request.infotext import SAMPLERS
from engine.solvers.names import SCHEDULERS, Form

_OWN_SPACINGS = ("Automatic", "Uniform", "Normal")
_SPACINGS = (*_OWN_SPACINGS, "Karras", "SGM Uniform")
"""A1111's schedulers; the first three are a scheduler's own."""
FILLS = ("blur", "original", "noise", "neutral")
"""``inpainting_fill`` 0 to 3: fill, original, latent noise, latent nothing."""
UNSERVED = (
    "script_name",
    "styles",
    "override_settings",
    "restore_faces",
    "tiling",
    "subseed_strength",
    "refiner_checkpoint",
    "image_cfg_scale",
    "initial_noise_multiplier",
    "s_churn",
)
"""Settings of img2img that change pictures there and not here."""

_EXAMPLE = {
    "init_images": ["base64 of a picture"],
    "mask": "base64 of a picture: white is edited",
    "prompt": "a red house",
    "mask_blur": 4,
    "denoising_strength": 0.75,
    "steps": 20,
}
_PROPERTIES: Mapping[str, Any] = {
    "init_images": {"type": "array", "items": {"type": "string"}},
    "mask": {"type": "string"},
    "prompt": {"type": "string"},
    "negative_prompt": {"type": "string"},
    "mask_blur": {"type": "number", "minimum": 0, "maximum": 512},
    "mask_blur_x": {"type": "number", "minimum": 0, "maximum": 512},
    "mask_blur_y": {"type": "number", "minimum": 0, "maximum": 512},
    "inpainting_fill": {"type": "integer", "minimum": 0, "maximum": 3},
    "inpaint_full_res": {"type": "boolean"},
    "inpaint_full_res_padding": {"type": "integer", "minimum": 0},
    "resize_mode": {"type": "integer", "minimum": 0, "maximum": 3},
    "inpainting_mask_invert": {"type": "integer", "minimum": 0, "maximum": 1},
    "denoising_strength": {"type": "number", "minimum": 0, "maximum": 1},
    "steps": {"type": "integer", "minimum": 1},
    "cfg_scale": {"type": "number", "minimum": 0},
    "seed": {"type": "integer"},
    "batch_size": {"type": "integer", "minimum": 1},
    "n_iter": {"type": "integer", "minimum": 1},
    "width": {"type": "integer", "minimum": 8},
    "height": {"type": "integer", "minimum": 8},
    "sampler_name": {"type": "string"},
    "scheduler": {"type": "string"},
}


def img2img_schema() -> dict[str, Any]:
    """The request body of img2img, for the OpenAPI."""
    schema = {"type": "object", "required": ["init_images"], "properties": dict(_PROPERTIES)}
    content = {"application/json": {"schema": schema, "example": _EXAMPLE}}
    return {"requestBody": {"required": True, "content": content}}


def samplers() -> dict[str, str]:
    """Every scheduler by a name for A1111's clients: A1111's where it has one, with its spacing."""
    return {" ".join(SAMPLERS.get(own, (own, ""))).strip(): own for own in SCHEDULERS.names()}


def schedulers() -> list[str]:
    """A1111's names of spacings."""
    return list(_SPACINGS)


def scheduler_of(sampler: object, spacing: object) -> str | None:
    """Our scheduler of A1111's sampler and scheduler; None is the model's own.

    Raises:
        InputError: there is none.
    """
    labels = {label.lower(): label for label in _SPACINGS}
    label = labels.get(str(spacing or "Automatic").lower())
    if label is None:
        raise InputError(f"no scheduler {spacing!r}; there are {', '.join(_SPACINGS)}.")
    if not sampler and label in _OWN_SPACINGS:
        return None
    given = str(sampler or "Euler")
    names = [*samplers(), *(name for name, _ in SAMPLERS.values())]
    given = {name.lower(): name for name in names}.get(given.lower(), given)
    own = infotext.scheduler_of(given, label)
    if own is None and label in _OWN_SPACINGS:
        own = samplers().get(given, given)
    if own is None or own not in SCHEDULERS:
        raise InputError(f"no sampler {given!r} with {label}; there are {', '.join(samplers())}.")
    return own


@cache
def takes_eta(scheduler: str) -> bool:
    """Whether a scheduler's step has an ``eta``."""
    kind = Form(SCHEDULERS.get(scheduler).kind).scheduler_class
    return "eta" in inspect.signature(kind.step).parameters
