"""The measures: known answers, ranges, and what is said where there is nothing to measure."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import cv2
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab

from engine import UnknownNameError
from engine.picture import measures, metrics
from engine.picture.metrics import METRICS, Sample, get_metric, measure
from engine.pocket import world

SIZE = 64


@pytest.fixture(scope="module")
def scene() -> world.Scene:
    return world.render(world.sample_scene(1_050_004), SIZE)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[16:48, 8:40] = True
    return mask


def flat(*rgb: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), rgb, np.uint8)


def lab(lightness: float, a: float, b: float) -> np.ndarray:
    """A flat picture of a CIELAB colour."""
    return flat(*(lab2rgb(np.array([[[lightness, a, b]]], float))[0, 0] * 255).round().astype(int))


# ------------------------------------------------------------------------------ untouched


def test_untouched_sees_one_level_in_one_channel(mask):
    before = flat(10, 20, 30)
    after = before.copy()
    after[mask] = 255
    assert metrics.untouched(after, before, mask.astype(float)) == 0
    assert metrics.untouched_share(after, before, mask.astype(float)) == 0
    after[0, 0, 2] -= 1
    assert metrics.untouched(after, before, mask.astype(float)) == 1
    assert metrics.untouched_share(after, before, mask.astype(float)) == 1 / (~mask).sum()
    assert metrics.untouched(flat(0, 0, 0), flat(255, 0, 0), mask * 0.5) == 255
    assert isnan(metrics.untouched(after, before, np.ones((SIZE, SIZE))))


# ----------------------------------------------------------------------------------- seam


def published_seam(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """The formula of ASUKA's script, step by step: paste, two gradients, difference, length."""
    hard = mask.astype(np.uint8) * 255
    pasted = result * (hard[..., None] / 255.0) + truth * (1 - hard[..., None] / 255.0)
    edges = cv2.Canny(hard, 100, 200) > 0
    means = []
    for channel in range(3):
        lengths = np.zeros(mask.shape)
        for dx, dy in ((1, 0), (0, 1)):
            ours, theirs = (
                cv2.Sobel(np.asarray(each[..., channel], np.float64), cv2.CV_64F, dx, dy, ksize=3)
                for each in (pasted, truth)
            )
            lengths += (ours - theirs) ** 2
        means.append(np.sqrt(lengths)[edges].mean())
    return float(np.mean(means))


def test_seam_is_the_published_formula(scene, mask):
    other = world.render(world.sample_scene(1_050_005), SIZE).image
    want = published_seam(other, scene.image, mask)
    assert metrics.seam_pasted(other, scene.image, mask) == pytest.approx(want, rel=1e-12)
    # delivered with the rest untouched, there is nothing to paste
    pasted = np.where(mask[..., None], other, scene.image)
    assert metrics.seam(pasted, scene.image, mask) == pytest.approx(want, rel=1e-12)
    assert metrics.seam(scene.image, scene.image, mask) == 0


def test_seam_of_a_step_is_its_height(mask):
    """A straight edge: Sobel's kernel gives 4 times the step on either side of it."""
    before, after = flat(100, 100, 100), flat(100, 100, 100)
    after[mask] = 110
    inner = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
    corners = 4
    assert metrics.seam(after, before, mask) == pytest.approx(40, rel=corners / inner.sum())


def test_seam_jump_is_one_without_a_seam_and_grows_with_it(scene, mask):
    clean = metrics.seam_jump(scene.image, scene.image, mask)
    assert 0.7 < clean < 1.5
    values = []
    for step in (8, 16, 32):
        shifted = np.clip(scene.image.astype(int) + step * mask[..., None], 0, 255)
        values.append(metrics.seam_jump(shifted.astype(np.uint8), scene.image, mask))
    assert clean < values[0] < values[1] < values[2]
    grey, lighter = flat(100, 100, 100), flat(100, 100, 100)
    lighter[mask] = 109
    assert metrics.seam_jump(lighter, grey, mask) == 10  # (9 + 1) / (0 + 1)


