"""Values that the machinery shares. No behaviour beyond small pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """What a network is told beside latents and timesteps, a row for each image.

    Raises ``ValueError`` where the tensors differ in their rows, or a mask is not its text's size.
    """

    tensors: Mapping[str, torch.Tensor]
    """b ... each, by names that the family's network adapter reads; the first is the text."""
    masks: Mapping[str, str] = field(default_factory=dict)
    """Which tensors (b n ...) may have another length n than those that they are joined with: each
    with the name of its mask (b n, bool, True where there is text). A mask is in ``tensors`` once
    something was padded. A family whose network ignores masks names none."""

    def __post_init__(self) -> None:
        rows = {name: tensor.shape[0] for name, tensor in self.tensors.items()}
        if len(set(rows.values())) != 1:
            raise ValueError(f"conditioning needs as many rows in each of its tensors, not {rows}.")
        for name, mask in self.masks.items():
            if mask in self.tensors and self.tensors[mask].shape != self.tensors[name].shape[:2]:
                raise ValueError(f"the mask {mask!r} has not the rows and length of {name!r}.")

    @property
    def rows(self) -> int:
        """How many images it is for."""
        return int(self.text.shape[0])

    @property
    def text(self) -> torch.Tensor:
        """The embedded prompts, b n d."""
        return next(iter(self.tensors.values()))

    def key(self) -> Hashable:
        """What must be equal for two conditionings to share a call, and so to be joined: names,
        types and sizes, but for lengths that a mask makes up for.
        """
        return tuple(
            (name, tensor.dtype, *tensor.shape[2 if name in self.masks else 1 :])
            for name, tensor in sorted(self.tensors.items())
            if name not in self.masks.values()
        )

    def take(self, rows: slice) -> Conditioning:
        """Some of the rows."""
        return replace(self, tensors={name: t[rows] for name, t in self.tensors.items()})

    def repeat(self, rows: int) -> Conditioning:
        """One image's conditioning for ``rows`` images, without a copy."""
        if self.rows != 1:
            raise ValueError(f"one row can be repeated, not {self.rows}.")
        expanded = {n: t.expand(rows, *t.shape[1:]) for n, t in self.tensors.items()}
        return replace(self, tensors=expanded)

    def to(self, dtype: torch.dtype) -> Conditioning:
        """The same with numbers of another type, where they are no whole ones."""
        cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in self.tensors.items()}
        return replace(self, tensors=cast)

    def adding(self, tensors: Mapping[str, torch.Tensor]) -> Conditioning:
        """The same with more ``tensors``, b ... each."""
        return replace(self, tensors={**self.tensors, **tensors})

    @staticmethod
    def join(conditionings: Sequence[Conditioning]) -> Conditioning:
        """The rows of all, one below the other. Texts of unequal lengths are padded with zeros at
        their ends and masked.

        Raises:
            ValueError: their keys differ.
        """
        import torch

        if len(conditionings) == 1:
            return conditionings[0]
        first = conditionings[0]
        if len({each.key() for each in conditionings}) != 1:
            raise ValueError("conditionings of different kinds or lengths cannot be joined.")
        padded = [_padded(each, conditionings) for each in conditionings]
        joined = {name: torch.cat([rows[name] for rows in padded]) for name in padded[0]}
        return replace(first, tensors=joined)


def _padded(own: Conditioning, joined: Sequence[Conditioning]) -> dict[str, torch.Tensor]:
    """The tensors of one of ``joined``, its texts as long as the longest of all, with masks where
    any of them is padded.
    """
    import torch

    tensors = dict(own.tensors)
    for name, mask in own.masks.items():
        lengths = {each.tensors[name].shape[1] for each in joined}
        if len(lengths) == 1 and not any(mask in each.tensors for each in joined):
            continue
        text = own.tensors[name]
        rows, length, longest = text.shape[0], text.shape[1], max(lengths)
        tensors[name] = text.new_zeros(rows, longest, *text.shape[2:])
        tensors[name][:, :length] = text
        tensors[mask] = torch.zeros(rows, longest, dtype=torch.bool, device=text.device)
        tensors[mask][:, :length] = own.tensors.get(mask, torch.tensor(data=True))
    return tensors


