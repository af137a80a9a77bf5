"""Models in diffusers' folders, here or on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import InputError, ModelError, setting
from engine.models.checkpoints import find_checkpoint
from engine.models.family import FAMILIES, Family, transformer_of, unsupported
from engine.models.formats.assemble import unet_of
from engine.models.formats.devices import resolve_dtype
from engine.models.formats.few_steps import few_steps, scheduler_for
from engine.models.formats.kinds import ALONE, KINDS, kind_of
from engine.models.formats.loaded import Loaded
from engine.models.formats.parts import INDEX, check_parts
from engine.models.formats.prediction import check_prediction_type
from engine.models.formats.single_file import load_single_file
from engine.models.formats.sources import config_file, guarded, locate
from engine.models.formats.text_encoders import load_text_encoders
from engine.models.formats.transformers import load_transformer
from engine.models.formats.vaes import load_vae
from engine.models.formats.variants import variant_of
from engine.models.formats.weights import open_weights
from engine.models.layout import UNET

Place = str | os.PathLike[str]


_FLOW_PREDICTS = (
    "{} is a flow model, which predicts velocities: a prediction type is said of SD and SDXL."
)


def load_pipeline(
    model: Place,
    dtype: Any,
    device: Any,
    *,
    vae: Place | None = None,
    prediction_type: str | None = None,
    base: Place | None = None,
    text_encoder: Any = None,
) -> Loaded:
    """A pipeline from a known name, a folder, a hub id or a single checkpoint file.

    Args:
        model: where it is.
        dtype: of its weights; None is what suits family and device.
        device: where it goes.
        vae: where the VAE is that takes the place of its own.
        prediction_type: what its network predicts, in place of what it says itself.
        base: where the rest of a model is whose transformer alone is in a file.
        text_encoder: where text encoders are that take the place of its own.

    Raises:
        InputError: a ``dtype`` or ``prediction_type`` that does not exist.
        ModelError: nothing usable is there, the hub cannot be reached, or its family is not
            supported, which is said before anything is loaded.
    """
    check_prediction_type(prediction_type)
    resolve_dtype(dtype, device)
    source = locate(model)
    if isinstance(source, Path) and source.is_file():
        weights = open_weights(source)
        refused = kind_of(weights.header, KINDS)
        alone = refused is None and transformer_of(weights.header)
        if alone and prediction_type is not None:
            raise InputError(_FLOW_PREDICTS.format(model))
        if alone:
            dtype = resolve_dtype(dtype, device, alone[0].half)
            found = load_transformer(
                weights, *alone, dtype, base=base, vae=vae, text_encoder=text_encoder
            )
            return _placed(found, source.stem, device)
        if refused is None:  # else it is told what it is
            _check_whole(model, base=base, text_encoder=text_encoder)
        dtype = resolve_dtype(dtype, device)
        own_vae = None if vae is None else partial(load_vae, vae, dtype=dtype)
        loaded = load_single_file(weights, dtype, load_vae=own_vae, prediction_type=prediction_type)
        return _placed(loaded, source.stem, device)
    _check_whole(model, base=base)
    pipe = _from_folder(model, source, dtype, device, vae=vae, text_encoder=text_encoder)
    if prediction_type is not None:
        told = pipe.scheduler
        if "prediction_type" not in told.config:
            raise InputError(_FLOW_PREDICTS.format(model))
        pipe.scheduler = type(told).from_config(told.config, prediction_type=prediction_type)
    return _placed(Loaded(pipe), Path(source).name, device)


def _placed(loaded: Loaded, name: str, device: Any) -> Loaded:
    """A model on its ``device``, with what its ``name`` and its scheduler tell of its defaults."""
    pipe = loaded.pipe.to(device)
    found = few_steps(name, pipe) if hasattr(pipe, "unet") else None
    if found is None:
        return replace(loaded, pipe=pipe)
    pipe.scheduler = scheduler_for(found, pipe.scheduler)
    return Loaded(pipe, found.defaults, (*loaded.notes, f"{name} is {found.note}"))


def _check_whole(model: Place, **given: Any) -> None:
    """Raise ``InputError`` for what only a transformer's file has a use for."""
    if named := [name for name, value in given.items() if value is not None]:
        raise InputError(f"{model} is no transformer alone: {setting(named[0])} is for those.")


def _from_folder(
    model: Place, source: Path | str, dtype: Any, device: Any, *, vae: Any, text_encoder: Any
) -> Any:
    import diffusers

    def config(name: str) -> dict[str, Any]:
        read = guarded(lambda: json.loads(config_file(source, name).read_text("utf-8")), model)
        return dict(read)

    index = config(INDEX)
    family = _family_of(model, index)
    dtype = resolve_dtype(dtype, device, family.half)
    if "unet" in index:
        _check_channels(model, index, source)
    # What a pipeline was saved without, it is also loaded without: diffusers wants to be told.
    parts: dict[str, Any] = {name: None for name, part in index.items() if part == [None, None]}
    parts |= _shared(model, index, dtype)
    if text_encoder is not None:
        parts |= load_text_encoders(text_encoder, index, config, dtype)
    if isinstance(source, Path):
        check_parts(model, source, index, {*parts, "vae"} if vae is not None else set(parts))
    if vae is not None:
        parts["vae"] = load_vae(vae, config("vae/config.json"), dtype)
    settings = {"dtype": dtype, **variant_of(source, "*/*"), **parts}
    return guarded(
        partial(diffusers.DiffusionPipeline.from_pretrained, str(source), **settings), model
    )


