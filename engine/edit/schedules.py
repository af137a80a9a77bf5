"""Schedules for the jobs of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.solvers.names import fresh_scheduler
from engine.solvers.schedule import Schedule

if TYPE_CHECKING:
    from engine.models import Backbone
    from engine.request.request import EditRequest

MOST_STEPS = 1000
"""As many as training has levels."""


class ScheduleMaker:
    """Makes fresh schedules, one for each job: schedulers keep state."""

    def __init__(self, backbone: Backbone, request: EditRequest, *, parity: bool = False) -> None:
        self.backbone, self.request, self.parity = backbone, request, parity
        self._spare: dict[float, Schedule] = {}
        self._steps: dict[float, int] = {}

    def steps(self, strength: float = 1.0) -> int:
        """Length of a stage's run. Refuses bad numbers before any model work; the schedule
        that is made for it is kept for the first job that needs one.
        """
        if strength not in self._steps:
            self._spare[strength] = self(strength)
            self._steps[strength] = len(self._spare[strength])
        return self._steps[strength]

    def __call__(self, strength: float = 1.0) -> Schedule:
        """``strength``: the stage's, in (0, 1]."""
        if strength in self._spare:
            return self._spare.pop(strength)
        request = self.request
        return Schedule(
            fresh_scheduler(request.scheduler, self.backbone.pipe.scheduler),
            self._whole(),
            request.strength * strength,
            device=self.backbone.device,
            eta=request.eta,
            parity=self.parity,
            denoising_start=request.denoising_start,
            denoising_end=request.denoising_end,
        )

    def _whole(self) -> int:
        """The steps of a run at strength 1 that the request's is the end of."""
        request = self.request
        if not request.exact_steps:
            return request.num_inference_steps
        return min(MOST_STEPS, round(request.num_inference_steps / request.strength))
