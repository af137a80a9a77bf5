"""Colours that belong together: what an edit's colours are off by, measured where the truth is
known and taken out where it is not.

A decoded edit shows the whole frame. Where nothing was to be repainted it should equal the
original, so every difference there is an error, of the VAE or of the model's drift (a touched
latent cell is repainted as a whole, and that shows in its untouched pixels too).
:func:`colour_field` fits a smooth field to those errors and continues it into the edit. The global
methods that other programs use are here beside it.

Pictures are sRGB, ``(H, W, 3)``; colours are compared in CIELAB (D65), where a distance of 1 is
about the smallest that an eye sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from engine.errors import InputError
from engine.picture.colour_field import (
    OTHER,
    SAME,
    VOXEL,
    around,
    colour_field,
    lent_trust,
    ring_trust,
    to_lab,
    to_rgb,
)
from engine.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "COLOURS",
    "ColourInfo",
    "Evidence",
    "colour_field",
    "list_colours",
    "match_colours",
    "restore_round_trip",
]


class Evidence(NamedTuple):
    """What a method sees: the box around an edit and its ring."""

    decoded: NDArray[np.uint8]
    """H W 3, what the VAE made of the finished latents."""
    original: NDArray[np.uint8]
    """H W 3."""
    trust: NDArray[np.float32]
    """H W in [0, 1], how much the original is the truth for the edit: above 0 on the ring."""
    alpha: NDArray[np.float32]
    """H W in [0, 1], how opaquely the edit will lie over the original."""
    strength_map: NDArray[np.float32]
    """H W in [0, 1]."""
    cell: float
    """Side of a latent cell in px."""


@dataclass(frozen=True)
class ColourInfo:
    """A colour correction by name."""

    name: str
    description: str
    correct: Callable[[Evidence], NDArray[np.floating[Any]] | None] | None = None
    """Gives the edit with its colours corrected, H W 3 in [0, 1]; None where the evidence does not
    suffice. None in its own place corrects nothing."""
    round_trip: bool = False
    """Under soft maps, what the VAE loses of the original is given back first
    (:func:`restore_round_trip`)."""


COLOURS = Registry("colour", ColourInfo, "softpaint.colours")
"""The methods of :func:`match_colours`, best first."""

_FLAT: Final = 2.0  # CIELAB units; a standard deviation up to it is no contrast, twice of it is
_FLAT_LEVELS: Final = 5.0  # the same of a channel's grey levels
_MIN_RING: Final = 8  # px, below which the global methods have nothing to measure


def match_colours(
    decoded: NDArray[np.uint8],
    original: NDArray[np.uint8],
    strength_map: NDArray[np.float32],
    *,
    alpha: NDArray[np.float32] | None = None,
    method: str = "field",
    cell: float = 8.0,
) -> NDArray[np.uint8]:
    """Take the colour error out of a decoded edit.

    - ``field``: :func:`colour_field`, held back where the edit has colours that the ring has not
      (a red ball on grass keeps its red);
    - ``lab``: means and standard deviations in CIELAB, moved from the decoded ring's to the
      original ring's (Reinhard et al. 2001, "Color Transfer between Images"); of a ring that is all
      but flat the means alone;
    - ``histogram``: the ring's histograms, matched channel by channel
      (``skimage.exposure.match_histograms``), levels beyond the ring's moved like its last ones;
    - ``none``: nothing.

    The ring is what is touched lightly or lies at most ``cell`` px from what is touched. Without
    one (everything is repainted) and without an edit the decoded picture comes back as it is.

    Args:
        decoded: ``uint8 (H, W, 3)``, what the VAE made of the finished latents.
        original: ``uint8 (H, W, 3)``.
        strength_map: ``(H, W)`` in [0, 1], 1 = repaint.
        alpha: ``(H, W)`` in [0, 1], how opaque the edit will be laid over the original. Where it
            lets the original through, at most ``cell`` px inside the border, ``field`` takes that
            for the truth too, as far as the edit agrees with it. None: nowhere.
        method: A name of :data:`COLOURS`.
        cell: Side of a latent cell in px, above 0.

    Returns:
        ``uint8 (H, W, 3)``, ``decoded`` itself where there was nothing to do. What stands outside
        the map's support is to be pasted over with the original.

    Raises:
        UnknownNameError: no such method.
        InputError: shapes do not fit.
    """
    correct = COLOURS.get(method).correct
    alpha = np.ones_like(strength_map) if alpha is None else alpha
    if decoded.shape != original.shape or {strength_map.shape, alpha.shape} != {decoded.shape[:2]}:
        raise InputError(
            f"shapes do not fit: decoded {decoded.shape}, original {original.shape}, "
            f"strength map {strength_map.shape}, alpha {alpha.shape}"
        )
    if correct is None:
        return decoded
    trust = ring_trust(strength_map, cell)
    if not trust.any() or not (strength_map > 0).any():
        return decoded
    box = around((trust > 0) | (strength_map > 0))
    matched = correct(
        Evidence(decoded[box], original[box], trust[box], alpha[box], strength_map[box], cell)
    )
    if matched is not None:
        decoded = decoded.copy()
        decoded[box] = (matched.clip(0, 1) * 255).round().astype(np.uint8)
    return decoded


def _by_field(evidence: Evidence) -> NDArray[np.floating[Any]]:
    seen, should = to_lab(evidence.decoded), to_lab(evidence.original)
    through, strength_map, cell = 1 - evidence.alpha, evidence.strength_map, evidence.cell
    lent = lent_trust(through, evidence.trust, strength_map, cell)
    field, agreed = colour_field(seen, should, evidence.trust, lent, strength_map, cell)
    field *= np.maximum(_shared(seen, agreed), np.where(lent > 0, through, 0))[..., None]
    # As a difference, so that the rounding of the way to CIELAB and back cancels.
    return evidence.decoded / np.float32(255) + (to_rgb(seen + field) - to_rgb(seen))


def _by_statistics(evidence: Evidence) -> NDArray[np.floating[Any]] | None:
    ring = evidence.trust > 0.5
    if np.count_nonzero(ring) < _MIN_RING:
        return None
    seen, should = to_lab(evidence.decoded), to_lab(evidence.original)
    return to_rgb(_moved_statistics(seen, should, ring))


def _by_histograms(evidence: Evidence) -> NDArray[np.floating[Any]] | None:
    ring = evidence.trust > 0.5
    if np.count_nonzero(ring) < _MIN_RING:
        return None
    return _matched_histograms(evidence.decoded, evidence.original, ring)


for _info in (
    ColourInfo("field", "a smooth field of what colours are off by", _by_field, round_trip=True),
    ColourInfo("lab", "means and deviations in CIELAB, moved to the ring's", _by_statistics),
    ColourInfo("histogram", "the ring's histograms, channel by channel", _by_histograms),
    ColourInfo("none", "colours as they come"),
):
    COLOURS.register(_info)


def list_colours() -> list[str]:
    """The names that ``colour=`` accepts, best first.

    Example:
        >>> list_colours()[0]
        'field'
    """
    return COLOURS.names()


def restore_round_trip(
    decoded: NDArray[np.uint8],
    original: NDArray[np.uint8],
    round_trip: NDArray[np.uint8],
    strength_map: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """``decoded + (1 - e) (original - round_trip)``, rounded: what the VAE loses is given back as
    far as the original is still there.

    Args:
        decoded: ``uint8 (H, W, 3)``, the edit.
        original: ``uint8 (H, W, 3)``, what was encoded.
        round_trip: ``uint8 (H, W, 3)``, ``original`` encoded and decoded.
        strength_map: ``(H, W)`` in [0, 1], e.
    """
    kept = (1 - strength_map)[..., None]
    lost = original.astype(np.float32) - round_trip
    return (decoded + kept * lost).round().clip(0, 255).astype(np.uint8)


def _shared(seen: NDArray[np.float32], ring: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much each pixel's colour belongs to those of the ring, ``(H, W)``: 1 for their shades,
    0 for colours that the ring has not.
    """
    from scipy.ndimage import distance_transform_edt, map_coordinates

    if not ring.any():
        return np.zeros(ring.shape, np.float32)
    # The distance to the nearest of the ring's colours, looked up in a table of all that occur.
    at = (seen + np.array([0, 128, 128], np.float32)) / np.float32(VOXEL)
    first = np.floor(at.min(axis=(0, 1)))
    others = np.ones((at.max(axis=(0, 1)) - first).astype(int) + 2, bool)
    others[tuple((at[ring].round() - first).astype(int).T)] = False
    table = distance_transform_edt(others).astype(np.float32) * np.float32(VOXEL)
    distance = map_coordinates(table, (at - first).reshape(-1, 3).T, order=1, mode="nearest")
    ramp = np.clip((distance.reshape(ring.shape) - SAME) / (OTHER - SAME), 0, 1)
    return np.asarray(1 - ramp * ramp * (3 - 2 * ramp), np.float32)


