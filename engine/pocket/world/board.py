"""What is painted on: a supersampled picture with depth and footprints."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from engine.pocket.world.values import Rgb

SUPERSAMPLING = 4


def mix(a: Rgb, b: Rgb, amount: float) -> Rgb:
    """``amount`` in [0, 1] of the way from one colour to another."""
    return (
        a[0] + (b[0] - a[0]) * amount,
        a[1] + (b[1] - a[1]) * amount,
        a[2] + (b[2] - a[2]) * amount,
    )


def times(a: Rgb, b: Rgb) -> Rgb:
    """Two colours multiplied, at most 255."""
    return (min(a[0] * b[0], 255.0), min(a[1] * b[1], 255.0), min(a[2] * b[2], 255.0))


def scaled(a: Rgb, factor: float) -> Rgb:
    """A colour made brighter or darker."""
    return times(a, (factor, factor, factor))


class Board:
    """A supersampled picture with depth; shapes are given in fractions of the height (x from the
    left).
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.unit = height * SUPERSAMPLING
        self.big = (width * SUPERSAMPLING, height * SUPERSAMPLING)  # cv2 order
        self.image: npt.NDArray[np.uint8] = np.zeros((self.big[1], self.big[0], 3), np.uint8)
        self.depth: npt.NDArray[np.uint8] = np.zeros((self.big[1], self.big[0]), np.uint8)
        self.footprint: npt.NDArray[np.uint8] | None = None
        self.nearness = 0

    def points(self, xy: npt.ArrayLike) -> npt.NDArray[np.int32]:
        return np.round(np.asarray(xy, np.float64) * (self.unit * 16)).astype(np.int32)

    def polygon(self, xy: npt.ArrayLike, colour: Rgb) -> None:
        points = [self.points(xy)]
        cv2.fillPoly(self.image, points, colour, cv2.LINE_8, 4)
        cv2.fillPoly(self.depth, points, self.nearness, cv2.LINE_8, 4)
        if self.footprint is not None:
            cv2.fillPoly(self.footprint, points, 255, cv2.LINE_8, 4)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        self.polygon(np.stack([x + rx * _CIRCLE[0], y + ry * _CIRCLE[1]], -1), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Rgb) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Rgb) -> None:
        dx, dy = x1 - x0, y1 - y0
        scale = width / 2 / max((dx * dx + dy * dy) ** 0.5, 1e-9)
        nx, ny = -dy * scale, dx * scale
        self.polygon(
            [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)], colour
        )

    def shade(self, x: float, y: float, rx: float, ry: float, factor: float) -> None:
        """Darken an ellipse: a shadow on the ground."""
        left, top = int((x - rx) * self.unit) - 1, int((y - ry) * self.unit) - 1
        right, bottom = int((x + rx) * self.unit) + 2, int((y + ry) * self.unit) + 2
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, self.big[0]), min(bottom, self.big[1])
        if left >= right or top >= bottom:
            return
        stencil: npt.NDArray[np.uint8] = np.zeros((bottom - top, right - left), np.uint8)
        outline = np.stack([x + rx * _CIRCLE[0], y + ry * _CIRCLE[1]], -1)
        points = self.points(outline) - np.array([left * 16, top * 16], np.int32)
        cv2.fillPoly(stencil, [points], 255, cv2.LINE_8, 4)
        region = self.image[top:bottom, left:right]
        darker = cv2.convertScaleAbs(region, alpha=factor)
        cv2.copyTo(darker, stencil, region)
        if self.footprint is not None:
            np.maximum(
                self.footprint[top:bottom, left:right],
                stencil,
                out=self.footprint[top:bottom, left:right],
            )

    def small(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return cast(
            "npt.NDArray[np.uint8]",
            cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA),
        )


_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = (np.cos(_ANGLES), np.sin(_ANGLES))
