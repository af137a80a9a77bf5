"""Colour correction: known casts are taken out, asked-for colours stay, odd shapes hold."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from engine.errors import InputError, UnknownNameError
from engine.picture.colour import list_colours, match_colours, restore_round_trip
from engine.picture.colour_field import _blas, _consensus, _Membrane, _one_blas_thread, _window
from engine.picture.fade import paste_alpha
from engine.pocket import world

CORRECTIONS = [name for name in list_colours() if name != "none"]


def delta_e(first, second, where):
    """Mean Delta-E 2000, pixel by pixel."""
    return float(deltaE_ciede2000(*(rgb2lab(each[where][None]) for each in (first, second))).mean())


def box(size, top, bottom, left, right):
    mask = np.zeros((size, size), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


def cast(pixels, *, gain=(0.92, 0.97, 1.0), offset=(4, -6, 10), tilt=8.0, noise=2.0):
    """``pixels`` with a gain, an offset and an offset that grows from left to right, and noise as
    fine as a VAE's.
    """
    width = pixels.shape[1]
    slope = np.linspace(-tilt, tilt, width)[None, :, None] * np.array([1, 0, -1])
    rough = np.random.default_rng(0).normal(0, noise, pixels.shape)
    return (pixels * np.array(gain) + offset + slope + rough).round().clip(0, 255).astype(np.uint8)


def around(mask, pixels=8):
    """The ring outside a hard mask."""
    return (cv2.dilate(mask, np.ones((2 * pixels + 1,) * 2)) > 0) & (mask == 0)


@pytest.fixture(scope="module")
def meadow():
    """A scene without things: sky, hills and grass."""
    spec = world.sample_scene(1_000_681)
    return world.render(dataclasses.replace(spec, objects=())).image


@pytest.fixture(scope="module")
def day():
    """A bright scene."""
    return world.render(world.sample_scene(1_003_793)).image


def with_ball(pixels, middle, radius=14, colour=(214, 40, 40)):
    """A ball painted on, and where it is."""
    drawn = cv2.circle(np.zeros(pixels.shape[:2], np.uint8), middle, radius, 1, -1) > 0
    return np.where(drawn[..., None], np.uint8(colour), pixels), drawn


# --- a known cast -----------------------------------------------------------------------------


def test_field_takes_a_smooth_cast_out_on_the_ring_and_inside(meadow):
    mask = box(128, 40, 100, 30, 90)
    decoded = cast(meadow)
    matched = match_colours(decoded, meadow, mask)
    inside, ring = mask > 0, around(mask)
    # The noise of 2 grey levels is worth 1.1 of it.
    assert delta_e(decoded, meadow, inside) > 5
    assert delta_e(matched, meadow, ring) < 0.8
    assert delta_e(matched, meadow, inside) < 1.6
    off = cv2.GaussianBlur(matched - meadow.astype(np.float32), (0, 0), 3)
    assert np.abs(off[inside]).max() < 8


@pytest.mark.parametrize("method", ["lab", "histogram"])
def test_field_beats_the_global_methods_on_a_cast_that_varies(meadow, method):
    mask = box(128, 40, 100, 30, 90)
    decoded = cast(meadow, gain=(1, 1, 1), tilt=25)
    ours, theirs = (match_colours(decoded, meadow, mask, method=m) for m in ("field", method))
    for where in (mask > 0, around(mask)):
        assert delta_e(ours, meadow, where) < delta_e(theirs, meadow, where)


@pytest.mark.parametrize("method", ["lab", "histogram"])
def test_global_methods_take_a_uniform_cast_out(meadow, method):
    mask = box(128, 40, 100, 30, 90)
    decoded = cast(meadow, gain=(1, 1, 1), tilt=0, noise=0)
    matched = match_colours(decoded, meadow, mask, method=method)
    before = delta_e(decoded, meadow, mask > 0)
    assert delta_e(matched, meadow, mask > 0) < 0.4 * before


def test_a_faithful_picture_is_left_alone(meadow):
    mask = box(128, 40, 100, 30, 90)
    matched = match_colours(meadow, meadow, mask)
    assert (matched == meadow).all()


# --- asked-for colours -----------------------------------------------------------------------


@pytest.mark.parametrize("colour", [(214, 40, 40), (250, 220, 50), (44, 100, 220)])
def test_an_inserted_ball_keeps_its_colour(meadow, colour):
    mask = box(128, 60, 110, 30, 90)
    wanted, ball = with_ball(meadow, (60, 85), colour=colour)
    decoded = np.where(ball[..., None], wanted, cast(meadow))
    matched = match_colours(decoded, meadow, mask)
    means = [rgb2lab(each[ball][None]).mean(axis=1) for each in (matched, decoded)]
    assert float(deltaE_ciede2000(*means).item()) < 1
    grass = (mask > 0) & ~cv2.dilate(ball.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert delta_e(matched, meadow, grass) < 0.4 * delta_e(decoded, meadow, grass)


@pytest.mark.parametrize("colour", [(214, 40, 40), (120, 120, 125), (242, 242, 238)])
def test_a_thing_across_the_border_does_not_drag_the_field(meadow, colour):
    mask = box(128, 60, 110, 30, 90)
    decoded = cast(meadow)
    painted, ball = with_ball(decoded, (30, 85), colour=colour)
    alone, crossed = (match_colours(each, meadow, mask) for each in (decoded, painted))
    beside = (mask > 0) & ~cv2.dilate(ball.astype(np.uint8), np.ones((9, 9))).astype(bool)
    assert delta_e(crossed, alone, beside) < 0.5
    on = ball & (mask > 0)
    moved = [rgb2lab(each[on][None]).mean(axis=1) for each in (crossed, painted)]
    assert float(deltaE_ciede2000(*moved).item()) < 2


def test_a_change_that_was_asked_for_everywhere_is_no_cast(day):
    mask = box(128, 40, 100, 30, 90)
    night = (day * 0.25).astype(np.uint8)
    matched = match_colours(night, day, mask)
    assert delta_e(matched, night, mask > 0) < 2


# --- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CORRECTIONS)
@pytest.mark.parametrize(
    "mask",
    [
        box(128, 0, 60, 0, 70),
        box(128, 64, 128, 0, 128),
        box(128, 50, 51, 50, 51),
        np.maximum(box(128, 10, 40, 10, 40), box(128, 70, 120, 80, 120)),
        np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1)),
    ],
    ids=["corner", "half", "pixel", "islands", "ramp"],
)
def test_every_shape_of_mask_comes_closer(meadow, method, mask):
    decoded = cast(meadow, tilt=0)
    matched = match_colours(decoded, meadow, mask, method=method)
    assert matched.shape == meadow.shape
    assert matched.dtype == np.uint8
    where = mask > 0
    assert delta_e(matched, meadow, where) < 0.7 * delta_e(decoded, meadow, where)


def test_islands_are_corrected_each_by_its_own_ring(meadow):
    grey = np.full_like(meadow, 128)
    left, right = box(128, 40, 80, 10, 40), box(128, 40, 80, 88, 118)
    decoded = grey.copy()
    decoded[:, :64] += 10
    decoded[:, 64:] -= 10
    matched = match_colours(decoded, grey, left + right)
    assert abs(matched[left > 0].mean() - 128) < 1
    assert abs(matched[right > 0].mean() - 128) < 1


@pytest.mark.parametrize("method", CORRECTIONS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_a_ring_or_an_edit_nothing_happens(meadow, method, value):
    decoded = cast(meadow)
    everywhere = np.full((128, 128), value, np.float32)
    assert match_colours(decoded, meadow, everywhere, method=method) is decoded


@pytest.mark.parametrize("method", CORRECTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (5, 40)])
def test_tiny_pictures(method, shape):
    original = np.full((*shape, 3), 100, np.uint8)
    mask = np.zeros(shape, np.float32)
    mask[0, 0] = 1
    matched = match_colours(original + np.uint8(10), original, mask, method=method)
    assert matched.shape == original.shape
    assert matched.dtype == np.uint8


def test_none_gives_the_picture_itself(meadow):
    decoded = cast(meadow)
    assert match_colours(decoded, meadow, box(128, 9, 99, 9, 99), method="none") is decoded


def test_bad_input(meadow):
    mask = box(128, 9, 99, 9, 99)
    with pytest.raises(UnknownNameError, match="histogram"):
        match_colours(meadow, meadow, mask, method="histogramm")
    with pytest.raises(InputError, match="shapes do not fit"):
        match_colours(meadow[:64], meadow, mask)
    with pytest.raises(InputError, match=r"alpha \(64, 128\)"):
        match_colours(meadow, meadow, mask, alpha=mask[:64])


# --- where the paste lets the original through -----------------------------------------------


def drifting(pixels, by=9.0, seed=4):
    """``pixels`` with an error that no ring tells of: blotches of 16 px."""
    coarse = np.random.default_rng(seed).normal(0, by, (8, 8, 3)).astype(np.float32)
    blotches = cv2.resize(coarse, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return (pixels + blotches).round().clip(0, 255).astype(np.uint8)


def test_inside_the_border_an_edit_that_agrees_is_held_to_the_original(meadow):
    mask = box(128, 40, 100, 30, 90)
    alpha = paste_alpha(mask, 4)
    decoded = drifting(meadow)
    told, untold = (match_colours(decoded, meadow, mask, alpha=each) for each in (alpha, None))
    ramp = (mask > 0) & (alpha < 0.95)
    assert delta_e(told, meadow, ramp) < 0.5 * delta_e(untold, meadow, ramp)
    assert delta_e(told, meadow, mask > 0) < delta_e(untold, meadow, mask > 0)


def test_what_an_edit_took_away_does_not_come_back(meadow):
    """A mask as tight as the thing that it removes: the original shows the thing to its border."""
    with_thing, thing = with_ball(meadow, (60, 70), radius=24)
    mask = thing.astype(np.float32)
    alpha = paste_alpha(mask, 4)
    told, untold = (match_colours(meadow, with_thing, mask, alpha=each) for each in (alpha, None))
    assert delta_e(told, untold, mask > 0) < 0.1


@pytest.mark.parametrize("alpha", ["a border", "half throughout"])
def test_a_slight_change_that_was_asked_for_stays(meadow, alpha):
    """A tint to the mask's border, of which the ring knows nothing: it is faded in, no more."""
    mask = box(128, 30, 110, 20, 100)
    tinted = meadow.astype(np.float32)
    tinted[mask > 0] += (0, 12, -10)
    decoded = tinted.round().clip(0, 255).astype(np.uint8)
    opacity = paste_alpha(mask, 4) if alpha == "a border" else mask / 2
    told, untold = (match_colours(decoded, meadow, mask, alpha=each) for each in (opacity, None))
    deep = cv2.erode(mask, np.ones((19, 19))) > 0
    assert (told[deep] == untold[deep]).all()
    assert delta_e(told, meadow, deep) > 0.9 * delta_e(decoded, meadow, deep)


