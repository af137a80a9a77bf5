"""What of a prompt has another effect than it seems, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import SoftpaintWarning

# Of stable-diffusion-webui's prompts (and the many programs that read them): weights, networks,
# breaks, and words that change during the run.
_SYNTAX = re.compile(
    r"\([^()\[\]<>]+:\s*-?\d*\.?\d+\s*\)"
    r"|<(?:lora|lyco|hypernet):[^<>]+>"
    r"|\bBREAK\b"
    r"|\[[^\[\]]*:[^\[\]]*:\s*\d*\.?\d+\s*\]"
)


class PromptWarning(SoftpaintWarning):
    """Part of a prompt is not heard by the model, or is heard as plain words."""


def cut_off(tokenizer: Any, text: str) -> str:
    """The end of ``text`` that goes beyond a tokenizer's length, from the beginning of a word on;
    empty where all of it is read.

    Args:
        tokenizer: of transformers; its ``model_max_length`` counts the marks at both ends.
        text: a prompt.
    """
    tokens = tokenizer(text, truncation=False, add_special_tokens=False, verbose=False)
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    ids = tokens["input_ids"]
    if len(ids) <= room:
        return ""
    if not tokenizer.is_fast:
        return str(tokenizer.decode(ids[room:])).strip()
    start = tokens.token_to_chars(room).start
    while start and not text[start - 1].isspace():
        start -= 1
    return text[start:].strip()


def taken_literally(text: str) -> list[str]:
    """Marks of other programs in ``text``, which are plain words here: ``(word:1.9)``,
    ``<lora:name:1>``, ``BREAK``, ``[from:to:0.5]``.
    """
    return list(dict.fromkeys(found[0] for found in _SYNTAX.finditer(text)))


def unheard(
    texts: Mapping[str, str | None], tokenizers: Iterable[Any]
) -> dict[str, dict[str, list[str]]]:
    """What of an edit's texts is cut off or taken literally, by the texts' names; only where there
    is something to tell.

    Args:
        texts: prompts by their names.
        tokenizers: the model's. What any of them reads is heard.
    """
    several = [each for each in tokenizers if each is not None]
    told: dict[str, dict[str, list[str]]] = {}
    for name, text in texts.items():
        if not text:
            continue
        cut = min((cut_off(each, text) for each in several), key=len, default="")
        found = {"cut_off": [cut] if cut else [], "literal": taken_literally(text)}
        if kept := {key: value for key, value in found.items() if value}:
            told[name] = kept
    return told


def warnings_of(told: Mapping[str, Mapping[str, list[str]]]) -> list[PromptWarning]:
    """The same as warnings, one for each kind and text."""
    warned = []
    for name, kinds in told.items():
        if cut := kinds.get("cut_off"):
            warned.append(
                f"the {name.replace('_', ' ')} is longer than the model reads; left out: {cut[0]!r}"
            )
        if literal := kinds.get("literal"):
            warned.append(
                f"taken as plain words in the {name.replace('_', ' ')}: {', '.join(literal)} "
                "(other programs' marks for weights, networks and breaks)"
            )
    return [PromptWarning(text) for text in warned]
