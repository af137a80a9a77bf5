"""Grain: an edit gets what its surroundings have, and nothing where they have none."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from engine.errors import InputError
from engine.picture.grain import match_grain

SIZE = 160
INSIDE, OUTSIDE = np.s_[60:100, 60:100], np.s_[5:45, 60:100]


def clean():
    """A slope from dark to bright."""
    return np.linspace(60, 190, SIZE)[None, :, None].repeat(SIZE, 0) * np.array([1, 0.9, 0.8])


def grainy(size, blur=0.0, seed=0):
    noise: Any = np.random.default_rng(seed).normal(0, size, (SIZE, SIZE, 3))
    if blur:
        noise = cv2.GaussianBlur(noise, (0, 0), blur)
    return (clean() + noise).round().clip(0, 255).astype(np.uint8)


def opacity():
    alpha = np.zeros((SIZE, SIZE), np.float32)
    alpha[52:108, 52:108] = 1
    return alpha


def spectrum(picture, where):
    """Standard deviations of what is finer than 1, 2 and 4 px."""
    off = picture - clean()
    fine = [off - cv2.GaussianBlur(off, (0, 0), sigma) for sigma in (1, 2, 4)]
    return np.array([each[where].std() for each in fine])


EDIT = clean().round().astype(np.uint8)


@pytest.mark.parametrize(("size", "blur"), [(8.7, 0), (4, 0), (16, 0.8), (20, 1.4)])
def test_as_much_as_around_in_every_band(size, blur):
    original = grainy(size, blur)
    result = match_grain(EDIT, original, opacity(), 3)
    # Both are estimates from some hundred independent values: 15% covers twice their error.
    np.testing.assert_allclose(
        spectrum(result, INSIDE), spectrum(original, OUTSIDE), rtol=0.15, atol=0.2
    )
    np.testing.assert_array_equal(result[opacity() == 0], EDIT[opacity() == 0])


def test_brighter_parts_have_the_grain_of_brighter_parts():
    noise = np.random.default_rng(0).normal(0, 1, (SIZE, SIZE, 3)) * (clean() / 16)
    original = (clean() + noise).round().clip(0, 255).astype(np.uint8)
    wide = np.zeros((SIZE, SIZE), np.float32)
    wide[60:100] = 1
    off = match_grain(EDIT, original, wide, 3) - clean()
    assert off[60:100, 120:].std() > 1.6 * off[60:100, :40].std()


def test_none_where_there_is_none():
    assert match_grain(EDIT, EDIT, opacity(), 3) is EDIT


def test_what_the_edit_has_already_is_not_added_again():
    both = grainy(8, seed=1)
    result = match_grain(both, grainy(8), opacity(), 3)
    np.testing.assert_allclose(spectrum(result, INSIDE), spectrum(both, INSIDE), rtol=0.12)


def test_scenery_is_no_grain():
    """A chequered floor around: its squares' insides are flat."""
    y, x = np.mgrid[:SIZE, :SIZE]
    floor = np.where((x // 40 + y // 40) % 2, 90, 180)[..., None].repeat(3, 2).astype(np.uint8)
    assert match_grain(EDIT, floor, opacity(), 3) is EDIT


def test_the_seed_decides():
    original = grainy(8)
    one, same, other = (match_grain(EDIT, original, opacity(), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_thin_fade_is_as_grainy_as_either_side():
    alpha = opacity() * np.float32(0.5)
    original = grainy(8)
    result = match_grain(EDIT, original, alpha, 3)
    laid = original + alpha[..., None] * (result.astype(float) - original)
    np.testing.assert_allclose(spectrum(laid, INSIDE)[0], spectrum(original, OUTSIDE)[0], rtol=0.12)


def test_nothing_around_or_inside():
    everything, nothing = np.ones((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    assert match_grain(EDIT, grainy(8), everything, 3) is EDIT
    assert match_grain(EDIT, grainy(8), nothing, 3) is EDIT
    with pytest.raises(InputError, match="fit"):
        match_grain(EDIT, grainy(8), nothing[:-1], 3)