def test_alpha_changes_the_global_methods_not(meadow):
    mask = box(128, 40, 100, 30, 90)
    decoded, alpha = cast(meadow), paste_alpha(mask, 4)
    for method in ("lab", "histogram"):
        told, untold = (
            match_colours(decoded, meadow, mask, alpha=each, method=method)
            for each in (alpha, None)
        )
        assert (told == untold).all()


# --- the round trip -------------------------------------------------------------------------


def test_what_the_vae_lost_comes_back_as_far_as_the_original_is_kept(meadow):
    lossy = cv2.GaussianBlur(meadow, (0, 0), 2)
    strength_map = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
    restored = restore_round_trip(lossy, meadow, lossy, strength_map)
    assert (restored[:, 0] == meadow[:, 0]).all()
    assert (restored[:, -1] == lossy[:, -1]).all()
    halfway = np.abs(restored[:, 64].astype(float) - meadow[:, 64]).mean()
    assert halfway == pytest.approx(
        np.abs(lossy[:, 64].astype(float) - meadow[:, 64]).mean() * strength_map[0, 64], abs=0.3
    )


# --- in an edit -----------------------------------------------------------------------------


def edit(engine, image, steps=3, **arguments):
    result = engine.edit(
        image=image, prompt="a meadow by day", num_inference_steps=steps, seed=1, **arguments
    )
    return np.asarray(result.images[0]), result


