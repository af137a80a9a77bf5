"""Threads that work beside the one which steps the loop: they read, measure, write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


class Beside(ThreadPoolExecutor):
    """Threads that leave the loop's its cores: what torch computes in one of them, it computes in
    that one alone.

    OpenMP gives a team of threads to each that computes. Where two teams have more threads than
    there are cores, GNU's lets all of them sleep between two products, and the loop's calls take
    half as long again (``python examples/benchmarks/batch.py --rows teams``).

    Args:
        count: of threads; they are begun at once.
        name: what they are called.
    """

    def __init__(self, count: int, name: str = "softpaint") -> None:
        import torch

        threads = torch.get_num_threads()
        super().__init__(count, thread_name_prefix=name, initializer=_alone)
        begun = Barrier(count + 1)
        for _ in range(count):
            self.submit(begun.wait)
        begun.wait()
        torch.set_num_threads(threads)  # a part of it (MKL's) is one number for all threads


def _alone() -> None:
    """Let what this thread computes have no team."""
    import torch

    torch.get_num_threads()  # a thread takes over the others' number when it first asks
    torch.set_num_threads(1)
