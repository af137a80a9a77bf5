"""ControlNets of Flux.1 bound to a job: diffusers' ``FluxControlNetModel``.

InstantX' kind reads the control image's latents, XLabs' its pixels; what they add goes to blocks of
tokens, not to maps of features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controls.bound import BoundControl, Branch, shrunk
from engine.models.packing import PATCH, packed, places

if TYPE_CHECKING:
    import torch

    from controls.place import Place
    from engine.types import Conditioning, Step

NAMES = ("controlnet_block_samples", "controlnet_single_block_samples")
"""The transformer's arguments for what is added to its tokens."""
MODES = {"canny": 0, "tile": 1, "depth": 2, "pose": 4}
"""What InstantX' ControlNet-Union calls kinds of control images (beside blur 3, grey 5, low
quality 6)."""


class BoundFlux(BoundControl):
    """A Flux ControlNet bound to one job."""

    def __init__(self, net: Any, branches: Sequence[Branch], **settings: Any) -> None:
        super().__init__(net, branches, **settings)
        self._blocks = dict(
            zip(NAMES, (self.config.num_layers, self.config.num_single_layers), strict=True)
        )

    @staticmethod
    def hint(net: Any, image: torch.Tensor, rows: int, place: Place) -> torch.Tensor:
        pixels = 2 * image - 1
        where = next(net.parameters()).device, net.dtype
        if net.input_hint_block is not None:
            return pixels.to(*where).repeat(rows, 1, 1, 1)
        assert place.encode is not None  # noqa: S101 - of edits of models that have a VAE
        tokens = packed(place.encode(pixels)).to(*where)
        return tokens.repeat(rows // len(tokens), 1, 1)

    def residuals(
        self, scaled: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, step: Step
    ) -> Mapping[str, Any]:
        """What the network adds to the transformer's tokens at ``step``; nothing where it is off.

        ``scaled``: B c h w; residuals: B n d for each block, of both kinds.
        """
        active = self._active(step)
        if not active:
            return {}
        (branch,), net, dtype = active, self.net, self.net.dtype

        def rows(name: str) -> torch.Tensor | None:
            tensor = conditioning.tensors.get(name)
            return None if tensor is None else self._acted_on(tensor).flatten(0, 1).to(dtype)

        sample, text = self._acted_on(scaled).flatten(0, 1).to(dtype), rows("encoder_hidden_states")
        assert text is not None  # noqa: S101 - the family's conditioning has it
        count, (height, width) = len(sample), scaled.shape[-2:]
        grid = (height // PATCH, width // PATCH)
        mode = branch.mode
        several = net(
            hidden_states=packed(sample),
            controlnet_cond=branch.image[-count:],
            controlnet_mode=None if mode is None else timesteps.new_full((count, 1), mode).long(),
            conditioning_scale=branch.weights[step.index],
            timestep=timesteps[-count:].to(dtype) / 1000,
            guidance=rows("guidance") if net.config.guidance_embeds else None,
            pooled_projections=rows("pooled_projections"),
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=places(*grid, text),
            return_dict=False,
        )
        repeats = net.input_hint_block is not None
        told = {name: samples for name, samples in zip(NAMES, several, strict=True) if samples}
        return {
            name: spread(
                [self._laid(each, grid, scaled) for each in samples],
                self._blocks[name],
                repeats=repeats,
            )
            for name, samples in told.items()
        }

    def _laid(
        self, residual: torch.Tensor, grid: tuple[int, int], scaled: torch.Tensor
    ) -> torch.Tensor:
        """One residual (b n d) masked, for all of ``scaled``'s rows."""
        if self._mask is not None:
            residual = residual * shrunk(self._mask, grid).flatten(2).mT.to(residual.dtype)
        return self._for_all_rows(residual, scaled)


def spread(
    samples: Sequence[torch.Tensor], blocks: int, *, repeats: bool
) -> tuple[torch.Tensor, ...]:
    """What is added after each of a transformer's ``blocks``: in turn if it ``repeats``, else each
    of ``samples`` for as many blocks as make them last (diffusers' ``FluxTransformer2DModel``).
    """
    if repeats:
        return tuple(samples[number % len(samples)] for number in range(blocks))
    interval = math.ceil(blocks / len(samples))
    return tuple(samples[number // interval] for number in range(blocks))
