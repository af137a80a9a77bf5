"""Values that the machinery shares. No behaviour beyond small pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image

Conditioning = Mapping[str, "torch.Tensor"]
"""What a network is told beside the latents, by the name of its argument; every tensor has one row
per image (``b ...``), so that jobs are joined by concatenating rows."""


@dataclass(frozen=True, slots=True)
class Level:
    """A noise level in the convention of one scheduler: ``latents = alpha * x0 + sigma * noise``.

    Variance-preserving schedulers have ``alpha**2 + sigma**2 == 1``; variance-exploding ones (the
    Euler and Heun kind) have ``alpha == 1``. The values are Python floats read once from the
    scheduler's tables: using them costs no device synchronisation.
    """

    alpha: float
    sigma: float

    def noise_to(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``x0`` (b c h w) brought to this level with ``noise`` (b c h w)."""
        return self.alpha * x0 + self.sigma * noise


CLEAN = Level(1.0, 0.0)
"""The level of finished latents."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model call of one job, by position: timesteps may repeat, positions do not."""

    index: int
    """Which model call of the run this is, from 0."""
    timestep: torch.Tensor
    """The scheduler's own timestep, 0-dim, on the CPU."""
    position: int
    """How many of the run's steps lie behind the solver step that this call belongs to, from 0."""
    starts: bool
    """A solver step starts here: the latents are on the trajectory, at ``level``."""
    ends: bool
    """The solver step ends here: after it the latents are on the trajectory, at ``next_level``."""
    level: Level
    next_level: Level
    last: bool
    """The last model call of the run."""


@dataclass(frozen=True)
class Checkpoint:
    """A model that is known by a name, with what belongs to it."""

    name: str
    description: str
    folder: Path
    """What diffusers' ``save_pretrained`` wrote of a pipeline."""
    inpaint_model: Path | None = None
    """The folder of its 9-channel inpainting UNet."""
    controlnets: Mapping[str, Path] | None = None
    """The folders of its own ControlNets, by the controls' names, in place of its family's; None
    where its family's fit it."""
    background_fill: str = "patch"
    """The ``prefill`` that knows best what stands behind things."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an observer is shown after each model call: a copy that it may keep."""

    job: str
    index: int
    total: int
    timestep: float
    latents: torch.Tensor
    """b c h w, after the step."""
    image: int = field(default=0)
    """Which of the request's images this is."""
    denoised: torch.Tensor | None = None
    """b c h w, the clean latents that this step's prediction implies."""
    show: Callable[[torch.Tensor], Image.Image] | None = field(default=None, repr=False)
    """Makes a picture of clean latents, where the model is known."""

    def preview(self) -> Image.Image:
        """A picture of what the run is heading for, of the whole of what the model sees (a cut-out
        where one is edited), at most 512 px a side. Made on call, without the VAE's decoder.

        Raises:
            ValueError: this snapshot was made by a loop without an engine around it.
        """
        if self.show is None or self.denoised is None:
            raise ValueError("this snapshot knows no model to make a preview with")
        return self.show(self.denoised)
