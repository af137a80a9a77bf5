"""Schedules for the jobs of a request."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from engine.errors import SoftpaintWarning
from engine.picture.geometry import Size
from engine.solvers.names import fresh_scheduler
from engine.solvers.quirks import has_no_training_schedule
from engine.solvers.schedule import Schedule

if TYPE_CHECKING:
    from engine.models import Backbone
    from engine.request.request import EditRequest

MOST_STEPS = 1000
"""As many as training has levels."""
LATE = 0.3
"""The share of training's timesteps from which on a run begins near enough to pure noise."""


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
            if not self._steps:
                self._warn_of_late_start(self._spare[key])
            self._steps[key] = len(self._spare[key])
        return self._steps[key]

    def _warn_of_late_start(self, schedule: Schedule) -> None:
        """Say of a whole run that its single step is the last before the picture, as the spacing of
        most checkpoints' schedulers has it (``leading``): what is drawn is a smear.
        """
        if self.parity or schedule.strength < 1 or self.request.denoising_start is not None:
            return
        if has_no_training_schedule(schedule.scheduler):  # EDM's runs begin at the top
            return
        levels = schedule.scheduler.config.get("num_train_timesteps", 1000)
        first = float(schedule.timesteps[0]) / levels
        if first < LATE:
            warnings.warn(
                f"a run of {self.request.num_inference_steps} by this scheduler begins "
                f"{first:.1%} of the way up to noise, and draws next to nothing: take more steps, "
                "or a scheduler that begins at the top, such as euler-trailing.",
                SoftpaintWarning,
                stacklevel=2,
            )

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
