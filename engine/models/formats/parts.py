"""Whether the parts in a model's folder are those that it says, before any of them is loaded."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ModelError, setting
from engine.models.formats.variants import WEIGHTS

INDEX = "model_index.json"
"""What lists the parts of a model in diffusers' folders."""
WAYS = {"vae": "vae", "text_encoder": "text_encoder"}
"""Parts that may come from elsewhere, and the settings that say from where."""


def check_parts(
    place: Any, folder: Path, index: Mapping[str, Any], without: Collection[str]
) -> None:
    """Raise ``ModelError`` unless the parts that the ``index`` of a ``folder`` lists are there, of
    the kinds that it says.

    Args:
        place: what the folder was called.
        folder: the model's.
        index: what its ``model_index.json`` holds.
        without: names of parts that are not taken from there.
    """
    for name, part in index.items():
        if name in without or not isinstance(part, list) or len(part) != 2 or None in part:
            continue
        library, kind = part
        inside = folder / name
        if not inside.is_dir():
            raise ModelError(f"{place} has no {name} (its {INDEX} lists a {kind}){_way(name)}.")
        config = _config(inside)
        if config is not None and library in {"diffusers", "transformers"}:
            found = _stranger(str(kind), config)
            if found:
                raise ModelError(
                    f"{place}: its {name} is a {found}, and its {INDEX} says {kind}: a part of "
                    "another model."
                )
        if (inside / "config.json").is_file() and not any(
            each.suffix in WEIGHTS for each in inside.iterdir()
        ):
            raise ModelError(f"{place} has no weights for its {name}{_way(name)}.")


def _way(name: str) -> str:
    """The end of a line about a missing part: how to give one."""
    known = next((WAYS[each] for each in WAYS if name.startswith(each)), None)
    return f"; give {setting(known)}" if known else ""


def _config(folder: Path) -> dict[str, Any] | None:
    """A part's config; None where it has none that can be read."""
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            try:
                read = json.loads((folder / name).read_text("utf-8"))
            except (OSError, ValueError):
                return None
            return read if isinstance(read, dict) else None
    return None


def _stranger(kind: str, config: Mapping[str, Any]) -> str:
    """What a part's ``config`` says that it is, where it is not of a ``kind``; else empty."""
    named = str(config.get("_class_name", ""))
    if not named:
        return _other_encoder(kind, config)
    if "FlowMatch" in kind:  # other solvers of flows have no class of their own
        flows = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
        return "" if "FlowMatch" in named or flows else named
    return named if "Scheduler" not in kind and named != kind else ""


def _other_encoder(kind: str, config: Mapping[str, Any]) -> str:
    """Of transformers, whose configs name no class: by the type of the model."""
    import transformers

    made = getattr(getattr(transformers, kind, None), "config_class", None)
    wanted, own = str(getattr(made, "model_type", "")), str(config.get("model_type", ""))
    # "clip" and "clip_text_model", "qwen3" and "qwen3_text" are each other's wholes and parts.
    known = not wanted or not own or wanted.startswith(own) or own.startswith(wanted)
    return "" if known else own