Residuals: TypeAlias = Mapping[str, Any]
"""What controls add to a network, by names that both agree on (the UNet's argument names): tensors,
or tuples of tensors, with a row for each image."""


def take_residuals(residuals: Residuals, rows: slice) -> Residuals:
    """Some of the rows."""

    def own(value: Any) -> Any:
        several = isinstance(value, list | tuple)
        return tuple(level[rows] for level in value) if several else value[rows]

    return {name: own(value) for name, value in residuals.items()}


@dataclass(frozen=True, slots=True)
class Level:
    """A noise level in the convention of one scheduler: ``latents = alpha * x0 + sigma * noise``.

    Variance-preserving schedulers have ``alpha**2 + sigma**2 == 1``; variance-exploding ones (the
    Euler and Heun kind) have ``alpha == 1``. The values are Python floats read once from the
    scheduler's tables: using them costs no device synchronisation.
    """

    alpha: float
    sigma: float

    @property
    def noise_to_signal(self) -> float:
        """``sigma / alpha``; infinite at pure noise, where flow runs begin."""
        return self.sigma / self.alpha if self.alpha else math.inf

    def noise_to(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``x0`` (b c h w) brought to this level with ``noise`` (b c h w)."""
        return self.alpha * x0 + self.sigma * noise


CLEAN = Level(1.0, 0.0)
"""The level of finished latents."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model call of one job, by position: timesteps may repeat, positions do not."""

    index: int
    """Which model call of the run this is, from 0."""
    timestep: torch.Tensor
    """The scheduler's own timestep, 0-dim, on the CPU."""
    position: int
    """How many of the run's steps lie behind the solver step that this call belongs to, from 0."""
    starts: bool
    """A solver step starts here: the latents are on the trajectory, at ``level``."""
    ends: bool
    """The solver step ends here: after it the latents are on the trajectory, at ``next_level``."""
    level: Level
    next_level: Level
    last: bool
    """The last model call of the run."""


@dataclass(frozen=True)
class Checkpoint:
    """A model that is known by a name, with what belongs to it."""

    name: str
    description: str
    folder: Path
    """What diffusers' ``save_pretrained`` wrote of a pipeline."""
    shared: Mapping[str, Path] = field(default_factory=dict)
    """The folders of parts that are another model's too, by the pipeline's names for them."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Settings of an edit with it, where the edit does not say."""
    inpaint_model: Path | None = None
    """The folder of its 9-channel inpainting UNet."""
    controlnets: Mapping[str, Path] | None = None
    """The folders of its own ControlNets, by the controls' names, in place of its family's; None
    where its family's fit it."""
    background_fill: str = "patch"
    """The ``prefill`` that knows best what stands behind things."""
    judge: str = ""
    """Name of the judge that knows what its pictures show; empty for none."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an observer is shown after each model call: a copy that it may keep.

    Example:
        >>> seen = []
        >>> result = engine.edit(
        ...     image="photo.png",
        ...     mask="mask.png",
        ...     prompt="a boat",
        ...     num_inference_steps=3,
        ...     callback=seen.append,
        ... )
        >>> [(shot.index, shot.total) for shot in seen]
        [(0, 3), (1, 3), (2, 3)]
        >>> seen[-1].preview().save("now.png")
    """

    job: str
    index: int
    total: int
    timestep: float
    latents: torch.Tensor
    """b c h w, after the step."""
    image: int = field(default=0)
    """Which of the request's images this is."""
    denoised: torch.Tensor | None = None
    """b c h w, the clean latents that this step's prediction implies."""
    show: Callable[[torch.Tensor], Image.Image] | None = field(default=None, repr=False)
    """Makes a picture of clean latents, where the model is known."""

    def preview(self) -> Image.Image:
        """A picture of what the run is heading for, of the whole of what the model sees (a cut-out
        where one is edited), at most 512 px a side. Made on call, without the VAE's decoder.

        Raises:
            ValueError: this snapshot was made by a loop without an engine around it.
        """
        if self.show is None or self.denoised is None:
            raise ValueError("this snapshot knows no model to make a preview with")
        return self.show(self.denoised)
