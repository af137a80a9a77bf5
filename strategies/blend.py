"""Latent blending: the known region is pasted back after every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine.denoise.strategy import Part, StrategyContext
from engine.errors import InputError

if TYPE_CHECKING:
    import torch

    from engine.types import Step


class Known(NamedTuple):
    """The known region: clean latents, the noise they are noised with, and where they hold."""

    init_latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class LatentBlend(Part):
    """``(1 - mask) * known + mask * latents`` after each solver step.

    ``known`` is the original, noised to the level that the latents have just reached, and clean
    after the last step. This is what diffusers' inpainting pipelines do with 4-channel models
    (Blended Latent Diffusion, Avrahami et al. 2022), without binarising the mask.
    """

    exclusive = "what holds the known region"

    hard_mask: bool = field(
        default=False,
        metadata={"help": "repaint fully wherever the map is above 0, in place of blending by it"},
    )

    grow: int | None = field(
        default=None,
        metadata={
            "help": "latent cells by which the repainted region grows; "
            "None is 1 with a network that sees the surroundings and 0 otherwise"
        },
    )

    def __post_init__(self) -> None:
        if self.grow is not None and self.grow not in range(65):
            raise InputError(
                f"grow must be None or a whole number from 0 to 64, not {self.grow!r}."
            )
        if not isinstance(self.hard_mask, bool):
            raise InputError(f"hard_mask must be True or False, not {self.hard_mask!r}.")

    def prepare(self, context: StrategyContext) -> Known:
        mask = context.strength_map
        if self.hard_mask:
            mask = (mask > 0).to(mask.dtype)
        # An inpainting network fits its fill to the surroundings it sees; holding them hard up to
        # the mask's own edge cuts that transition off (stable-diffusion.cpp PR 1357).
        grow = self.grow if self.grow is not None else int(context.network != "base")
        if grow:
            import torch

            mask = torch.nn.functional.max_pool2d(mask, 2 * grow + 1, stride=1, padding=grow)
        return Known(context.init_latents, context.noise, mask)

    def holds(self, state: Known, step: Step) -> torch.Tensor:
        return 1 - state.mask

    def after_step(self, state: Known, latents: torch.Tensor, step: Step) -> torch.Tensor:
        if not step.ends:
            return latents
        known = state.init_latents
        if step.next_level.sigma > 0:
            known = step.next_level.noise_to(state.init_latents, state.noise)
        return (1 - state.mask) * known + state.mask * latents
