"""Text encoders apart from a model: in the places of a whole model's own, in folders or in files.

Their tokenizers stay the whole model's, and so do the configs of those that come in files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import InputError, ModelError
from engine.models.formats.kinds import kind_of
from engine.models.formats.sources import (
    asked_once,
    config_file,
    first_line,
    guarded,
    locate,
    no_loading_bars,
)
from engine.models.formats.variants import variant_of
from engine.models.formats.weights import Weights, open_weights

Place = str | os.PathLike[str]
Config = Callable[[str], dict[str, Any]]
EMBEDDINGS = {"t5": "shared.weight", "clip_text_model": "token_embedding.weight"}
"""By a config's ``model_type``, how the name of the table of its words ends."""
OTHERS = "embed_tokens.weight"
UNUSED = "lm_head"
"""A language model's last layer, which no picture needs."""


def load_text_encoders(
    given: Any, index: Mapping[str, Any], config: Config, dtype: Any
) -> dict[str, Any]:
    """Text encoders by the pipeline's names for their places.

    Args:
        given: a place or several, also as text with commas: a ``.safetensors`` or ``.gguf`` file, a
            folder or hub id of a text encoder, or of a whole model, whose text encoders are meant.
        index: the whole model's ``model_index.json``.
        config: reads one of its configs by its path.
        dtype: of the weights.

    Raises:
        InputError: ``given`` is no place.
        ModelError: one is missing, or fits none of the model's places.
    """
    own = {
        name: (part[-1], config(f"{name}/config.json"))
        for name, part in index.items()
        if name.startswith("text_encoder") and isinstance(part, list) and part[-1] is not None
    }
    found: dict[str, Any] = {}
    for place in _places(given):
        source = locate(place, index="config.json")
        if isinstance(source, Path) and source.is_file():
            found |= _in_file(open_weights(source), own, dtype)
        else:
            found |= _in_folder(place, source, own, dtype)
    return found


def _places(given: Any) -> Sequence[Place]:
    several = given.split(",") if isinstance(given, str) else given
    if isinstance(several, os.PathLike):
        return [several]
    if not isinstance(several, list | tuple) or not several:
        raise InputError(f"text_encoder must be a folder, a file or several, not {given!r}.")
    return [place.strip() if isinstance(place, str) else place for place in several]


def _width(config: Mapping[str, Any]) -> int:
    inner = config.get("text_config") or config
    return int(inner.get("d_model") or inner["hidden_size"])


def _in_file(
    weights: Weights, own: Mapping[str, tuple[str, Mapping[str, Any]]], dtype: Any
) -> dict[str, Any]:
    import transformers

    path, shapes = weights.header.path, weights.header.shapes
    for name, (kind, known) in own.items():
        words = EMBEDDINGS.get(str(known.get("model_type")), OTHERS)
        tables = [shape for each, shape in shapes.items() if each.endswith(words)]
        if not tables or tables[0][1] != _width(known):
            continue
        made = getattr(transformers, kind)
        config = made.config_class.from_dict(dict(known))
        tensors = weights.read(None, dtype)
        try:
            with no_loading_bars():
                module, said = made.from_pretrained(
                    None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
                )
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path} could not be loaded: {first_line(error)}") from error
        if missing := sorted(each for each in said["missing_keys"] if UNUSED not in each):
            raise ModelError(
                f"{path} is not whole: {len(missing)} of its tensors are missing ({missing[0]})."
            )
        return {name: module.eval()}
    kind_found = kind_of(weights.header)
    what = kind_found.what if kind_found else "none of this model's text encoders"
    raise ModelError(f"{path} is {what}; they are {_named(own)}.")


def _in_folder(
    place: Place,
    source: Path | str,
    own: Mapping[str, tuple[str, Mapping[str, Any]]],
    dtype: Any,
) -> dict[str, Any]:
    import transformers

    def loaded(kind: str, subfolder: str) -> Any:
        with asked_once(source, f"{subfolder}/config.json" if subfolder else "config.json"):
            load = partial(
                getattr(transformers, kind).from_pretrained,
                str(source),
                subfolder=subfolder,
                dtype=dtype,
                **variant_of(source, f"{subfolder}/*" if subfolder else "*"),
            )
            return guarded(load, place).eval()

    alone = isinstance(source, Path) and (source / "config.json").is_file()
    if not alone:
        return {name: loaded(kind, name) for name, (kind, _) in own.items()}
    its = guarded(lambda: json.loads(config_file(source).read_text("utf-8")), place)
    for name, (kind, known) in own.items():
        same = its.get("model_type") == known.get("model_type")
        if same and _width(its) == _width(known):
            return {name: loaded(kind, "")}
    raise ModelError(
        f"{place} holds a {its.get('model_type')}, none of this model's text encoders; they are "
        f"{_named(own)}."
    )


def _named(own: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    return ", ".join(
        f"{name} ({kind}, {_width(known)} wide)" for name, (kind, known) in own.items()
    )
