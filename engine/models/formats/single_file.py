"""Whole models in one file, put together without a hub: weights from the file, all else from the
configs of its layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError, setting
from engine.models.family import Family, layout_of, unsupported
from engine.models.formats.assemble import (
    read_config,
    text_encoder_of,
    tokenizer_for,
    unet_of,
    vae_of,
)
from engine.models.formats.kinds import kind_of
from engine.models.formats.loaded import Loaded
from engine.models.formats.prediction import noise_share, prediction_in
from engine.models.layout import CONV_IN, VAE, Layout

if TYPE_CHECKING:
    import torch

    from engine.models.formats.weights import Weights
    from engine.models.header import Header

LoadVAE = Callable[[Mapping[str, Any]], Any]


def load_single_file(
    weights: Weights,
    dtype: torch.dtype,
    *,
    load_vae: LoadVAE | None = None,
    prediction_type: str | None = None,
) -> Loaded:
    """A whole model in a file, on the CPU.

    Args:
        weights: of a ``.safetensors`` or ``.gguf`` file.
        dtype: of all its weights.
        load_vae: loads the VAE that takes the place of the file's, given the config of the
            layout's own; None is the one in the file.
        prediction_type: what its network predicts; None is what the file says, or what is measured.

    Raises:
        ModelError: it is no whole model of a registered family.
    """
    import diffusers

    family, layout = family_in(weights.header)
    known = read_config(layout.configs, "vae")
    if load_vae is None and not weights.header.has(VAE):
        raise ModelError(f"{weights.header.path} holds no VAE; give one with {setting('vae')}.")
    unet = unet_of(weights, read_config(layout.configs, "unet"), dtype)
    parts: dict[str, Any] = {"unet": unet, "text_encoder": None, "tokenizer": None}
    for text in layout.texts:
        parts[text.part] = text_encoder_of(weights, text, layout, dtype)
        parts[text.tokenizer] = tokenizer_for(text)
    prediction = prediction_in(
        weights.header,
        layout,
        read_config(layout.configs, "scheduler", "scheduler_config.json"),
        prediction_type if weights.header.shapes[CONV_IN][1] == 4 else prediction_type or "epsilon",
        partial(_share, parts, layout),
    )
    if prediction.sample_size is not None:
        unet.register_to_config(sample_size=prediction.sample_size)
    own = {**known, **prediction.vae, **_statistics(weights)}
    parts["vae"] = vae_of(weights, own, dtype) if load_vae is None else load_vae(own)
    parts["scheduler"] = getattr(diffusers, prediction.scheduler).from_config(prediction.config)
    kind = layout.pipeline if unet.config.in_channels == 4 else family.inpaint_pipeline
    pipe = getattr(diffusers, str(kind))(**parts, **dict(layout.settings))
    return Loaded(pipe, notes=tuple(_notes(weights, layout, prediction.note)))


def family_in(header: Header) -> tuple[Family, Layout]:
    """The family and layout of a file.

    Raises:
        ModelError: it is no whole model, or of no registered family; the message says what it is.
    """
    found = layout_of(header)
    if found is not None:
        return found
    kind = kind_of(header)
    if kind is None:
        raise ModelError(unsupported(f"{header.path} holds tensors of an unknown kind; it"))
    if kind.use:
        raise ModelError(f"{header.path} is {kind.what}; {kind.use}.")
    raise ModelError(unsupported(f"{header.path} is {kind.what}: it"))


def _share(parts: Mapping[str, Any], layout: Layout) -> float:
    """:func:`noise_share` under the empty prompt."""
    (text,) = layout.texts
    tokens = parts[text.tokenizer]("", padding="max_length", max_length=77, return_tensors="pt")
    encoded = parts[text.part](tokens.input_ids)[0]
    return noise_share(parts["unet"], encoded)


def _statistics(weights: Weights) -> dict[str, Any]:
    """Mean and deviation of the latents that an EDM model's file holds."""
    import torch

    names = {"edm_mean": "latents_mean", "edm_std": "latents_std"}
    found = weights.read(names.__contains__, torch.float32)
    return {names[name]: tensor.flatten().tolist() for name, tensor in found.items()}


def _notes(weights: Weights, layout: Layout, prediction: str) -> list[str]:
    """What is unusual about a file, for the user."""
    packed = f"unpacked from {weights.packed}" if weights.packed else ""
    told = [each for each in (prediction, packed) if each]
    name = weights.header.path.name
    return [f"{name} ({layout.description}): {'; '.join(told)}"] if told else []
