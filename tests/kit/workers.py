"""Work for processes, in a module that a new one imports quickly."""

from __future__ import annotations

import os
from collections.abc import Callable


def doubling(end: str) -> Callable[[int], list[int]]:
    """Doubles numbers until a three comes, at which it ``raises`` or ``dies``."""

    def work(number: int) -> list[int]:
        if number == 3:
            if end == "dies":
                os._exit(7)
            raise ValueError("no threes")
        return [2 * number]

    return work
