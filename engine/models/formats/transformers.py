"""Transformers alone in one file, and what else of a model there has to be: text encoders,
tokenizers, VAE and scheduler, from a whole model of the family.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError, setting
from engine.models.formats.assemble import assembled
from engine.models.formats.loaded import Loaded
from engine.models.formats.parts import INDEX, check_parts
from engine.models.formats.sources import config_file, first_line, guarded, locate
from engine.models.formats.text_encoders import load_text_encoders
from engine.models.formats.vaes import load_vae
from engine.models.formats.variants import variant_of

if TYPE_CHECKING:
    from engine.models.family import Family
    from engine.models.formats.weights import Weights
    from engine.models.layout import TransformerFile

Place = str | os.PathLike[str]


class Base:
    """A whole model in diffusers' folders, for what a transformer's file does not hold.

    Args:
        file: the transformer's.
        own: what that is.
        place: a folder or a hub id; None is the one that is known.

    Raises:
        ModelError: it is not there, or of another family.
    """

    def __init__(
        self, file: Path, family: Family, own: TransformerFile, place: Place | None
    ) -> None:
        self.place = place if place is not None else own.base
        try:
            self.source = _folder(self.place)
            self.index = self.config(INDEX)
        except ModelError as error:
            raise ModelError(
                f"{file} is {own.description}'s transformer alone; text encoders and VAE come from "
                f"{setting('base')}, a folder or hub id of the whole model such as {own.base}: "
                f"{error}"
            ) from error
        denoiser = self.index.get(family.denoiser)
        if not isinstance(denoiser, list) or denoiser[-1] != own.module:
            raise ModelError(
                f"{file} is {own.description}'s transformer, and {self.place} is of another family "
                f"({self.index.get('_class_name')})."
            )

    def config(self, name: str) -> dict[str, Any]:
        """A configuration by its path.

        Raises:
            ModelError: it is not there.
        """
        path = partial(config_file, self.source, name)
        found: dict[str, Any] = guarded(lambda: json.loads(path().read_text("utf-8")), self.place)
        return found


def _folder(place: Place) -> Path | str:
    source = locate(place)
    if isinstance(source, Path) and source.is_file():
        raise ModelError(f"{place} is a file, not a model's folder.")
    return source


def load_transformer(
    weights: Weights,
    family: Family,
    own: TransformerFile,
    dtype: Any,
    *,
    base: Place | None,
    vae: Place | None,
    text_encoder: Any,
) -> Loaded:
    """A model around the transformer in a file, on the CPU.

    Args:
        weights: of the file.
        family: that it is of.
        own: how it stands there.
        dtype: of all weights.
        base: a folder or hub id of a whole model, for the rest; None is the one that is known.
        vae: where the VAE is that takes the place of that model's.
        text_encoder: where text encoders are that take the place of that model's: see
            :func:`engine.models.formats.text_encoders.load_text_encoders`.

    Raises:
        ModelError: something of it is missing, or of another family.
    """
    import diffusers
    from accelerate import init_empty_weights

    path = weights.header.path
    whole = Base(path, family, own, base)
    # What a pipeline was saved without, it is also loaded without: diffusers wants to be told.
    parts: dict[str, Any] = {n: None for n, part in whole.index.items() if part == [None, None]}
    if text_encoder is not None:
        parts |= load_text_encoders(text_encoder, whole.index, whole.config, dtype)
    if isinstance(whole.source, Path):
        elsewhere = {*parts, family.denoiser, *(["vae"] if vae is not None else [])}
        check_parts(whole.place, whole.source, whole.index, elsewhere)
    config = _config(weights, own, whole, family)
    kind = getattr(diffusers, own.module)
    with init_empty_weights():
        family.network(kind.from_config(config))  # what it cannot run it says before weights come
    if vae is not None:
        parts["vae"] = load_vae(vae, whole.config("vae/config.json"), dtype)
    what = f"the transformer in {path}"
    parts[family.denoiser] = assembled(
        kind.from_config, config, _tensors(weights, own, config, dtype), what
    )
    variant = variant_of(whole.source, "text_encoder*/*")
    load = partial(
        diffusers.DiffusionPipeline.from_pretrained,
        str(whole.source),
        dtype=dtype,
        **variant,
        **parts,
    )
    packed = f", unpacked from {weights.packed}" if weights.packed else ""
    note = f"{path.name}: {own.description}'s transformer{packed}; the rest is {whole.place}'s"
    return Loaded(guarded(load, whole.place), notes=(note,))


def _config(weights: Weights, own: TransformerFile, whole: Base, family: Family) -> dict[str, Any]:
    """The config of the file's transformer: what its shapes tell over what is known."""
    prefix = own.prefix(weights.header) or ""
    shapes = {
        name.removeprefix(prefix): shape
        for name, shape in weights.header.shapes.items()
        if name.startswith(prefix)
    }
    try:
        known: Mapping[str, Any] = whole.config(f"{family.denoiser}/config.json")
    except ModelError:
        known = {}
    try:
        return {**own.known, **known, **own.fit(shapes)}
    except (KeyError, IndexError) as error:
        raise ModelError(
            f"{weights.header.path} is not whole, or of another kind than it seems: "
            f"{first_line(error)} is missing."
        ) from error


def _tensors(
    weights: Weights, own: TransformerFile, config: Mapping[str, Any], dtype: Any
) -> dict[str, Any]:
    """The transformer's tensors under diffusers' names."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    prefix = own.prefix(weights.header) or ""
    read = weights.read(lambda name: name.startswith(prefix), dtype)
    tensors = {name.removeprefix(prefix): each for name, each in read.items()}
    original = own.marks[0]
    if not all(any(name.startswith(mark) for name in tensors) for mark in original):
        return tensors
    known: Any = SINGLE_FILE_LOADABLE_CLASSES
    convert = known[own.module]["checkpoint_mapping_fn"]
    try:
        converted: dict[str, Any] = convert(checkpoint=tensors, config=config)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{weights.header.path} is not whole: {first_line(error)} is missing."
        ) from error
    return converted
