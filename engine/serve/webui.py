"""A1111's names of samplers, schedulers and fills, and ours of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from engine.errors import InputError
from engine.solvers.names import SCHEDULERS, Form

_NAMES: Mapping[str, str] = {
    "Euler": "euler",
    "Euler a": "euler-a",
    "Heun": "heun",
    "DPM2": "kdpm2",
    "DPM2 a": "kdpm2-a",
    "DPM++ 2M": "dpmpp-2m",
    "DPM++ 2M SDE": "dpmpp-2m-sde",
    "LMS": "lms",
    "DDIM": "ddim",
    "PLMS": "pndm",
    "UniPC": "unipc",
    "LCM": "lcm",
}
"""A1111's sampler -> our scheduler."""
_SPACINGS: Mapping[str, str] = {
    "Automatic": "",
    "Uniform": "",
    "Normal": "",
    "Karras": "-karras",
    "SGM Uniform": "-trailing",
}
"""A1111's scheduler -> what is added to our name."""
FILLS = ("blur", "original", "noise", "neutral")
"""``inpainting_fill`` 0 to 3: fill, original, latent noise, latent nothing."""

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
    "inpainting_fill": {"type": "integer", "minimum": 0, "maximum": 3},
    "inpaint_full_res": {"type": "boolean"},
    "inpaint_full_res_padding": {"type": "integer", "minimum": 0},
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
    known = {own: name for name, own in _NAMES.items()}
    for name, own in _NAMES.items():
        known |= {own + added: f"{name} {label}" for label, added in _SPACINGS.items() if added}
    return {known.get(own, own): own for own in SCHEDULERS.names()}


def schedulers() -> list[str]:
    """A1111's names of spacings."""
    return list(_SPACINGS)


def scheduler_of(sampler: object, spacing: object) -> str | None:
    """Our scheduler of A1111's sampler and scheduler; None is the model's own.

    Raises:
        InputError: there is none.
    """
    if sampler in {None, ""}:
        return None
    given = str(sampler)
    names = {name.lower(): own for name, own in {**samplers(), **_NAMES}.items()}
    own = names.get(given.lower(), given)
    labels = {label.lower(): added for label, added in _SPACINGS.items()}
    added = labels.get(str(spacing or "automatic").lower())
    if added is None:
        raise InputError(f"no scheduler {spacing!r}; there are {', '.join(_SPACINGS)}.")
    if own + added in SCHEDULERS:
        return own + added
    if own in SCHEDULERS and added:
        raise InputError(f"the sampler {given!r} has no {spacing} here.")
    raise InputError(f"no sampler {given!r}; there are {', '.join(samplers())}.")


@cache
def takes_eta(scheduler: str) -> bool:
    """Whether a scheduler's step has an ``eta``."""
    kind = Form(SCHEDULERS.get(scheduler).kind).scheduler_class
    return "eta" in inspect.signature(kind.step).parameters
