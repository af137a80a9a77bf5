"""How an edit fades in: where opacity is 0 and 1, thin parts, and what the original has to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.errors import InputError
from engine.picture.fade import fade_over, paste_alpha
from engine.picture.masks import distance_to
from engine.picture.paste import PASTES, list_pastes, stitch
from engine.picture.pixels import paste

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.processors
quick = settings(max_examples=60, deadline=None)

levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
soft_maps = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=levels
)


def shapes_map() -> NDArray[np.float32]:
    """A thick disc with a thin tail, a square at the border, strokes of 1 and 3 px, a dot."""
    canvas = np.zeros((220, 420), np.uint8)
    cv2.circle(canvas, (110, 110), 80, 1, -1)
    cv2.line(canvas, (180, 110), (330, 130), 1, 7)
    canvas[150:220, 340:420] = 1
    canvas[5, 10:300] = 1
    canvas[205:208, 5:100] = 1
    canvas[20, 400] = 1
    return canvas.astype(np.float32)


@given(soft_maps, st.floats(0, 40))
@quick
def test_alpha_is_zero_exactly_where_the_map_is(
    strength: NDArray[np.float32], feather: float
) -> None:
    alpha = paste_alpha(strength, feather)
    assert alpha.dtype == np.float32
    assert alpha.shape == strength.shape
    np.testing.assert_array_equal(alpha > 0, strength > 0)
    assert alpha.max(initial=0) <= 1
    if strength.any():
        assert alpha.max() == 1  # every support has an opaque core


@given(soft_maps)
@quick
def test_no_feather_is_a_hard_cut(strength: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(paste_alpha(strength, 0), strength > 0)
    np.testing.assert_array_equal(paste_alpha(strength, 1), strength > 0)


@pytest.mark.parametrize("feather", [2, 5.5, 16, 32, 100])
def test_alpha_is_one_from_the_feather_on_and_smooth(feather: float) -> None:
    strength = shapes_map()
    alpha = paste_alpha(strength, feather)
    depth = distance_to(strength == 0)
    assert (alpha[depth >= feather] == 1).all()
    # Along the inner normal of the disc alpha only grows.
    assert (np.diff(alpha[110, 20:111]) >= 0).all()
    if feather >= 16:
        assert alpha[110, 31] < 0.02
        steps = np.abs(np.diff(alpha[60:160, 31:110], axis=1))
        assert steps.max() < 4 / feather + 0.1


def test_thick_parts_have_the_plain_ramp() -> None:
    strength = np.zeros((100, 100), np.float32)
    strength[20:81, 20:81] = 0.3
    t = np.arange(1, 17, dtype=np.float64) / 16
    expected = 6 * t**5 - 15 * t**4 + 10 * t**3
    alpha = paste_alpha(strength, 16)
    np.testing.assert_allclose(alpha[50, 20:36], expected, atol=1e-5)
    np.testing.assert_allclose(alpha[np.arange(20, 36), np.arange(20, 36)], expected, atol=1e-5)


@pytest.mark.parametrize("feather", [8, 16, 32])
def test_thin_parts_keep_a_meaningful_alpha(feather: float) -> None:
    alpha = paste_alpha(shapes_map(), feather)
    assert (alpha[5, 10:300] == 1).all()  # 1 px wide
    assert (alpha[206, 7:98] == 1).all()  # the middle of 3 px
    assert alpha[20, 400] == 1
    assert (alpha[110:140, 240:320].max(axis=0) > 0.99).all()  # the disc's tail


def test_the_picture_border_is_no_edge() -> None:
    strength = np.zeros((64, 64), np.float32)
    strength[32:, :] = 1
    alpha = paste_alpha(strength, 8)
    assert (alpha[40:] == 1).all()
    assert (alpha == alpha[:, :1]).all()
    assert (paste_alpha(np.ones((8, 8), np.float32), 16) == 1).all()
    assert not paste_alpha(np.zeros((8, 8), np.float32), 16).any()


# --- the paste alpha over an original ------------------------------------------------------------


def meadow(shape: tuple[int, int], *, texture: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(-texture, texture + 1, (*shape, 3))
    return np.asarray(np.array([90, 150, 70]) + noise, np.uint8)


@given(soft_maps, st.floats(0, 40), st.integers(0, 90))
@quick
def test_over_an_original_alpha_lies_between_the_ramps(
    strength: NDArray[np.float32], feather: float, texture: int
) -> None:
    alpha = paste_alpha(strength, feather, meadow(strength.shape, texture=texture))
    np.testing.assert_array_equal(alpha > 0, strength > 0)
    narrow = paste_alpha(strength, feather)
    wide = paste_alpha(strength, 2 * feather) if feather > 1 else narrow
    assert (alpha <= narrow).all()
    assert (alpha >= np.minimum(narrow, wide) - 1e-6).all()


@pytest.mark.parametrize("feather", [2, 5.5, 16, 100])
def test_a_plain_original_is_faded_into_over_twice_the_feather(feather: float) -> None:
    strength = shapes_map()
    alpha = paste_alpha(strength, feather, meadow(strength.shape))
    # A blur's weights add up to 1 but for float32's rounding.
    np.testing.assert_allclose(alpha, paste_alpha(strength, 2 * feather), rtol=0, atol=1e-5)


def test_a_texture_and_a_slope_go_on_too() -> None:
    strength = np.zeros((64, 64), np.float32)
    strength[16:48, 16:48] = 1
    narrow, wide = paste_alpha(strength, 4), paste_alpha(strength, 8)
    across = np.arange(64)[None, :, None]  # Delta-E .4 a px: 3 where the ramp ends
    slope = (meadow((64, 64)) + across).astype(np.uint8)
    for original in (meadow((64, 64), texture=25), slope):
        alpha = paste_alpha(strength, 4, original)
        assert (narrow - alpha).sum() > 0.7 * (narrow - wide).sum()


@pytest.mark.parametrize("far", [(0, 0), (3, 90), (120, 0)])
def test_what_else_is_repainted_far_away_does_not_matter(far: tuple[int, int]) -> None:
    """Large pictures are looked at in squares; a dot moves their borders."""
    original = meadow((600, 620), texture=12)
    cv2.circle(original, (330, 290), 30, (200, 40, 40), -1)
    strength = np.zeros((600, 620), np.float32)
    strength[200:400, 210:420] = 1
    alone = paste_alpha(strength, 4, original)
    strength[far] = 1
    together = paste_alpha(strength, 4, original)
    together[far] = 0
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_nothing_that_stood_there_shows_through_more() -> None:
    """A red ball in the mask, with room above it and none below."""
    strength, original = np.zeros((64, 64), np.float32), meadow((64, 64))
    strength[10:50, 10:54] = 1
    ball = cv2.circle(np.zeros((64, 64), np.uint8), (32, 35), 14, 1, -1) > 0
    original[ball] = (200, 40, 40)
    alpha, narrow = paste_alpha(strength, 4, original), paste_alpha(strength, 4)
    np.testing.assert_array_equal(alpha[ball], narrow[ball])
    # Beside the ball the fade is wide, and the step to it is softened.
    wide = paste_alpha(strength, 8)
    assert alpha[13, 13] == pytest.approx(wide[13, 13], abs=1e-5)
    beside = cv2.dilate(ball.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~ball
    assert (narrow - alpha)[beside].sum() < 0.8 * (narrow - wide)[beside].sum()


@pytest.mark.parametrize(("margin", "grows"), [(2, False), (4, False), (12, True)])
def test_the_margin_of_what_is_kept_does_not_grow(margin: int, grows: bool) -> None:
    """A ball is kept, all around it repainted: a halo of the old surroundings would be left."""
    original = meadow((96, 96), texture=6)
    ball = cv2.circle(np.zeros((96, 96), np.uint8), (48, 48), 20, 1, -1) > 0
    original[ball] = (200, 40, 40)
    strength = (distance_to(ball) > margin).astype(np.float32)
    given_up = paste_alpha(strength, 4) - paste_alpha(strength, 4, original)
    most = (paste_alpha(strength, 4) - paste_alpha(strength, 8)).sum()
    assert (given_up.sum() > 0.7 * most) if grows else (given_up.sum() < 0.05 * most)


def test_a_thing_painted_across_the_border_fades_away() -> None:
    """Steps are about half as large; what is asked for in the middle is untouched."""
    strength, original = np.zeros((64, 64), np.float32), meadow((64, 64))
    strength[16:48, 16:48] = 1
    edited = np.full_like(original, (200, 40, 40))
    hard, soft = (
        paste(original, edited, paste_alpha(strength, 4, under)) for under in (None, original)
    )
    steps = [np.abs(np.diff(each.astype(int), axis=1)).max() for each in (hard, soft)]
    assert steps[1] <= 0.6 * steps[0]  # a half, but for whole pixels
    assert np.array_equal(soft[24:40, 24:40], edited[24:40, 24:40])


# --- what an edit is laid over -------------------------------------------------------------------


def laid(
    rule: str, original: NDArray[np.uint8], edited: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """An edit as the engine lays it over its original."""
    alpha = paste_alpha(mask.astype(np.float32), 4, original)
    under = fade_over(original, edited, alpha, 4, deep=PASTES.get(rule).deep)
    return stitch(rule, under, edited, alpha)


def with_ball(original: NDArray[np.uint8], radius: int = 20) -> NDArray[np.uint8]:
    """A red ball in the middle, its outline half red."""
    middle = original.shape[1] // 2, original.shape[0] // 2
    ball = cv2.circle(original.copy(), middle, radius, (200, 40, 40), -1, cv2.LINE_AA)
    return np.asarray(ball, np.uint8)


@pytest.mark.parametrize("rule", list_pastes())
@pytest.mark.parametrize("margin", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("radius", [2, 20])
def test_nothing_of_what_was_to_go_shows_through(rule: str, margin: int, radius: int) -> None:
    """A ball, or a speck of dust, is taken away under a mask that fits it tightly."""
    clean = meadow((96, 96), texture=6)
    original = with_ball(clean, radius)
    changed = (original != clean).any(axis=2)
    mask = distance_to(changed) <= margin
    result = laid(rule, original, clean, mask)
    off = np.abs(result.astype(int) - clean).mean(axis=2)
    assert off[mask].max() < 30  # the ball is 100 off on average
    rim = mask & (distance_to(~mask) <= 2.5)
    assert off[rim].mean() < 6  # the texture's own mean deviation from a smooth ground is 4
    np.testing.assert_array_equal(result[~mask], original[~mask])


def test_a_mask_from_a_colour_selection_leaves_only_what_it_does_not_cover() -> None:
    """It ends inside the outline's half red pixels; those that it covers go."""
    clean = meadow((96, 96))
    original = with_ball(clean)
    mask = original[..., 0].astype(int) - original[..., 1] > 0
    result = laid("alpha", original, clean, mask)
    assert np.abs(result[mask].astype(int) - clean[mask]).max() <= 8


