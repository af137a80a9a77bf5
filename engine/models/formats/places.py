"""What a model was loaded from, as a record holds it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.models.checkpoints import CHECKPOINTS

PLACES = {"model", "inpaint_model", "inpaint_patch", "vae", "base", "text_encoder"}
"""The arguments of ``InpaintEngine.from_pretrained`` that may be files or folders."""


def portable(given: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of ``from_pretrained`` for a record that holds from everywhere: files and
    folders as absolute paths, defaults left out.
    """
    load = {}
    for name, value in given.items():
        if value is None or (name, value) == ("model", "pocket"):
            continue
        # A patch may come as a pair with its head, which is looked for beside it.
        text = str(value[0] if isinstance(value, tuple) else value).removeprefix("torch.")
        if name == "text_encoder":
            several = value if isinstance(value, list | tuple) else str(value).split(",")
            load[name] = ",".join(_place(str(each).strip()) for each in several)
        else:
            is_place = name in PLACES and text not in CHECKPOINTS
            load[name] = _place(text) if is_place else text
    return load


def _place(text: str) -> str:
    """A file or folder by its absolute path; a hub id as it is."""
    return os.path.realpath(text) if Path(text).exists() else text
