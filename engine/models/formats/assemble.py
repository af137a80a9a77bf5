"""Modules made of a config and the tensors of a file, without weights of their own in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.formats.fitting import text_config, unet_config, vae_config
from engine.models.formats.sources import first_line
from engine.models.layout import CONFIGS, UNET, VAE, Text

if TYPE_CHECKING:
    import torch

    from engine.models.formats.weights import Weights
    from engine.models.layout import Layout


def read_config(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    """The config of a ``part`` in a folder of configs."""
    config: dict[str, Any] = json.loads((folder / part / name).read_text("utf-8"))
    return config


def unet_of(weights: Weights, known: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The UNet in a file.

    Args:
        weights: in LDM's names, or all in diffusers'.
        known: the config of its family, or of another UNet of its family.
        dtype: of its weights.

    Raises:
        ModelError: it is not whole, or of another family.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    header = weights.header
    if "conv_in.weight" in header:
        config = {**known, "in_channels": header.shapes["conv_in.weight"][1]}
        return assembled(
            UNet2DConditionModel.from_config,
            config,
            weights.read(None, dtype),
            f"the UNet in {header.path}",
        )
    config = _fitted(unet_config, known, weights)
    tensors = weights.read(lambda name: name.startswith(UNET), dtype)
    return assembled(
        UNet2DConditionModel.from_config,
        config,
        _converted(convert_ldm_unet_checkpoint, tensors, config, weights),
        f"the UNet in {header.path}",
    )


def vae_of(weights: Weights, known: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The VAE in a file; arguments and error as of :func:`unet_of`."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    what = f"the VAE in {weights.header.path}"
    config = _fitted(vae_config, known, weights)
    if weights.header.has("decoder.up_blocks."):
        return assembled(AutoencoderKL.from_config, config, weights.read(None, dtype), what)
    tensors = weights.read(lambda name: name.startswith(VAE), dtype)
    converted = _converted(convert_ldm_vae_checkpoint, tensors, config, weights)
    return assembled(AutoencoderKL.from_config, config, converted, what)


def text_encoder_of(weights: Weights, text: Text, layout: Layout, dtype: torch.dtype) -> Any:
    """The text encoder in a file; error as of :func:`unet_of`."""
    import transformers
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_open_clip_checkpoint,
    )

    kind = getattr(transformers, text.kind)
    known = read_config(layout.configs, text.part)

    def fitted(known: Mapping[str, Any], shapes: Any) -> dict[str, Any]:
        return text_config(known, shapes, text)

    config = transformers.CLIPTextConfig(**_fitted(fitted, known, weights))
    tensors = weights.read(lambda name: name.startswith(text.prefix), dtype)

    def converted(tensors: Any, config: Any) -> Any:
        if not text.open_clip:
            return convert_ldm_clip_checkpoint(tensors)
        like = _Configured(config)
        return convert_open_clip_checkpoint(like, tensors, prefix=text.prefix)

    named = _converted(converted, tensors, config, weights)
    return assembled(kind, config, named, f"the text encoder in {weights.header.path}")


class _Configured:
    """What diffusers' converter of open_clip's names asks of a model."""

    def __init__(self, config: Any) -> None:
        self.config = config


def tokenizer_for(text: Text) -> Any:
    """What reads a text encoder's prompts: CLIP's, which all of them share but for the padding."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(CONFIGS / "clip", pad_token=text.pad)


def assembled(make: Any, config: Any, tensors: dict[str, torch.Tensor], what: str) -> Any:
    """A module of ``config`` with the ``tensors`` as its weights.

    Raises:
        ModelError: tensors are missing, or of other shapes; ``what`` it was to be.
    """
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    # To draw numbers for weights that are none takes as long as to read those of a text encoder.
    with no_init_weights(), init_empty_weights():
        module = make(config)
    if not hasattr(module, "text_model"):  # transformers' CLIPTextModel has lost this level
        tensors = {name.removeprefix("text_model."): each for name, each in tensors.items()}
    try:
        missing = module.load_state_dict(tensors, strict=False, assign=True).missing_keys
    except RuntimeError as error:
        raise ModelError(
            f"{what} is of another kind than it seems: {_second_line(error)}"
        ) from error
    if missing:
        raise ModelError(
            f"{what} is not whole: {len(missing)} of its tensors are missing ({missing[0]})."
        )
    return module.eval()


def _second_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if len(lines) > 1 else lines[0]


def _fitted(fit: Any, known: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    try:
        fitted: dict[str, Any] = fit(known, weights.header.shapes)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise ModelError(
            f"{weights.header.path} is not whole, or of another kind than it seems: "
            f"{first_line(error)} is missing."
        ) from error
    return fitted


def _converted(convert: Any, tensors: Any, config: Any, weights: Weights) -> dict[str, Any]:
    """``tensors`` under diffusers' or transformers' names."""
    try:
        converted: dict[str, Any] = convert(tensors, config)
    except (KeyError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{weights.header.path} is not whole: {first_line(error)} is missing."
        ) from error
    return converted
