"""Masks as they are drawn for training: many small shapes, their complement, one box, all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 29
"""Shapes in a mask."""
ROOM = 0.12
"""Shares of a side that a box leaves around a subject, at most."""


def random_mask(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """A mask, H W, True = repaint.

    1 to :data:`MOST` boxes (3 to 25% of a side, as RealFill has them) and strokes, in half of those
    masks everything but them; else a single large box, as people draw one round a thing that is to
    come; or the whole picture.
    """
    kind = rng.random()
    if kind < 0.1:
        return np.ones((height, width), bool)
    if kind < 0.5:
        return _box(rng, height, width, 0.25, 0.85).astype(bool)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, MOST + 1))):
        if rng.random() < 0.5:
            mask |= _box(rng, height, width, 0.03, 0.25)
        else:
            _stroke(rng, mask)
    shown = mask.astype(bool)
    return ~shown if rng.random() < 0.5 and not shown.all() else shown


def mask_around(rng: np.random.Generator, subject: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A box with the whole ``subject`` (H W) in it, as people draw one round a thing that is to
    come, with up to :data:`ROOM` on each side; H W, True = repaint.
    """
    height, width = subject.shape
    rows, columns = np.flatnonzero(subject.any(1)), np.flatnonzero(subject.any(0))
    above, below, left, right = (ROOM * rng.random(4) ** 2 * (height, height, width, width)).round()
    mask = np.zeros_like(subject)
    down = slice(max(0, rows[0] - int(above)), rows[-1] + 1 + int(below))
    across = slice(max(0, columns[0] - int(left)), columns[-1] + 1 + int(right))
    mask[down, across] = True
    return mask


def _box(
    rng: np.random.Generator, height: int, width: int, least: float, most: float
) -> NDArray[np.uint8]:
    mask = np.zeros((height, width), np.uint8)
    rows, columns = (max(1, round(side * rng.uniform(least, most))) for side in (height, width))
    top = int(rng.integers(0, height - rows + 1))
    left = int(rng.integers(0, width - columns + 1))
    mask[top : top + rows, left : left + columns] = 1
    return mask


def _stroke(rng: np.random.Generator, mask: NDArray[np.uint8]) -> None:
    """A brush's, drawn into ``mask``."""
    height, width = mask.shape
    start = rng.uniform((0, 0), (width, height))
    steps = rng.normal(0, 0.1 * min(height, width), (int(rng.integers(2, 6)), 2))
    points = (start + np.cumsum(steps, axis=0)).round().astype(np.int32)
    thick = max(1, round(min(height, width) * rng.uniform(0.03, 0.12)))
    cv2.polylines(mask, [points], isClosed=False, color=1, thickness=thick)
