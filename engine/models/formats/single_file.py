"""Whole models in one ``.safetensors`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.models.family import Family, family_of_file, unsupported
from engine.models.formats.sources import guarded


def load_single_file(path: Path, dtype: Any) -> Any:
    """A checkpoint in one file, by the pipeline of its family.

    Raises:
        ModelError: it is of no family that is registered, or cannot be loaded.
    """
    import diffusers

    pipeline: Any = getattr(diffusers, family_in(path).pipelines[0])
    return guarded(lambda: pipeline.from_single_file(str(path), dtype=dtype), path)


def family_in(path: Path) -> Family:
    """The family of a file, from the names of its tensors, which stand in its header.

    Raises:
        ModelError: the file cannot be read, is no whole model or of no registered family.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    family = family_of_file(names)
    if family is None:
        if not any(name.startswith("model.diffusion_model.") for name in names):
            raise ModelError(f"{path} is no full Stable Diffusion checkpoint: it holds no UNet.")
        raise ModelError(unsupported(str(path)))
    return family
