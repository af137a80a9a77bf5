"""Schedules for the jobs of a request."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from engine.errors import SoftpaintWarning
from engine.solvers.names import fresh_scheduler
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

    def warn_of_late_start(self) -> None:
        """Say of a whole run that its few steps begin far from pure noise, as the spacing of most
        checkpoints' schedulers has it (``leading``): what is drawn is a smear.
        """
        request = self.request
        if request.strength < 1 or request.denoising_start is not None or self.parity:
            return
        whole = self(1.0)
        self._spare[1.0] = whole
        first = float(whole.timesteps[0]) / whole.scheduler.config.get("num_train_timesteps", 1000)
        if first < LATE:
            warnings.warn(
                f"a run of {request.num_inference_steps} by this scheduler begins "
                f"{first:.1%} of the way up to noise, and draws next to nothing: take more steps, "
                "or a scheduler that begins at the top, such as euler-trailing.",
                SoftpaintWarning,
                stacklevel=2,
            )

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
