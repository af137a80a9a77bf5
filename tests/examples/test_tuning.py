"""What the example of teaching is made of: the thing, its pictures, and who finds it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from engine.tune.photos import find_photos, read_photos
from examples.tuning import lighthouse
from examples.tuning.finder import Finder, found
from examples.tuning.teach_lighthouse import LEARNT, MEASURED, draw_photos, edits_of, scenes


def test_a_lighthouse_changes_nothing_outside_its_box():
    for before, after, box, spec in scenes(LEARNT, 3):
        assert np.array_equal(before[~box], after[~box])
        assert (before != after).any(2).mean() > 0.01
        assert lighthouse.caption(spec).startswith("a lighthouse ")


def test_what_is_taught_is_not_what_is_measured(tmp_path):
    draw_photos(tmp_path, 8)
    learnt = read_photos(find_photos([tmp_path]), None)
    assert len(learnt) == 8
    measured = [before for before, *_ in scenes(MEASURED, 8)]
    assert not any(np.array_equal(one.pixels, other) for one in learnt for other in measured)
    new, old = edits_of(2)
    assert [len(new), len(old)] == [2, 4]
    assert all("lighthouse" in each["prompt"] for each in new)
    assert not any("lighthouse" in each["prompt"] for each in old)
    with Image.open(tmp_path / "0.png") as image:
        assert image.size == (128, 128)


def test_a_finder_answers_for_every_picture():
    torch.manual_seed(0)
    finder = Finder().eval()
    pictures = [each[1] for each in scenes(LEARNT, 2)]
    answers = found(finder, pictures)
    assert len(answers) == 2
    assert finder(torch.zeros(3, 3, 128, 128)).shape == (3,)