@pytest.mark.parametrize("rule", list_pastes())
def test_what_the_edit_keeps_is_faded_over_itself(rule: str) -> None:
    """A codec's loss is no change: nothing of the surroundings comes over the ball's rim."""
    original = with_ball(meadow((96, 96)))
    mask = (original != meadow((96, 96))).any(axis=2)
    alpha = paste_alpha(mask.astype(np.float32), 4, original)
    np.testing.assert_array_equal(fade_over(original, original, alpha, 4, deep=True), original)
    lossy = np.clip(original.astype(int) + 5, 0, 255).astype(np.uint8)
    result = laid(rule, original, lossy, mask)
    assert np.abs(result.astype(int) - original).max() <= 8


def test_no_ring_grows_under_one_mask() -> None:
    """Ten edits of edits: each draws a ball of its own colour, tightly."""
    clean = meadow((96, 96))
    mask = distance_to((with_ball(clean) != clean).any(axis=2)) <= 1
    rim = mask & (distance_to(~mask) <= 2.5)
    picture, off = clean, []
    for number in range(10):
        shade = (40, 40, 200) if number % 2 else (20, 20, 20)
        edited = np.asarray(cv2.circle(clean.copy(), (48, 48), 22, shade, -1), np.uint8)
        picture = laid("alpha", picture, edited, mask)
        off.append(np.abs(picture.astype(int) - clean)[rim].mean())
    assert off[8:] == pytest.approx(off[2:4], rel=0.02)


