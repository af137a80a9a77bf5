"""What of a prompt has another effect than it seems, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import SoftpaintWarning, told

# Of stable-diffusion-webui's prompts (and the many programs that read them): weights, networks,
# breaks, and words that change during the run.
_READ = r"\([^()\[\]<>]+:\s*-?\d*\.?\d+\s*\)|\bBREAK\b"
"""Marks that ``prompt_syntax="weights"`` reads."""
_UNREAD = (
    r"<(?:lora|lyco|hypernet):[^<>]+>"
    r"|\[[^\[\]]*:[^\[\]]*:\s*\d*\.?\d+\s*\]"
    r"|\[[^\[\]|]+(?:\|[^\[\]|]*)+\]"  # words in turn
    r"|\{[^{}|]*(?:\|[^{}|]*)+\}|\b__[\w/*-]*\w__\b"  # drawn ones
    r"|\bembedding:[\w.-]+"
    r"|(?<=[a-z0-9,)] )AND(?= [a-z(])"  # prompts side by side, not a word of a shouted one
)
_SYNTAX = re.compile(f"{_READ}|{_UNREAD}")
_LORAS = told(python="engine.load_lora", command="--lora")
_REST = re.compile(_UNREAD)


class PromptWarning(SoftpaintWarning):
    """Part of a prompt is not heard by the model, or is heard as plain words."""


def cut_off(tokenizer: Any, text: str, room: int | None = None) -> str:
    """The end of ``text`` that goes beyond what is read, from the beginning of a word on; empty
    where all of it is read.

    Args:
        tokenizer: of transformers; its ``model_max_length`` counts the marks at both ends.
        text: a prompt.
        room: tokens of it that are read; None is what the tokenizer says.
    """
    tokens = tokenizer(text, truncation=False, add_special_tokens=False, verbose=False)
    if room is None:
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


def taken_literally(text: str, *, weighted: bool = False) -> list[str]:
    """Marks of other programs in ``text``, which are plain words here: ``<lora:name:1>``,
    ``[from:to:0.5]``, ``[one|other]``, ``{one|other}``, ``__file__``, ``embedding:name``, ``AND``,
    and ``(word:1.9)`` and ``BREAK`` where they are not read (``weighted``).
    """
    marks = _REST if weighted else _SYNTAX
    return list(dict.fromkeys(found[0] for found in marks.finditer(text)))


def unheard(
    texts: Mapping[str, str | None],
    tokenizers: Iterable[Any],
    *,
    weighted: bool = False,
    room: int | None = None,
) -> dict[str, dict[str, list[str]]]:
    """What of an edit's texts is cut off or taken literally, by the texts' names; only where there
    is something to tell.

    Args:
        texts: prompts by their names.
        tokenizers: the model's. What any of them reads is heard.
        weighted: long texts are read whole, weights and breaks as such.
        room: tokens of a text that are read; None is what the tokenizers say.
    """
    several = [each for each in tokenizers if each is not None]
    heard: dict[str, dict[str, list[str]]] = {}
    for name, text in texts.items():
        if not text:
            continue
        cuts = () if weighted else (cut_off(each, text, room) for each in several)
        cut = min(cuts, key=len, default="")
        literal = taken_literally(text, weighted=weighted)
        found = {"cut_off": [cut] if cut else [], "literal": literal}
        if kept := {key: value for key, value in found.items() if value}:
            heard[name] = kept
    return heard


def warnings_of(found: Mapping[str, Mapping[str, list[str]]]) -> list[PromptWarning]:
    """The same as warnings, one for each kind and text."""
    warned = []
    for name, kinds in found.items():
        if cut := kinds.get("cut_off"):
            warned.append(
                f"the {name.replace('_', ' ')} is longer than the model reads; left out: {cut[0]!r}"
            )
        if literal := kinds.get("literal"):
            warned.append(
                f"taken as plain words in the {name.replace('_', ' ')}: {', '.join(literal)} "
                f"(other programs' marks; LoRAs are given by {_LORAS})"
            )
    return [PromptWarning(text) for text in warned]
