"""Pocket engines on the device, and what each edit gave on the CPU in float32."""

from __future__ import annotations

import os
from typing import Any

import pytest

from engine import InpaintEngine
from tests.kit.devices import CUDA, DEVICE, HALF, exact_products
from tests.kit.pocket_edits import EDITS

asked = "SOFTPAINT_TEST_DEVICE" in os.environ
collect_ignore_glob = [] if asked else ["test_*.py"]
"""Nobody has named a device: hundreds of skipped tests would say no more."""


@pytest.fixture(autouse=True)
def no_tf32():
    """A test of float32 means float32; the one that is about TF32 turns it on."""
    with exact_products():
        yield


@pytest.fixture(scope="session")
def single():
    """The pocket model on the device, in float32."""
    return InpaintEngine.from_pretrained(device=DEVICE, dtype="float32")


@pytest.fixture(scope="session")
def half():
    """The pocket model as a device has it that is not told a dtype: float16."""
    return InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF)


@pytest.fixture(scope="session")
def flows():
    """The pocket flow model on CPU and device in float32, and as the device has it."""
    return {
        "cpu": InpaintEngine.from_pretrained("pocket-flow", device="cpu", dtype="float32"),
        "single": InpaintEngine.from_pretrained("pocket-flow", device=DEVICE, dtype="float32"),
        "half": InpaintEngine.from_pretrained("pocket-flow", device=DEVICE, dtype=HALF),
    }


class Made:
    """Results of :data:`~tests.kit.pocket_edits.EDITS`, made when they are first asked for."""

    def __init__(self, engines: dict[str, InpaintEngine], flows: dict[str, InpaintEngine]) -> None:
        self._engines, self._flows = engines, flows
        self._results: dict[tuple[str, str], Any] = {}

    def __call__(self, where: str, name: str) -> Any:
        if (where, name) not in self._results:
            model, settings = EDITS[name]
            engines = self._flows if model == "pocket-flow" else self._engines
            self._results[where, name] = engines[where].edit(**settings)
        return self._results[where, name]


@pytest.fixture(scope="session")
def made(pocket, single, half, flows):
    """``made("cpu" | "single" | "half", name)``: the result of a named edit there."""
    return Made({"cpu": pocket, "single": single, "half": half}, flows)


@pytest.fixture(autouse=True)
def free_memory():
    """What a test has held is free for the next one."""
    yield
    if CUDA:
        import torch

        torch.cuda.empty_cache()
