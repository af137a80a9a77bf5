"""What can be measured on a finished edit, by name.

Every measure is a function of arrays (``uint8 (H, W, 3)`` pictures, ``bool (H, W)`` masks, float
``(H, W)`` strength maps) that returns a float: NaN where it is not defined, such as a seam where
the whole picture is repainted. :data:`METRICS` lists them with what they need and which way is
better; the comparison sheet, the bench and its report read that list and no other.

Colours are CIELAB (D65) of sRGB pictures; Delta-E is CIEDE2000 (Sharma, Wu and Dalal 2005), both as
scikit-image computes them. A Delta-E of 1 is about the smallest difference that an eye sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.picture.masks import distance_to
from engine.registry import Registry

__all__ = [
    "METRICS",
    "WITHOUT_TRUTH",
    "Metric",
    "Sample",
    "brushbench_mse",
    "brushbench_psnr",
    "colour_inside",
    "colour_moved",
    "colour_ring",
    "get_metric",
    "hue",
    "lpips_outside",
    "measure",
    "mse",
    "psnr",
    "ring",
    "saturation",
    "saturation_loss",
    "seam",
    "seam_jump",
    "seam_pasted",
    "ssim",
    "strength_rank",
    "untouched",
    "untouched_share",
]

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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One finished edit and what is known about it."""

    result: Pixels
    original: Pixels
    """What was to be edited, on the result's own canvas."""
    strength_map: Map
    """1 = repaint, 0 = keep."""
    truth: Pixels | None = None
    """The right answer."""
    subject: Mask | None = None
    """Where the thing that the prompt asks for stands, in the truth."""
    uncorrected: Pixels | None = None
    """The same edit without colour correction."""
    prompt: str | None = None
    lpips: Callable[[Pixels, Pixels], float] | None = None
    """A judge of two pictures' likeness, such as :class:`engine.evaluate.judges.Lpips`."""
    clip: Callable[[Pixels, str], float] | None = None
    """A judge of a picture and its text, such as :class:`engine.evaluate.judges.ClipScore`."""
    seconds: float | None = None
    model_calls: int | None = None

    @property
    def mask(self) -> Mask:
        return np.asarray(self.strength_map > 0)

    @property
    def reference(self) -> Pixels:
        """The truth, or the original where the truth is not known."""
        return self.original if self.truth is None else self.truth


@dataclass(frozen=True)
class Metric:
    """A measure under its name in tables and JSON."""

    name: str
    measure: Callable[[Any], float]
    """Of a :class:`Sample`."""
    better: Literal["lower", "higher", "one"]
    """``one``: the nearer to 1 the better."""
    unit: str
    description: str
    needs: tuple[str, ...] = ()
    """Fields of :class:`Sample` that must be given."""

    def show(self, value: float) -> str:
        """``value`` for a table: three digits, no exponent."""
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

    def badness(self, value: float) -> float:
        """A number that is larger for a worse ``value``."""
        if self.better == "one":
            return abs(value - 1)
        return value if self.better == "lower" else -value


METRICS = Registry("metric", Metric, "softpaint.metrics")

