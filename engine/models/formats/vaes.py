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
QWEN = "AutoencoderKLQwenImage"
KINDS = ("AutoencoderKL", "AutoencoderKLFlux2", QWEN, TINY)
SCALES = ("scaling_factor", "shift_factor")
"""What a family's latents are brought to unit scale by."""


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
    _check_alike(model, type(vae).__name__, vae.config, known)
    return vae.eval()


def _check_alike(
    model: Place, kind: str, config: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
    """Raise ``ModelError`` unless a VAE is of the form, the channels and the scale that are
    ``known``.
    """
    wanted = known.get("_class_name")
    if wanted is not None and kind not in {wanted, TINY}:
        raise ModelError(f"{model} holds a {kind}, and this model's VAE is a {wanted}.")
    own, channels = _channels(config), _channels(known)
    if own != channels:
        raise ModelError(f"{model} is for latents of {own} channels; this model's have {channels}.")
    scales = [(name, config.get(name), known.get(name)) for name in SCALES]
    for name, its, ours in scales if kind == wanted else ():
        if its is not None and ours is not None and its != ours:
            raise ModelError(
                f"{model} is of another family: its {name} is {its}, this model's VAE has {ours}."
            )


def _channels(config: Mapping[str, Any]) -> int:
    return int(config.get("latent_channels", config.get("z_dim", 4)))


def _in_file(weights: Weights, known: Mapping[str, Any], dtype: Any) -> Any:
    from diffusers import AutoencoderTiny

    header = weights.header
    if header.has("decoder.layers."):
        tensors = weights.read(None, dtype)
        return assembled(AutoencoderTiny.from_config, {}, tensors, f"the VAE in {header.path}")
    wanted = known.get("_class_name")
    if wanted not in {None, "AutoencoderKL", QWEN}:
        raise ModelError(f"{header.path} is a file: give a folder of this model's VAE, a {wanted}.")
    if wanted == QWEN and header.has("decoder.middle.", "decoder.mid_block."):
        return _of_qwen(weights, known, dtype)
    if not header.has(VAE, "decoder.up_blocks."):
        kind = kind_of(header)
        raise ModelError(f"{header.path} is {kind.what if kind else 'something else'}, no VAE.")
    return vae_of(weights, known, dtype)


def _of_qwen(weights: Weights, known: Mapping[str, Any], dtype: Any) -> Any:
    """Qwen-Image's VAE in a file, in the names of Wan's, whose form it has, or in diffusers'."""
    from diffusers import AutoencoderKLQwenImage
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    tensors = weights.read(None, dtype)
    if weights.header.has("decoder.middle."):
        tensors = convert_wan_vae_to_diffusers(tensors)
    what = f"the VAE in {weights.header.path}"
    return assembled(AutoencoderKLQwenImage.from_config, known, tensors, what)


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