def _moved_statistics(
    seen: NDArray[np.float32], should: NDArray[np.float32], ring: NDArray[np.bool_]
) -> NDArray[np.float32]:
    ours, theirs = seen[ring], should[ring]
    gain = np.clip(theirs.std(axis=0) / np.maximum(ours.std(axis=0), 1e-3), 0.5, 2)
    # A flat ring has no contrast to learn from, only an offset.
    gain = 1 + (gain - 1) * np.clip((theirs.std(axis=0) - _FLAT) / _FLAT, 0, 1)
    return np.asarray((seen - ours.mean(axis=0)) * gain + theirs.mean(axis=0), np.float32)


def _matched_histograms(
    decoded: NDArray[np.uint8], original: NDArray[np.uint8], ring: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The tone curves that match the ring's histograms, laid on the whole picture. Levels beyond
    the ring's are moved as far as its last ones: of those it teaches no contrast.
    """
    from skimage.exposure import match_histograms

    matched = np.empty(decoded.shape, np.float32)
    for channel in range(3):
        ours = decoded[..., channel][ring]
        theirs = match_histograms(ours, original[..., channel][ring])
        values, first = np.unique(ours, return_index=True)
        moved = np.interp(decoded[..., channel], values, theirs[first] - values)
        # Of a ring that is all but flat the curve maps what is noise to one level.
        taught = np.clip((theirs.std() - _FLAT_LEVELS) / _FLAT_LEVELS, 0, 1)
        offset = theirs.mean() - ours.mean()
        matched[..., channel] = decoded[..., channel] + offset + taught * (moved - offset)
    return matched / np.float32(255)