@pytest.mark.parametrize("colour", list_colours())
def test_untouched_pixels_stay_under_every_method(pocket, day, colour):
    mask = box(128, 30, 90, 40, 100)
    pixels, result = edit(pocket, day, mask=mask, colour=colour)
    assert (pixels[mask == 0] == day[mask == 0]).all()
    assert result.settings["colour"] == colour


def test_a_hard_mask_takes_one_decode_and_a_soft_map_two(pocket, day, monkeypatch):
    decodes = []
    decode = pocket.backbone.decode

    def counted(latents):
        decodes.append(latents)
        return decode(latents)

    monkeypatch.setattr(pocket.backbone, "decode", counted)
    hard = box(128, 30, 90, 40, 100)
    soft = cv2.GaussianBlur(hard, (0, 0), 4)
    edit(pocket, day, mask=hard)
    assert len(decodes) == 1
    decodes.clear()
    edit(pocket, day, strength_map=soft, colour="none", strategy="blend")
    assert len(decodes) == 1
    decodes.clear()
    pocket.clear_cache()  # round trips are remembered
    pocket.compare(
        image=day,
        strength_map=soft,
        prompt="a meadow",
        num_inference_steps=3,
        seed=1,
        strategies=["blend", "soft-blend"],
    )
    assert len(decodes) == 3  # one for each result, one for both round trips


def test_lightly_touched_pixels_lose_less(pocket, day):
    ramp = np.tile(np.linspace(0, 0.3, 128, dtype=np.float32), (128, 1))
    plain, matched = (
        edit(pocket, day, 10, strength_map=ramp, strategy="differential", colour=name)[0]
        for name in ("none", "field")
    )
    lightly = (ramp > 0) & (ramp < 0.25)
    assert delta_e(matched, day, lightly) < 0.5 * delta_e(plain, day, lightly)


