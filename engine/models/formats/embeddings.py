"""Textual inversions (Gal et al. 2022): words that stand for learned embeddings."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, ModelError, SoftpaintWarning
from engine.models.formats.early import check_adapter
from engine.models.formats.kinds import EMBEDDING
from engine.models.formats.pickled import read_pickled
from engine.models.formats.sources import first_line

if TYPE_CHECKING:
    import torch

ENCODERS = ("", "_2")
"""What a pipeline puts behind the names of its tokenizers and text encoders."""
_NAMES: Mapping[str, str] = {
    "clip_l": "",
    "text_encoders_0": "",
    "clip_g": "_2",
    "text_encoders_1": "_2",
}
"""SDXL's embeddings by encoder, as they are called in files."""


def read_embedding(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """The vectors (n d) of a file by what they are called there, and the word that it names.

    Pickled files are read as tensors only: no code of theirs is run.

    Raises:
        ModelError: it cannot be read, or holds no embedding.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    held: Any
    if path.suffix != ".safetensors":
        held = read_pickled(path)
    else:
        check_adapter(path, EMBEDDING)
        try:
            held = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a readable file: {first_line(error)}") from error
    token = None
    if "string_to_param" in held:  # stable-diffusion-webui's
        token = held.get("name") if isinstance(held.get("name"), str) else None
        held = dict(held["string_to_param"])
    vectors = {
        str(name): each.reshape(-1, each.shape[-1])
        for name, each in held.items()
        if isinstance(each, torch.Tensor) and each.dim() in {1, 2}
    }
    if not vectors or (len(vectors) > 1 and not vectors.keys() & _NAMES.keys()):
        raise ModelError(f"{path} holds no embedding.")
    if not all(bool(each.isfinite().all()) for each in vectors.values()):
        raise ModelError(f"{path} is damaged: it holds NaN or infinite values.")
    only = next(iter(vectors))
    if len(vectors) == 1 and only not in {*_NAMES, "emb_params", "*"}:
        token = only  # diffusers' files name it so
    return vectors, token


def insert_embedding(pipe: Any, path: Path, token: str | None) -> list[str]:
    """Teach a pipeline's tokenizers and text encoders the embedding in a file; its tokens, one for
    each vector. The first is its word, the others are that with ``_1``, ``_2`` and so on.

    Raises:
        ModelError: it cannot be read, or is for text encoders of other widths.
        InputError: the word has spaces, or it or another token is taken.
    """
    vectors, named = read_embedding(path)
    word = token or named or path.stem
    if not word.strip() or any(sign.isspace() for sign in word):
        raise InputError(f"an embedding's word has no spaces: {word!r}; give FILE:TOKEN.")
    encoders = {n: part for n in ENCODERS if (part := getattr(pipe, f"text_encoder{n}", None))}
    chosen = _chosen(vectors, encoders, path)
    if getattr(pipe, "tokenizer_2", None) is not None and pipe.tokenizer is pipe.tokenizer_2:
        pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)
    tokens = [word, *(f"{word}_{i}" for i in range(1, max(map(len, chosen.values()))))]
    for number in chosen:
        if taken := known_of(tokens, getattr(pipe, f"tokenizer{number}")):
            raise InputError(
                f"tokenizer{number} knows the word {taken[0]!r} already; give FILE:TOKEN."
            )
    for number, values in chosen.items():
        pipe.load_textual_inversion(
            values,
            token=word,
            tokenizer=getattr(pipe, f"tokenizer{number}"),
            text_encoder=encoders[number],
        )
    if missing := encoders.keys() - chosen.keys():
        other = ", ".join(f"text_encoder{n}" for n in sorted(missing))
        warnings.warn(
            SoftpaintWarning(f"{path} holds nothing for {other}, which reads {word!r} as letters"),
            stacklevel=2,
        )
    return tokens


def known_of(tokens: Sequence[str], tokenizer: Any) -> list[str]:
    """Those of the tokens that a tokenizer has."""
    vocabulary = tokenizer.get_vocab()
    return [each for each in tokens if each in vocabulary]


def _chosen(
    vectors: Mapping[str, torch.Tensor], encoders: Mapping[str, Any], path: Path
) -> dict[str, torch.Tensor]:
    """Which encoder gets which vectors, by their names or else by their width."""
    widths = {n: each.get_input_embeddings().weight.shape[1] for n, each in encoders.items()}
    named = {_NAMES[name]: each for name, each in vectors.items() if name in _NAMES}
    if not named:
        (values,) = vectors.values()
        named = {n: values for n, width in widths.items() if width == values.shape[1]}
    fit = {n: v for n, v in named.items() if n in widths and widths[n] == v.shape[1]}
    if not fit:
        given = ", ".join(str(each.shape[1]) for each in vectors.values())
        needed = ", ".join(map(str, widths.values()))
        raise ModelError(
            f"{path} is for text encoders of {given} dimensions; this model's have {needed}."
        )
    return fit


def remove_embedding(pipe: Any, tokens: Sequence[str]) -> None:
    """Make a pipeline's tokenizers and text encoders forget an embedding's tokens."""
    for number in ENCODERS:
        tokenizer = getattr(pipe, f"tokenizer{number}", None)
        if tokenizer is not None and (known := known_of(tokens, tokenizer)):
            pipe.unload_textual_inversion(
                known, tokenizer=tokenizer, text_encoder=getattr(pipe, f"text_encoder{number}")
            )
