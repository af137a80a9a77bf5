"""The page's arithmetic: its own tests in JavaScript, and the engine's tools as references."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.picture import map_tools
from tests.serve.kit import PAGE, node, stroke

NODE = node()
HERE = Path(__file__).parent / "page"
needs_node = pytest.mark.skipif(NODE is None, reason="needs node, or Playwright, which brings one")

SIZE = (61, 47)
BRUSH = {"size": 17.0, "strength": 0.7, "hardness": 0.4, "spacing": 0.15}
PATH = [(9.3, 8.1, 1.0), (30.0, 20.5, 0.4), (52.2, 39.0, 0.9)]


@needs_node
def test_arithmetic_by_nodes_own_test_runner():
    assert NODE is not None
    run = subprocess.run(
        [NODE, "--test", str(HERE / "arithmetic.test.mjs")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_types_by_tsc():
    tsc = os.environ.get("SOFTPAINT_TSC") or shutil.which("tsc")
    if tsc is None:
        pytest.skip("needs TypeScript's tsc, on the path or named by SOFTPAINT_TSC")
    run = subprocess.run(
        [tsc, "-p", str(PAGE / "jsconfig.json")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout


@needs_node
def test_tools_mean_the_same_as_the_engines(tmp_path):
    rng = np.random.default_rng(5)
    strength_map = np.zeros(SIZE[::-1], np.float32)
    strength_map[12:30, 8:25] = 1
    strength_map[25:40, 30:52] = rng.random((15, 22), np.float32)
    stored = np.rint(strength_map * 65535).astype(np.uint16)
    strength_map = (stored / 65535).astype(np.float32)
    colours = rng.integers(0, 256, (6, 3))
    noisy = colours[rng.integers(0, 6, SIZE[::-1])] + rng.integers(-9, 10, (*SIZE[::-1], 3))
    rgb = noisy.clip(0, 255).astype(np.uint8)
    red, green, blue = map(int, rgb[9, 20])
    point = lambda x, y: {"x": x, "y": y}  # noqa: E731  # as the page writes points
    tasks: list[tuple[list[Any], Any]] = [
        (["same"], strength_map),
        (["invert"], map_tools.invert(strength_map)),
        *[([name, r], getattr(map_tools, name)(strength_map, r)) for name in ("grow", "shrink")
          for r in (1, 2.5, 9)],
        *[(["feather", w], map_tools.feather(strength_map, w)) for w in (1.5, 6, 40)],
        *[(["falloff", w], map_tools.falloff(strength_map, w)) for w in (3, 25.5)],
        (["gradient", point(5, 40.5), point(50.5, 3)],
         map_tools.gradient(SIZE, (5, 40.5), (50.5, 3))),
        (["rectangle", point(40.2, 30), point(3.5, 7.7), 0.6],
         map_tools.paint(np.zeros_like(strength_map), "rectangle", (3.5, 7.7, 40.2, 30), 0.6)),
        *[(["wand", point(20, 9), tolerance],
           map_tools.select_colours(rgb, [(red, green, blue)], tolerance))
          for tolerance in (4, 12, 60)],
        (["stroke", BRUSH | {"mode": "set", "pressure": "strength"}, PATH],
         stroke(SIZE, PATH, diameter=17, strength=0.7, hardness=0.4, spacing=0.15)),
    ]  # fmt: skip
    Image.fromarray(stored).save(tmp_path / "map.png")
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    (tmp_path / "picture.rgba").write_bytes(rgba.tobytes())
    (tmp_path / "tasks.json").write_text(json.dumps([task for task, _ in tasks]))
    assert NODE is not None
    subprocess.run([NODE, str(HERE / "references.mjs"), str(tmp_path)], check=True, timeout=60)
    for at, (task, expected) in enumerate(tasks):
        with Image.open(tmp_path / f"{at}.png") as file:
            made = np.asarray(file).astype(np.float64) / 65535
        # 16 bits, a stroke's in two roundings; blurs and distances are float32 in the engine.
        worst = np.abs(made - expected).max()
        assert worst < (0 if task[0] == "same" else 2e-4) + 1e-7, (task, worst)
