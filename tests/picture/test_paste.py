"""Ways to lay an edit over its original."""

from __future__ import annotations

import numpy as np
import pytest

from engine.picture.fade import paste_alpha
from engine.picture.paste import changed, list_pastes, multiband, poisson, stitch

pytestmark = pytest.mark.processors


def picture(seed=0, size=(80, 96)):
    """Smooth clouds with some texture."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (5, 6, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return (smooth + rng.normal(0, 4, (*size, 3))).clip(0, 255).astype(np.uint8)


def support(box=(24, 20, 72, 60), size=(80, 96)):
    mask = np.zeros(size, np.float32)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 1
    return mask


PLACES = {
    "inside": (24, 20, 72, 60),
    "corner": (0, 0, 40, 30),
    "edge": (30, 50, 60, 80),
    "across": (0, 30, 96, 50),
    "pixel": (50, 40, 51, 41),
    "corner pixel": (95, 79, 96, 80),
}


@pytest.mark.parametrize("rule", list_pastes())
@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
def test_outside_is_the_original_to_the_bit(rule, box):
    original, edited, mask = picture(0), picture(1), support(box)
    before = original.copy()
    result = stitch(rule, original, edited, paste_alpha(mask, 4))
    assert result.dtype == np.uint8
    assert np.array_equal(result[mask == 0], original[mask == 0])
    assert np.array_equal(original, before)


@pytest.mark.parametrize("rule", list_pastes())
def test_an_edit_that_changes_nothing_changes_nothing(rule):
    original = picture()
    result = stitch(rule, original, original.copy(), paste_alpha(support(), 4))
    assert np.abs(result.astype(int) - original).max() <= (2 if rule == "poisson" else 1)


@pytest.mark.parametrize("rule", list_pastes())
def test_whole_picture_and_nothing(rule):
    original, edited = picture(0), picture(1)
    nothing = stitch(rule, original, edited, np.zeros((80, 96), np.float32))
    assert np.array_equal(nothing, original)
    whole = stitch(rule, original, edited, np.ones((80, 96), np.float32))
    assert np.abs(whole.astype(int) - edited).mean() < 3


def jump(result, original, mask, depth=3):
    """Mean step of brightness across the mask's edge, above what is there in the original."""
    left = int(np.flatnonzero(mask.any(axis=0))[0])
    rows = mask[:, left + 8] > 0
    inner, outer = (
        picture.astype(float)[rows][:, left : left + depth].mean(axis=(1, 2))
        - picture.astype(float)[rows][:, left - depth : left].mean(axis=(1, 2))
        for picture in (result, original)
    )
    return np.abs(inner - outer).mean()


def test_cast_is_met_at_the_edge():
    original, mask = picture(), support()
    edited = np.clip(original.astype(int) + 30, 0, 255).astype(np.uint8)
    jumps = {
        rule: jump(stitch(rule, original, edited, paste_alpha(mask, 2)), original, mask)
        for rule in ("alpha", "multiband", "poisson")
    }
    assert jumps["alpha"] > 15
    assert jumps["multiband"] < 0.8 * jumps["alpha"]
    assert jumps["poisson"] < 2


@pytest.mark.parametrize("box", [PLACES["inside"], PLACES["corner"]], ids=["inside", "corner"])
def test_poisson_takes_a_cast_out_and_does_not_move_the_edit(box):
    original, mask = picture(), support(box) > 0
    edited = np.clip(original.astype(int) + 30, 0, 255).astype(np.uint8)
    result = poisson(original, edited, mask).astype(int)
    error = np.abs(result - original)[mask].mean()
    if box == PLACES["inside"]:
        assert error < 2  # one pixel's shift would cost about 4, the texture's size
    else:
        assert error < 20  # at the picture's border the edit keeps its own colours


def test_poisson_meets_no_colours_at_the_frame():
    """What the original has under an edit that goes on to the picture's end is no border of it."""
    original = np.full((64, 96, 3), 90, np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[:, 60:] = mask[40:, :] = True
    original[:, 66:] = original[46:, :] = (250, 20, 20)  # a thing in the mask, cut by the frame
    edited = np.full_like(original, 120)
    result = poisson(original, edited, mask).astype(int)
    assert np.abs(result[mask] - 120).max() <= 30  # from the border's 90 to its own


def test_multiband_keeps_the_inside():
    original, edited, mask = picture(0), picture(1), support((8, 8, 88, 72))
    result = multiband(original, edited, mask) * 255
    assert np.abs(result[36:44, 44:52] - edited[36:44, 44:52]).mean() < 6


def test_changed_is_low_for_a_codec_and_high_for_a_repaint():
    original = picture()
    rng = np.random.default_rng(0)
    codec = np.clip(original + rng.normal(0, 2, original.shape), 0, 255).astype(np.uint8)
    assert changed(original, codec).max() < 0.35
    assert changed(original, 255 - original).mean() > 0.9
    assert (changed(original, original) == 0).all()
