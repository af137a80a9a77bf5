"""Annotators: from a picture to the control image that a ControlNet reads.

All have one signature: ``uint8 (H, W, 3)`` RGB in, ``uint8 (H, W, 3)`` of the same size out. Those
built on OpenCV need no weights and work offline. The others are controlnet-aux's detectors, which
are imported (seconds, and much of torchvision and timm) and loaded on first use only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

from engine.errors import InputError, ModelError
from engine.picture.opening import first_line
from engine.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.uint8]

Annotator: TypeAlias = "Callable[[NDArray[np.uint8]], NDArray[np.uint8]]"
"""``uint8 (H, W, 3)`` -> ``uint8 (H, W, 3)``, the same size."""

WEIGHTS = "lllyasviel/Annotators"
"""The hub repository of the detectors' weights."""
_ONE_OF_THEM = "ControlNetHED.pth"

DETECT_SIDE = 512
"""Shorter side in px at which detectors look: what ControlNets' training images were made with."""


@dataclass(frozen=True)
class AnnotatorInfo:
    """An annotator by name."""

    name: str
    description: str
    run: Annotator
    offline: bool = True
    """It needs no weights."""


ANNOTATORS = Registry("annotator", AnnotatorInfo, "softpaint.annotators", reserved="+:=")


def list_annotators(*, offline: bool = False) -> list[str]:
    """The names that :func:`annotate` accepts; only those that need no weights if ``offline``.

    Example:
        >>> "canny" in list_annotators(offline=True), "depth" in list_annotators(offline=True)
        (True, False)
    """
    return [info.name for info in ANNOTATORS if info.offline or not offline]


def get_annotator(name: str) -> AnnotatorInfo:
    """The annotator called ``name``. Raises ``UnknownNameError`` with the nearest match."""
    return ANNOTATORS.get(name)


