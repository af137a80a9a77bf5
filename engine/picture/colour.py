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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cv2
import numpy as np

from engine.errors import InputError
from engine.picture.masks import distance_to
from engine.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.floating[Any]]

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

LIGHTLY: Final = 0.25
"""Strengths below it count as lightly touched: the original is still what should be there."""
_NODES: Final = 128  # of the field's own grid along the longer side
_TOLERANCE: Final = 10.0  # Delta-E from the field at which an error has lost 3/4 of its weight
_ALIKE: Final = 20.0  # the same for edit and original inside the mask, where both show through
_LIMIT: Final = 40.0  # Delta-E; from half of it on, a difference is ever less a mere cast
_SAME, _OTHER = 5.0, 12.0  # Delta-E to the ring's colours: a shade of them, a colour of its own
_VOXEL: Final = 4.0  # Delta-E, side of the cells in which the ring's colours are looked up
_FLAT: Final = 2.0  # CIELAB units; a standard deviation up to it is no contrast, twice of it is
_FLAT_LEVELS: Final = 5.0  # the same of a channel's grey levels
_MIN_RING: Final = 8  # px, below which the global methods have nothing to measure
_BLAS: Final = Lock()  # a limit is the whole process's, and who leaves puts back what was found


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
    trust = _trust(strength_map, cell)
    if not trust.any() or not (strength_map > 0).any():
        return decoded
    box = _around((trust > 0) | (strength_map > 0))
    matched = correct(
        Evidence(decoded[box], original[box], trust[box], alpha[box], strength_map[box], cell)
    )
    if matched is None:
        return decoded
    result = decoded.copy()
    result[box] = (matched.clip(0, 1) * 255).round().astype(np.uint8)
    return result


def _by_field(evidence: Evidence) -> NDArray[np.floating[Any]]:
    seen, should = _to_lab(evidence.decoded), _to_lab(evidence.original)
    through, strength_map, cell = 1 - evidence.alpha, evidence.strength_map, evidence.cell
    lent = _lent(through, evidence.trust, strength_map, cell)
    field, agreed = colour_field(seen, should, evidence.trust, lent, strength_map, cell)
    field *= np.maximum(_shared(seen, agreed), np.where(lent > 0, through, 0))[..., None]
    # As a difference, so that the rounding of the way to CIELAB and back cancels.
    return evidence.decoded / np.float32(255) + (_to_rgb(seen + field) - _to_rgb(seen))


def _by_statistics(evidence: Evidence) -> NDArray[np.floating[Any]] | None:
    ring = evidence.trust > 0.5
    if np.count_nonzero(ring) < _MIN_RING:
        return None
    seen, should = _to_lab(evidence.decoded), _to_lab(evidence.original)
    return _to_rgb(_moved_statistics(seen, should, ring))


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
    """The names that ``colour=`` accepts, best first."""
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


