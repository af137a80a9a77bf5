"""Banded equations: what SciPy makes of them, with Python's lock left to others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solveh_banded

from engine.picture.banded import solve_banded


@pytest.mark.parametrize(("count", "band", "sides"), [(300, 20, 3), (40, 2, 1), (9, 8, 2)])
def test_it_is_scipys_to_the_bit(count, band, sides):
    rng = np.random.default_rng(count)
    bands = np.zeros((band + 1, count), order="F")
    bands[0] = 5 + rng.random(count)
    bands[1] = bands[band] = -1
    right = rng.random((count, sides))
    want = solveh_banded(bands, right, lower=True)
    assert np.array_equal(solve_banded(bands.copy("F"), right), want)


def test_what_is_not_positive_definite_is_refused():
    bands = np.zeros((2, 5), order="F")
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        solve_banded(bands, np.ones((5, 1)))


def test_forms_that_do_not_fit_are_refused():
    bands = np.ones((2, 5), order="F")
    with pytest.raises(TypeError, match="Fortran"):
        solve_banded(np.ones((2, 5), np.float32), np.ones((5, 1)))
    with pytest.raises(ValueError, match="5 equations"):
        solve_banded(bands, np.ones((4, 1)))
