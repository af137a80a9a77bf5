"""stable-diffusion-webui's marks in prompts, which many programs read: weights and breaks."""

from __future__ import annotations

import re
from dataclasses import dataclass

UP, DOWN = 1.1, 1 / 1.1
"""What round and square brackets multiply the weight of what they hold by."""
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_PAIRS = {")": "(", "]": "["}


@dataclass(frozen=True)
class Piece:
    """Words of one weight."""

    text: str
    weight: float = 1.0


def parse(prompt: str) -> list[list[Piece]]:
    r"""The pieces of a prompt, a list for each part between ``BREAK``s.

    ``(red)`` weighs 1.1, ``(red:1.3)`` 1.3, ``[red]`` 1/1.1; they nest, and multiply. ``\(`` is a
    bracket, and so is one without its other half.

    Example:
        >>> parse("a (red:1.3)")
        [[Piece(text='a ', weight=1.0), Piece(text='red', weight=1.3)]]
    """
    return [_pieces(part) for part in _BREAK.split(prompt)]


def has_marks(prompt: str) -> bool:
    """Whether anything in a prompt is not plain words."""
    return parse(prompt) != [[Piece(prompt)] if prompt else []]


def _pieces(text: str) -> list[Piece]:
    found: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []  # brackets, and which piece is the first in them
    words = ""

    def end() -> None:
        nonlocal words
        if words:
            found.append((words, 1.0))
        words = ""

    place = 0
    while place < len(text):
        sign = text[place]
        if sign == "\\" and text[place + 1 : place + 2] in {*"()[]", "\\"}:
            words += text[place + 1]
            place += 1
        elif sign in "([":
            end()
            opened.append((sign, len(found)))
        elif opened and _PAIRS.get(sign) == opened[-1][0]:
            weight = UP if sign == ")" else DOWN
            if sign == ")" and (said := _WEIGHT.search(words)):
                weight, words = float(said[1]), words[: said.start()]
            end()
            _, first = opened.pop()
            found[first:] = [(each, own * weight) for each, own in found[first:]]
        else:
            words += sign
        place += 1
    end()
    for bracket, first in reversed(opened):
        found.insert(first, (bracket, 1.0))
    return _joined(found)


def _joined(found: list[tuple[str, float]]) -> list[Piece]:
    """Neighbours of one weight as one piece."""
    pieces: list[Piece] = []
    for words, weight in found:
        if pieces and pieces[-1].weight == weight:
            pieces[-1] = Piece(pieces[-1].text + words, weight)
        else:
            pieces.append(Piece(words, weight))
    return pieces
