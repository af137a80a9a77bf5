"""Soft blending on the denoised prediction, which keeps the magnitude of what it mixes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine.denoise.strategy import Part, StrategyContext
from engine.errors import InputError

if TYPE_CHECKING:
    import torch

    from engine.types import Step


class SoftState(NamedTuple):
    """The original's latents, their noise and the map, all on the latent grid."""

    init_latents: torch.Tensor
    noise: torch.Tensor
    strength_map: torch.Tensor


@dataclass(frozen=True)
class SoftBlend(Part):
    """Mixes the original into the prediction of the clean latents, more of it as noise falls.

    "Soft inpainting" of A1111 and Forge (``soft_inpainting.py``; their defaults here). At noise
    ``sigma`` (noise to signal) a position of strength e has the weight
    ``m = e ** (sigma ** power * scale)``; the mix of original and prediction is rescaled, position
    by position, to the channel norm ``(|orig|^d (1 - m) + |x0|^d m) ** (1/d)`` with d = ``detail``,
    so that mixing two different pictures does not wash their colours out. Because the prediction is
    blended and not the sample, it is right under every solver.

    The paste adapts to what has really changed, see :meth:`paste_alpha`.
    """

    exclusive = "what holds the known region"

    power: float = field(
        default=1.0, metadata={"help": "how fast the original comes in as noise falls; above 0"}
    )
    scale: float = field(
        default=0.5, metadata={"help": "how strongly the original comes in; 0 is not at all"}
    )
    detail: float = field(
        default=4.0, metadata={"help": "exponent d of the norm that is kept; from 1"}
    )
    threshold: float = field(
        default=0.5, metadata={"help": "latent change at which the paste is half opaque; above 0"}
    )
    contrast: float = field(
        default=2.0, metadata={"help": "how sharply the paste turns opaque around it; above 0"}
    )

    def __post_init__(self) -> None:
        for name, low, closed in (
            *(("power", 0, False), ("scale", 0, True), ("detail", 1, True)),
            *(("threshold", 0, False), ("contrast", 0, False)),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value)
            if not number or value < low or (value == low and not closed):
                bound = f"from {low}" if closed else f"above {low}"
                raise InputError(f"{name} must be a finite number {bound}, not {value!r}.")

    def prepare(self, context: StrategyContext) -> SoftState:
        return SoftState(context.init_latents, context.noise, context.strength_map)

    def denoised(
        self, state: SoftState, denoised: torch.Tensor, latents: torch.Tensor, step: Step
    ) -> torch.Tensor:
        # Scale 0 lets the original in nowhere, at the infinite ratio of pure noise too.
        exponent = step.level.noise_to_signal**self.power * self.scale if self.scale else 0.0
        weight = state.strength_map**exponent
        return mix_keeping_norm(state.init_latents, denoised, weight, self.detail)

    def after_step(self, state: SoftState, latents: torch.Tensor, step: Step) -> torch.Tensor:
        if not step.last:
            return latents
        known = state.init_latents
        if step.next_level.sigma > 0:
            known = step.next_level.noise_to(known, state.noise)
        return latents.where(state.strength_map > 0, known)

    def paste_alpha(self, state: SoftState, latents: torch.Tensor) -> torch.Tensor:
        """``1 - smootherstep(1 / (1 + (D / threshold) ** contrast))``, D being how far the finished
        latents lie from the original's (norm over channels, smoothed over 3 x 3 positions).
        """
        import torch

        distance = (latents - state.init_latents).float().norm(dim=1, keepdim=True)
        smooth = torch.nn.functional.avg_pool2d(
            distance, 3, stride=1, padding=1, count_include_pad=False
        )
        kept = 1 / (1 + (smooth / self.threshold) ** self.contrast)
        return 1 - kept**3 * (kept * (kept * 6 - 15) + 10)


def mix_keeping_norm(
    first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, exponent: float
) -> torch.Tensor:
    """``first (1 - weight) + second weight``, rescaled to the power mean of their channel norms.

    ``first``, ``second``: b c h w; ``weight``: b 1 h w in [0, 1]; where it is 0 or 1 the result is
    ``first`` or ``second`` to the bit.
    """
    import torch

    mixed = first * (1 - weight) + second * weight
    one, two, now = (
        each.float().norm(dim=1, keepdim=True).clamp(min=1e-5) for each in (first, second, mixed)
    )
    # Relative to the larger norm, so that large exponents do not overflow.
    larger = torch.maximum(one, two)
    mean = (one / larger) ** exponent * (1 - weight) + (two / larger) ** exponent * weight
    rescaled = mixed * (larger * mean ** (1 / exponent) / now).to(mixed.dtype)
    return torch.where(weight <= 0, first, torch.where(weight >= 1, second, rescaled))
