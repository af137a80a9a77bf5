"""Map tools, and ``softpaint map``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.cli import run
from engine.errors import InputError, UnknownNameError
from engine.picture import map_tools
from engine.picture.sheet import heat_map


def square(size=61, box=(20, 20, 41, 41), level=1.0):
    strength_map = np.zeros((size, size), np.float32)
    left, top, right, bottom = box
    strength_map[top:bottom, left:right] = level
    return strength_map


maps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.round(np.random.default_rng(seed).random((19, 23)) ** 4, 2).astype(np.float32)
)


@settings(max_examples=25, deadline=None)
@given(strength_map=maps, amount=st.floats(0, 8))
def test_tools_keep_the_range_the_type_and_their_input(strength_map, amount):
    before = strength_map.copy()
    for result in (
        map_tools.grow(strength_map, amount),
        map_tools.shrink(strength_map, amount),
        map_tools.feather(strength_map, amount),
        map_tools.feather(strength_map, amount, outward=True),
        map_tools.falloff(strength_map, amount),
        map_tools.fill_holes(strength_map),
        map_tools.scale(strength_map, amount),
        map_tools.invert(strength_map),
    ):
        assert result.dtype == np.float32
        assert result.shape == strength_map.shape
        assert result.min() >= 0
        assert result.max() <= 1
        assert result is not strength_map
    assert np.array_equal(strength_map, before)
    grown, shrunk = map_tools.grow(strength_map, amount), map_tools.shrink(strength_map, amount)
    assert (grown >= strength_map).all()
    assert (shrunk <= strength_map).all()
    assert (map_tools.feather(strength_map, amount, outward=True) >= strength_map).all()
    # Growing the map shrinks what is kept.
    assert np.allclose(
        map_tools.invert(grown), map_tools.shrink(map_tools.invert(strength_map), amount)
    )


def test_grow_and_shrink_by_a_disc():
    grown = map_tools.grow(square(), 3)
    assert grown[30, 17] == 1
    assert grown[30, 16] == 0
    assert grown[17, 17] == 0  # the corner is round
    assert np.array_equal(map_tools.shrink(square(), 3), square(box=(23, 23, 38, 38)))
    border = square(box=(0, 0, 30, 61))
    assert np.array_equal(map_tools.shrink(border, 5), square(box=(0, 0, 25, 61)))


def test_falloff_is_exact_in_pixels():
    got = map_tools.falloff(square(), 10)
    assert (got[20:41, 20:41] == 1).all()
    row = got[30]
    assert row[20 - 5] == pytest.approx(0.5, abs=1e-6)
    assert row[20 - 9] > 0
    assert row[20 - 10] == 0
    assert (np.diff(row[10:21]) > 0).all()


def test_feather_both_ways_and_outward():
    both = map_tools.feather(square(), 10)
    assert both[30, 30] > 0.98
    assert both[30, 20] == pytest.approx(0.55, abs=0.06)
    out = map_tools.feather(square(), 10, outward=True)
    assert (out[20:41, 20:41] == 1).all()
    assert out[30, 15] == pytest.approx(0.5, abs=0.1)
    assert 0 < out[30, 11] < 0.1
    assert out[30, 9] == 0
    assert np.array_equal(map_tools.feather(square(), 0), square())


def test_holes():
    ring = square()
    ring[28:33, 28:33] = 0
    assert np.array_equal(map_tools.fill_holes(ring), square())
    ring[28:33, 28:61] = 0  # open to the outside
    assert np.array_equal(map_tools.fill_holes(ring), ring)
    soft = np.where(ring > 0, np.float32(0.4), np.float32(0))
    assert set(np.unique(map_tools.fill_holes(soft))) == {np.float32(0), np.float32(0.4)}


def test_gradient():
    got = map_tools.gradient((40, 10), (10, 0), (30, 0), (0.2, 1.0))
    assert got.shape == (10, 40)
    assert np.allclose(got[:, :10], 0.2)
    assert np.allclose(got[:, 30:], 1)
    assert got[5, 19] == pytest.approx(0.2 + 0.8 * 9.5 / 20)
    assert (got == got[:1]).all()


def test_colours():
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:, 3:] = (200, 40, 40)
    rgb[:, 5] = (204, 44, 42)  # just another red
    got = map_tools.select_colours(rgb, [(200, 40, 40)], tolerance=5)
    assert (got[:, :3] == 0).all()
    assert (got[:, 3:] == 1).all()
    tight = map_tools.select_colours(rgb, [(200, 40, 40)], tolerance=0.1)
    assert (tight[:, 5] == 0).all()
    assert (map_tools.select_colours(rgb, [(200, 40, 40), (0, 0, 0)]) == 1).all()


def test_paint():
    empty = np.zeros((20, 30), np.float32)
    got = map_tools.paint(empty, "rectangle", (2, 3, 10, 8), 0.5)
    assert got.sum() == 0.5 * 8 * 5
    round_ = map_tools.paint(empty, "ellipse", (5, 5, 15, 15))
    assert round_.sum() == pytest.approx(np.pi * 25, rel=0.05)
    triangle = map_tools.paint(empty, "polygon", (0, 0, 20, 0, 0, 20))
    assert triangle.sum() == pytest.approx(200, rel=0.07)
    assert map_tools.paint(got, "rectangle", (0, 0, 30, 20), 0).sum() == 0


@pytest.mark.parametrize(
    ("how", "want"),
    [("max", 0.75), ("min", 0.5), ("add", 1.0), ("subtract", 0.25), ("multiply", 0.375)],
)
def test_combine(how, want):
    one, two = square(level=0.75), square(level=0.5)
    assert map_tools.combine(one, two, how)[30, 30] == want
    assert map_tools.combine(one, two, how)[0, 0] == 0


def test_mistakes():
    with pytest.raises(InputError, match="two different points"):
        map_tools.gradient((4, 4), (1, 1), (1, 1))
    with pytest.raises(UnknownNameError, match="multiply"):
        map_tools.combine(square(), square(), "multply")
    with pytest.raises(InputError, match="61 x 61"):
        map_tools.combine(square(), square(30))
    with pytest.raises(UnknownNameError, match="ellipse"):
        map_tools.paint(square(), "elipse", (0, 0, 1, 1))
    for shape, points in (("polygon", (0, 0, 1, 1)), ("rectangle", (0, 0, 1))):
        with pytest.raises(InputError, match="are needed"):
            map_tools.paint(square(), shape, points)
    for bad in (-1, np.nan, 5000):
        with pytest.raises(InputError, match="radius"):
            map_tools.grow(square(), bad)
    with pytest.raises(InputError, match="level"):
        map_tools.paint(square(), "rectangle", (0, 0, 9, 9), 1.5)
    with pytest.raises(InputError, match="tolerance"):
        map_tools.select_colours(np.zeros((2, 2, 3), np.uint8), [(0, 0, 0)], 0)


@pytest.mark.parametrize("size", [64, 300, 700])
def test_heat_map_has_a_legend_below_the_picture(size):
    rgb = np.full((size, size, 3), 90, np.uint8)
    got = heat_map(rgb, map_tools.gradient((size, size), (0, 0), (size, 0)))
    assert got.width >= size
    assert got.width % size == 0
    assert got.height > got.width + 40


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    rgb = np.full((40, 60, 3), (30, 90, 40), np.uint8)
    rgb[:20] = (120, 160, 230)
    Image.fromarray(rgb).save(tmp_path / "photo.png")
    Image.fromarray((square(60, (20, 10, 40, 30))[:40] * 255).astype(np.uint8)).save(
        tmp_path / "mask.png"
    )
    return tmp_path / "photo.png"


def softpaint(folder, *arguments):
    return run(
        ["map", *(str(a) if not str(a).endswith(".png") else str(folder / a) for a in arguments)]
    )


def read(path):
    return np.asarray(Image.open(path))


def test_pipeline(photo, capsys):
    folder = photo.parent
    assert (
        softpaint(folder, "mask.png", "--grow", 4, "--feather", 6, "--outward", "-o", "out.png")
        == 0
    )
    got = read(folder / "out.png")
    assert got.shape == (40, 60)
    assert (got[10:30, 20:40] == 255).all()
    assert got[20, 17] == 255
    assert 0 < got[20, 13] < 255
    assert got[20, 8] == 0
    assert "wholly" in capsys.readouterr().out


def test_sources(photo):
    folder = photo.parent
    assert (
        softpaint(folder, "--photo", "photo.png", "--select", "120,160,230", "-o", "sky.png") == 0
    )
    assert (read(folder / "sky.png")[:20] == 255).all()
    assert (read(folder / "sky.png")[20:] == 0).all()
    gradient = ("--photo", "photo.png", "--gradient", "0,0,0,40", "--with", "sky.png")
    assert softpaint(folder, *gradient, "--how", "min", "-o", "both.png") == 0
    assert (read(folder / "both.png")[20:] == 0).all()
    shapes = ("--paint", "rectangle:0,0,30,40@0.5", "--paint", "ellipse:40,10,50,20", "--invert")
    assert softpaint(folder, "--photo", "photo.png", *shapes, "-o", "shapes.png") == 0
    got = read(folder / "shapes.png")
    assert (got[5, 5], got[15, 45], got[35, 55]) == (128, 0, 255)


def test_overlay(photo):
    folder = photo.parent
    assert softpaint(folder, "mask.png", "--photo", "photo.png", "--overlay", "-o", "look.png") == 0
    assert read(folder / "look.png").shape[2] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mask.png",), "--output is missing"),
        (("-o", "out.png"), "give a MAP"),
        (("missing.png", "-o", "out.png"), "does not exist"),
        (("mask.png", "-o", "mask.png"), "is an input"),
        (("mask.png", "--overlay", "-o", "out.png"), "needs --photo"),
        (("mask.png", "--outward", "-o", "out.png"), "--feather"),
        (("mask.png", "--grow", "-3", "-o", "out.png"), "--grow"),
        (("mask.png", "--paint", "square:1,2,3,4", "-o", "out.png"), "rectangle"),
        (("mask.png", "--paint", "rectangle", "-o", "out.png"), "SHAPE:NUMBERS"),
        (("mask.png", "--photo", "photo.png", "--select", "1,2,3", "-o", "out.png"), "begin with"),
        (("--photo", "photo.png", "--select", "red", "-o", "out.png"), "3 numbers"),
        (("--photo", "photo.png", "--gradient", "1,1,1,1", "-o", "out.png"), "two different"),
    ],
)
def test_bad_use_is_one_line_and_writes_nothing(photo, capsys, arguments, message):
    folder = photo.parent
    before = read(folder / "mask.png")
    assert softpaint(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out.png").exists()
    assert np.array_equal(read(folder / "mask.png"), before)
