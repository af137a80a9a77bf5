"""The words: captions of photographs, tokenizer, text encoders, and prompts through them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.pocket import world

PHOTO_CAPTIONS = {
    "astronaut": "a photograph of a woman",
    "rocket": "a photograph of a rocket",
    "chelsea": "a photograph of a cat, fur",
    "camera": "a black and white photograph of a man",
    "grass": "a photograph of grass, texture",
    "gravel": "a photograph of gravel, stones",
    "brick": "a photograph of a brick wall",
    "moon": "a photograph of stone",
    "hubble_deep_field": "a photograph of the night sky, stars",
}


def bytes_to_unicode() -> dict[int, str]:
    """CLIP's reversible map from bytes to printable characters."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(kept))
    return table


def build_vocabulary(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE in which each of ``words`` is one token and any other text falls into
    smaller pieces.

    Words are taken one after the other; what the merges so far leave in pieces is joined from the
    left by new merges.
    Later merges have lower rank, so they never change how an earlier word is read.
    """
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            ranked = [(merges.get(pair, len(merges)), i) for i, pair in enumerate(pairwise(pieces))]
            rank, i = min(ranked)
            if rank == len(merges):
                i = 0
                merges[(pieces[0], pieces[1])] = rank
                if pieces[0] + pieces[1] not in tokens:
                    tokens.append(pieces[0] + pieces[1])
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


def new_tokenizer() -> Any:
    """A CLIPTokenizer of 77 tokens over the world's words."""
    from transformers import CLIPTokenizer

    vocabulary, merges = build_vocabulary([word for word in world.vocabulary() if len(word) > 1])
    arguments: dict[str, Any] = {"vocab": vocabulary, "merges": merges}
    return CLIPTokenizer(**arguments, model_max_length=77)


def new_text_encoders(tokenizer: Any) -> tuple[Any, Any]:
    """SDXL's two text encoders in small: the pipeline reads the last layer but one of both, and the
    second's pooling.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def token_ids(captions: Sequence[str], tokenizer: Any) -> npt.NDArray[np.int64]:
    """As diffusers' pipelines pad and cut them: b n, of the tokenizer's own length."""
    ids: npt.NDArray[np.int64] = tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="np"
    ).input_ids.astype(np.int64)
    return ids


def encode_prompts(
    ids: torch.Tensor, first: nn.Module, second: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """As diffusers' SDXL pipelines do: embeddings b 77 128 and the pooled b 64."""
    a = first(ids, output_hidden_states=True)
    b = second(ids, output_hidden_states=True)
    return torch.cat([a.hidden_states[-2], b.hidden_states[-2]], -1), b.text_embeds


_JUNK = (
    "beautiful",
    "nice",
    "very",
    "picture of",
    "photo of",
    "painting of",
    "lovely",
    "4k",
    "art",
    "my",
    "!",
    "style",
)


def with_noise(caption: str, rng: np.random.Generator) -> str:
    """Now and then a word that means nothing here, so that the model learns to shrug at it."""
    if rng.random() > 0.1:
        return caption
    words = caption.split()
    junk = (
        str(rng.choice(_JUNK))
        if rng.random() < 0.6
        else "".join(rng.choice(list("abcdefghiklmnoprstuvwy"), 5))
    )
    words.insert(int(rng.integers(len(words) + 1)), junk)
    return " ".join(words)