def colour_field(
    seen: NDArray[np.float32],
    should: NDArray[np.float32],
    trust: NDArray[np.float32],
    lent: NDArray[np.float32],
    strength_map: NDArray[np.float32],
    cell: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A smooth field f of what colours are off by, known on a ring, continued into the edit.

    f minimises ``sum trust rho(|should - seen - f|) + l^2 |grad f|^2 + (l / d)^2 |f - m|^2``,
    a membrane with the ring's errors pulling at it. rho is Geman and McClure's, minimised by
    reweighted least squares that begin with twice the tolerance, and errors too large for a cast
    do not count at all: things painted across the border, or that stood there, are no error of
    colour. l is a twelfth of a latent cell, so that f meets the ring and leaves no seam; being
    harmonic, it is smooth away from it. d, half the depth of the edit and at least a cell, lets f
    turn to what the ring agrees on, and to nothing where it does not, far from it.

    Inside the mask's border the edit often shows what was there before. How far it does is seen
    from the ring's field: what then still differs from the original was repainted, and where the
    rest pulls too, the field is another one. It is taken as far as the original is ``lent``, and no
    farther inside: an edit may mean what it changes, even if it is little.

    Args:
        seen: CIELAB ``(H, W, 3)``, the decoded edit.
        should: CIELAB ``(H, W, 3)``, the original.
        trust: ``(H, W)`` in [0, 1], how much the original is the truth for the edit.
        lent: ``(H, W)`` in [0, 1], 0 where ``trust`` is not: how much it may be the truth there,
            if the edit agrees, and how much f follows it.
        strength_map: ``(H, W)`` in [0, 1].
        cell: Side of a latent cell in px.

    Returns:
        f, ``(H, W, 3)`` in CIELAB units, and which pixels (``(H, W)``) it was measured on.
    """
    height, width = trust.shape
    pitch = max(1.0, max(height, width) / _NODES)
    grid = (max(2, round(height / pitch)), max(2, round(width / pitch)))
    # Means over the nodes' own pixels, weighted by trust.
    known = trust + lent
    error: _Floats = _shrink(known[..., None] * (should - seen), grid)
    error = (error / np.maximum(_shrink(known, grid), 1e-6)[..., None]).reshape(-1, 3)
    credible = _taper(error)
    weight, borrowed = (_shrink(each, grid).ravel() * credible for each in (trust, lent))
    if weight.max() < 1e-3:
        return np.zeros_like(seen), np.zeros_like(trust, dtype=bool)

    length = cell / 12
    depth = distance_to(np.pad(strength_map == 0, 1, constant_values=True)).max()
    membrane = _Membrane(grid, (length / pitch) ** 2)
    windows = [_window(count, depth / pitch) for count in grid]
    fade = (length / max(depth / 2, cell)) ** 2

    field: _Floats = np.median(error[weight > 1e-3], axis=0, keepdims=True)
    with _one_blas_thread():
        for tolerance in (2, 2, 1, 1, 1):
            off = np.linalg.norm(error - field, axis=1)
            agreement = 1 / (1 + (off / (tolerance * _TOLERANCE)) ** 2) ** 2
            pull = weight * agreement
            agreed_on = fade * _consensus(error, pull, windows)
            field = membrane.pulled(pull + fade, pull[:, None] * error + agreed_on)
        off = np.linalg.norm(error - field, axis=1)
        pull = pull + borrowed / (1 + (off / _ALIKE) ** 2) ** 2
        inner = membrane.pulled(pull + fade, pull[:, None] * error + agreed_on)

    def full(values: _Floats, way: int = cv2.INTER_CUBIC) -> NDArray[np.float32]:
        on_grid = values.reshape(*grid, -1).astype(np.float32)
        return np.asarray(cv2.resize(on_grid, (width, height), interpolation=way), np.float32)

    smooth, smooth_inner = (full(each * _taper(each)[:, None]) for each in (field, inner))
    smooth += lent[..., None] * (smooth_inner - smooth)
    agreed = full(agreement, cv2.INTER_NEAREST_EXACT)
    return smooth, np.asarray((agreed > 0.25) & (trust > 0.5))


class _Membrane:
    """Solves ``(diag(springs) + stiffness * L) f = forces`` on a ``grid``, L being the Laplacian of
    4 neighbours with free borders.

    The matrix is banded, as wide as the grid's shorter side, and Cholesky's method keeps it so: on
    grids this small it takes a third of the time of a sparse solver, which has to find an order.
    """

    def __init__(self, grid: tuple[int, int], stiffness: float) -> None:
        self._across = grid[1] > grid[0]  # nodes are counted along the shorter side
        lines, band = max(grid), min(grid)
        neighbours = np.full((lines, band), 4.0)
        for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            neighbours[border] -= 1
        self._grid = grid
        self._diagonal: _Floats = stiffness * neighbours.ravel()
        # LAPACK's lower form and order: row k holds the k-th diagonal below the main one.
        self._bands: _Floats = np.zeros((band + 1, lines * band), order="F")
        self._bands[1] = -stiffness
        self._bands[1, band - 1 :: band] = 0  # the end of a line is no neighbour of the next's
        self._bands[band] = -stiffness

    def pulled(self, springs: _Floats, forces: _Floats) -> _Floats:
        """f, ``(N, C)`` in the grid's order as ``forces``; ``springs``: ``(N,)``, above 0."""
        from scipy.linalg import solveh_banded

        bands = self._bands.copy("F")
        bands[0] = self._diagonal + self._turned(springs[:, None], self._grid)[:, 0]
        turned = self._turned(forces, self._grid)
        solved = solveh_banded(bands, turned, overwrite_ab=True, lower=True, check_finite=False)
        return self._turned(solved, self._grid[::-1])

    def _turned(self, values: _Floats, grid: tuple[int, int]) -> _Floats:
        """``values`` (``(N, C)`` on ``grid``) in the other order of the nodes, if that is used."""
        if not self._across:
            return values
        return values.reshape(*grid, -1).swapaxes(0, 1).reshape(len(values), -1)


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Inside, OpenBLAS (numpy's and scipy's own) has one thread: on matrices as small as a
    membrane's more of them wait for each other and for torch's, and take twice the time.
    """
    with _BLAS, _blas().limit(limits=1):
        yield


@cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401 - what is not loaded yet is not found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")


def _window(count: int, reach: float) -> _Floats:
    """The matrix (``(count, count)``) that takes means along one side of a grid in a Gaussian
    window of standard deviation ``reach`` nodes, cut off at three of them; nothing lies outside.
    """
    radius = int(3 * reach + 0.5)
    away = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    whole = np.exp(-0.5 * (np.arange(-radius, radius + 1) / reach) ** 2).sum()
    return np.where(away <= radius, np.exp(-0.5 * (away / reach) ** 2) / whole, 0)


def _consensus(error: _Floats, weight: _Floats, windows: Sequence[_Floats]) -> _Floats:
    """What ``error`` (``(N, 3)`` on a grid, weights ``(N,)``) says of places that are not measured:
    its mean m in a window around them (:func:`_window`, down and across), shrunk by
    ``m^2 / (m^2 + variance)``, the best linear guess.
    """
    down, across = windows
    moments = np.column_stack([np.ones(len(weight)), error, error**2]).T * weight
    seen = (down @ moments.reshape(7, len(down), len(across)) @ across).reshape(7, -1).T
    mean, square = np.split(seen[:, 1:] / np.maximum(seen[:, :1], 1e-12), 2, axis=1)
    return np.asarray(mean * mean**2 / np.maximum(square, 1e-12))


def _taper(difference: _Floats) -> _Floats:
    """How far differences (``(N, 3)``) are credible as casts: 1 to half the limit, 0 from it on."""
    return np.asarray(np.clip(2 - 2 * np.linalg.norm(difference, axis=1) / _LIMIT, 0, 1))


def _trust(strength_map: NDArray[np.float32], cell: float) -> NDArray[np.float32]:
    """How much each pixel near the edit should look like the original, ``(H, W)`` in [0, 1]: 1
    where the strength is 0 and the edit at most a cell away, falling to 0 at :data:`LIGHTLY`.
    """
    touched = strength_map > 0
    if not touched.any():
        return np.zeros_like(strength_map, dtype=np.float32)
    trust = np.clip(1 - strength_map / LIGHTLY, 0, 1)
    return np.where(distance_to(touched) <= cell, trust, 0).astype(np.float32)


def _lent(
    through: NDArray[np.float32],
    trust: NDArray[np.float32],
    strength_map: NDArray[np.float32],
    cell: float,
) -> NDArray[np.float32]:
    """How much each pixel inside the border may look like the original, ``(H, W)`` in [0, 1]: the
    fourth root of how much of that will show ``through``, which hardly falls before the edit is
    opaque; 0 farther than a cell inside, for who lays a whole edit over thinly means it.
    """
    touched = strength_map > 0
    near = touched & (distance_to(~touched) <= cell) & (trust == 0)
    return np.where(near, through**0.25, 0).astype(np.float32)


def _shared(seen: NDArray[np.float32], ring: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much each pixel's colour belongs to those of the ring, ``(H, W)``: 1 for their shades,
    0 for colours that the ring has not.
    """
    from scipy.ndimage import distance_transform_edt, map_coordinates

    if not ring.any():
        return np.zeros(ring.shape, np.float32)
    # The distance to the nearest of the ring's colours, looked up in a table of all that occur.
    at = (seen + np.array([0, 128, 128], np.float32)) / np.float32(_VOXEL)
    first = np.floor(at.min(axis=(0, 1)))
    others = np.ones((at.max(axis=(0, 1)) - first).astype(int) + 2, bool)
    others[tuple((at[ring].round() - first).astype(int).T)] = False
    table = distance_transform_edt(others).astype(np.float32) * np.float32(_VOXEL)
    distance = map_coordinates(table, (at - first).reshape(-1, 3).T, order=1, mode="nearest")
    ramp = np.clip((distance.reshape(ring.shape) - _SAME) / (_OTHER - _SAME), 0, 1)
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


def _around(area: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest box around ``area``."""
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _shrink(array: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Area means of ``(H, W[, C])`` on a coarser ``grid``."""
    small = cv2.resize(np.ascontiguousarray(array), grid[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float64)


def _to_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(pixels / np.float32(255), cv2.COLOR_RGB2LAB))


def _to_rgb(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).clip(0, 1)
