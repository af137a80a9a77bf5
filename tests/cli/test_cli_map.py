"""`softpaint map`: depth, and what its options are about."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine.cli import run


@pytest.fixture
def deep(files):
    """A map of 16 bits; strengths at the ends snap to 0 and 1."""
    values = np.random.default_rng(0).integers(4000, 61000, (56, 72)).astype(np.uint16)
    path = files.folder / "deep.png"
    Image.fromarray(values).save(path)
    return path, values


def test_a_map_of_16_bits_stays_one(files, deep):
    path, values = deep
    for suffix in ("png", "tif"):
        out = files.folder / f"out.{suffix}"
        assert run(["map", str(path), "-o", str(out)]) == 0
        with Image.open(out) as image:
            assert image.mode.startswith("I;16")
            np.testing.assert_array_equal(np.asarray(image), values)


def test_a_map_of_8_bits_stays_one(files):
    out = files.folder / "out.png"
    assert run(["map", str(files.mask), "--feather", "6", "-o", str(out)]) == 0
    with Image.open(out) as image:
        assert image.mode == "L"


@pytest.mark.filterwarnings("default")
def test_a_format_of_8_bits_is_told_of(files, deep, capsys):
    assert run(["map", str(deep[0]), "-o", str(files.folder / "out.jpg")]) == 0
    assert "the lower 8 of its 16 bits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--grow -1", "--grow must be from 0 to 4096, not -1."),
        ("--shrink 1e9", "--shrink must be"),
        ("--falloff nan", "--falloff must be"),
        ("--feather 5000", "--feather must be"),
        ("--scale -2", "--scale must be"),
        ("--how min", "--how is about --with, and there is none."),
        ("--tolerance 3", "--tolerance is about --select"),
        ("--was x", "--was is about --from-change"),
        ("--soft", "--soft is about --from-change and --from-words"),
        ("--not-click 1,2", "--not-click is about --from-click"),
        ("--segmenter x", "--segmenter is about --from-click"),
        ("-p x", "--prompt is about --from-words"),
        ("--outward", "--outward is about --feather"),
        ("--model pocket", "--model is about --from-change and --from-words"),
        ("--from-click 3,3 --not-click x", "--not-click takes 2 numbers"),
    ],
)
def test_what_an_option_cannot_do_is_said_by_its_name(files, capsys, line, said):
    out = files.folder / "out.png"
    assert run(["map", str(files.mask), *line.split(), "-o", str(out)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_a_tolerance_of_nothing_is_refused(files, capsys):
    """It is not taken for one that was not given."""
    line = ["--photo", str(files.photo), "--select", "1,2,3", "--tolerance", "0"]
    assert run(["map", *line, "-o", str(files.folder / "out.png")]) == 2
    assert "tolerance" in capsys.readouterr().err
