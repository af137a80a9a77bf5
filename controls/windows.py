"""When a control is on, and how strongly: by the steps of a run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controls.control import Control
    from engine.solvers.schedule import Schedule


def _on(control: Control, schedule: Schedule) -> list[bool]:
    """Whether each model call lies in the control's window.

    The window is on the time that strength maps are on: the share of the run's steps that lie
    behind. In parity mode it is diffusers' own, which counts model calls and leaves a call out if
    any part of it lies outside.
    """
    start, end = control.start, control.end
    if schedule.parity:
        calls = schedule.calls_to_the_end
        return [not (i / calls < start or (i + 1) / calls > end) for i in range(len(schedule))]
    return [start <= step.position / schedule.num_steps < end for step in schedule.steps]


def weights_of(control: Control, schedule: Schedule) -> tuple[float, ...]:
    """The control's weight at each model call; 0 outside its window."""
    last = max(schedule.num_steps - 1, 1)
    return tuple(
        control.weight_at(min(step.position / last, 1.0)) if on else 0.0
        for step, on in zip(schedule.steps, _on(control, schedule), strict=True)
    )


def warn_of_empty_window(control: Control, schedule: Schedule) -> None:
    """Warn where a control that is meant to be on is on at no step."""
    if control.scale != 0 and not any(_on(control, schedule)):
        warnings.warn(
            f"{control} is on at none of the {schedule.num_steps} steps: none begins between "
            f"{control.start:g} and {control.end:g} of the run.",
            stacklevel=2,
        )
