"""diffusers' schedulers by name, and fresh instances of them.

A name means the same solver whatever the model predicts: where its network predicts a flow, the
solver's flow form is built. Others are registered from other packages through the entry-point group
``softpaint.schedulers``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from engine.errors import InputError
from engine.lru import LRU
from engine.registry import Registry
from engine.solvers.parameterisation import Flow, Preconditioned, parameterisation_of
from engine.solvers.shift import is_dynamic


@dataclass(frozen=True)
class Form:
    """How a solver is built for one kind of model."""

    kind: str | type
    """A class with the interface of diffusers' schedulers, or the name of one of diffusers'."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What is changed in the model's own config."""
    shift: str = "shift"
    """The argument that takes the model's shift of flow levels."""

    @property
    def scheduler_class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.kind) if isinstance(self.kind, str) else self.kind


def _flow_form(kind: str, **changes: Any) -> Form:
    """A multistep solver, which knows flows by these settings. A shift by size reaches it as a
    number: see :func:`engine.solvers.quirks.set_timesteps`.
    """
    flow = {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "use_dynamic_shifting": False,
    }
    return Form(kind, {**flow, **changes}, "flow_shift")


@dataclass(frozen=True)
class SchedulerInfo:
    """A scheduler by name: its class, and what is changed in the model's own config."""

    name: str
    description: str
    kind: str | type
    """A class with the interface of diffusers' schedulers, or the name of one of diffusers'."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    flow: Form | None = None
    """For networks that predict a flow; None where the solver cannot."""
    edm: Form | None = None
    """For networks with EDM's preconditioning; None where the solver cannot."""

    def build(self, like: Any) -> Any:
        """A new scheduler for a model whose own scheduler is ``like``.

        Raises:
            InputError: the model's network predicts a flow or is preconditioned, and this solver
                has no form for it.
        """
        predicts = parameterisation_of(like)
        if isinstance(predicts, Flow):
            form = self._form("flow", "a flow model")
            shift = like.config.get("shift", like.config.get("flow_shift", 1.0))
            return _made(form, like, {form.shift: 1.0 if is_dynamic(like) else shift})
        if isinstance(predicts, Preconditioned):
            return _made(self._form("edm", "a model with EDM's preconditioning"), like)
        return Form(self.kind, self.changes).scheduler_class.from_config(
            like.config, **self.changes
        )

    def _form(self, kind: str, what: str) -> Form:
        """This solver for another ``kind`` of model, or an ``InputError`` that names those that
        have one.
        """
        form: Form | None = getattr(self, kind)
        if form is None:
            able = [each.name for each in SCHEDULERS if getattr(each, kind) is not None]
            raise InputError(
                f"scheduler {self.name!r} cannot run {what}; these can: {', '.join(able)}."
            )
        return form