def test_the_removed_thing_leaves_its_surroundings_colours(pocket):
    spec = world.sample_scene(1_100_002)
    scene, truth = world.render(spec), world.render(spec.without(0)).image
    mask = world.grow(scene.masks[0], 4).astype(np.float32)
    arguments = {"image": scene.image, "mask": mask, "prompt": spec.without(0).caption, "seed": 3}
    session = pocket.session(num_inference_steps=12, strategy="blend", **arguments)
    by = {name: np.asarray(session.render(colour=name).images[0]) for name in list_colours()}
    off = {name: delta_e(pixels, truth, mask > 0) for name, pixels in by.items()}
    assert off["field"] == min(off.values())
    assert off["field"] < 0.95 * off["none"]


def test_no_effect_with_compat_or_on_latents(pocket, day):
    mask = box(128, 30, 90, 40, 100)
    latents = pocket.backbone.encode(torch.zeros(1, 3, 128, 128))
    for arguments in (
        {"image": day, "compat": "diffusers", "strategy": "blend"},
        {"image": latents},
    ):
        one, other = (
            edit(pocket, mask=mask, colour=name, **arguments)[0] for name in ("field", "none")
        )
        assert (one == other).all()


def test_an_edit_refuses_an_unknown_method(pocket, day):
    with pytest.raises(UnknownNameError, match="field"):
        edit(pocket, day, mask=box(128, 30, 90, 40, 100), colour="fields")


# --- the field's arithmetic ----------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2, 2), (2, 9), (9, 2), (7, 11), (11, 7)])
def test_the_membrane_is_the_solution_of_its_equations(grid):
    from scipy.sparse.linalg import LaplacianNd

    rng, count = np.random.default_rng(0), grid[0] * grid[1]
    springs, forces = rng.uniform(0.001, 1, count), rng.normal(size=(count, 3))
    laplacian = -LaplacianNd(grid, boundary_conditions="neumann").toarray().astype(float)
    membrane = _Membrane(grid, 0.4)
    for _ in range(2):  # it may be used again
        field = membrane.pulled(springs, forces)
        assert np.allclose((np.diag(springs) + 0.4 * laplacian) @ field, forces, atol=1e-12)


def test_blas_has_one_thread_inside_and_its_own_afterwards():
    """Of several threads of ours too, and after a failure."""
    before = _threads()

    def inside(fail):
        with _one_blas_thread():
            assert set(_threads()) <= {1}
            time.sleep(0.01)
            if fail:
                raise ZeroDivisionError

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(inside, fail) for fail in (False, True) * 4]:
            assert isinstance(future.exception(), ZeroDivisionError | None)
    assert _threads() == before


def _threads():
    return [each.num_threads for each in _blas().lib_controllers]


@pytest.mark.parametrize("reach", [0.1, 1.7, 20.0])
def test_the_consensus_looks_through_a_gaussian_window(reach):
    from scipy.ndimage import gaussian_filter

    rng, grid = np.random.default_rng(0), (9, 13)
    error, weight = rng.normal(size=(117, 3)), rng.uniform(0, 1, 117)

    def window(values):
        return gaussian_filter(values.reshape(grid), reach, mode="constant", truncate=3).ravel()

    mean, square = (
        np.stack([window(each * weight) / window(weight) for each in moment.T], axis=1)
        for moment in (error, error**2)
    )
    seen = _consensus(error, weight, [_window(count, reach) for count in grid])
    assert np.allclose(seen, mean**3 / square, atol=1e-12)


@pytest.mark.parametrize("level", [10, 128, 250])
@pytest.mark.parametrize("method", ["lab", "histogram"])
def test_a_flat_ring_teaches_an_offset_only(level, method):
    """In a picture of one colour a correction must not wipe out what was painted into it."""
    original = np.full((96, 96, 3), level, np.uint8)
    mask = np.zeros((96, 96), np.float32)
    mask[24:72, 24:72] = 1
    rng = np.random.default_rng(0)
    painted = cv2.resize(
        rng.integers(70, 180, (6, 6, 3)).astype(np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC
    )
    decoded = np.clip(original + rng.normal(4, 1.5, original.shape), 0, 255).astype(np.uint8)
    decoded[24:72, 24:72] = painted
    result = match_colours(decoded, original, mask, method=method)
    got, want = result[24:72, 24:72].astype(float), painted.astype(float)
    assert got.std() > 0.9 * want.std()
    assert (
        np.abs(got - want).mean() < 10
    )  # the ring's cast is 4, in Lab a little more of a dark one
