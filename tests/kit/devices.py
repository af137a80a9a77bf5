"""The device that ``tests/gpu`` is for, and how near to each other pictures of two devices are.

``SOFTPAINT_TEST_DEVICE`` names it: ``cuda``, or ``cpu``, with which the same tests show that they
are right themselves, but for those of memory, waits and offload.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.pocket.world import sample_edits

DEVICE = os.environ.get("SOFTPAINT_TEST_DEVICE", "cuda")
CUDA = DEVICE.startswith("cuda")
HALF = None if CUDA else "float16"
"""What is half precision there: on CUDA nothing has to be said."""

on_device = [
    # Few steps are quick, and the maps are finer than they can tell.
    pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning"),
]
"""The marks of a module of such tests."""
cuda_only = pytest.mark.skipif(not CUDA, reason="of a CUDA device alone")

STEPS = 6
SIZE = 128


@contextmanager
def exact_products() -> Iterator[None]:
    """No TF32: float32 is float32, on every device."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@cache
def _scene() -> Any:
    return sample_edits()[0]


def hard(**changes: Any) -> dict[str, Any]:
    """An edit of a scene of the pocket world by a mask."""
    scene = _scene()
    return {
        "image": Image.fromarray(np.asarray(scene.image)),
        "mask": np.asarray(scene.mask) > 0,
        "prompt": scene.prompt,
        "num_inference_steps": STEPS,
        "seed": 3,
        "progress": False,
        **changes,
    }


def ramp() -> np.ndarray:
    """A map (H W) that is 0 on the left and 1 on the right."""
    line = np.clip(np.linspace(-0.3, 1.3, SIZE, dtype=np.float32), 0, 1)
    return np.tile(line, (SIZE, 1))


def soft(**changes: Any) -> dict[str, Any]:
    """The same by a soft map."""
    return hard(**{"mask": None, "strength_map": ramp(), **changes})


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A mask (H W, bool) of one rectangle."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top:bottom, left:right] = True
    return mask


def pixels(result: Any) -> np.ndarray:
    """All pictures of a result (n H W 3), as whole numbers."""
    return np.stack([np.asarray(each.convert("RGB")) for each in result.images]).astype(int)


def apart(one: Any, other: Any) -> np.ndarray:
    """How many levels the pixels of two results are apart (n H W 3)."""
    return np.asarray(np.abs(pixels(one) - pixels(other)))


def psnr(one: Any, other: Any, where: np.ndarray) -> float:
    """Of two results in dB, ``where`` (H W) alone: the rest is equal and would flatter."""
    squares = (apart(one, other)[:, where] ** 2).mean()
    return float(10 * np.log10(255**2 / max(squares, 1e-9)))


def repainted(settings: dict[str, Any]) -> np.ndarray:
    """Where an edit may change pixels: H W, bool."""
    if settings.get("mask") is not None:
        return np.asarray(settings["mask"]) > 0
    if settings.get("strength_map") is not None:
        return np.asarray(settings["strength_map"]) > 0
    return np.asarray(np.any([np.asarray(each["map"]) > 0 for each in settings["regions"]], axis=0))
