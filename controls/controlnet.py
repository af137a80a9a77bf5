"""ControlNets in the loop: the networks of an edit's controls, bound to its jobs.

A :class:`ControlStack` is made once for an edit: networks found and checked, control images made.
:meth:`ControlStack.cut` makes a cut-out's stack of it, and :meth:`ControlStack.bind` each job's own
:class:`BoundControl` objects, which the loop asks for residuals at every step (ControlNet: Zhang et
al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models").
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F

from controls.control import HOLES, Control
from controls.scene import cut
from engine.errors import InputError, ModelError
from engine.models.speed.forwards import replaced_forwards
from engine.models.speed.text_projections import TextProjections

if TYPE_CHECKING:
    from controls.scene import Scene
    from engine.models import Family
    from engine.picture.geometry import Box
    from engine.solvers.schedule import Schedule
    from engine.types import Checkpoint, Conditioning, Step

_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""Text embedding width -> the family that has it."""

_ADDED = ("text_embeds", "time_ids")
"""What SDXL's ControlNets take inside ``added_cond_kwargs``."""


class Model(Protocol):
    """What controls need of the loaded model; :class:`engine.models.Backbone` is one."""

    @property
    def family(self) -> Family: ...

    checkpoint: Checkpoint | None
    """What is known of the model under its name."""

    @property
    def cell(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def unet_config(self) -> Any: ...
    def controlnet(self, model: Any) -> Any:
        """The ControlNet in a folder, behind a hub id or in a file; loaded once."""


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

    @classmethod
    def of(
        cls, controls: Sequence[Control], model: Model, scene: Scene, *, guess_mode: bool = False
    ) -> ControlStack:
        """Find and check the networks, then make the control images.

        Raises:
            InputError: a control image that is missing, unreadable or of another size, an empty
                mask, a ControlNet-Union mode that is missing or unknown.
            ModelError: a network that cannot be loaded, or is of another family than the model.
        """
        nets = [_network(control, model) for control in controls]
        entries = [_entry(control, net, scene) for control, net in zip(controls, nets, strict=True)]
        return cls(entries, model.device, guess_mode)

    def cut(self, box: Box, repainted: torch.Tensor, schedules: Sequence[Schedule]) -> ControlStack:
        """The controls of a cut-out, where it is seen what their masks ask of its jobs: nothing of
        one that can change nothing here, a companion of an exact one that covers a part.

        Args:
            box: the part of the scene's padded canvas that is cut out.
            repainted: 1 1 h w, bool: where the edit changes anything, on the latent grid.
            schedules: of the job and of those that follow it.
        """
        entries, companions = [], 0
        for entry in self.entries:
            mask, row = entry.mask, 0
            if mask is not None:
                mask = cut(mask, box)
                reached = _shrunk(mask, repainted.shape[-2:]) > 0
                if not (reached & repainted if entry.exact else reached).any():
                    continue
                partly = entry.exact and bool((repainted & ~reached).any())
                if partly and any(any(_weights(entry.control, each)) for each in schedules):
                    companions += 1
                    row = companions
            images = [cut(image, box) for image in entry.images]
            entries.append(replace(entry, images=images, mask=mask, row=row))
        return replace(self, entries=entries, companions=companions)

    def regions(self, size: Sequence[int]) -> torch.Tensor:
        """Where each of the rows after the companions' first may differ from the one before it:
        r-1 1 h w, bool, on a latent grid of ``size``. A mask grows to whole cells.
        """
        masks = [each.mask for each in self.entries if each.mask is not None and each.row]
        return torch.cat([_shrunk(mask, size) > 0 for mask in masks]).to(self.device)

    def bind(
        self,
        schedule: Schedule,
        *,
        guided: bool,
        which: int = 0,
        rows: int = 1,
        size: tuple[int, int] | None = None,
    ) -> list[BoundControl]:
        """The controls of one job, in order; those that are on at no step are left out.

        Args:
            schedule: the job's own.
            guided: the job's batch is its unconditional rows, then its conditional ones.
            which: the picture's number in the edit.
            rows: of the job: its pictures, or a picture's companions and itself.
            size: (height, width) in px of the job's canvas, where it is not the stack's (a stage
                at another scale, an enlarged cut-out); control images are resized to it.
        """
        groups: dict[Any, list[_Entry]] = {}
        for number, entry in enumerate(self.entries):
            _warn_of_empty_window(entry.control, schedule)
            # Controls of one ControlNet-Union network share a forward, as it was trained; one with
            # a mask has its own, since its residuals must be told apart.
            shares = entry.mode is not None and entry.mask is None
            groups.setdefault(id(entry.net) if shares else -1 - number, []).append(entry)
        bound = []
        for group in groups.values():
            fused = len(group) > 1
            net, mask, first = group[0].net, group[0].mask, group[0].row
            guess_mode = self.guess_mode or bool(net.config.global_pool_conditions)
            copies = 2 if guided and not guess_mode else 1
            branches = [
                _Branch(
                    image=self._images(entry, which, size, copies * (rows - first)),
                    weights=_weights(entry.control, schedule),
                    mode=entry.mode,
                )
                for entry in group
            ]
            # diffusers runs a fused ControlNet-Union also where all of its weights are 0.
            always = fused and schedule.parity
            if not always and not any(any(branch.weights) for branch in branches):
                continue
            kind = BoundControl if group[0].mode is None else BoundUnion
            bound.append(
                kind(
                    net,
                    branches,
                    mask=None if mask is None else mask.to(self.device),
                    rows=rows,
                    first=first,
                    guided=guided,
                    guess_mode=guess_mode,
                    always=always,
                )
            )
        return bound

    def _images(
        self, entry: _Entry, which: int, size: tuple[int, int] | None, rows: int
    ) -> torch.Tensor:
        """The control image for every row of the network's batch."""
        image = entry.images[which % len(entry.images)]
        if size is not None and tuple(image.shape[-2:]) != tuple(size):
            image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        return image.to(self.device, entry.net.dtype).repeat(rows, 1, 1, 1)


@dataclass(frozen=True)
class _Branch:
    """One control image of a forward."""

    image: torch.Tensor
    """B 3 H W, a row for each row of the network's batch."""
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
    """

    def __init__(
        self,
        net: Any,
        branches: Sequence[_Branch],
        *,
        mask: torch.Tensor | None = None,
        rows: int = 1,
        first: int = 0,
        guided: bool = False,
        guess_mode: bool = False,
        always: bool = False,
    ) -> None:
        self.net = net
        self.branches = branches
        self.guess_mode = guess_mode
        self.always = always
        self.half = guided and guess_mode
        self.rows = rows
        self.first = first
        self._mask = mask
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}
        self._projections = TextProjections(net)
        self._text: tuple[torch.Tensor, torch.Tensor] | None = None
        """The text as it comes, and the rows of it that are acted on."""

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
            self._finish(level, size, scaled)
            for level, size in zip([*down, middle], [*sizes, sizes[-1]], strict=True)
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

    def _active(self, step: Step) -> list[_Branch]:
        return [each for each in self.branches if self.always or each.weights[step.index]]

    def reads(self, step: Step) -> tuple[Any, ...]:
        """All that decides about the residuals at ``step`` but the loop's own arguments; nothing
        where the control is off. What is equal here gives equal residuals.
        """
        active = [(b.image, b.weights[step.index], b.mode) for b in self._active(step)]
        settings = (self.net, self.guess_mode, self.half, self.rows, self.first, self._mask)
        return (*settings, active) if active else ()

    def _condition(
        self, active: Sequence[_Branch], index: int, sample: torch.Tensor
    ) -> dict[str, Any]:
        """The network's own arguments for its control images."""
        (branch,) = active
        image = branch.image[-sample.shape[0] :]
        return {"controlnet_cond": image, "conditioning_scale": branch.weights[index]}

    def _finish(
        self, residual: torch.Tensor, size: tuple[int, int], scaled: torch.Tensor
    ) -> torch.Tensor:
        """One residual as the UNet takes it: ``size``, masked, for all rows of ``scaled``."""
        if self._mask is not None:
            residual = residual * self._mask_at(size).to(residual.dtype)
        if residual.shape[-2:] != size:  # pooled (the shuffle ControlNets): one value per channel
            residual = residual.expand(-1, -1, *size)
        if residual.shape[0] < scaled.shape[0]:
            some, residual = residual, residual.new_zeros(scaled.shape[0], *residual.shape[1:])
            places = self._acted_on(residual)
            places.copy_(some.view_as(places))
        return residual.to(scaled.dtype)

    def _mask_at(self, size: tuple[int, int]) -> torch.Tensor:
        """The mask (1 1 h w) averaged over the area of each feature."""
        if size not in self._masks:
            assert self._mask is not None  # noqa: S101 - the caller asked
            self._masks[size] = _shrunk(self._mask, size)
        return self._masks[size]


class BoundUnion(BoundControl):
    """A ControlNet-Union (``ControlNetUnionModel``), which reads several control images at once."""

    def __init__(self, net: Any, branches: Sequence[_Branch], **settings: Any) -> None:
        super().__init__(net, branches, **settings)
        self._one_hot = torch.eye(net.config.num_control_type, dtype=net.dtype).to(net.device)

    def _condition(
        self, active: Sequence[_Branch], index: int, sample: torch.Tensor
    ) -> dict[str, Any]:
        modes = [branch.mode for branch in active]
        kinds = torch.stack([self._one_hot[mode] for mode in modes]).amax(dim=0)
        return {
            "controlnet_cond": [branch.image[-sample.shape[0] :] for branch in active],
            "control_type": kinds.expand(sample.shape[0], -1),
            "control_type_idx": modes,
            "conditioning_scale": [branch.weights[index] for branch in active],
        }


# --- networks ------------------------------------------------------------------------------------


def _network(control: Control, model: Model) -> Any:
    """The control's network, loaded if need be, and checked against the model."""
    source = control.model
    if control.info is not None:
        base = model.family.name
        source = control.info.models.get(base)
        if model.checkpoint is not None and model.checkpoint.controlnets is not None:
            base = model.checkpoint.name
            source = model.checkpoint.controlnets.get(control.info.name)
        if source is None:
            raise InputError(
                f"no ControlNet for {base} models is known by the name {control.label!r}; give "
                "your own in its place: Control('path or hub id', image=...)."
            )
    net = source
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        net = model.controlnet(source)
    elif not hasattr(net, "controlnet_cond_embedding"):
        raise InputError(
            f"{control}: a ControlNet is needed (a name, a folder, a hub id, a file, a "
            "diffusers ControlNetModel or ControlNetUnionModel)."
        )
    _check_fit(control, net, model)
    return net


def _check_fit(control: Control, net: Any, model: Model) -> None:
    """Raise ``ModelError`` unless the network was made for models like this one."""
    ours, theirs = model.unet_config, net.config
    width, needed = ours.cross_attention_dim, theirs.cross_attention_dim
    if width != needed:
        raise ModelError(
            f"{control} is of another family: it takes text embeddings of {_width(needed)} "
            f"dimensions, the model's have {_width(width)}."
        )
    stride = 2 ** (len(theirs.conditioning_embedding_out_channels) - 1)
    for what, own, other in (
        ("channels per level", ours.block_out_channels, theirs.block_out_channels),
        ("layers per level", ours.layers_per_block, theirs.layers_per_block),
        ("added conditioning", ours.addition_embed_type, theirs.addition_embed_type),
        ("latent channels", ours.out_channels, theirs.in_channels),
        ("control image channels", 3, theirs.conditioning_channels),
        ("pixels per latent", model.cell, stride),
    ):
        if _plain(own) != _plain(other):
            raise ModelError(
                f"{control} does not fit the model: its {what} are {_plain(other)}, "
                f"{_plain(own)} are needed."
            )
    where = next(net.parameters()).device
    if where.type != model.device.type and not hasattr(net, "_hf_hook"):
        raise ModelError(
            f"{control} is on {where.type}, the model on {model.device.type}; "
            f"move it there: controlnet.to({str(model.device)!r})."
        )


def _width(dimensions: Any) -> str:
    family = _FAMILIES.get(dimensions) if isinstance(dimensions, int) else None
    return f"{dimensions} ({family})" if family else f"{dimensions}"


def _plain(value: Any) -> Any:
    """Configs hold the same values as lists and as tuples."""
    return tuple(value) if isinstance(value, list) else value


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


# --- control images and weights ------------------------------------------------------------------


def _shrunk(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A mask (1 1 H W) averaged over the area of each feature of a grid (height, width)."""
    return F.interpolate(mask, size=tuple(size), mode="area")


def _entry(control: Control, net: Any, scene: Scene) -> _Entry:
    kinds = getattr(net.config, "num_control_type", None)
    if kinds is None and control.mode is not None:
        raise InputError(f"{control}: mode is for ControlNet-Union networks; this is none.")
    mode = None if kinds is None else control.union_mode(kinds)
    images, covers = _images(control, scene)
    mask = None if control.mask is None else scene.place_mask(control.mask)
    if mask is None and not covers:
        # The control image ends where the picture does: it says nothing about the new canvas.
        mask = scene.place_mask(torch.ones(scene.inner.height, scene.inner.width))
    return _Entry(control, net, mode, images, mask, control.exact and control.mask is not None)


def _images(control: Control, scene: Scene) -> tuple[list[torch.Tensor], bool]:
    """The control's images (1 3 H W each), and whether they cover the canvas."""
    annotator = control.annotator
    if isinstance(annotator, str) and annotator in HOLES:
        return [scene.with_hole(which, HOLES[annotator]) for which in range(scene.count)], True
    if annotator is not None:
        sources = [scene.annotated(annotator, which) for which in range(scene.count)]
    elif isinstance(control.image, list | tuple):
        sources = list(control.image)
    else:
        sources = [control.image]
    if len(sources) not in {1, scene.count}:
        raise InputError(
            f"{control}: {len(sources)} control images for {scene.count} pictures; give one, or "
            "one for each."
        )
    placed = [scene.place(source) for source in sources]
    return [pixels for pixels, _ in placed], all(covers for _, covers in placed)


def _on(control: Control, schedule: Schedule) -> list[bool]:
    """Whether each model call lies in the control's window.

    The window is on the time that strength maps are on: the share of the run's steps that lie
    behind. In parity mode it is diffusers' own, which counts model calls and leaves a call out if
    any part of it lies outside.
    """
    start, end = control.start, control.end
    if schedule.parity:
        calls = schedule.calls_to_the_end
        return [not (i / calls < start or (i + 1) / calls > end) for i in range(len(schedule))]
    return [start <= step.position / schedule.num_steps < end for step in schedule.steps]


def _weights(control: Control, schedule: Schedule) -> tuple[float, ...]:
    """The control's weight at each model call; 0 outside its window."""
    last = max(schedule.num_steps - 1, 1)
    return tuple(
        control.weight_at(min(step.position / last, 1.0)) if on else 0.0
        for step, on in zip(schedule.steps, _on(control, schedule), strict=True)
    )


def _warn_of_empty_window(control: Control, schedule: Schedule) -> None:
    if control.scale != 0 and not any(_on(control, schedule)):
        warnings.warn(
            f"{control} is on at none of the {schedule.num_steps} steps: none begins between "
            f"{control.start:g} and {control.end:g} of the run.",
            stacklevel=2,
        )
