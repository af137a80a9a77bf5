"""A denoiser as the loop calls it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.models.state import dtype_of, weights_state

if TYPE_CHECKING:
    import torch

    from engine.types import Conditioning


@dataclass(frozen=True)
class NetworkKind:
    """What a network takes beside latents, and what it is for."""

    name: str
    what: str
    """What it is called."""
    how: str
    """How one is given."""
    strategy: str = ""
    """The strategy of edits with a model that has no other network; empty for the usual one."""
    families: tuple[str, ...] = ()
    """Names of the families that have one; empty for all."""


KINDS = {
    kind.name: kind
    for kind in (
        NetworkKind("base", "the text-to-image network", "a text-to-image checkpoint as model="),
        NetworkKind(
            "inpaint",
            "the 9-channel inpainting UNet",
            "inpaint_model=",
            strategy="inpaint9",
            families=("sd", "sdxl"),
        ),
        NetworkKind(
            "fill",
            "the transformer of Flux Fill",
            "Flux Fill as model=",
            strategy="fill",
            families=("flux",),
        ),
    )
}
"""By name. ``"base"`` takes latents alone; ``"inpaint"`` latents, mask (1 = repaint) and the masked
picture's latents, one below the other; ``"fill"`` latents, the masked picture's and the mask, a
channel for each pixel under a latent."""


REFERENCE = "reference"
"""The name in a conditioning of the latents (b c h w) of a picture that is shown."""


class Network(ABC):
    """A family's adapter of its denoiser. Jobs with the same network and shapes share one call.

    Outside it latents are b c h w and timesteps are the scheduler's own; whatever else the module
    wants (packed or patched latents, other argument names, appended tokens) is made inside.

    Args:
        module: the denoiser itself, a ``torch.nn.Module``.
    """

    kind = "base"
    """The strategies' name for what it takes, of :data:`KINDS`."""
    embeds_guidance = False
    """It is told the guidance scale, by :meth:`with_guidance`, and never runs unguided."""
    couples = False
    """It can follow several prompts in one call, each where its region is: a conditioning of
    :func:`engine.models.coupled.coupled`."""
    redirects = False
    """Its self-attention can be kept from looking at some places, in some rows of a call: a
    conditioning of :func:`engine.models.redirected.hiding`."""
    down_factor = 1
    """Latent sizes are best multiples of this."""
    takes_reference = False
    """It can be shown a picture beside the one that it makes, by :meth:`with_reference`: then the
    prompt may be an instruction."""
    reach = sys.maxsize
    """Latent cells a side of the largest picture that it has positions for."""
    adapters = 0
    """How many IP-Adapters are loaded into it."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    @abstractmethod
    def sample_size(self) -> int:
        """Latent cells a side of the square pictures that it was trained on."""

    @property
    def latents_dtype(self) -> torch.dtype:
        """Of the latents outside it: the module's own unless it asks for more."""
        return dtype_of(self.module)

    @abstractmethod
    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        """One forward.

        ``sample``: B c h w, ``timesteps``: B, conditioning rows: B; gives B c h w, what the
        scheduler's parameterisation says (for a flow: noise - x0). ``residuals``: what controls
        add, by names that control and network agree on.
        """

    @property
    def like_diffusers(self) -> Network:
        """The same network, called to the bits of diffusers' pipelines."""
        return self

    def with_guidance(self, conditioning: Conditioning, scale: float) -> Conditioning:
        """``conditioning`` that tells the guidance ``scale`` to a network that embeds it."""
        return conditioning

    def with_reference(self, conditioning: Conditioning, latents: torch.Tensor) -> Conditioning:
        """``conditioning`` that shows the picture of clean ``latents`` (1 c h w or b c h w) to a
        network that :attr:`takes_reference`.
        """
        return conditioning.adding({REFERENCE: latents.expand(conditioning.rows, -1, -1, -1)})

    @property
    def latent_channels(self) -> int | None:
        """Of the latents that it denoises, where its config tells."""
        return None

    def cells_at_hand(self) -> int:
        """Latent positions (rows x h x w) of a forward that fit into the memory that is free now,
        as far as that is known.
        """
        return sys.maxsize

    def borrow(self, other: Network) -> None:  # noqa: B027 - most have no adapters
        """Take over the adapters that ``other``, the pipeline's own network, has by now."""

    def check_fits(self, other: Network) -> None:  # noqa: B027 - most have one network
        """Raise ``ModelError`` if ``other``, a second network, is of another model."""

    def state(self) -> Hashable:
        """A value that changes with its weights and adapters."""
        return weights_state(self.module)