def annotate(image: Pixels, annotator: str | Annotator) -> Pixels:
    """The control image of ``image`` (``uint8 (H, W, 3)``), of the same size.

    Raises:
        InputError: an unknown name, or pixels of another kind.
        ModelError: the detector's weights are not here and cannot be fetched.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"uint8 (H, W, 3) is needed, not {image.dtype} {image.shape}")
    run = get_annotator(annotator).run if isinstance(annotator, str) else annotator
    result = run(image)
    if result.dtype != np.uint8 or result.shape != image.shape:
        raise InputError(
            f"annotator {annotator!r} made {result.dtype} {result.shape} of a picture of shape "
            f"{image.shape}; uint8 of the same shape is needed."
        )
    return result


# --- OpenCV: no weights --------------------------------------------------------------------------


def canny(image: Pixels) -> Pixels:
    """White edges, one px wide, on black (Canny 1986; thresholds 100 and 200 on the strongest
    colour channel, as ControlNets' canny images were made).
    """
    return _three(cv2.Canny(image, 100, 200))


def soft_edge(image: Pixels) -> Pixels:
    """Edges as bright as they are strong: the gradient magnitude of Lab colour (Scharr), largest
    over three Gaussian scales (0.15, 0.3 and 0.6% of the shorter side), 99.5th percentile = white.
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    strongest = np.zeros(image.shape[:2], np.float32)
    for share in (0.0015, 0.003, 0.006):
        sigma = max(0.7, share * min(image.shape[:2]))
        smooth = cv2.GaussianBlur(lab, (0, 0), sigma)
        dx, dy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
        # Blurring by sigma divides the gradient of a step edge by sigma: undone, so scales compare.
        magnitude = sigma * np.sqrt((dx * dx + dy * dy).sum(axis=2))
        np.maximum(strongest, magnitude, out=strongest)
    white = max(float(np.percentile(strongest, 99.5)), 1e-6)
    edges = (strongest / white * 255).clip(0, 255).round().astype(np.uint8)
    return _three(edges)


def tile(image: Pixels) -> Pixels:
    """The picture without its details: averaged over 8 x 8 px and enlarged again (cubic)."""
    height, width = image.shape[:2]
    small = (max(1, round(width / 8)), max(1, round(height / 8)))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(reduced, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def blur(image: Pixels) -> Pixels:
    """A Gaussian blur of 1% of the shorter side."""
    sigma = max(1.0, 0.01 * min(image.shape[:2]))
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def grey(image: Pixels) -> Pixels:
    """Luminance (ITU-R BT.601) in all three channels."""
    return _three(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def shuffle(image: Pixels) -> Pixels:
    """The picture's colours in another arrangement: pixels are fetched from places that a smooth
    random field names (ControlNet 1.1's content shuffle, grid of 256 px at 512, fixed seed).
    """
    height, width = image.shape[:2]
    cell = max(2, min(height, width) // 2)
    rng = np.random.default_rng(0)
    places = []
    for side in (width, height):
        coarse = rng.random((height // cell + 3, width // cell + 3), np.float32)
        smooth = cv2.resize(
            coarse, (coarse.shape[1] * cell, coarse.shape[0] * cell), interpolation=cv2.INTER_CUBIC
        )[cell : cell + height, cell : cell + width]
        smooth = smooth - smooth.min()
        places.append(smooth / max(float(smooth.max()), 1e-6) * (side - 1))
    mapped = cv2.remap(image, places[0], places[1], cv2.INTER_LINEAR)
    return np.asarray(mapped, np.uint8)


def _three(channel: Any) -> Pixels:
    """``H W`` in three channels."""
    return np.repeat(np.asarray(channel, np.uint8)[:, :, None], 3, axis=2)


# --- controlnet-aux: weights on first use --------------------------------------------------------


@dataclass(frozen=True)
class _Detector:
    """A detector of controlnet-aux, run near 512 px and brought back to the picture's size."""

    name: str
    class_name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        detector = _load_detector(self.class_name, self.name)
        found = detector(
            image,
            detect_resolution=DETECT_SIDE,
            image_resolution=DETECT_SIDE,
            output_type="np",
            **self.options,
        )
        # Detectors round both sides to multiples of 64; resizing undoes the stretch to the pixel.
        resized = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.uint8)


@cache
def _load_detector(class_name: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn about optional and deprecated packages
        import controlnet_aux

        from engine.models.formats.sources import asked_once

        try:
            with asked_once(WEIGHTS, _ONE_OF_THEM):
                return getattr(controlnet_aux, class_name).from_pretrained(WEIGHTS)
        except (OSError, ValueError, RuntimeError) as error:
            offline = ", ".join(list_annotators(offline=True))
            reason = first_line(error).partition(". ")[0].rstrip(".")
            raise ModelError(
                f"annotator {name!r} needs weights ({WEIGHTS}) that are not here and cannot be "
                f"fetched ({reason}); these need none: {offline}."
            ) from error


for _info in (
    AnnotatorInfo("canny", "hard edges, one pixel wide", canny),
    AnnotatorInfo("soft-edge", "edges as bright as they are strong", soft_edge),
    AnnotatorInfo("tile", "the picture without its details", tile),
    AnnotatorInfo("blur", "the picture blurred", blur),
    AnnotatorInfo("grey", "luminance without colour", grey),
    AnnotatorInfo("shuffle", "colours in another arrangement", shuffle),
    *(
        AnnotatorInfo(name, description, _Detector(name, class_name, options), offline=False)
        for name, class_name, options, description in (
            ("hed", "HEDdetector", {}, "soft edges, holistically nested"),
            ("scribble", "HEDdetector", {"scribble": True}, "rough strokes"),
            ("pidi", "PidiNetDetector", {}, "soft edges, pixel difference network"),
            ("lineart", "LineartDetector", {}, "line drawing"),
            ("lineart-anime", "LineartAnimeDetector", {}, "line drawing, anime"),
            ("mlsd", "MLSDdetector", {}, "straight lines"),
            ("depth", "MidasDetector", {}, "depth, near = white; midas by its purpose"),
            ("midas", "MidasDetector", {}, "depth, near = white"),
            ("normal", "NormalBaeDetector", {}, "surface normals"),
            ("openpose", "OpenposeDetector", {}, "human poses"),
        )
    ),
):
    ANNOTATORS.register(_info)
