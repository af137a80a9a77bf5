"""The local colour correction: a smooth field of the error that is known around an edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from engine.picture.banded import solve_banded
from engine.picture.masks import distance_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.floating[Any]]

LIGHTLY: Final = 0.25
"""Strengths below it count as lightly touched: the original is still what should be there."""
RAMP: Final = 2
"""Latent cells over which a feathered border may rise."""
_NODES: Final = 128  # of the field's own grid along the longer side
_TOLERANCE: Final = 10.0  # Delta-E from the field at which an error has lost 3/4 of its weight
_ALIKE: Final = 20.0  # the same for edit and original inside the mask, where both show through
_LIMIT: Final = 40.0  # Delta-E; from half of it on, a difference is ever less a mere cast
SAME, OTHER = 5.0, 12.0  # Delta-E to the ring's colours: a shade of them, a colour of its own
VOXEL: Final = 4.0  # Delta-E, side of the cells in which the ring's colours are looked up


_BLAS: Final = Lock()  # a limit is the whole process's, and who leaves puts back what was found


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

    depth = distance_to(np.pad(strength_map == 0, 1, constant_values=True)).max()
    field, inner, agreement = _solved(error, weight, borrowed, grid, cell / pitch, depth / pitch)

    def full(values: _Floats, way: int = cv2.INTER_CUBIC) -> NDArray[np.float32]:
        on_grid = values.reshape(*grid, -1).astype(np.float32)
        return np.asarray(cv2.resize(on_grid, (width, height), interpolation=way), np.float32)

    smooth, smooth_inner = (full(each * _taper(each)[:, None]) for each in (field, inner))
    smooth += lent[..., None] * (smooth_inner - smooth)
    agreed = full(agreement, cv2.INTER_NEAREST_EXACT)
    return smooth, np.asarray((agreed > 0.25) & (trust > 0.5))


def _solved(
    error: _Floats,
    weight: _Floats,
    borrowed: _Floats,
    grid: tuple[int, int],
    cell: float,
    depth: float,
) -> tuple[_Floats, _Floats, _Floats]:
    """The field on the nodes (n 3) from the ring's errors alone, the one that follows the borrowed
    ones too, and how far each of the ring's agrees (n). ``cell`` and ``depth`` in nodes.
    """
    length = cell / 12
    membrane = _Membrane(grid, length**2)
    windows = [_window(count, depth) for count in grid]
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
    return field, inner, agreement


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
        bands = self._bands.copy("F")
        bands[0] = self._diagonal + self._turned(springs[:, None], self._grid)[:, 0]
        turned = self._turned(forces, self._grid)
        solved = solve_banded(bands, turned)
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


def ring_trust(strength_map: NDArray[np.float32], cell: float) -> NDArray[np.float32]:
    """How much each pixel near the edit should look like the original, ``(H, W)`` in [0, 1]: 1
    where the strength is 0 and the edit at most a cell away, falling to 0 at :data:`LIGHTLY`.
    A map that rises slowly has no border: where it comes to less than half within :data:`RAMP`
    cells, what is lightly touched shows what was asked for, and trust in it falls.
    """
    touched = strength_map > 0
    if not touched.any():
        return np.zeros_like(strength_map, dtype=np.float32)
    reach = 2 * round(RAMP * cell) + 1
    rises = cv2.dilate(strength_map.astype(np.float32), np.ones((reach, reach), np.uint8))
    trust = np.clip(1 - strength_map / LIGHTLY, 0, 1)
    trust *= np.where(touched, np.clip(2 * rises, 0, 1), 1)
    return np.where(distance_to(touched) <= cell, trust, 0).astype(np.float32)


def lent_trust(
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


def around(area: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest box around ``area``."""
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _shrink(array: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Area means of ``(H, W[, C])`` on a coarser ``grid``."""
    small = cv2.resize(np.ascontiguousarray(array), grid[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float64)


def to_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """SRGB (0 to 255, H W 3) as CIELAB."""
    return np.asarray(cv2.cvtColor(pixels / np.float32(255), cv2.COLOR_RGB2LAB))


def to_rgb(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """CIELAB (H W 3) as sRGB in [0, 1]."""
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).clip(0, 1)
