"""Models in diffusers' folders, here or on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.models.checkpoints import find_checkpoint
from engine.models.family import FAMILIES, unsupported
from engine.models.formats.single_file import load_single_file
from engine.models.formats.sources import config_file, guarded, locate

INDEX = "model_index.json"


def load_pipeline(model: str | os.PathLike[str], dtype: Any, device: Any) -> Any:
    """A pipeline from a known name, a folder, a hub id or a single checkpoint file.

    Raises:
        ModelError: nothing usable is there, the hub cannot be reached, or its family is not
            supported, which is said before anything is loaded.
    """
    import diffusers

    source = locate(model)
    if isinstance(source, Path) and source.is_file():
        return load_single_file(source, dtype).to(device)
    index = guarded(lambda: json.loads(config_file(source, INDEX).read_text("utf-8")), model)
    _check_supported(model, index)
    settings = {"dtype": dtype, **_variant(source)}
    load = partial(diffusers.DiffusionPipeline.from_pretrained, str(source), **settings)
    return guarded(load, model).to(device)


def _check_supported(model: Any, index: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` if no registered family has pipelines of the ``index``'s kind, nor its
    denoiser.
    """
    name = str(index.get("_class_name"))
    known = any(name in family.pipelines for family in FAMILIES)
    # Community pipelines of a known family have names of their own, and its denoiser among parts.
    if not known and not any(index.get(family.denoiser) for family in FAMILIES):
        raise ModelError(unsupported(f"{model} ({name})"))


def _variant(folder: Path | str) -> dict[str, str]:
    """The arguments that load a folder in which every part's weights are there as ``fp16`` only."""
    if not isinstance(folder, Path):
        return {}
    weights = [path.name for path in folder.glob("*/*.safetensors")]
    return {"variant": "fp16"} if weights and all(".fp16." in name for name in weights) else {}


def load_inpaint_unet(model: str | os.PathLike[str], dtype: Any, device: Any) -> Any:
    """The 9-channel UNet of an inpainting checkpoint: its pipeline folder or hub id, or a folder
    that holds only the UNet.

    Raises:
        ModelError: there is none, or it does not have 9 input channels.
    """
    from diffusers import UNet2DConditionModel

    source = locate(model, index="config.json")
    folder = isinstance(source, Path) and (source / "config.json").is_file()
    kwargs: dict[str, Any] = {} if folder else {"subfolder": "unet"}
    unet = guarded(
        lambda: UNet2DConditionModel.from_pretrained(str(source), dtype=dtype, **kwargs),
        model,
    )
    if unet.config.in_channels != 9:
        raise ModelError(
            f"{model} is no inpainting checkpoint: its UNet has {unet.config.in_channels} input "
            "channels, not 9."
        )
    return unet.to(device)


def load_preview_vae(model: str | os.PathLike[str], channels: int, dtype: Any, device: Any) -> Any:
    """The ``AutoencoderTiny`` in a folder or behind a hub id.

    Raises:
        ModelError: there is none, or it is made for latents of other than ``channels`` channels.
    """
    from diffusers import AutoencoderTiny

    source = locate(model, index="config.json")
    if "AutoencoderTiny" not in guarded(lambda: config_file(source).read_text("utf-8"), model):
        raise ModelError(f"{model} holds no AutoencoderTiny (such as madebyollin/taesdxl does).")
    vae = guarded(lambda: AutoencoderTiny.from_pretrained(str(source), dtype=dtype), model)
    if vae.config.latent_channels != channels:
        raise ModelError(
            f"{model} is for latents of {vae.config.latent_channels} channels; this model's have "
            f"{channels}."
        )
    return vae.to(device).eval()


def default_inpaint_model(model: str | os.PathLike[str]) -> Path | None:
    """Where the 9-channel UNet of ``model`` is, as far as that is known."""
    checkpoint = find_checkpoint(model)
    return checkpoint.inpaint_model if checkpoint else None
