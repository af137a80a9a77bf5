"""What the command line keeps of a picture, and what it says at the start."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from PIL import Image

from engine import InpaintEngine
from engine.cli import run
from engine.picture.metadata import read_metadata
from engine.picture.read import load_image
from engine.picture.write import save_image


@pytest.fixture(autouse=True)
def load_once(monkeypatch, pocket):
    real = InpaintEngine.from_pretrained

    @functools.wraps(real)
    def load(**given):
        return real(**given) if given else pocket

    monkeypatch.setattr(InpaintEngine, "from_pretrained", load)


@pytest.fixture
def no_model(monkeypatch):
    """What is known at the start is said before a model is loaded."""

    def loaded(**_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(InpaintEngine, "from_pretrained", loaded)


@pytest.fixture
def hole(files):
    """The small picture with a transparent corner."""
    alpha = np.full(files.picture.shape[:2], 255, np.uint8)
    alpha[:30, :30] = 0
    path = files.folder / "hole.png"
    Image.fromarray(np.dstack([files.picture, alpha])).save(path)
    return path


def edit(*arguments) -> int:
    return run(["edit", *map(str, arguments), "-p", "a red house", "--steps", "2", "-q"])


def test_the_photos_own_hole_in_one_word_and_again(files, hole):
    out, again = files.folder / "out.png", files.folder / "again.png"
    assert edit(hole, "--mask", "alpha", "-o", out) == 0
    with Image.open(out) as image:
        assert np.asarray(image)[..., 3].min() == 255
        kept = np.asarray(Image.open(hole))[..., 3] == 255
        np.testing.assert_array_equal(np.asarray(image)[kept][:, :3], files.picture[kept])
    assert run(["edit", "--from", str(out), "-o", str(again), "-q"]) == 0
    np.testing.assert_array_equal(load_image(again).rgb, load_image(out).rgb)
    # nothing of the result is transparent, so that a JPEG holds it
    assert edit(hole, "-m", "alpha", "-o", files.folder / "out.jpg") == 0


@pytest.mark.usefixtures("no_model")
def test_a_result_that_stays_transparent_is_no_jpeg(files, hole, capsys):
    assert edit(hole, "-m", files.mask, "-o", files.folder / "out.jpg") == 2
    assert "JPEG holds no transparency" in capsys.readouterr().err


def test_an_opaque_alpha_channel_may_become_a_jpeg(files):
    path = files.folder / "opaque.png"
    Image.fromarray(files.picture).convert("RGBA").save(path)
    assert edit(path, "-m", files.mask, "-o", files.folder / "out.jpg") == 0


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_through_the_command_line(files, suffix):
    values = np.random.default_rng(0).integers(0, 65536, (56, 72, 3), np.uint16)
    photo, out = files.folder / f"deep.{suffix}", files.folder / f"out.{suffix}"
    save_image(load_image(values).to_pil(), photo)
    assert edit(photo, "-m", files.mask, "-o", out) == 0
    deep = load_image(out).deep
    outside = np.asarray(Image.open(files.mask)) == 0
    assert deep is not None
    np.testing.assert_array_equal(deep[outside], values[outside])
    assert "edit" in read_metadata(out)


def test_a_grey_photo_and_colours_on_request(files):
    photo, out = files.folder / "grey.png", files.folder / "out.png"
    Image.fromarray(files.picture).convert("L").save(photo)
    assert edit(photo, "-m", files.mask, "-o", out) == 0
    assert load_image(out).grey
    assert edit(photo, "-m", files.mask, "-o", out, "--colours") == 0
    assert not load_image(out).grey


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "out.webp", "--expand", "16384,0,0,0"], "WEBP holds at most 16383 px"),
        (["-o", "out.png", "--expand", "16384,16384,16384,16384"], "the canvas would grow"),
    ],
)
def test_sizes_are_refused_at_the_start(files, capsys, monkeypatch, more, message):
    monkeypatch.chdir(files.folder)
    assert edit(files.photo, "-m", files.mask, *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("colour", "message"),
    [((6, 6, 6), "is empty: nothing to repaint"), ((127, 127, 127), "strongest value is 0.498")],
)
def test_maps_that_do_nothing_are_refused_at_the_start(files, capsys, colour, message):
    path = files.folder / "faint.png"
    Image.fromarray(np.full((56, 72, 3), colour, np.uint8)).save(path)
    option = "-s" if colour[0] < 10 else "-m"
    assert edit(files.photo, option, path, "-o", files.folder / "out.png") == 2
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("always")
def test_a_weak_map_is_named_once(files, capsys):
    path = files.folder / "weak.png"
    Image.fromarray(np.full((56, 72), 28, np.uint8)).save(path)
    assert edit(files.photo, "-s", path, "-o", files.folder / "out.png") == 0
    assert capsys.readouterr().err.count("is weak") == 1