for _metric in (
    Metric(
        "untouched",
        lambda s: untouched(s.result, s.original, s.strength_map),
        "lower",
        "levels",
        "largest difference among pixels of strength 0",
    ),
    Metric(
        "untouched_share",
        lambda s: untouched_share(s.result, s.original, s.strength_map),
        "lower",
        "share",
        "pixels of strength 0 that differ",
    ),
    Metric(
        "seam",
        lambda s: seam(s.result, s.reference, s.mask),
        "lower",
        "levels",
        "gradient error on the mask's edge (ASUKA)",
    ),
    Metric(
        "seam_pasted",
        lambda s: seam_pasted(s.result, s.reference, s.mask),
        "lower",
        "levels",
        "the same after the fill was pasted over the reference",
    ),
    Metric(
        "seam_jump",
        lambda s: seam_jump(s.result, s.original, s.mask),
        "one",
        "ratio",
        "jump across the mask's border over that beside it",
    ),
    Metric(
        "colour_ring",
        lambda s: colour_ring(s.result, s.reference, s.mask),
        "lower",
        "Delta-E",
        "colour error around the mask's border",
    ),
    Metric(
        "saturation_ring",
        lambda s: saturation(s.result, s.reference, ring(s.mask)),
        "one",
        "ratio",
        "chroma kept around the mask's border",
    ),
    Metric(
        "colour_inside",
        lambda s: colour_inside(s.result, s.truth, s.mask),
        "lower",
        "Delta-E",
        "colour error inside the mask",
        ("truth",),
    ),
    Metric(
        "hue",
        lambda s: hue(s.result, s.truth, s.mask),
        "lower",
        "degrees",
        "hue error inside the mask",
        ("truth",),
    ),
    Metric(
        "saturation",
        lambda s: saturation(s.result, s.truth, s.mask),
        "one",
        "ratio",
        "chroma inside the mask over the truth's",
        ("truth",),
    ),
    Metric(
        "saturation_loss",
        lambda s: saturation_loss(s.result, s.truth, s.mask),
        "lower",
        "share",
        "chroma lost inside the mask",
        ("truth",),
    ),
    Metric(
        "colour_moved",
        lambda s: colour_moved(s.result, s.uncorrected, s.subject),
        "lower",
        "Delta-E",
        "what the colour correction did to the thing asked for",
        ("uncorrected", "subject"),
    ),
    Metric(
        "strength_rank",
        lambda s: strength_rank(s.result, s.original, s.strength_map),
        "higher",
        "rho",
        "rank correlation of strength and change",
    ),
    Metric(
        "psnr_inside",
        lambda s: psnr(s.result, s.truth, s.mask),
        "higher",
        "dB",
        "PSNR inside the mask",
        ("truth",),
    ),
    Metric(
        "psnr_whole",
        lambda s: psnr(s.result, s.truth),
        "higher",
        "dB",
        "PSNR of the whole picture",
        ("truth",),
    ),
    Metric(
        "ssim",
        lambda s: ssim(s.result, s.truth),
        "higher",
        "index",
        "structural similarity of the whole picture",
        ("truth",),
    ),
    Metric(
        "psnr_outside",
        lambda s: psnr(s.result, s.original, ~s.mask),
        "higher",
        "dB",
        f"PSNR of the unmasked part ({PSNR_CAP:.0f} = equal)",
    ),
    Metric(
        "mse_outside",
        lambda s: mse(s.result, s.original, ~s.mask),
        "lower",
        "of 1",
        "squared error of the unmasked part",
    ),
    Metric(
        "brushbench_psnr",
        lambda s: brushbench_psnr(s.result, s.original, s.mask),
        "higher",
        "dB",
        "PSNR of the unmasked part as BrushBench's script has it",
    ),
    Metric(
        "brushbench_mse",
        lambda s: brushbench_mse(s.result, s.original, s.mask),
        "lower",
        "of 3",
        "squared error of the unmasked part as BrushBench's script has it",
    ),
    Metric(
        "lpips",
        lambda s: s.lpips(s.result, s.truth),
        "lower",
        "distance",
        "LPIPS of the whole picture",
        ("truth", "lpips"),
    ),
    Metric(
        "lpips_outside",
        lambda s: lpips_outside(s.result, s.original, s.mask, s.lpips),
        "lower",
        "distance",
        "LPIPS of the unmasked part, the rest black, as BrushBench's script has it",
        ("lpips",),
    ),
    Metric(
        "clip",
        lambda s: s.clip(s.result, s.prompt),
        "higher",
        "of 100",
        "cosine of CLIP's embeddings of picture and prompt",
        ("prompt", "clip"),
    ),
    Metric("seconds", lambda s: s.seconds, "lower", "s", "time for one picture", ("seconds",)),
    Metric(
        "model_calls",
        lambda s: s.model_calls,
        "lower",
        "calls",
        "network evaluations for one picture",
        ("model_calls",),
    ),
):
    METRICS.register(_metric)

WITHOUT_TRUTH: Final = (
    *("untouched", "seam", "seam_jump", "colour_ring", "saturation_ring", "strength_rank"),
    "model_calls",
)
"""What is measured on every edit, whether its right answer is known or not."""


def get_metric(name: str) -> Metric:
    """The metric called ``name``. Raises ``UnknownNameError`` with the nearest match."""
    return METRICS.get(name)


def measure(sample: Sample, names: Iterable[str] | None = None) -> dict[str, float]:
    """The named metrics (all if None) of a sample, by name: those that are defined for it.

    Raises:
        UnknownNameError: there is no such metric.
    """
    metrics = list(METRICS) if names is None else [METRICS.get(name) for name in names]
    values = {
        metric.name: float(metric.measure(sample))
        for metric in metrics
        if all(getattr(sample, need) is not None for need in metric.needs)
    }
    return {name: value for name, value in values.items() if isfinite(value)}
