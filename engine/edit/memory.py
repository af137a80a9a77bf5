"""What an edit takes over from earlier ones, beside what the model itself remembers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from engine.denoise.resume import Trace, nbytes
from engine.lru import LRU
from engine.models.state import contents

if TYPE_CHECKING:
    import torch

    from engine.denoise.job import Job

DECODED = 4
"""Decoded pictures that renders remember: 13 MB each at 1024 px."""

Decode = Callable[["torch.Tensor"], "torch.Tensor"]


class Memory:
    """No memory: an edit by itself."""

    def admit(self, job: Job, *, skip: bool) -> None:
        """Take a job to the first step that has to be computed. Called before its first step, for
        jobs of later stages too.

        ``skip``: leave out steps in which every pixel is still held.
        """
        if skip:
            job.skip_to(job.first_needed())

    def decode(self, latents: torch.Tensor, decode: Decode) -> torch.Tensor:
        """``decode(latents)``, or what it was before."""
        return decode(latents)


class Renders(Memory):
    """The steps of earlier renders, and their last pictures.

    Args:
        max_bytes: of latents and scheduler states, beyond which the renders used longest ago are
            forgotten.
        store: the device that keeps them; None is where they are.
    """

    def __init__(self, max_bytes: int, store: Any = None) -> None:
        self.max_bytes = max_bytes
        self.store = store
        self._decoded: LRU[Hashable, torch.Tensor] = LRU(DECODED)
        self._traces: list[Trace] = []
        """The one used longest ago first."""
        self._made: list[Trace] = []
        """Of the render that runs."""

    def admit(self, job: Job, *, skip: bool) -> None:
        trace = Trace(job, self.store)
        found = max(
            filter(None, (earlier.find(job) for earlier in [*self._traces, *self._made])),
            key=lambda resume: resume.index,
            default=None,
        )
        held = job.first_needed() if skip else 0
        if found is None or found.index <= held:
            found = None
            job.skip_to(held)
        elif found.trace in self._traces:
            self._traces.remove(found.trace)
            self._traces.append(found.trace)
        trace.begin(job, found)
        self._made.append(trace)

    def decode(self, latents: torch.Tensor, decode: Decode) -> torch.Tensor:
        return self._decoded.get(contents(latents), lambda: decode(latents))

    def keep(self) -> None:
        """Take in what was just rendered, cancelled or not, and forget the oldest beyond the
        limit.
        """
        self._traces += self._made
        self._made = []
        needed = nbytes(self._traces[-1:])
        while self._traces and nbytes(self._traces) > self.max_bytes:
            self._traces.pop(0)
        if not self._traces and needed > self.max_bytes > 0:
            warnings.warn(
                f"a render of this session takes {needed} bytes, more than max_bytes="
                f"{self.max_bytes}: nothing is kept.",
                stacklevel=3,
            )

    def clear(self) -> None:
        """Forget all of them."""
        self._traces.clear()
        self._decoded.clear()

    @property
    def nbytes(self) -> int:
        """Memory that the kept steps take; what renders share counts once."""
        return nbytes(self._traces)

    @property
    def bytes_per_step(self) -> int:
        """What a step of the last render takes, latents and scheduler state; 0 before it."""
        if not self._traces:
            return 0
        last = self._traces[-1]
        return nbytes([last]) // max(len(last.stepped), 1)
