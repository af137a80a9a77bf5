"""Arguments of loading, by this package's names and by diffusers'."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from engine.errors import InputError

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_SAME: Final[Mapping[str, str]] = {
    "torch_dtype": "dtype",
    "pretrained_model_name_or_path": "model",
    "pretrained_model_link_or_path": "model",
}
"""diffusers' names of what is the same here."""

_HUB: Final = (
    "what is asked of the hub is said once for all by its variables HF_HOME, HF_TOKEN and "
    "HF_HUB_OFFLINE; or give the folder that was downloaded as model="
)
_PARTS: Final = (
    "a pipeline with parts of your own is loaded by diffusers and shared by "
    "InpaintEngine.from_pipe(pipe)"
)
_INSTEAD: Final[Mapping[str, str]] = {
    "variant": "the weights that are there are read, whatever their variant; dtype= says in what "
    "precision they are kept",
    "device_map": 'device= says where the model goes, and engine.optimise("cpu-offload") keeps '
    "what does not run out of a GPU's memory",
    **dict.fromkeys(
        ("cache_dir", "token", "use_auth_token", "revision", "local_files_only", "proxies"), _HUB
    ),
    **dict.fromkeys(("force_download", "resume_download", "mirror", "subfolder"), _HUB),
    **dict.fromkeys(("unet", "transformer", "tokenizer", "custom_pipeline", "config"), _PARTS),
    **dict.fromkeys(
        ("safety_checker", "requires_safety_checker", "feature_extractor"),
        "no safety checker is loaded",
    ),
    **dict.fromkeys(
        ("low_cpu_mem_usage", "offload_folder", "offload_state_dict"),
        "how files are read is chosen by what they are",
    ),
    "quantization_config": _PARTS,
    "scheduler": "it is an edit's: engine.edit(scheduler=...)",
    "controlnet": "it is an edit's: engine.edit(controls=...)",
    "loras": "LoRAs are given as lora=",
    "checkpoint": "it is called model= here",
    "path": "it is called model= here",
}
"""What diffusers' loaders take and this does not: what holds instead. None asks for nothing."""
_HELD: Final = ("use_safetensors",)
"""What holds anyway: files are known by their headers."""


def told_of_strangers(load: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """``load`` with diffusers' names of its arguments, and a line for those that it does not have.

    Raises:
        InputError: an argument that there is not, or one that is given under two names.
    """
    known = inspect.signature(load).parameters

    @functools.wraps(load)
    def told(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        held = {*_HELD, *(name for name in _INSTEAD if kwargs.get(name) is None)}
        given: dict[str, Any] = {k: value for k, value in kwargs.items() if k not in held}
        if _is_device(given.get("device_map")):
            given.setdefault("device", given.pop("device_map"))
        for theirs, own in _SAME.items():
            if theirs in given:
                value = given.pop(theirs)
                if own in given:
                    raise InputError(f"give either {own}= or {theirs}= (diffusers' name).")
                given[own] = value
        for name in given:
            if name in known:
                continue
            if name in _INSTEAD:
                raise InputError(f"{name}= is no argument: {_INSTEAD[name]}.")
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}=? " if near else ""
            raise InputError(
                f"unknown argument {name!r}. {hint}help(InpaintEngine.from_pretrained) lists them "
                "all."
            )
        return load(*args, **given)

    return told


def _is_device(device_map: Any) -> bool:
    """Whether a ``device_map`` names the one device for all, as in ``"cuda"`` and ``"cuda:0"``."""
    return str(device_map).partition(":")[0] in {"cpu", "cuda", "mps", "xpu"}


def check_places(**places: Any) -> None:
    """Refuse what is no place of a model.

    Raises:
        InputError: something else than a path or a name; an empty one.
    """
    for name, place in places.items():
        if place is None and name != "model":
            continue
        if not isinstance(place, str | os.PathLike):
            loaded = " (InpaintEngine.from_pipe shares a loaded pipeline)"
            hint = loaded if hasattr(place, "components") else ""
            raise InputError(
                f"{name} must be a folder, a file or a name, not {type(place).__name__}{hint}."
            )
        if not os.fspath(place):
            raise InputError(f"{name} is empty: a folder, a file or a name is needed.")
