"""Schedules for the jobs of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.picture.geometry import Size
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
        self._spare: dict[tuple[float, Size], Schedule] = {}
        self._steps: dict[tuple[float, Size], int] = {}

    def steps(self, strength: float, canvas: Size) -> int:
        """Length of a stage's run. Refuses bad numbers before any model work; the schedule
        that is made for it is kept for the first job that needs one.
        """
        key = (strength, canvas)
        if key not in self._steps:
            self._spare[key] = self(strength, canvas)
            self._steps[key] = len(self._spare[key])
        return self._steps[key]

    def __call__(self, strength: float, canvas: Size) -> Schedule:
        """``strength``: the stage's, in (0, 1]; ``canvas``: its size in px, padded."""
        if (strength, canvas) in self._spare:
            return self._spare.pop((strength, canvas))
        request, steps, cell = self.request, self._whole(), self.backbone.cell
        scheduler = fresh_scheduler(request.scheduler, self.backbone.pipe.scheduler)
        # A solver by name is the model's own but for its method: it goes by size where that does.
        own = isinstance(request.scheduler, str) or request.scheduler is None
        like = self.backbone.pipe.scheduler if own else scheduler
        latents = Size(canvas.width // cell, canvas.height // cell)
        return Schedule(
            scheduler,
            steps,
            request.strength * strength,
            device=self.backbone.device,
            eta=request.eta,
            parity=self.parity,
            denoising_start=request.denoising_start,
            denoising_end=request.denoising_end,
            arguments=self.backbone.family.solver_arguments(like, latents, steps),
        )

    def _whole(self) -> int:
        """The steps of a run at strength 1 that the request's is the end of."""
        request = self.request
        if not request.exact_steps:
            return request.num_inference_steps
        return min(MOST_STEPS, round(request.num_inference_steps / request.strength))
