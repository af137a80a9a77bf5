"""The one loop. Everything that denoises goes through here.

A :class:`Loop` holds jobs: one edit, four strategies side by side and a server's queue are the same
thing to it. Each job owns its latents, its schedule, its generator and its strategy's state; jobs
whose model calls fit together share one forward, each row with its own timestep. Jobs may be
submitted at any time and leave when they are finished, aborted or failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from engine.denoise.batching import Batching
from engine.errors import CancelledError

if TYPE_CHECKING:
    from engine.denoise.job import Job


class Loop:
    """Advances jobs together until none is left.

    Args:
        max_cells: at most this many latent positions (rows x h x w) in one shared call; None is
            what suits the device, and less where memory is short.
    """

    def __init__(self, max_cells: int | None = None) -> None:
        self.active: list[Job] = []
        self._batching = Batching(max_cells)

    def submit(self, jobs: Iterable[Job]) -> None:
        """Let jobs take part from the next step on."""
        self.active.extend(jobs)

    def abort(self, job: Job) -> None:
        """End a job, or the one that has followed it; what it holds is free at once, and the next
        step reports it among those who left, with a ``CancelledError``. No effect on one that has
        left.
        """
        last = job.chain[-1]
        if last in self.active and not last.done:
            last.fail(CancelledError(f"{last.name} was aborted after step {last.index}."))
            self._batching.forget()

    @torch.no_grad()
    def step(self) -> list[Job]:
        """One evaluation for the first of each kind of active jobs, as many as a call takes.

        Returns:
            The jobs that have left, each by itself: finished, or with its ``error`` set. One with
            a successor has not left: its successor does.
        """
        for batch in self._batching.batches(self.active):
            asked = [(job, attempt(job, job.question)) for job in batch]
            ready = [(job, question) for job, question in asked if question is not None]
            answers = self._batching.answers([question for _, question in ready])
            for (job, _), answer in zip(ready, answers, strict=True):
                attempt(job, job.take, answer)
        return self._leaving()

    def _leaving(self) -> list[Job]:
        done = [job for job in self.active if job.done]
        for job in done:
            attempt(job, job.make_successor)
        if done:
            entering = [job.successor for job in done if job.successor is not None]
            self.active = [job for job in self.active if not job.done] + entering
            self._batching.forget()
        return [job for job in done if job.successor is None]

    def run(self) -> None:
        """Step until every job has left."""
        while self.active:
            self.step()

    @property
    def calls(self) -> int:
        """Network forwards so far."""
        return self._batching.calls

    @property
    def steps_left(self) -> int:
        """Of all active jobs together, later stages left out."""
        return sum(len(job.schedule) - job.index for job in self.active)


def attempt(job: Job, act: Callable[..., Any], *arguments: Any) -> Any:
    """What ``act`` gives; its failure ends this job and no other. None for one that has ended."""
    if job.error is not None:
        return None
    try:
        return act(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's alone
        job.fail(error)
        return None
