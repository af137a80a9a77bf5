"""A1111's names of samplers, schedulers and fills, and ours of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache

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