def _shared(model: Place, index: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """The parts of a known model that stand in another's folder."""
    import diffusers
    import transformers

    checkpoint, parts = find_checkpoint(model), {}
    libraries = {"diffusers": diffusers, "transformers": transformers}
    for name, folder in checkpoint.shared.items() if checkpoint else ():
        library, kind = index[name]
        made = getattr(libraries[library], kind)
        parts[name] = guarded(partial(made.from_pretrained, folder, dtype=dtype), model)
    return parts


def _family_of(model: Any, index: Mapping[str, Any]) -> Family:
    """The registered family that has pipelines of the ``index``'s kind, or its parts.

    Raises:
        ModelError: there is none.
    """
    name = str(index.get("_class_name"))
    named = (family for family in FAMILIES if name in family.pipelines)
    # Community pipelines of a known family have names of their own.
    alike = (family for family in FAMILIES if family.lists(index))
    found = next(named, None) or next(alike, None)
    if found is None:
        raise ModelError(unsupported(f"{model} ({name})"))
    return found


def _check_channels(model: Any, index: Mapping[str, Any], source: Path | str) -> None:
    """Raise ``ModelError`` if the UNet takes neither latents alone nor the inpainting layout."""
    path = "unet/config.json"
    config = guarded(lambda: json.loads(config_file(source, path).read_text("utf-8")), model)
    channels, latents = config.get("in_channels", 4), config.get("out_channels", 4)
    if channels not in {latents, 2 * latents + 1}:
        raise ModelError(
            f"{model} ({index.get('_class_name')}) has a UNet with {channels} input channels; "
            f"{latents} (text to image) and {2 * latents + 1} (inpainting) are supported."
        )


def load_inpaint_unet(model: Place, like: Any, dtype: Any, device: Any) -> Any:
    """The 9-channel UNet of an inpainting checkpoint: of its pipeline's folder or hub id, of a
    folder that holds only the UNet, or of a single file, whole or with the UNet alone.

    Args:
        model: where it is.
        like: the UNet of the model that it is loaded beside.
        dtype: of its weights.
        device: where it goes.

    Raises:
        ModelError: there is none, it does not have 9 input channels, or is of another family.
    """
    source = locate(model, index="config.json")
    if isinstance(source, Path) and source.is_file():
        unet = _unet_in_file(source, like, dtype)
    else:
        unet = _unet_in_folder(model, source, dtype)
    if unet.config.in_channels != 9:
        raise ModelError(
            f"{model} is no inpainting checkpoint: its UNet has {unet.config.in_channels} input "
            "channels, not 9."
        )
    return unet.to(device)


def _unet_in_file(path: Path, like: Any, dtype: Any) -> Any:
    weights = open_weights(path)
    if not weights.header.has(UNET, "conv_in.") or kind_of(weights.header) not in {ALONE, None}:
        kind = kind_of(weights.header)
        what = kind.what if kind else "no checkpoint of a known kind"
        raise ModelError(f"{path} is {what}, not an inpainting checkpoint.")
    known = {key: each for key, each in like.config.items() if not key.startswith("_")}
    shapes, width = weights.header.shapes, known["cross_attention_dim"]
    own = next((s[1] for name, s in shapes.items() if name.endswith("attn2.to_k.weight")), width)
    if own != width:
        raise ModelError(
            f"{path} is of another family: its UNet takes text embeddings of {own} dimensions, the "
            f"model's have {width}."
        )
    # An IP-Adapter in the UNet is noted in its config; it is lent when it is used.
    plain = {**known, "encoder_hid_dim_type": None, "encoder_hid_dim": None}
    return unet_of(weights, plain, dtype)


def _unet_in_folder(model: Place, source: Path | str, dtype: Any) -> Any:
    from diffusers import UNet2DConditionModel

    alone = isinstance(source, Path) and (source / "config.json").is_file()
    if alone:
        kind = json.loads((Path(source) / "config.json").read_text("utf-8")).get("_class_name")
        if kind not in {None, "UNet2DConditionModel"}:
            raise ModelError(f"{model} holds a {kind}, not an inpainting UNet.")
    settings: dict[str, Any] = {} if alone else {"subfolder": "unet"}
    settings |= variant_of(source, "*" if alone else "unet/*")
    load = partial(UNet2DConditionModel.from_pretrained, str(source), dtype=dtype, **settings)
    return guarded(load, model)


def default_inpaint_model(model: Place) -> Path | None:
    """Where the 9-channel UNet of ``model`` is, as far as that is known."""
    checkpoint = find_checkpoint(model)
    return checkpoint.inpaint_model if checkpoint else None
