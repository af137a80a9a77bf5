"""A ControlNet bound to one job: what the loop asks for residuals at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from engine.models.speed.forwards import replaced_forwards
from engine.models.speed.text_projections import TextProjections

if TYPE_CHECKING:
    from controls.place import Place
    from engine.types import Conditioning, Step

_ADDED = ("text_embeds", "time_ids")
"""What SDXL's ControlNets take inside ``added_cond_kwargs``."""


@dataclass(frozen=True)
class Branch:
    """One control image of a forward."""

    image: torch.Tensor
    """B ..., a row for each row of the network's batch: as :meth:`BoundControl.hint` makes it."""
    weights: Sequence[float]
    """By the index of the model call; 0 is off."""
    mode: int | None


class BoundControl:
    """A ControlNet bound to one job: :class:`engine.denoise.job.Control`.

    Args:
        net: the ``ControlNetModel``.
        branches: its control image; several for ControlNet-Union.
        mask: 1 1 H W in [0, 1], multiplied into the residuals at each resolution.
        rows: of the job; those before ``first`` are left alone.
        first: the first row that is acted on.
        guided: batches are unconditional rows, then conditional ones.
        guess_mode: read only the conditional rows, add nothing to the others, and weight the
            residuals from 0.1 (finest) to 1 (coarsest).
        always: run also where all weights are 0.
        config: of the denoiser that it steers.
    """

    def __init__(
        self,
        net: Any,
        branches: Sequence[Branch],
        *,
        mask: torch.Tensor | None = None,
        rows: int = 1,
        first: int = 0,
        guided: bool = False,
        guess_mode: bool = False,
        always: bool = False,
        config: Any = None,
    ) -> None:
        self.net = net
        self.branches = branches
        self.guess_mode = guess_mode
        self.always = always
        self.config = config
        self.half = guided and guess_mode
        self.rows = rows
        self.first = first
        self._mask = mask
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}
        self._projections = TextProjections(net)
        self._text: tuple[torch.Tensor, torch.Tensor] | None = None
        """The text as it comes, and the rows of it that are acted on."""

    @staticmethod
    def hint(
        net: Any,
        image: torch.Tensor,
        rows: int,
        place: Place,  # noqa: ARG004 - for those that read latents
    ) -> torch.Tensor:
        """A control image (1 3 H W in [0, 1]) as the network takes it, for ``rows`` rows."""
        return image.to(next(net.parameters()).device, net.dtype).repeat(rows, 1, 1, 1)

    def residuals(
        self, scaled: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, step: Step
    ) -> Mapping[str, Any]:
        """What the network adds to the UNet's features at ``step``; nothing where it is off.

        ``scaled``: B 4 h w; residuals: B c h' w' for each of the UNet's skips, and the middle.
        """
        active = self._active(step)
        if not active:
            return {}
        dtype = self.net.dtype

        def rows(tensor: torch.Tensor) -> torch.Tensor:
            return self._acted_on(tensor).flatten(0, 1).to(dtype)

        tensors = conditioning.tensors
        added = {key: rows(tensors[key]) for key in _ADDED if key in tensors}
        sample, whole = rows(scaled), conditioning.text
        if self._text is None or self._text[0] is not whole:
            self._text = whole, rows(whole)
        text = self._text[1]
        with replaced_forwards(self.net, self._projections.changes(text)):
            down, middle = self.net(
                sample,
                timesteps[-sample.shape[0] :],
                encoder_hidden_states=text,
                guess_mode=self.guess_mode,
                added_cond_kwargs=added or None,
                return_dict=False,
                **self._condition(active, step.index, sample),
            )
        sizes = _sizes(self.net, scaled.shape[-2], scaled.shape[-1])
        levels = [
            self._finish(level, shape, scaled)
            for level, shape in zip([*down, middle], [*sizes, sizes[-1]], strict=True)
        ]
        return {
            "down_block_additional_residuals": tuple(levels[:-1]),
            "mid_block_additional_residual": levels[-1],
        }

    def _acted_on(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows (B ...) that residuals are for, by copy and row: c r ..."""
        copies: torch.Tensor = tensor.unflatten(0, (-1, self.rows))
        # A step outside the guidance's interval has conditional rows only.
        return copies[int(self.half and len(copies) == 2) :, self.first :]

    def _active(self, step: Step) -> list[Branch]:
        return [each for each in self.branches if self.always or each.weights[step.index]]

    def reads(self, step: Step) -> tuple[Any, ...]:
        """All that decides about the residuals at ``step`` but the loop's own arguments; nothing
        where the control is off. What is equal here gives equal residuals.
        """
        active = [(b.image, b.weights[step.index], b.mode) for b in self._active(step)]
        settings = (self.net, self.guess_mode, self.half, self.rows, self.first, self._mask)
        return (*settings, active) if active else ()

    def _condition(
        self, active: Sequence[Branch], index: int, sample: torch.Tensor
    ) -> dict[str, Any]:
        """The network's own arguments for its control images."""
        (branch,) = active
        image = self._fitting(branch.image, sample)
        return {"controlnet_cond": image, "conditioning_scale": branch.weights[index]}

    def _fitting(self, image: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """A control image's rows, one for each row of ``sample``: they are alike, however many
        branches a step has.
        """
        if (rows := len(sample)) <= len(image):
            return image[-rows:]
        return image[:1].expand(rows, *image.shape[1:])

    def _finish(
        self, residual: torch.Tensor, shape: tuple[int, int], scaled: torch.Tensor
    ) -> torch.Tensor:
        """One residual as the UNet takes it (``shape``: h, w), masked, for ``scaled``'s rows."""
        if self._mask is not None:
            residual = residual * self._mask_at(shape).to(residual.dtype)
        if residual.shape[-2:] != shape:  # pooled (the shuffle ControlNets): one value per channel
            residual = residual.expand(-1, -1, *shape)
        return self._for_all_rows(residual, scaled)

    def _for_all_rows(self, residual: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
        """A residual (some of B rows) with zeros for the rows of ``scaled`` (B ...) that it is not
        for.
        """
        if residual.shape[0] < scaled.shape[0]:
            some, residual = residual, residual.new_zeros(scaled.shape[0], *residual.shape[1:])
            places = self._acted_on(residual)
            places.copy_(some.view_as(places))
        return residual.to(scaled.dtype)

    def _mask_at(self, shape: tuple[int, int]) -> torch.Tensor:
        """The mask (1 1 h w) averaged over the area of each feature."""
        if shape not in self._masks:
            assert self._mask is not None  # noqa: S101 - the caller asked
            self._masks[shape] = shrunk(self._mask, shape)
        return self._masks[shape]


class BoundUnion(BoundControl):
    """A ControlNet-Union (``ControlNetUnionModel``), which reads several control images at once."""

    def __init__(self, net: Any, branches: Sequence[Branch], **settings: Any) -> None:
        super().__init__(net, branches, **settings)
        self._one_hot = torch.eye(net.config.num_control_type, dtype=net.dtype).to(net.device)

    def _condition(
        self, active: Sequence[Branch], index: int, sample: torch.Tensor
    ) -> dict[str, Any]:
        modes = [branch.mode for branch in active]
        kinds = torch.stack([self._one_hot[mode] for mode in modes]).amax(dim=0)
        return {
            "controlnet_cond": [self._fitting(branch.image, sample) for branch in active],
            "control_type": kinds.expand(sample.shape[0], -1),
            "control_type_idx": modes,
            "conditioning_scale": [branch.weights[index] for branch in active],
        }


def _sizes(net: Any, height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of each of the network's residuals but the middle one, which is as the last.

    The UNet's downsampling convolutions (stride 2, padding 1) round odd sizes up.
    """
    sizes = [(height, width)]
    for block in net.down_blocks:
        sizes += [(height, width)] * len(block.resnets)
        if block.downsamplers is not None:
            height, width = -(-height // 2), -(-width // 2)
            sizes.append((height, width))
    return sizes


def shrunk(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A mask (1 1 H W) averaged over the area of each feature of a grid (height, width)."""
    return F.interpolate(mask, size=tuple(shape), mode="area")
