"""Which noise levels a network is taught at, and how much each counts: a kind for each kind of
noise schedule, by the scheduler that a model comes with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.types import Level

if TYPE_CHECKING:
    import torch

    from engine.solvers.parameterisation import Parameterisation

GAMMA = 5.0
MOST = 1000.0
"""Of a signal-to-noise ratio that is told apart."""
WEIGHTINGS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "min-snr": lambda ratio: min(ratio, GAMMA),
        "debiased": lambda ratio: math.sqrt(min(ratio, MOST)),
        "even": lambda ratio: ratio,
        "clean": lambda _: 1.0,
    }
)
"""How much a squared error of the clean latents counts at a signal-to-noise ratio: Hang et al. 2023
("Efficient diffusion training via min-SNR weighting", section 3.4); Yu et al. 2023 ("Debias the
training of diffusion models"), where what is decided at high noise, which is what a picture shows,
counts more; as an error of the noise itself; and as it is, so that high noise, where most of the
clean latents is missed, counts most."""


@dataclass(frozen=True)
class Drawn:
    """A noise level, as the network is told it."""

    timestep: float
    level: Level
    """Of what the network is given: noisy latents need no further scaling."""


class Noising(ABC):
    """A noise schedule in training."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> list[Drawn]:
        """``count`` levels, spread over the schedule so that the loss of a batch is calm."""

    @abstractmethod
    def weight(self, at: Level, kind: Parameterisation, weighting: str) -> float:
        """How much a squared error of a prediction at this level counts; ``weighting``: of
        :data:`WEIGHTINGS`.
        """


@dataclass(frozen=True)
class Discrete(Noising):
    """A variance-preserving table (Ho et al. 2020)."""

    alphas: Sequence[float]
    """Cumulative products, by timestep."""

    def draw(self, count: int, generator: torch.Generator) -> list[Drawn]:
        places = _spread(count, generator)
        steps = [min(int(each * len(self.alphas)), len(self.alphas) - 1) for each in places]
        return [
            Drawn(step, Level(self.alphas[step] ** 0.5, (1 - self.alphas[step]) ** 0.5))
            for step in steps
        ]

    def weight(self, at: Level, kind: Parameterisation, weighting: str) -> float:
        # Weights are of errors of x0; an error of the prediction is one of x0 by a factor. Of pure
        # noise nothing of x0 is left to tell by.
        if not at.alpha or not at.sigma:
            return 1.0
        ratio = (at.alpha / at.sigma) ** 2
        return WEIGHTINGS[weighting](ratio) * _gain(at, kind) ** 2


@dataclass(frozen=True)
class Straight(Noising):
    """A flow's straight line; levels by the logistic normal (Esser et al. 2024, section 3.1), moved
    by the schedule's shift. All count alike.
    """

    shift: float
    timesteps: int

    def draw(self, count: int, generator: torch.Generator) -> list[Drawn]:
        drawn = []
        for place in _spread(count, generator):
            even = 1 / (1 + math.exp(-_normal_quantile(place)))
            sigma = self.shift * even / (1 + (self.shift - 1) * even)
            drawn.append(Drawn(sigma * self.timesteps, Level(1 - sigma, sigma)))
        return drawn

    def weight(self, at: Level, kind: Parameterisation, weighting: str) -> float:
        return 1.0


def noising_of(scheduler: Any) -> Noising:
    """The kind of a model's scheduler.

    Raises:
        InputError: its noise levels are neither a table nor a line (EDM's).
    """
    if hasattr(scheduler, "precondition_outputs"):
        raise InputError(
            f"{type(scheduler).__name__} has EDM's noise levels, at which nothing is taught here."
        )
    if (table := getattr(scheduler, "alphas_cumprod", None)) is not None:
        return Discrete(tuple(float(each) for each in table))
    if hasattr(scheduler, "scale_noise"):
        shift = getattr(scheduler.config, "shift", None) or 1.0
        return Straight(float(shift), int(scheduler.config.num_train_timesteps))
    raise InputError(f"it is not known at which noise levels {type(scheduler).__name__} is taught.")


def _spread(count: int, generator: torch.Generator) -> list[float]:
    """A number in (0, 1) out of each of ``count`` equal parts."""
    import torch

    drawn = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return [min(max((i + each) / count, 1e-4), 1 - 1e-4) for i, each in enumerate(drawn)]


def _normal_quantile(place: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(place)


def _gain(at: Level, kind: Parameterisation) -> float:
    """How far x0 moves where the prediction moves by 1."""
    import torch

    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return float((kind.denoised(one, zero, at) - kind.denoised(zero, zero, at)).abs())