@pytest.mark.parametrize("name", ["seam", "seam_pasted", "seam_jump", "colour_ring"])
def test_a_full_mask_has_no_seam_and_no_ring(scene, name):
    full = Sample(
        result=scene.image, original=scene.image, strength_map=np.ones((SIZE, SIZE), np.float32)
    )
    assert measure(full, [name]) == {}


def test_a_mask_at_the_pictures_border_has_only_its_inner_edge(scene):
    half = np.zeros((SIZE, SIZE), bool)
    half[:, :32] = True
    ring = metrics.ring(half, 3)
    assert ring[:, 29:35].all()
    assert ring.sum() == 6 * SIZE
    dirty = scene.image.copy()
    dirty[:, 0] = 255 - dirty[:, 0]  # far from the seam
    assert metrics.seam(dirty, scene.image, half) == 0


# --------------------------------------------------------------------------------- colour


def test_colour_inside_is_scikit_images_delta_e(scene, mask):
    other = world.render(world.sample_scene(1_050_005), SIZE).image
    every = deltaE_ciede2000(rgb2lab(other), rgb2lab(scene.image))
    assert metrics.colour_inside(other, scene.image, mask) == pytest.approx(every[mask].mean())
    ring = metrics.ring(mask)
    assert metrics.colour_ring(other, scene.image, mask) == pytest.approx(every[ring].mean())
    assert not ring[30, 24]
    assert ring[16, 24]
    assert ring[12, 24]
    assert not ring[11, 24]


def test_hue_is_the_angle_and_goes_round(mask):
    """Within the 8-bit rounding of the pictures, about a degree at this chroma."""
    steep, shallow = (lab(60, 30 * np.cos(a), 30 * np.sin(a)) for a in np.radians((170, -170)))
    assert metrics.hue(steep, shallow, mask) == pytest.approx(20, abs=1.5)
    assert metrics.hue(steep, steep, mask) == 0
    assert isnan(metrics.hue(steep, flat(99, 99, 99), mask))


def test_saturation_is_the_share_of_chroma_that_is_left(mask):
    vivid, pale, grey = lab(60, 40, 0), lab(60, 20, 0), flat(120, 120, 120)
    assert metrics.saturation(pale, vivid, mask) == pytest.approx(0.5, abs=0.02)
    assert metrics.saturation_loss(pale, vivid, mask) == pytest.approx(0.5, abs=0.02)
    assert metrics.saturation_loss(vivid, pale, mask) == 0
    assert isnan(metrics.saturation(vivid, grey, mask))
    only_outside = np.where(mask[..., None], vivid, grey)
    assert metrics.saturation(only_outside, vivid, mask) == pytest.approx(1)


def test_colour_moved_is_between_means_not_between_pixels(mask):
    rng = np.random.default_rng(0)
    noisy = rng.integers(60, 200, (SIZE, SIZE, 3), dtype=np.uint8)
    shuffled = noisy.copy()
    shuffled[mask] = rng.permutation(noisy[mask])
    assert metrics.colour_moved(shuffled, noisy, mask) == pytest.approx(0, abs=1e-6)
    assert metrics.colour_inside(shuffled, noisy, mask) > 10


# ------------------------------------------------------------------------------- strength


def test_strength_rank_is_one_where_change_follows_the_map_and_minus_one_against_it(scene):
    ramp = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
    follows = (scene.image * (1 - ramp[..., None] * 0.5)).astype(np.uint8)
    against = (scene.image * (0.5 + ramp[..., None] * 0.5)).astype(np.uint8)
    flat_scene = np.full_like(scene.image, 200)
    assert metrics.strength_rank(follows, scene.image, ramp) > 0.6
    assert metrics.strength_rank(against, scene.image, ramp) < -0.6
    darker = (flat_scene * (1 - ramp[..., None])).astype(np.uint8)
    assert metrics.strength_rank(darker, flat_scene, ramp) == pytest.approx(1)


