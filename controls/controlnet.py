"""ControlNets in the loop: the networks of an edit's controls, bound to its jobs.

A :class:`ControlStack` is made once for an edit: networks found and checked, control images made.
:meth:`ControlStack.cut` makes a cut-out's stack of it, and :meth:`ControlStack.bind` each job's own
:class:`~controls.bound.BoundControl` objects, which the loop asks for residuals at every step
(ControlNet: Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from controls.bound import Branch, shrunk
from controls.canvas import cut
from controls.control import HOLES, Control
from controls.lines import resized
from controls.networks import kind_of, network_of
from controls.place import Bound, Place
from controls.windows import warn_of_empty_window, weights_of
from engine.errors import InputError

if TYPE_CHECKING:
    from controls.canvas import Canvas
    from controls.place import SteeredModel
    from engine.picture.geometry import Box
    from engine.solvers.schedule import Schedule


@dataclass(frozen=True)
class _Entry:
    """A control with its network and its control images."""

    control: Control
    net: Any
    mode: int | None
    """Its number in a ControlNet-Union network; None for a plain ControlNet."""
    images: Sequence[torch.Tensor]
    """1 3 H W each, one for all pictures or one for each."""
    mask: torch.Tensor | None
    """1 1 H W in [0, 1], or None where the control holds everywhere."""
    exact: bool = False
    """Nothing may change outside the mask."""
    row: int = 0
    """The first of a job's rows that it acts on."""


@dataclass(frozen=True)
class ControlStack:
    """The controls of one edit, or of one of its cut-outs, ready for the jobs."""

    entries: Sequence[_Entry]
    device: torch.device
    guess_mode: bool = False
    companions: int = 0
    """Rows that a job needs before the picture's own: see :mod:`engine.denoise.companions`."""
    config: Any = None
    """Of the model's denoiser."""

    @classmethod
    def of(
        cls,
        controls: Sequence[Control],
        model: SteeredModel,
        canvas: Canvas,
        *,
        guess_mode: bool = False,
    ) -> ControlStack:
        """Find and check the networks, then make the control images.

        Raises:
            InputError: a control image that is missing, unreadable or of another size, an empty
                mask, a ControlNet-Union mode that is missing or unknown.
            ModelError: a network that cannot be loaded, or is of another family than the model.
        """
        nets = [network_of(control, model) for control in controls]
        entries = [
            _entry(control, net, canvas) for control, net in zip(controls, nets, strict=True)
        ]
        return cls(entries, model.device, guess_mode, config=model.unet_config)

    def cut(self, box: Box, repainted: torch.Tensor, schedules: Sequence[Schedule]) -> ControlStack:
        """The controls of a cut-out, where it is seen what their masks ask of its jobs: nothing of
        one that can change nothing here, a companion of an exact one that covers a part.

        Args:
            box: the part of the canvas's padded canvas that is cut out.
            repainted: 1 1 h w, bool: where the edit changes anything, on the latent grid.
            schedules: of the job and of those that follow it.
        """
        entries, companions = [], 0
        for entry in self.entries:
            mask, row = entry.mask, 0
            if mask is not None:
                mask = cut(mask, box)
                reached = shrunk(mask, repainted.shape[-2:]) > 0
                if not (reached & repainted if entry.exact else reached).any():
                    continue
                partly = entry.exact and bool((repainted & ~reached).any())
                if partly and any(any(weights_of(entry.control, each)) for each in schedules):
                    companions += 1
                    row = companions
            images = [cut(image, box) for image in entry.images]
            entries.append(replace(entry, images=images, mask=mask, row=row))
        return replace(self, entries=entries, companions=companions)

    def regions(self, shape: Sequence[int]) -> torch.Tensor:
        """Where each of the rows after the companions' first may differ from the one before it:
        r-1 1 h w, bool, on a latent grid of ``shape``. A mask grows to whole cells.
        """
        masks = [each.mask for each in self.entries if each.mask is not None and each.row]
        return torch.cat([shrunk(mask, shape) > 0 for mask in masks]).to(self.device)

    def bind(self, place: Place, schedule: Schedule) -> Bound:
        """The residuals of one job's controls, in order; those that are on at no step are left out.
        Control images are resized to the place's size.
        """
        groups: dict[Any, list[_Entry]] = {}
        for number, entry in enumerate(self.entries):
            warn_of_empty_window(entry.control, schedule)
            # Controls of one ControlNet-Union network share a forward, as it was trained; one with
            # a mask has its own, since its residuals must be told apart.
            shares = kind_of(entry.net).fuses and entry.mask is None
            groups.setdefault(id(entry.net) if shares else -1 - number, []).append(entry)
        bound = []
        for group in groups.values():
            fused = len(group) > 1
            net, mask, first = group[0].net, group[0].mask, group[0].row
            kind = kind_of(net)
            pools = getattr(net.config, "global_pool_conditions", False)
            guess_mode = self.guess_mode or bool(pools)
            copies = 2 if place.guided and not guess_mode else 1
            branches = [
                Branch(
                    image=self._images(entry, place, copies * (place.rows - first)),
                    weights=weights_of(entry.control, schedule),
                    mode=entry.mode,
                )
                for entry in group
            ]
            # diffusers runs a fused ControlNet-Union also where all of its weights are 0.
            always = fused and schedule.parity
            if not always and not any(any(branch.weights) for branch in branches):
                continue
            bound.append(
                kind.bound(
                    net,
                    branches,
                    mask=None if mask is None else mask.to(self.device),
                    rows=place.rows,
                    first=first,
                    guided=place.guided,
                    guess_mode=guess_mode,
                    always=always,
                    config=self.config,
                )
            )
        return Bound(residuals=bound)

    def _images(self, entry: _Entry, place: Place, rows: int) -> torch.Tensor:
        """The control image for every row of the network's batch."""
        image = entry.images[place.picture % len(entry.images)]
        if place.size is not None:
            image = resized(image, place.size.shape)
        return kind_of(entry.net).bound.hint(entry.net, image, rows, place)


