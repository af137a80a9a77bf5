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
from math import isfinite
from typing import Any, Final, Literal

import numpy as np

from engine.picture.measures import (
    PSNR_CAP,
    Map,
    Mask,
    Pixels,
    brushbench_mse,
    brushbench_psnr,
    colour_inside,
    colour_moved,
    colour_ring,
    hue,
    lpips_outside,
    mse,
    psnr,
    ring,
    saturation,
    saturation_loss,
    seam,
    seam_jump,
    seam_pasted,
    ssim,
    strength_rank,
    untouched,
    untouched_share,
)
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
