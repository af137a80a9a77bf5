"""Threads beside the loop leave it its cores."""

from __future__ import annotations

import torch

from engine.runtime.beside import Beside


def test_what_is_computed_beside_the_loop_is_computed_by_one_thread():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with Beside(2) as pool:
            assert {pool.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
