"""Several regions in one run: which prompt acts where, and how the network is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.denoise.guidance import COND, UNCOND, Unguided, branches_of
from engine.denoise.regional import RegionalGuidance
from engine.denoise.resume import alike
from engine.models.coupled import coupled
from engine.picture.geometry import crop, pad_to_multiple
from engine.picture.masks import resize_map, to_latent_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.denoise.guidance import Guider
    from engine.edit.views import View
    from engine.models import Backbone
    from engine.picture.geometry import Size
    from engine.types import Conditioning

Pair = tuple["Conditioning", "Conditioning | None"]
"""A prompt, and what it is guided away from."""


@dataclass(frozen=True, eq=False)
class Share:
    """One region of a run that several share."""

    map: NDArray[np.float32]
    """H W in [0, 1], of the picture."""
    prompt: str
    negative_prompt: str | None
    seed: int | None
    """Of its noise; None is the edit's."""
    model: Backbone
    """What reads its prompts: the run's model, with LoRAs of the region's own if it names some."""


@dataclass(frozen=True, eq=False)
class Coupling:
    """The regions of one run."""

    shares: tuple[Share, ...]
    rest: NDArray[np.float32] | None
    """H W: what the regions leave of the edit's own map, for its own prompt; None without one."""
    attention: bool
    """By the cross-attentions of one call; else by mixing the predictions of a call for each."""

    def weights(self, view: View, size: Size, cell: int, align: int) -> torch.Tensor:
        """How much each prompt counts at each latent position of a view: 1 1+r h w of sum 1, the
        edit's own first.

        ``w_r = m_r / sum m``, the maps averaged over each cell; the edit's own prompt has ``rest``,
        and all where nothing is repainted.
        """

        def grid(own: NDArray[np.float32]) -> NDArray[np.float32]:
            cut = resize_map(crop(own, view.region.box), view.region.size)
            padded = resize_map(pad_to_multiple(cut, align)[0], size)
            return to_latent_grid(padded, cell, hard=False)

        maps = np.stack([grid(share.map) for share in self.shares])
        own = np.zeros_like(maps[0]) if self.rest is None else grid(self.rest)
        every = np.concatenate([own[None], maps])
        total = every.sum(axis=0)
        every[0, total == 0] = 1
        return torch.from_numpy(every / np.where(total == 0, 1, total))[None]

    def noise(
        self, own: torch.Tensor, weights: torch.Tensor, draw: Callable[[int], torch.Tensor]
    ) -> torch.Tensor:
        """The noise (b c h w) of a run: at each position that of the seed of the region that is
        strongest there. ``draw`` gives that of a seed.
        """
        strongest = weights.argmax(dim=1, keepdim=True).to(own.device)
        for number, share in enumerate(self.shares, start=1):
            if share.seed is not None:
                own = draw(share.seed).expand_as(own).where(strongest == number, own)
        return own

    def told(
        self, texts: Sequence[Pair], weights: torch.Tensor, guidance: Guider
    ) -> tuple[dict[str, Conditioning], Guider]:
        """A job's branches and its guidance, of what each prompt says (1 row each), the edit's own
        first.
        """
        return (_by_attention if self.attention else _by_latents)(texts, weights, guidance)


def _by_attention(
    texts: Sequence[Pair], weights: torch.Tensor, guidance: Guider
) -> tuple[dict[str, Conditioning], Guider]:
    inside = weights[0, 0] < 1
    shares = weights[0][:, inside if bool(inside.any()) else slice(None)].flatten(1).mean(dim=1)
    cond = coupled([cond for cond, _ in texts], weights, shares)
    others = [uncond for _, uncond in texts if uncond is not None]
    if not others:
        return branches_of(cond, None), Unguided()
    return branches_of(cond, coupled(others, weights, shares)), guidance


def _by_latents(
    texts: Sequence[Pair], weights: torch.Tensor, guidance: Guider
) -> tuple[dict[str, Conditioning], Guider]:
    branches: dict[str, Conditioning] = {}
    names: list[Mapping[str, str]] = []
    for number, (cond, uncond) in enumerate(texts):
        own = {COND: f"{COND}.{number}"}
        branches[own[COND]] = cond
        if uncond is not None:
            same = (name for name, each in branches.items() if alike(each, uncond))
            own[UNCOND] = next(same, f"{UNCOND}.{number}")
            branches[own[UNCOND]] = uncond
        names.append(own)
    inner = guidance if texts[0][1] is not None else Unguided()
    return branches, RegionalGuidance(inner, names, weights)


def repeated(branches: Mapping[str, Conditioning], rows: int) -> dict[str, Any]:
    """Branches of one row for jobs of ``rows``."""
    if rows == 1:
        return dict(branches)
    return {name: each.repeat(rows) for name, each in branches.items()}