@pytest.mark.parametrize("feather", [-1, float("nan"), float("inf")])
def test_feathers(feather: float) -> None:
    with pytest.raises(InputError, match="feather"):
        paste_alpha(np.ones((8, 8), np.float32), feather)
    with pytest.raises(InputError, match="shape"):
        paste_alpha(np.ones((8, 8, 1), np.float32), 4)
    with pytest.raises(InputError, match="fit"):
        paste_alpha(np.ones((8, 8), np.float32), 4, np.zeros((8, 9, 3), np.uint8))


def test_what_crosses_the_border_is_faded_over_itself() -> None:
    """A ridge that ends just inside the mask is like nothing just outside it there, but no thing
    that the mask fits: an edit that lost it must not get a smear of the sky in its place.
    """
    original = meadow((96, 96))
    mask = np.zeros((96, 96), np.float32)
    mask[32:80, 24:72] = 1
    cv2.fillConvexPoly(original, np.array([(40, 40), (48, 28), (56, 40)]), (90, 90, 110))
    cv2.rectangle(original, (24, 50), (29, 54), (200, 190, 40), -1)
    edited = meadow((96, 96))
    alpha = paste_alpha(mask, 4, original)
    under = fade_over(original, edited, alpha, 4)
    moved = np.abs(under.astype(int) - original).max(axis=2)
    assert (moved[alpha < 1] > 8).mean() < 0.01
    # A blend that sees all that is covered still has it away.
    deep = fade_over(original, edited, alpha, 4, deep=True)
    assert np.abs(deep.astype(int) - original).max() > 40


def test_opacities_of_ones_own_need_no_feather() -> None:
    """``paste_mask`` may show the original in part where the fade has no width."""
    original = meadow((64, 64))
    alpha = np.zeros((64, 64), np.float32)
    alpha[16:48, 16:48] = 0.5
    cv2.rectangle(original, (16, 16), (47, 47), (200, 30, 30), -1)
    under = fade_over(original, meadow((64, 64)), alpha, 0.0)
    assert (under == original)[alpha == 0].all()
