"""VAEs apart from a model: in place of its own, and tiny ones for previews."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.models.formats.assemble import assembled, vae_of
from engine.models.formats.kinds import kind_of
from engine.models.formats.sources import config_file, guarded, locate
from engine.models.formats.variants import variant_of
from engine.models.formats.weights import Weights, open_weights
from engine.models.layout import VAE

Place = str | os.PathLike[str]
TINY = "AutoencoderTiny"
KINDS = ("AutoencoderKL", TINY)


def load_vae(model: Place, known: Mapping[str, Any], dtype: Any) -> Any:
    """The VAE in a folder, behind a hub id, or in a single file; of a whole model too.

    Args:
        model: where it is.
        known: the config of the VAE whose place it takes: a file has none.
        dtype: of its weights.

    Raises:
        ModelError: there is none, or it makes latents of other channels.
    """
    source = locate(model, index="config.json")
    if isinstance(source, Path) and source.is_file():
        vae = _in_file(open_weights(source), known, dtype)
    else:
        vae = _in_folder(model, source, dtype)
    channels = known.get("latent_channels", 4)
    if vae.config.latent_channels != channels:
        raise ModelError(
            f"{model} is for latents of {vae.config.latent_channels} channels; this model's have "
            f"{channels}."
        )
    return vae.eval()


def _in_file(weights: Weights, known: Mapping[str, Any], dtype: Any) -> Any:
    from diffusers import AutoencoderTiny

    header = weights.header
    if header.has("decoder.layers."):
        tensors = weights.read(None, dtype)
        return assembled(AutoencoderTiny.from_config, {}, tensors, f"the VAE in {header.path}")
    if not header.has(VAE, "decoder.up_blocks."):
        kind = kind_of(header)
        raise ModelError(f"{header.path} is {kind.what if kind else 'something else'}, no VAE.")
    return vae_of(weights, known, dtype)


def _in_folder(model: Place, source: Path | str, dtype: Any) -> Any:
    import diffusers

    whole = isinstance(source, Path) and not (source / "config.json").is_file()
    folder: Path | str = Path(source) / "vae" if whole else source
    config = guarded(lambda: json.loads(config_file(folder).read_text("utf-8")), model)
    name = config.get("_class_name")
    if name not in KINDS:
        raise ModelError(f"{model} holds a {name}; accepted VAEs are {' and '.join(KINDS)}.")
    kind = getattr(diffusers, str(name))
    load = partial(kind.from_pretrained, str(folder), dtype=dtype, **variant_of(folder, "*"))
    return guarded(load, model)


def load_preview_vae(model: Place, channels: int, dtype: Any, device: Any) -> Any:
    """The ``AutoencoderTiny`` in a folder, behind a hub id or in a file.

    Raises:
        ModelError: there is none, or it is made for latents of other than ``channels`` channels.
    """
    vae = load_vae(model, {"latent_channels": channels}, dtype)
    if type(vae).__name__ != TINY:
        raise ModelError(f"{model} holds no {TINY} (such as madebyollin/taesdxl does).")
    return vae.to(device)
