"""Control images at another size keep their lines."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import label

from controls import annotate
from controls.lines import resized
from engine.pocket import world


def drawn(height=386, width=512):
    """Lines of one pixel: a frame, a diagonal, a circle."""
    lines = np.zeros((height, width), np.uint8)
    cv2.rectangle(lines, (20, 30), (480, 350), 255)
    cv2.line(lines, (30, 60), (200, 340), 255)
    cv2.circle(lines, (330, 190), 101, 255)
    return lines


def tensor(grey):
    return torch.from_numpy(np.repeat(grey[None, None].astype(np.float32) / 255, 3, axis=1))


@pytest.mark.parametrize("size", [(192, 256), (128, 170), (386, 300), (500, 700)])
def test_thin_lines_stay_white_thin_and_whole(size):
    lines = resized(tensor(drawn()), size)
    assert lines.shape == (1, 3, *size)
    assert set(lines.unique().tolist()) == {0, 1}
    assert torch.equal(lines[:, 0], lines[:, 2])
    white = lines[0, 0].numpy() == 1
    assert label(white, np.ones((3, 3)))[1] == 3  # no line is broken or has run into another
    assert not cv2.erode(white.astype(np.uint8), np.ones((2, 2), np.uint8)).sum() > 4
    scaled = cv2.resize(drawn(), size[::-1], interpolation=cv2.INTER_AREA) > 0
    reached = cv2.dilate(white.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert scaled[reached].sum() >= 0.99 * scaled.sum()  # and every one is where it was


def test_an_annotators_edges_stay_white():
    """A19: an edit of 386 x 512 px at 192 x 256 had its edges at 39% of white."""
    scene = world.render(world.sample_scene(1_050_004)).image
    large = cv2.resize(scene, (512, 386), interpolation=cv2.INTER_CUBIC)
    edges = tensor(annotate(np.asarray(large, np.uint8), "canny")[..., 0])
    lines = resized(edges, (192, 256))
    averaged = torch.nn.functional.interpolate(
        edges, size=(192, 256), mode="bilinear", antialias=True
    )
    on = lines[0, 0] == 1
    assert averaged[0, 0][on].mean() < 0.6
    assert 0.3 < on.double().mean() / (edges[0, 0] == 1).double().mean() * 192 / 386 < 1.2


def test_areas_stay_areas():
    area = np.zeros((64, 96), np.uint8)
    area[16:48, 24:72] = 255
    small = resized(tensor(area), (32, 48))[0, 0]
    assert set(small.unique().tolist()) == {0, 1}
    assert small[8:24, 12:36].all()
    assert small.sum() == 16 * 24


def test_anything_else_is_averaged():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 3, 40, 60), np.float32))
    expected = torch.nn.functional.interpolate(
        image, size=(20, 30), mode="bilinear", antialias=True
    )
    assert torch.equal(resized(image, (20, 30)), expected)
    assert resized(image, (40, 60)) is image
    coloured = tensor(drawn())
    coloured[:, 1] = 0  # as poses are
    assert 0 < float(resized(coloured, (192, 256)).max()) < 1
