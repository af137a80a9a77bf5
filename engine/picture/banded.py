"""Symmetric banded equations, solved without Python's lock."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INT = ctypes.POINTER(ctypes.c_int)
_DOUBLE = ctypes.POINTER(ctypes.c_double)


def solve_banded(
    bands: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """X of ``A X = right``, by Cholesky's method (LAPACK's ``dpbsv``).

    It is what ``scipy.linalg.solveh_banded`` calls for more than three diagonals. That holds
    Python's lock meanwhile, so that a server's model, in another thread, would stand still.

    Args:
        bands: ``(k + 1, N)`` in Fortran's order, A's lower half: row d holds the d-th diagonal
            below the main one. It is overwritten.
        right: ``(N, C)``.

    Returns:
        ``(N, C)``.

    Raises:
        numpy.linalg.LinAlgError: A is not positive definite.
    """
    if not (bands.flags.f_contiguous and bands.dtype == np.float64):
        raise TypeError("bands must be float64 in Fortran's order.")
    solved = np.array(right, np.float64, order="F")
    rows, count = bands.shape
    if solved.shape[0] != count:
        raise ValueError(f"bands of {count} equations, and {solved.shape[0]} right sides.")
    info = ctypes.c_int()
    n, below, sides, lines = (ctypes.c_int(v) for v in (count, rows - 1, solved.shape[1], rows))
    by = ctypes.byref
    at = bands.ctypes.data_as(_DOUBLE), by(lines), solved.ctypes.data_as(_DOUBLE), by(n)
    _dpbsv()(by(ctypes.c_char(b"L")), by(n), by(below), by(sides), *at, by(info))
    if info.value:
        raise np.linalg.LinAlgError(f"not positive definite (dpbsv: {info.value})")
    return solved


@cache
def _dpbsv() -> Any:
    """SciPy's own LAPACK's, by the address that it publishes for compiled programs; calls through
    ctypes leave Python's lock to others.
    """
    from scipy.linalg import cython_lapack

    capsule = cython_lapack.__pyx_capi__["dpbsv"]
    of = ctypes.pythonapi
    of.PyCapsule_GetName.restype, of.PyCapsule_GetName.argtypes = (
        ctypes.c_char_p,
        [ctypes.py_object],
    )
    of.PyCapsule_GetPointer.restype = ctypes.c_void_p
    of.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = of.PyCapsule_GetPointer(capsule, of.PyCapsule_GetName(capsule))
    kinds = ctypes.POINTER(ctypes.c_char), _INT, _INT, _INT, _DOUBLE, _INT, _DOUBLE, _INT, _INT
    return ctypes.CFUNCTYPE(None, *kinds)(address)
