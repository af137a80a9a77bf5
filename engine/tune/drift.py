"""Colours that drift, as a network's do: what is taught to bring them back is shown them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FADING = 3.0
"""How much more of the colourfulness is taken, as a share of it, than colours are moved."""


def drifted(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator, most: float
) -> NDArray[np.uint8]:
    """A picture (H W 3) whose colours are moved inside ``mask`` (H W), smoothly: each channel by up
    to ``most`` of the range, other ways in the four corners; and faded, or (less often) too strong.
    """
    height, width = mask.shape
    corners = rng.uniform(-most, most, (2, 2, 3)).astype(np.float32)
    middle = rng.uniform(-most, most, 3).astype(np.float32)
    offset = cv2.resize((corners + middle) / 2, (width, height), interpolation=cv2.INTER_LINEAR)
    kept = 1 - rng.uniform(-0.5, 1) * min(0.9, FADING * most)
    light = pixels.astype(np.float32).mean(axis=2, keepdims=True)
    moved = light + np.float32(kept) * (pixels - light) + 255 * offset
    made = np.where(mask[..., None], moved, pixels)
    return np.asarray(made.round().clip(0, 255), np.uint8)