def _made(form: Form, like: Any, more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A scheduler of the ``form`` with what of ``like``'s settings it takes, and ``more``."""
    made = form.scheduler_class
    taken = inspect.signature(made.__init__).parameters
    settings = {key: value for key, value in like.config.items() if key in taken}
    return made.from_config({**settings, **more, **form.changes})


SCHEDULERS = Registry("scheduler", SchedulerInfo, "softpaint.schedulers")

for _info in (
    SchedulerInfo(
        "euler",
        "Euler's method; even, the default of SDXL",
        "EulerDiscreteScheduler",
        flow=Form("FlowMatchEulerDiscreteScheduler"),
        edm=Form("EDMEulerScheduler"),
    ),
    SchedulerInfo(
        "euler-karras",
        "Euler's method on Karras' noise levels",
        "EulerDiscreteScheduler",
        {"use_karras_sigmas": True},
        edm=Form("EDMEulerScheduler", {"sigma_schedule": "karras"}),
    ),
    SchedulerInfo(
        "euler-trailing",
        "Euler's method from the very first noise level; few steps",
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing"},
    ),
    SchedulerInfo(
        "euler-a",
        "Euler's method with fresh noise at every step",
        "EulerAncestralDiscreteScheduler",
    ),
    # Their default clips the denoised sample to [-1, 1], which pixels need and latents cannot bear.
    SchedulerInfo(
        "ddim", "DDIM (Song et al. 2020); takes eta", "DDIMScheduler", {"clip_sample": False}
    ),
    SchedulerInfo(
        "ddpm", "DDPM (Ho et al. 2020), ancestral sampling", "DDPMScheduler", {"clip_sample": False}
    ),
    SchedulerInfo(
        "dpmpp-2m",
        "DPM-Solver++, second order from the step before",
        "DPMSolverMultistepScheduler",
        flow=_flow_form("DPMSolverMultistepScheduler"),
        edm=Form("EDMDPMSolverMultistepScheduler"),
    ),
    SchedulerInfo(
        "dpmpp-2m-karras",
        "DPM-Solver++ 2M on Karras' noise levels",
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True},
        edm=Form("EDMDPMSolverMultistepScheduler", {"sigma_schedule": "karras"}),
    ),
    SchedulerInfo(
        "dpmpp-2m-sde",
        "DPM-Solver++ 2M of the stochastic equation",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
        flow=_flow_form("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
        edm=Form("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ),
    SchedulerInfo(
        "dpmpp-2m-sde-karras",
        "DPM-Solver++ 2M SDE on Karras' noise levels",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    SchedulerInfo(
        "dpmpp-2s",
        "DPM-Solver++, second order in groups of steps",
        "DPMSolverSinglestepScheduler",
        {"lower_order_final": True},
    ),
    SchedulerInfo(
        "deis", "DEIS (Zhang and Chen 2022), exponential integrator", "DEISMultistepScheduler"
    ),
    SchedulerInfo(
        "unipc",
        "UniPC (Zhao et al. 2023), predictor and corrector; few steps",
        "UniPCMultistepScheduler",
        flow=_flow_form("UniPCMultistepScheduler"),
    ),
    SchedulerInfo(
        "sa-solver", "SA-Solver (Xue et al. 2023), stochastic Adams", "SASolverScheduler"
    ),
    SchedulerInfo(
        "heun",
        "Heun's method; two model calls a step",
        "HeunDiscreteScheduler",
        flow=Form("FlowMatchHeunDiscreteScheduler"),
    ),
    SchedulerInfo("kdpm2", "k-diffusion's DPM2; two model calls a step", "KDPM2DiscreteScheduler"),
    SchedulerInfo(
        "kdpm2-a",
        "DPM2 with fresh noise; two model calls a step",
        "KDPM2AncestralDiscreteScheduler",
    ),
    SchedulerInfo("lms", "linear multistep", "LMSDiscreteScheduler"),
    SchedulerInfo(
        "pndm",
        "PNDM (Liu et al. 2022), the default of SD 1.x",
        "PNDMScheduler",
        {"skip_prk_steps": True},
    ),
    SchedulerInfo("lcm", "latent consistency models' own; 4 to 8 steps", "LCMScheduler"),
    SchedulerInfo("tcd", "trajectory consistency models' own; takes eta", "TCDScheduler"),
):
    SCHEDULERS.register(_info)


NEW = 32
_NEW: LRU[tuple[str, type, int], tuple[Any, Any]] = LRU(NEW)
"""Unused schedulers, with the configs that they were made of, whose ids therefore stay theirs. A
copy takes a quarter of the time in which diffusers reads a config."""


def list_schedulers() -> list[str]:
    """The names that ``scheduler=`` accepts.

    Example:
        >>> "dpmpp-2m-karras" in list_schedulers()
        True
    """
    return SCHEDULERS.names()


def check_scheduler(scheduler: object) -> None:
    """Raise ``InputError`` unless ``scheduler`` is None, a known name or a diffusers scheduler."""
    if isinstance(scheduler, str):
        SCHEDULERS.get(scheduler)
    elif isinstance(scheduler, type):
        raise InputError(
            f"scheduler is the class {scheduler.__name__}; give an object of it, such as "
            f"{scheduler.__name__}.from_config(pipe.scheduler.config), or a name."
        )
    elif scheduler is not None and not (
        hasattr(scheduler, "set_timesteps") and hasattr(scheduler, "from_config")
    ):
        raise InputError(
            f"scheduler must be a name or a diffusers scheduler, not {type(scheduler).__name__}."
        )


def fresh_scheduler(scheduler: Any, model_scheduler: Any) -> Any:
    """A new scheduler instance that shares no state with anything.

    ``scheduler``: None for the model's own kind, a name of :func:`list_schedulers` (the model's
    config with that kind's changes), or a diffusers scheduler, of which a fresh copy is made.
    """
    check_scheduler(scheduler)
    name = scheduler if isinstance(scheduler, str) else ""
    like = model_scheduler if name or scheduler is None else scheduler
    config = like.config
    key = (name, type(like), id(config))

    def make() -> tuple[Any, Any]:
        built = SCHEDULERS.get(name).build(like) if name else type(like).from_config(config)
        return config, built

    return copy.deepcopy(_NEW.get(key, make)[1])
