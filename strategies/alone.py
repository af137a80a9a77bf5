"""Parts that hold nothing themselves, where no other part of their strategy does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from engine.denoise.strategy import Holders, Part, StrategyContext
from strategies.differential import DifferentialDiffusion

if TYPE_CHECKING:
    import torch

    from engine.types import Step


class HoldingAlone(Part):
    """What is held is what the strategy's other parts hold; alone it holds as ``differential``.

    The state that a subclass makes has ``own``, what :meth:`own_hold` gave.
    """

    alone: ClassVar[DifferentialDiffusion] = DifferentialDiffusion()

    def own_hold(self, context: StrategyContext) -> Any:
        """The state of what holds for it; None where another part does."""
        return None if context.held is not None else self.alone.prepare(context)

    def holders(self, context: StrategyContext, own: Any) -> Holders:
        """All that holds something."""
        return context.held or Holders((self.alone,), (own,))

    def before_step(self, state: Any, latents: torch.Tensor, step: Step) -> torch.Tensor:
        return latents if state.own is None else self.alone.before_step(state.own, latents, step)

    def resets(self, state: Any, step: Step) -> bool:
        return state.own is not None and self.alone.resets(state.own, step)

    def after_step(self, state: Any, latents: torch.Tensor, step: Step) -> torch.Tensor:
        return latents if state.own is None else self.alone.after_step(state.own, latents, step)
