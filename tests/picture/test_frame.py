"""Frames at a picture's sides: found, and not continued."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.picture.frame import continued, frame_widths
from engine.pocket import world


def scene(size=(90, 120), seed=0):
    """Clouds of colour."""
    coarse = np.random.default_rng(seed).integers(60, 190, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def framed(width, colour, sides=(1, 1, 1, 1)):
    picture = scene()
    left, top, right, bottom = (width * each for each in sides)
    height, across = picture.shape[:2]
    picture[:, :left] = picture[:top] = picture[height - bottom :] = colour
    picture[:, across - right :] = colour
    return picture


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("colour", [255, 0])
def test_found(width, colour):
    assert frame_widths(framed(width, colour)) == (width,) * 4
    assert frame_widths(framed(width, colour, (1, 0, 0, 1))) == (width, 0, 0, width)


def test_a_row_between_the_colours_belongs_to_it():
    picture = framed(2, 255)
    picture[:, 2] = picture[:, 3] // 2 + 128
    assert frame_widths(picture)[0] == 3


@pytest.mark.parametrize("steepness", [3, 6, 10, 12, 13, 20, 40])
def test_a_slope_is_none(steepness):
    """A sky that darkens towards the border is no frame, however steeply it does."""
    rows = np.minimum(np.arange(90) * steepness, 250).astype(np.uint8)
    picture = np.repeat(rows[:, None, None], 120, axis=1).repeat(3, axis=2)
    assert frame_widths(picture) == (0, 0, 0, 0)


def test_pictures_without_one_have_none():
    pictures = [scene(seed=seed) for seed in range(20)]
    pictures += [world.render(world.sample_scene(seed), 128).image for seed in range(20)]
    pictures += [np.full((60, 60, 3), 255, np.uint8), np.zeros((3, 5, 3), np.uint8)]
    pictures.append(framed(20, 255))  # a wall, not a frame
    assert not any(any(frame_widths(np.asarray(picture))) for picture in pictures)


@pytest.mark.parametrize("mode", ["edge", "symmetric"])
def test_it_is_not_continued(mode):
    picture = framed(2, 255)
    canvas = continued(picture, (40, 0, 0, 30), mode)
    assert canvas.shape == (120, 160, 3)
    np.testing.assert_array_equal(canvas[:90, 40:], picture)
    # Beyond the corner the top's frame, which is not asked to go on, is part of the row.
    assert canvas[2:90, :40].max() < 230
    assert canvas[90:, 42:158].max() < 230


@pytest.mark.parametrize("mode", ["edge", "symmetric"])
def test_without_one_it_is_numpys_pad(mode):
    picture = scene()
    expected = np.pad(picture, ((3, 7), (5, 2), (0, 0)), mode=mode)
    np.testing.assert_array_equal(continued(picture, (5, 3, 2, 7), mode), expected)
