"""Sixty generated cases; ``python -m tests.fuzz --count 500`` runs more."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import make
from tests.fuzz.judge import judged
from tests.kit import tiny


@pytest.fixture(scope="module")
def loaded():
    with tiny.loaded() as engine:
        yield engine


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_each_ends_in_a_right_picture_or_one_clear_line(first, loaded, tmp_path):
    for seed in range(first, first + 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        case = make(seed, folder)
        assert judged(case, folder, loaded) == [], str(case)