# --- control images ------------------------------------------------------------------------------


def _entry(control: Control, net: Any, canvas: Canvas) -> _Entry:
    kind = kind_of(net)
    count = getattr(net.config, kind.counts, None) if kind.counts else None
    if count is None and control.mode is not None:
        raise InputError(f"{control}: mode is for ControlNet-Union networks; this is none.")
    mode = None if count is None else control.union_mode(count, kind.modes)
    images, covers = _images(control, canvas)
    mask = None if control.mask is None else canvas.place_mask(control.mask)
    if mask is None and not covers:
        # The control image ends where the picture does: it says nothing about the new canvas.
        mask = canvas.place_mask(torch.ones(canvas.inner.height, canvas.inner.width))
    return _Entry(control, net, mode, images, mask, control.exact and control.mask is not None)


def _images(control: Control, canvas: Canvas) -> tuple[list[torch.Tensor], bool]:
    """The control's images (1 3 H W each), and whether they cover the canvas."""
    annotator = control.annotator
    if isinstance(annotator, str) and annotator in HOLES:
        return [canvas.with_hole(which, HOLES[annotator]) for which in range(canvas.count)], True
    if annotator is not None:
        sources = [canvas.annotated(annotator, which) for which in range(canvas.count)]
    elif isinstance(control.image, list | tuple):
        sources = list(control.image)
    else:
        sources = [control.image]
    if len(sources) not in {1, canvas.count}:
        raise InputError(
            f"{control}: {len(sources)} control images for {canvas.count} pictures; give one, or "
            "one for each."
        )
    placed = [canvas.place(source) for source in sources]
    return [pixels for pixels, _ in placed], all(covers for _, covers in placed)
