"""Pickled files of tensors, of which no code is run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from engine.errors import ModelError


def read_pickled(path: Path) -> dict[str, Any]:
    """The table of tensors in a file of ``torch.save``.

    Raises:
        ModelError: it holds anything else, or cannot be read.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about how the file was pickled
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors are of many kinds
        raise ModelError(
            f"{path} cannot be read as tensors alone, and nothing else of a pickled file is loaded."
        ) from error
    if not isinstance(held, dict):
        raise ModelError(f"{path} holds no table of tensors.")
    return held
