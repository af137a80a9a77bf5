"""What steers an edit beside its text, asked in one way.

Everything that steers is read once for an edit, cut once for each of its cut-outs, and then bound
to a job: :meth:`Steer.bind` says what it brings, residuals for the network, conditioning beside the
text or branches of their own. A plug-in is an object in an edit's ``controls`` with
:meth:`Source.prepare` and ``describe``; ControlNets and IP-Adapters are two steers like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controls.control import Control
from controls.controlnet import ControlStack
from controls.place import Bound, Place, Source, Steer

if TYPE_CHECKING:
    import torch

    from controls.canvas import Canvas
    from controls.place import SteeredModel
    from engine.picture.geometry import Box
    from engine.solvers.schedule import Schedule

__all__ = ["Bound", "Place", "Source", "Steer", "Steering", "steering_of"]


@dataclass(frozen=True)
class Steering:
    """All that steers the jobs of one strategy."""

    stack: ControlStack
    others: Sequence[Steer] = field(default=())

    @property
    def idle(self) -> bool:
        """Nothing steers."""
        return not self.stack.entries and not self.others

    @property
    def companions(self) -> int:
        """Rows that a job needs before the picture's own: see :mod:`engine.denoise.companions`."""
        return self.stack.companions

    def regions(self, shape: Sequence[int]) -> torch.Tensor:
        """Of the companions: see :meth:`controls.controlnet.ControlStack.regions`."""
        return self.stack.regions(shape)

    def cut(self, box: Box, repainted: torch.Tensor, schedules: Sequence[Schedule]) -> Steering:
        """The same for a cut-out, see :meth:`Steer.cut`."""
        others = [steer.cut(box, repainted, schedules) for steer in self.others]
        return replace(self, stack=self.stack.cut(box, repainted, schedules), others=others)

    def without_controls(self) -> Steering:
        """The same without ControlNets, for a pass that goes over what they have laid out."""
        return replace(self, stack=replace(self.stack, entries=[], companions=0))

    def bind(self, place: Place, schedule: Schedule) -> Bound:
        """What all of them bring to one job."""
        bound = self.stack.bind(place, schedule)
        for steer in self.others:
            bound = bound.beside(steer.bind(place, schedule))
        return bound


def steering_of(
    controls: Sequence[Control | Source],
    references: Steer | None,
    model: SteeredModel,
    canvas: Canvas,
    *,
    guess_mode: bool = False,
) -> Steering:
    """What steers a strategy's jobs; all pictures are read now.

    Args:
        controls: of the strategy's run.
        references: of the IP-Adapters, read once for all strategies; None without any.

    Raises:
        InputError: pictures or masks that cannot be read or do not fit.
        ModelError: a network that cannot be loaded, or is of another family than the model.
    """
    plain = [control for control in controls if isinstance(control, Control)]
    stack = ControlStack.of(plain, model, canvas, guess_mode=guess_mode)
    others = [
        control.prepare(model, canvas) for control in controls if not isinstance(control, Control)
    ]
    return Steering(stack, others if references is None else [*others, references])
