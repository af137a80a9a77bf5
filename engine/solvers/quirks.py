"""What single kinds of diffusers' schedulers do differently from all others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.solvers.shift import is_dynamic
from engine.types import Level

if TYPE_CHECKING:
    import torch

    from engine.solvers.parameterisation import Parameterisation


_GIVEN = frozenset({"model_output", "timestep", "sample"})
"""What the loop gives to a scheduler's steps, if nothing else is known of them."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Never(float):
    """A bound that nothing reaches. Given as Euler's ``s_tmin``, it answers whether this sigma is
    churned (never: ``s_churn`` is 0) without reading the sigma from its tensor.
    """

    def __le__(self, other: object) -> bool:
        return False


def set_timesteps(scheduler: Any, count: int, arguments: Mapping[str, Any]) -> None:
    """Give ``scheduler`` its tables for ``count`` steps, on the CPU.

    ``mu`` among the ``arguments`` becomes the shift of one that does not go by size, and ``sigmas``
    are left out for one that spaces its own.

    Raises:
        InputError: it refuses them, does not take one of the ``arguments``, or is for another kind
            of run: its steps want more than a prediction, or its noise levels are not told.
    """
    import numpy as np

    name = type(scheduler).__name__
    step = inspect.signature(scheduler.step).parameters.values()
    wanted = [each.name for each in step if each.default is each.empty and each.kind in _NAMED]
    if more := [each for each in wanted if each not in _GIVEN]:
        raise InputError(f"{name} is for a pipeline of its own: its steps want {', '.join(more)}.")
    known = set(inspect.signature(scheduler.set_timesteps).parameters)
    arguments = {k: v for k, v in arguments.items() if k != "sigmas" or k in known}
    if "mu" in arguments and not is_dynamic(scheduler):
        _shift(scheduler, math.exp(arguments.pop("mu")))
    unknown = set(arguments) - known
    if unknown:
        raise InputError(f"{name} takes no {min(unknown)}, which this model needs.")
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            scheduler.set_timesteps(count, device="cpu", **arguments)
    except (ValueError, IndexError, AssertionError, TypeError) as error:
        raise InputError(
            f"{name} cannot run {count} steps with this model's settings: {error}"
        ) from error
    if not (hasattr(scheduler, "sigmas") or hasattr(scheduler, "alphas_cumprod")):
        raise InputError(f"{name} tells no noise levels (sigmas, alphas_cumprod): not to be used.")
    # One step, stretched to an end level, is 0 by 0.
    if not np.isfinite(np.asarray(scheduler.timesteps, np.float64)).all():
        raise InputError(f"{name} cannot run {count} steps with this model's settings.")


def _shift(scheduler: Any, shift: float) -> None:
    """Set the shift of a flow solver's levels, where it has one."""
    for name in ("shift", "flow_shift"):
        if name in scheduler.config:
            scheduler.register_to_config(**{name: shift})
    if hasattr(scheduler, "set_shift"):
        scheduler.set_shift(shift)


def has_no_training_schedule(scheduler: Any) -> bool:
    """EDM's timesteps are logarithms of sigmas, not numbers of training steps."""
    return hasattr(scheduler, "precondition_outputs")


def repeats_first_step(scheduler: Any) -> bool:
    """PNDM without Runge-Kutta steps computes its first step twice."""
    return hasattr(scheduler, "plms_timesteps") and bool(scheduler.config.skip_prk_steps)


def level_at(
    scheduler: Any, index: int, parameterisation: Parameterisation, *, parity: bool
) -> Level:
    """The level of the sample that the model is given at ``index`` of the scheduler's tables.

    Levels are explicit, because ``add_noise`` and ``scale_noise`` of a scheduler that has started
    ignore the timestep that they are given.
    """
    if not hasattr(scheduler, "sigmas"):
        import torch

        cumprod = scheduler.alphas_cumprod.to(torch.float32)
        # The same float32 operations as add_noise: parity to the bit depends on them.
        timestep = int(read(scheduler.timesteps[index]))
        alpha, sigma = cumprod[timestep] ** 0.5, (1 - cumprod[timestep]) ** 0.5
        return Level(read(alpha), read(sigma))
    sigmas = scheduler.sigmas
    if hasattr(scheduler, "sigmas_interpol") and index % 2 == 1 and not parity:
        # KDPM2's second evaluation; the ancestral kind keeps its tables one place earlier.
        sigmas = scheduler.sigmas_interpol
        index -= hasattr(scheduler, "sigmas_down")
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        # diffusers' own conversion, flow and variance-preserving alike
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigmas[index])  # noqa: SLF001
        return Level(read(alpha), read(sigma))
    return parameterisation.level(read(sigmas[index]))


def initial_scale(scheduler: Any) -> float:
    """The standard deviation of what a run from pure noise starts with; flow schedulers have no
    such number, theirs is 1.
    """
    scale = getattr(scheduler, "init_noise_sigma", 1.0)
    return float(scale) if hasattr(scale, "item") else scale


def scaled_input(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The network's input for ``latents`` (b c h w); flow networks take them as they are."""
    if not hasattr(scheduler, "scale_model_input"):
        return latents
    scaled: torch.Tensor = scheduler.scale_model_input(latents, timestep)
    return scaled


def step_arguments(scheduler: Any, timesteps: torch.Tensor) -> list[Any]:
    """What ``scheduler.step`` is told of each of the run's timesteps.

    DDIM's kind looks its tables up by timestep at every step; Python's numbers cost it no read of a
    tensor.
    """
    if hasattr(scheduler, "sigmas") or timesteps.is_floating_point():
        return list(timesteps)
    if hasattr(scheduler, "get_scalings_for_boundary_condition_discrete"):
        # LCM computes with the timestep too: the tensor's float32 results are kept.
        scale = scheduler.get_scalings_for_boundary_condition_discrete
        known = scheduler.timesteps.tolist()
        scalings = dict(zip(known, map(scale, scheduler.timesteps), strict=True))
        scheduler.get_scalings_for_boundary_condition_discrete = scalings.__getitem__
        scheduler.timesteps = known
    arguments: list[Any] = timesteps.tolist()
    return arguments


def forget_corrected(scheduler: Any) -> None:
    """UniPC's and SASolver's correctors replace the latents that they are given by their own
    re-estimate, and with it whatever a strategy composed into them.
    """
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = None


def read(value: Any) -> float:
    """A number out of a table on the CPU, without the dispatched read that ``float()`` is."""
    return float(value.numpy() if hasattr(value, "numpy") else value)
