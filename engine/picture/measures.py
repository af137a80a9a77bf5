"""What can be measured: functions of pictures (uint8, H W 3), masks (bool) and maps (float)."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.picture.masks import distance_to

Pixels: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Map: TypeAlias = NDArray[np.floating[Any]]

PSNR_CAP: Final = 100.0
"""dB that equal pictures are given (their PSNR is infinite, and a mean has to remain a number)."""
_MIN_CHROMA: Final = 5.0  # below it a colour is a grey, and its hue an accident
_MIN_MEAN_CHROMA: Final = 2.0  # a reference greyer than this has no saturation to lose


# --- the untouched part --------------------------------------------------------------------------


def untouched(result: Pixels, original: Pixels, strength_map: Map) -> float:
    """Largest difference among pixels of strength 0, in grey levels, 0 to 255.

    Softpaint promises 0. NaN where no pixel has strength 0.
    """
    kept = strength_map == 0
    difference = np.abs(result[kept].astype(np.int16) - original[kept])
    return float(difference.max()) if difference.size else nan


def untouched_share(result: Pixels, original: Pixels, strength_map: Map) -> float:
    """Share, 0 to 1, of the pixels of strength 0 that differ at all in any channel."""
    kept = strength_map == 0
    return float((result[kept] != original[kept]).any(axis=1).mean()) if kept.any() else nan


# --- the seam ------------------------------------------------------------------------------------


def seam(result: Pixels, reference: Pixels, mask: Mask) -> float:
    """Mean length of the difference of Sobel gradients (3 x 3) on the mask's edge, from 0.

    ASUKA's gradient measure (Wang et al. 2025, "Towards Enhanced Image Inpainting", their
    ``cal_grad.py``): edge pixels are Canny's of the mask, each channel is measured on grey levels
    0 to 255, the three means are averaged. One difference: their script first pastes the fill over
    the reference, which hides what a method did to the pixels outside; here the picture is measured
    as it was delivered (:func:`seam_pasted` is theirs). NaN where the mask has no edge.
    """
    edges = cv2.Canny(mask.astype(np.uint8) * 255, 100, 200) > 0
    if not edges.any():
        return nan
    # The Sobel operator is linear: the difference of gradients is the gradient of the difference.
    difference = result.astype(np.float64) - reference
    across, down = (cv2.Sobel(difference, cv2.CV_64F, 1 - i, i, ksize=3)[edges] for i in (0, 1))
    return float(np.hypot(across, down).mean())


def seam_pasted(result: Pixels, reference: Pixels, mask: Mask) -> float:
    """:func:`seam` as ASUKA's script has it, after the fill was pasted over the reference."""
    return seam(np.where(mask[..., None], result, reference), reference, mask)


def seam_jump(result: Pixels, original: Pixels, mask: Mask) -> float:
    """How much more neighbouring pixels differ across the mask's border than they do beside it.

    ``(J + 1) / (U + 1)``: J is the mean absolute difference, in grey levels, of horizontal and
    vertical neighbours of which one is inside the mask; U the same for neighbours in the original
    that are both outside, within four ring widths of the border. The 1 is the quantisation of a
    grey level. 1 is a border like any other place, above 1 it shows as a line, below 1 as a blur.
    NaN where there is no border.
    """
    near = ~mask & _within(mask, 4 * _ring_width(mask))
    jumps, steps = [], []
    for axis in (0, 1):
        first, second = _neighbours(mask, axis)
        jumps.append(_steps(result, axis)[first != second])
        first, second = _neighbours(near, axis)
        steps.append(_steps(original, axis)[first & second])
    across, beside = np.concatenate(jumps), np.concatenate(steps)
    if not across.size or not beside.size:
        return nan
    return float((across.mean() + 1) / (beside.mean() + 1))


