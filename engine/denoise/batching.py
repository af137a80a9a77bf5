"""Which jobs share a model call, and the call itself: joined, split where memory is short."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from engine.denoise.question import (
    Answer,
    Question,
    Rows,
    join_residuals,
)
from engine.errors import MemoryLimitError
from engine.types import Conditioning

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.models import Network

MAX_CELLS = 8 * 128 * 128
"""Latent positions (rows x h x w) in one shared call: 8 rows of a 1024-px SDXL picture."""
CPU_CELLS = 12 * 16 * 16
"""The same on a CPU: 12 rows of a 128-px picture. More rows make none of them cheaper there, and
all of them later (``row_s`` of the row ``arrivals`` in ``examples/benchmarks/run.py``)."""


NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What torch's errors say that are no ``torch.OutOfMemoryError``: of MPS, of CPUs, of CUDA's
libraries."""


class Batching:
    """Shared model calls.

    Args:
        max_cells: at most this many latent positions (rows x h x w) in one call; None is
            :data:`MAX_CELLS` or :data:`CPU_CELLS`, and less where memory is short.
    """

    def __init__(self, max_cells: int | None = None) -> None:
        self.max_cells = max_cells
        self.calls = 0
        """Network forwards so far."""
        self._joined: dict[tuple[int, ...], Conditioning] = {}

    def batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """The first jobs of each group that can share a call, in order of arrival, as many as it
        takes. The others wait until a place is free: a run that shares its time with all that came
        after it ends with the last of them.
        """
        groups: dict[Hashable, list[Job]] = {}
        for job in jobs:
            if not job.done and not job.waits:  # done: all of it was known when it entered
                groups.setdefault(job.batch_key, []).append(job)
        batches = []
        for group in groups.values():
            rows = list(accumulate(job.rows for job in group))
            taken = bisect_right(rows, self._row_limit(group[0], rows[-1]))
            batches.append(group[: max(1, taken)])
        return batches

    def _row_limit(self, job: Job, wanted: int) -> int:
        """At most so many rows like ``job``'s in one call, where ``wanted`` would share it."""
        height, width = job.latents.shape[-2:]
        limit = self.max_cells
        if limit is None:
            limit = CPU_CELLS if job.latents.device.type == "cpu" else MAX_CELLS
        rows = min(wanted, limit // (height * width))
        if rows <= job.rows:  # a job alone is tried in any case
            return rows
        return min(rows, job.network.cells_at_hand() // (height * width))

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """The answer to each question, all of one network, in shared calls. Where these fail, each
        question has its own, so that one spoils no other's.
        """
        if not questions:
            return []
        try:
            return self._shared(questions)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the asking job's alone
            if len(questions) == 1:
                return [error]
        return [answer for question in questions for answer in self.answers([question])]

    def _shared(self, questions: Sequence[Question]) -> list[Answer]:
        calls: dict[Hashable, list[Rows]] = {}
        for question in questions:
            for part in question.parts:
                calls.setdefault(part.conditioning.key(), []).append(part)
        outputs: dict[int, torch.Tensor] = {}
        for parts in calls.values():
            output = self._predict(questions[0].network, self._join(parts))
            pieces = output.split([len(part) for part in parts])
            outputs |= {id(part): piece for part, piece in zip(parts, pieces, strict=True)}
        return [tuple(outputs[id(part)] for part in question.parts) for question in questions]

    def _join(self, parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1:
            return parts[0]
        return Rows(
            torch.cat([part.sample for part in parts]),
            torch.cat([part.timesteps for part in parts]),
            self._conditioning([part.conditioning for part in parts]),
            join_residuals([part.residuals for part in parts], [len(part) for part in parts]),
        )

    def _conditioning(self, conditionings: Sequence[Conditioning]) -> Conditioning:
        """The joined conditioning, kept while the same jobs stay together: what a network makes of
        it is remembered by its identity.
        """
        key = tuple(map(id, conditionings))
        if key not in self._joined:
            self._joined[key] = Conditioning.join(conditionings)
        return self._joined[key]

    def forget(self) -> None:
        """Drop what was joined: to be called when a job has left, whose rows are in it."""
        self._joined.clear()

    def _predict(self, network: Network, rows: Rows) -> torch.Tensor:
        """A forward; in halves where memory does not suffice, and from then on in smaller batches.

        Raises:
            MemoryLimitError: not even one row fits.
        """
        count, _, height, width = rows.sample.shape
        try:
            output = network.predict(rows.sample, rows.timesteps, rows.conditioning, rows.residuals)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if count == 1:
                raise MemoryLimitError(
                    f"a model call of one picture ({width} x {height} latents)"
                ) from error
        else:
            self.calls += 1
            return output
        # Not in the handler: the exception keeps what the failed forward has allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = (count + 1) // 2
        cells = half * height * width
        self.max_cells = cells if self.max_cells is None else min(self.max_cells, cells)
        halves = (slice(0, half), slice(half, count))
        return torch.cat([self._predict(network, rows.take(part)) for part in halves])


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left, in whichever way a library says it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in NO_MEMORY)
