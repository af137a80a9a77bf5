"""What a network predicts: noise, velocity, the clean latents or a flow.

Each kind is a value, by the name that diffusers' configs have for it (``prediction_type``); more
are registered from other packages through the entry-point group ``softpaint.parameterisations``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.registry import Registry
from engine.types import Level

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Parameterisation(ABC):
    """How a prediction and the clean latents follow from each other; all tensors b c h w."""

    name: str
    description: str

    def level(self, sigma: float) -> Level:
        """The level of a scheduler's ``sigma``: variance-exploding, unless a kind has another."""
        return Level(1.0, sigma)

    @abstractmethod
    def denoised(self, prediction: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        """The clean latents that ``prediction``, made of ``latents`` at level ``at``, implies."""

    @abstractmethod
    def prediction(self, denoised: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        """The inverse: the prediction that implies ``denoised``. ``at`` is a noisy level."""

    def steps_like_diffusers(self, num_inference_steps: int, strength: float) -> int:
        """How many of ``num_inference_steps`` diffusers' pipelines run at ``strength``."""
        return min(int(num_inference_steps * strength), num_inference_steps)

    def of(self, config: Any) -> Parameterisation:
        """This kind with the settings of a scheduler's ``config``."""
        return self


class Epsilon(Parameterisation):
    """The noise: ``x = alpha x0 + sigma epsilon`` (Ho et al. 2020)."""

    def denoised(self, prediction: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        return (latents - at.sigma * prediction) / at.alpha

    def prediction(self, denoised: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        return (latents - at.alpha * denoised) / at.sigma


class Velocity(Parameterisation):
    """``v = alpha epsilon - sigma x0`` on the unit sphere (Salimans & Ho 2022)."""

    # x0 = a x - s v holds on the sphere, so variance-exploding latents are scaled.
    def denoised(self, prediction: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        norm = math.hypot(at.alpha, at.sigma)
        return (at.alpha * latents / norm - at.sigma * prediction) / norm

    def prediction(self, denoised: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        norm = math.hypot(at.alpha, at.sigma)
        return (at.alpha * latents / norm - norm * denoised) / at.sigma


class Sample(Parameterisation):
    """The clean latents themselves."""

    def denoised(self, prediction: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        return prediction

    def prediction(self, denoised: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        return denoised


class Flow(Parameterisation):
    """``v = noise - x0`` on the straight line ``x = (1 - sigma) x0 + sigma noise`` (Lipman et al.
    2023, Liu et al. 2023).
    """

    def level(self, sigma: float) -> Level:
        return Level(1.0 - sigma, sigma)

    def steps_like_diffusers(self, num_inference_steps: int, strength: float) -> int:
        # They truncate what is left out, not what is run.
        run = min(num_inference_steps * strength, num_inference_steps)
        return num_inference_steps - int(num_inference_steps - run)

    def denoised(self, prediction: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        return latents - at.sigma * prediction

    def prediction(self, denoised: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        return (latents - denoised) / at.sigma


@dataclass(frozen=True)
class Preconditioned(Parameterisation):
    """``x0 = c_skip x + c_out F`` (Karras et al. 2022, table 1, "EDM"); ``sign`` is that of c_out.

    Latents are variance-exploding.
    """

    sigma_data: float = 0.5
    sign: float = 1.0

    def of(self, config: Any) -> Preconditioned:
        return replace(self, sigma_data=float(config.sigma_data))

    def _scales(self, at: Level) -> tuple[float, float]:
        norm = math.hypot(at.sigma, self.sigma_data)
        return (self.sigma_data / norm) ** 2, self.sign * at.sigma * self.sigma_data / norm

    def denoised(self, prediction: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        skip, out = self._scales(at)
        return skip * latents + out * prediction

    def prediction(self, denoised: torch.Tensor, latents: torch.Tensor, at: Level) -> torch.Tensor:
        skip, out = self._scales(at)
        return (denoised - skip * latents) / out


PARAMETERISATIONS = Registry(
    "parameterisation",
    Parameterisation,  # type: ignore[type-abstract]  # records of its subclasses
    "softpaint.parameterisations",
)
for _kind in (
    Epsilon("epsilon", "the noise"),
    Velocity("v_prediction", "velocity on the unit sphere"),
    Sample("sample", "the clean latents"),
    Flow("flow_prediction", "velocity on the straight line from clean to noise"),
    Preconditioned("edm_epsilon", "EDM's preconditioned residual"),
    Preconditioned("edm_v_prediction", "the same with its sign turned", sign=-1.0),
):
    PARAMETERISATIONS.register(_kind)


def parameterisation_of(scheduler: Any) -> Parameterisation:
    """What a diffusers scheduler takes its network to predict.

    Raises:
        InputError: its config does not say, or names a kind that is not registered.
    """
    config = scheduler.config
    kind = getattr(config, "prediction_type", None)
    if hasattr(scheduler, "precondition_outputs"):
        kind = f"edm_{kind}"
    elif kind is None and hasattr(scheduler, "scale_noise"):
        kind = "flow_prediction"  # the FlowMatch kinds, which know no other
    known = PARAMETERISATIONS.names()
    if kind not in known:
        raise InputError(
            f"{type(scheduler).__name__} has prediction_type {kind!r}; known are "
            f"{', '.join(known)}."
        )
    return PARAMETERISATIONS.get(str(kind)).of(config)
