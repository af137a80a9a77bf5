"""The bench of the controls: its figure is a figure, its scenes are held out and repeat."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "examples" / "benchmarks" / "measure_controls.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("measure_controls", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_controls"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def square(left: int, size: int = 64) -> np.ndarray:
    picture = np.zeros((size, size, 3), np.uint8)
    picture[16:48, left : left + 32] = 255
    return picture


def test_edge_f1(bench):
    everywhere = np.ones((64, 64), np.bool_)
    assert bench.edge_f1(square(16), square(16), everywhere) == 1
    assert bench.edge_f1(square(17), square(16), everywhere) == 1  # within the tolerance
    moved = bench.edge_f1(square(24), square(16), everywhere)
    assert 0.3 < moved < 0.8  # the horizontal sides still meet, the vertical ones do not
    assert bench.edge_f1(np.zeros_like(square(0)), square(16), everywhere) == 0
    assert np.isnan(bench.edge_f1(square(16), square(16), np.zeros_like(everywhere)))
    elsewhere, mask = square(16), everywhere.copy()
    elsewhere[:, 60:], mask[:, 55:] = 128, False
    assert bench.edge_f1(elsewhere, square(16), everywhere) < 1
    assert bench.edge_f1(elsewhere, square(16), mask) == 1  # what lies outside does not count


def test_insertions_are_held_out_and_repeat(bench):
    first, second = (list(bench.insertions(bench.FIRST_SEED, 3)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert 1_000_000 <= a.seed < 9_000_000
        assert np.array_equal(a.image, b.image)
        changed = (a.image != a.truth.image).any(axis=2)
        assert changed.any()
        assert not (changed & ~a.mask).any()  # the mask holds all that is to come
        for name in ("canny", "depth"):
            assert a.control(name).image.shape == a.image.shape


def test_beyond_its_mask_a_control_changes_no_latent(bench, pocket, capsys):
    """The real ControlNet, at the least that shows it: one scene, three steps."""
    bench.spill(pocket, first=bench.FIRST_SEED, count=1, steps=3)
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines()[-3:]]
    everywhere, loose, exact = ([float(cell) for cell in row[1:]] for row in rows)
    *pixels, beyond, calls = exact
    assert beyond < 1e-3
    assert min(loose[-2], everywhere[-2]) > 0.1
    assert pixels[0] > 0.5 * everywhere[0]
    assert max(pixels[2:]) < 0.5 * min(loose[2:5])
    assert (calls, loose[-1], everywhere[-1]) == (6, 3, 3)