def _neighbours(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each pixel and its next one along ``axis``."""
    return (array[:-1], array[1:]) if axis == 0 else (array[:, :-1], array[:, 1:])


def _steps(pixels: Pixels, axis: int) -> NDArray[np.float64]:
    first, second = _neighbours(pixels.astype(np.float64), axis)
    return np.asarray(np.abs(first - second).mean(axis=2))


# --- colour --------------------------------------------------------------------------------------


def ring(mask: Mask, width: int | None = None) -> Mask:
    """Pixels at most ``width`` px from the mask's border, on both sides of it.

    ``width`` None: 1/32 of the shorter side, at least 4.
    """
    width = _ring_width(mask) if width is None else width
    return (mask & _within(~mask, width)) | (~mask & _within(mask, width))


def _ring_width(mask: Mask) -> int:
    return max(4, round(int(min(mask.shape)) / 32))


def _within(area: Mask, distance: float) -> Mask:
    """Pixels at most ``distance`` px from ``area``; none where it is empty."""
    return np.asarray(distance_to(area) <= distance)


def colour_ring(result: Pixels, reference: Pixels, mask: Mask) -> float:
    """Mean Delta-E 2000, pixel by pixel, on the :func:`ring` around the border; from 0.

    A mask is drawn with some room, so that close to its border the reference is mostly what should
    be there, even where the truth is not known.
    """
    return _delta_e(result, reference, ring(mask))


def colour_inside(result: Pixels, truth: Pixels, mask: Mask) -> float:
    """Mean Delta-E 2000, pixel by pixel, inside the mask; from 0."""
    return _delta_e(result, truth, mask)


def colour_moved(result: Pixels, uncorrected: Pixels, subject: Mask) -> float:
    """Delta-E 2000 between the mean colours of ``subject`` with and without colour correction.

    What a correction does to a thing that was asked for in a colour of its own: it should leave
    it alone. From 0.
    """
    if not subject.any():
        return nan
    means = [_lab(each, subject).mean(axis=1, keepdims=True) for each in (result, uncorrected)]
    return float(_ciede2000(*means).mean())


def hue(result: Pixels, truth: Pixels, mask: Mask) -> float:
    """Mean difference of hue angles in CIELAB inside the mask, in degrees, 0 to 180.

    Over the pixels that have a hue in both pictures (chroma of at least 5); NaN without any.
    """
    (a, chroma_a), (b, chroma_b) = _hue_and_chroma(result, mask), _hue_and_chroma(truth, mask)
    coloured = np.minimum(chroma_a, chroma_b) >= _MIN_CHROMA
    if not coloured.any():
        return nan
    turned = np.abs(a - b)[coloured] % 360
    return float(np.minimum(turned, 360 - turned).mean())


def saturation(result: Pixels, reference: Pixels, mask: Mask) -> float:
    """Mean chroma (CIELAB) inside the mask over the reference's; 1 = kept, below 1 = washed out.

    NaN where the reference is grey itself (mean chroma below 2).
    """
    if not mask.any():
        return nan
    ours, theirs = (float(_hue_and_chroma(each, mask)[1].mean()) for each in (result, reference))
    return ours / theirs if theirs >= _MIN_MEAN_CHROMA else nan


def saturation_loss(result: Pixels, reference: Pixels, mask: Mask) -> float:
    """The share of the reference's chroma that is gone inside the mask: 0 (none) to 1 (all)."""
    kept = saturation(result, reference, mask)
    return nan if np.isnan(kept) else max(0.0, 1 - kept)


def _lab(pixels: Pixels, where: Mask) -> NDArray[np.float64]:
    """CIELAB of some pixels, ``(1, N, 3)``."""
    from skimage.color import rgb2lab

    lab: NDArray[np.float64] = rgb2lab(pixels[where][None])
    return lab


def _ciede2000(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    from skimage.color import deltaE_ciede2000

    difference: NDArray[np.float64] = deltaE_ciede2000(first, second)
    return difference


def _delta_e(first: Pixels, second: Pixels, where: Mask) -> float:
    if not where.any():
        return nan
    # Equal pixels, such as the kept half of a ring, need no colour science.
    differ = where & (first != second).any(axis=2)
    total = _ciede2000(_lab(first, differ), _lab(second, differ)).sum() if differ.any() else 0.0
    return float(total / where.sum())


def _hue_and_chroma(pixels: Pixels, where: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hue angles in degrees and chroma of some pixels, ``(1, N)`` each."""
    lab = _lab(pixels, where)
    a, b = lab[..., 1], lab[..., 2]
    return np.degrees(np.arctan2(b, a)), np.hypot(a, b)


# --- strength ------------------------------------------------------------------------------------


def strength_rank(result: Pixels, original: Pixels, strength_map: Map, cell: int = 8) -> float:
    """Spearman's rank correlation of the strength asked for and the change made, -1 to 1.

    Both are means over cells of ``cell`` px, the model's own grid; the change is the mean absolute
    difference in grey levels. NaN for hard masks (fewer than three strengths), for pictures
    without change and for those of fewer than three cells.
    """
    from scipy.stats import spearmanr

    if len(np.unique(strength_map)) < 3:
        return nan
    change = np.abs(result.astype(np.float64) - original).mean(axis=2)
    asked, made = (_cell_means(each, cell) for each in (strength_map, change))
    if asked.size < 3 or np.ptp(asked) == 0 or np.ptp(made) == 0:
        return nan
    return float(spearmanr(asked, made).statistic)


def _cell_means(values: NDArray[np.floating[Any]], cell: int) -> NDArray[np.float64]:
    """Means over whole cells; what is left on the right and at the bottom does not count."""
    rows, columns = (side // cell for side in values.shape)
    blocks = values[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    return np.asarray(blocks.astype(np.float64).mean(axis=(1, 3)).ravel())


# --- fidelity ------------------------------------------------------------------------------------


def mse(result: Pixels, reference: Pixels, where: Mask | None = None) -> float:
    """Mean squared error over pixels and channels, of values in [0, 1]; 0 to 1."""
    if where is not None:
        result, reference = result[where], reference[where]
    if not result.size:
        return nan
    return float((((result.astype(np.float64) - reference) / 255) ** 2).mean())


def psnr(result: Pixels, reference: Pixels, where: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB, from 0; equal pictures get :data:`PSNR_CAP`."""
    return _decibel(mse(result, reference, where))


def brushbench_mse(result: Pixels, original: Pixels, mask: Mask) -> float:
    """BrushBench's squared error of the unmasked part, as its script computes it; 0 to 3.

    ``evaluate_brushnet.py`` (Ju et al. 2024) divides the error of three channels by the number of
    unmasked pixels: three times the mean of :func:`mse`. To be set beside published figures only.
    """
    return 3 * mse(result, original, ~mask)


def brushbench_psnr(result: Pixels, original: Pixels, mask: Mask) -> float:
    """PSNR in dB of :func:`brushbench_mse`: 4.77 dB below the standard one."""
    return _decibel(brushbench_mse(result, original, mask))


def lpips_outside(
    result: Pixels, original: Pixels, mask: Mask, lpips: Callable[[Pixels, Pixels], float]
) -> float:
    """LPIPS of the unmasked part: what is masked is black in both pictures. NaN without any."""
    if mask.all():
        return nan
    one, two = (np.where(mask[..., None], np.uint8(0), each) for each in (result, original))
    return lpips(one, two)


def _decibel(error: float) -> float:
    if np.isnan(error):
        return nan
    return float(min(PSNR_CAP, -10 * np.log10(error))) if error > 0 else PSNR_CAP


def ssim(result: Pixels, truth: Pixels) -> float:
    """Structural similarity of the whole pictures, -1 to 1 (Wang et al. 2004).

    Their Gaussian window; NaN for pictures below 11 px a side, its size.
    """
    from skimage.metrics import structural_similarity

    if min(result.shape[:2]) < 11:
        return nan
    return float(
        structural_similarity(
            result,
            truth,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


# --- by name -------------------------------------------------------------------------------------