def test_strength_rank_wants_several_strengths_and_a_change(scene, mask):
    ramp = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
    assert isnan(metrics.strength_rank(scene.image // 2, scene.image, mask.astype(float)))
    assert isnan(metrics.strength_rank(scene.image, scene.image, ramp))


# ------------------------------------------------------------------------------- fidelity


def test_psnr_inside_and_outside(mask):
    before, after = flat(100, 100, 100), flat(100, 100, 100)
    after[mask] = 151  # an error of 0.2
    assert metrics.psnr(after, before, mask) == pytest.approx(-20 * np.log10(0.2))
    assert metrics.psnr(after, before, ~mask) == measures.PSNR_CAP
    share = mask.mean()
    assert metrics.mse(after, before) == pytest.approx(0.04 * share)
    assert isnan(metrics.psnr(after, before, np.zeros_like(mask)))


def test_brushbenchs_script_is_a_third_as_good(scene, mask):
    """Its own arithmetic: a three-channel sum of squares over a one-channel sum of the mask."""
    other = world.render(world.sample_scene(1_050_005), SIZE).image
    kept = 1.0 - mask[..., None]
    first, second = (each.astype(np.float64) / 255 * kept for each in (other, scene.image))
    script = ((first - second) ** 2).sum() / kept.sum()
    assert metrics.brushbench_mse(other, scene.image, mask) == pytest.approx(script)
    standard = metrics.psnr(other, scene.image, ~mask)
    gap = standard - metrics.brushbench_psnr(other, scene.image, mask)
    assert gap == pytest.approx(10 * np.log10(3))


def test_ssim_falls_with_blur(scene):
    sharp = metrics.ssim(scene.image, scene.image)
    blurred = [
        metrics.ssim(np.asarray(cv2.GaussianBlur(scene.image, (0, 0), sigma)), scene.image)
        for sigma in (1, 3)
    ]
    assert sharp == pytest.approx(1)
    assert sharp > blurred[0] > blurred[1] > 0
    assert isnan(metrics.ssim(scene.image[:8], scene.image[:8]))


def test_prompt_finds_what_is_there(mask):
    scene = world.render(world.sample_scene(1_050_004))
    wrong = {"day": "night", "night": "day"}.get(scene.spec.time, "night")

    def found(text):
        sample = Sample(result=scene.image, original=scene.image, strength_map=mask, prompt=text)
        return get_metric("prompt").measure(sample)

    assert found(scene.caption) == 1
    assert found(f"at {wrong}") == 0
    assert isnan(found("stochastic"))


# ------------------------------------------------------------------------------- registry


def test_every_metric_prefers_the_truth(scene, mask):
    """What is perfect is no worse than a spoiled picture, by every metric, its own way up."""
    ramp = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1)) * mask
    original = np.where(mask[..., None], 255 - scene.image, scene.image)
    blur = np.asarray(cv2.GaussianBlur(scene.image, (0, 0), 4))
    spoiled = blur // 2 + 60
    perfect = Sample(
        result=scene.image,
        original=original,
        strength_map=ramp,
        truth=scene.image,
        subject=mask,
        uncorrected=scene.image,
        prompt=scene.caption,
        lpips=lambda one, two: float(np.abs(one.astype(int) - two).mean()),
        clip=lambda pixels, _text: float(pixels.std()),  # a judge that likes it sharp
        seconds=1.0,
        model_calls=10,
    )
    good = measure(perfect)
    bad = measure(replace(perfect, result=spoiled, seconds=2.0, model_calls=20))
    assert set(good) == set(bad) == set(METRICS.names())
    for metric in METRICS:
        name = metric.name
        assert metric.badness(good[name]) <= metric.badness(bad[name]), name
        if name not in {"strength_rank", "prompt"}:  # which need not see a blur
            assert metric.badness(good[name]) < metric.badness(bad[name]), name


def test_metrics_that_lack_what_they_need_are_left_out(scene, mask):
    bare = Sample(result=scene.image, original=scene.image, strength_map=mask.astype(np.float32))
    got = measure(bare)
    assert {"untouched", "seam", "seam_jump", "colour_ring", "saturation_ring"} <= set(got)
    assert not {"psnr_inside", "prompt", "seconds", "colour_moved"} & set(got)


def test_all_are_described_and_unknown_ones_are_refused():
    assert all(metric.description and metric.unit for metric in METRICS)
    with pytest.raises(UnknownNameError, match="Did you mean 'seam'"):
        get_metric("seem")
