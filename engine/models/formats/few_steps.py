"""Checkpoints that were distilled to a few steps: how they are known, and what they want.

Nothing in the file says so: it is the name, or the scheduler that was saved with it. What is found
are defaults, which are said and which any setting overrides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRAILING = {"timestep_spacing": "trailing"}
STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)
_BEGINS = "(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=XL))"
"""Where a word begins in names such as ``photoLightning_v2`` and ``DreamXLTurbo``."""


@dataclass(frozen=True)
class FewSteps:
    """A kind of distilled checkpoint."""

    name: str
    pattern: str
    """Its name in a file's, between what are no letters."""
    steps: int
    """Those that it is for, where its name does not tell."""
    scheduler: str
    """The class of diffusers' scheduler that its authors use."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What is other in that one's config."""
    saved: bool = False
    """A model that is saved with this scheduler and these settings is of this kind."""


KINDS = (
    FewSteps("Turbo", "turbo", 4, "EulerAncestralDiscreteScheduler", TRAILING, saved=True),
    FewSteps("Lightning", "lightning", 4, "EulerDiscreteScheduler", TRAILING),
    FewSteps("Hyper", "hyper(?:-?sd)?(?:xl)?", 8, "EulerDiscreteScheduler", TRAILING),
    # Of 1,000 original steps, 4 are at 999, 749, 499 and 249, which DMD2 was trained for.
    FewSteps("DMD2", "dmd2?", 4, "LCMScheduler", {"original_inference_steps": 1000}),
    FewSteps("LCM", "lcm", 4, "LCMScheduler", saved=True),
    FewSteps("TCD", "tcd", 4, "TCDScheduler", saved=True),
)


@dataclass(frozen=True)
class Found:
    """What a model was recognised as."""

    kind: FewSteps
    steps: int
    guidance: float
    reason: str
    """How it is known."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings of an edit, where it does not say."""
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance}

    @property
    def note(self) -> str:
        """A sentence for the user."""
        guided = f"guidance {self.guidance:g}" if self.guidance > 1 else "no guidance"
        return (
            f"a {self.kind.name} checkpoint ({self.reason}): {self.steps} steps and {guided}, "
            "unless the edit says otherwise"
        )


def few_steps(name: str, pipe: Any) -> Found | None:
    """What kind of distilled checkpoint a loaded model is; None if of none.

    Args:
        name: of its file or folder, or its hub id.
        pipe: its pipeline.
    """
    # Consistency models with embedded guidance run with a scale and one row.
    embedded = getattr(pipe.unet.config, "time_cond_proj_dim", None) is not None
    guidance = 8.0 if embedded else 1.0
    for kind in KINDS:
        if re.search(rf"{_BEGINS}(?i:{kind.pattern}(?![a-z]))", name):
            told = STEPS.search(name)
            steps = max(1, int(told[1])) if told else kind.steps
            return Found(kind, steps, guidance, "by its name")
    for kind in KINDS:
        if kind.saved and _is_saved_with(pipe.scheduler, kind):
            return Found(kind, kind.steps, guidance, "by its scheduler")
    return None


def scheduler_for(found: Found, scheduler: Any) -> Any:
    """The scheduler of a model that was recognised, in place of its own ``scheduler``."""
    import diffusers

    kind = found.kind
    suits = scheduler.config.get("timestep_spacing") == "trailing" and "Euler" in kind.scheduler
    if suits or _is_saved_with(scheduler, kind):
        return scheduler
    return getattr(diffusers, kind.scheduler).from_config(scheduler.config, **kind.changes)


def _is_saved_with(scheduler: Any, kind: FewSteps) -> bool:
    same = type(scheduler).__name__ == kind.scheduler
    return same and all(scheduler.config.get(key) == each for key, each in kind.changes.items())
