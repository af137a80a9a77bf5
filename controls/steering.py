"""What steers an edit beside its text, asked in one way.

Everything that steers is read once for an edit, cut once for each of its cut-outs, and then bound
to a job: :meth:`Steer.bind` says what it brings, residuals for the network, conditioning beside the
text or branches of their own. A plug-in is an object in an edit's ``controls`` with
:meth:`Source.prepare` and ``describe``; ControlNets and IP-Adapters are two steers like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controls.control import Control
from controls.controlnet import ControlStack
from controls.ip_adapter import ReferenceStack
from controls.place import Bound, Place, Source, Steer

if TYPE_CHECKING:
    import torch

    from controls.canvas import Canvas
    from controls.place import SteeredModel
    from controls.reference import Reference
    from engine.picture.geometry import Box
    from engine.solvers.schedule import Schedule

__all__ = ["Bound", "Place", "Source", "Steer", "Steering", "steer_each"]


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

    def regions(self, size: Sequence[int]) -> torch.Tensor:
        """Of the companions: see :meth:`controls.controlnet.ControlStack.regions`."""
        return self.stack.regions(size)

    def cut(self, box: Box, repainted: torch.Tensor, schedules: Sequence[Schedule]) -> Steering:
        """The same for a cut-out, see :meth:`Steer.cut`."""
        others = [steer.cut(box, repainted, schedules) for steer in self.others]
        return replace(self, stack=self.stack.cut(box, repainted, schedules), others=others)

    def bind(self, place: Place, schedule: Schedule) -> Bound:
        """What all of them bring to one job."""
        bound = self.stack.bind(place, schedule)
        for steer in self.others:
            bound = bound.beside(steer.bind(place, schedule))
        return bound


def steer_each(
    controls: Mapping[str, Sequence[Control | Source]],
    references: Sequence[Sequence[Reference]],
    model: SteeredModel,
    canvas: Canvas,
    *,
    guess_mode: bool = False,
) -> dict[str, Steering]:
    """The steering of each strategy's jobs, by its name; all pictures are read now.

    Args:
        controls: by the strategies' names.
        references: of each IP-Adapter, the same for all strategies.

    Raises:
        InputError: pictures or masks that cannot be read or do not fit.
        ModelError: a network that cannot be loaded, or is of another family than the model.
    """
    reading = ReferenceStack.of(references, model, canvas)
    shared: list[Steer] = [] if reading is None else [reading]
    steering = {}
    for name, asked in controls.items():
        plain = [each for each in asked if isinstance(each, Control)]
        stack = ControlStack.of(plain, model, canvas, guess_mode=guess_mode)
        others = [each.prepare(model, canvas) for each in asked if not isinstance(each, Control)]
        steering[name] = Steering(stack, [*others, *shared])
    return steering
