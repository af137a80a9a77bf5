"""RealFill's recipe: a picture's hole is learnt from other photos of the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.picture.map_files import load_mask
from engine.tune.photos import Photo, read_photos

PROMPT = "a photo of sks"
"""Stands for the scene where no other prompt is given."""


def filling(
    target: Path, mask: Path | None, references: Sequence[Path], prompt: str | None
) -> list[Photo]:
    """The picture to be filled, its hole unknown, and the photos that show what belongs there.

    Args:
        target: the picture.
        mask: its hole, white = unknown; the picture's transparency if None.
        references: photos of the same place.
        prompt: of all; :data:`PROMPT` if None.

    Raises:
        InputError: one cannot be read, or the picture has no hole.
    """
    first, *others = read_photos([target, *references], prompt or PROMPT)
    if mask is not None:
        height, width = first.unknown.shape
        hole = np.asarray(load_mask(mask, (width, height))) > 0
        first = replace(first, unknown=first.unknown | hole)
    if not first.unknown.any():
        raise InputError(f"{str(target)!r} has no hole to fill: give --mask.")
    if first.unknown.all():
        raise InputError(f"all of {str(target)!r} is to be filled: some of it must be known.")
    return [first, *others]
