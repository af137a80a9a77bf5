"""A job as what steers it sees it, and what is brought to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from controls.canvas import Canvas
    from engine.denoise.job import ResidualSource
    from engine.models import Family
    from engine.picture.geometry import Box, Size
    from engine.solvers.schedule import Schedule
    from engine.types import Checkpoint, Conditioning


class SteeredModel(Protocol):
    """What steering needs of the loaded model; :class:`engine.models.Backbone` is one."""

    @property
    def family(self) -> Family: ...

    checkpoint: Checkpoint | None
    """What is known of the model under its name."""

    @property
    def cell(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def unet_config(self) -> Any: ...
    @property
    def ip_adapters(self) -> int: ...
    def controlnet(self, model: Any) -> Any:
        """The ControlNet in a folder, behind a hub id or in a file; loaded once."""

    def encode_references(
        self, images: Sequence[Image.Image], adapter: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative and positive embeddings (1 n ... each) for an IP-Adapter."""


@dataclass(frozen=True)
class Place:
    """Where one job stands in its edit."""

    size: Size | None = None
    """Of the job's canvas, where it is not the cut-out's own (a stage at
    another scale, an enlarged cut-out)."""
    picture: int = 0
    """The picture's number in the edit."""
    box: Box | None = None
    """The part of the padded canvas that the job works on; None is all of it."""
    rows: int = 1
    """Of the job: its pictures, or a picture's companions and itself."""
    guided: bool = False
    """The job's batch is its unconditional rows, then its conditional ones."""
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Latents (b c h w) of pixels (1 3 H W in [-1, 1]), as the job's pictures have them: a row, or
    one for each of the job's."""


@dataclass(frozen=True)
class Bound:
    """What is brought to one job."""

    residuals: Sequence[ResidualSource] = ()
    """Asked at every step for what is added to the network's own features."""
    conditioning: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    """By a branch's name: what its network is told beside the text, with the job's rows."""
    branches: Mapping[str, Conditioning] = field(default_factory=dict)
    """Branches beside the text's, by names that the job's guidance knows."""

    def beside(self, other: Bound) -> Bound:
        """Both, in this order."""
        told = {
            name: {**self.conditioning.get(name, {}), **other.conditioning.get(name, {})}
            for name in {**self.conditioning, **other.conditioning}
        }
        return Bound([*self.residuals, *other.residuals], told, {**self.branches, **other.branches})

    def joined(self, branches: Mapping[str, Conditioning]) -> dict[str, Conditioning]:
        """A job's ``branches`` with what is told beside them, and the new ones. What ``cond`` is
        told, ``cond.1`` is too: the same branch of another region.
        """
        told = {}
        for name, text in branches.items():
            own = self.conditioning.get(name.partition(".")[0])
            told[name] = text.adding(own) if own else text
        return {**told, **self.branches}


class Steer(Protocol):
    """One kind of steering of an edit, its pictures read, ready for the jobs."""

    def cut(self, box: Box, repainted: torch.Tensor, schedules: Sequence[Schedule]) -> Steer:
        """The same for a cut-out: ``box`` of the padded canvas, where ``repainted`` (1 1 h w, bool,
        on the latent grid) is where anything changes; ``schedules`` are those of the job and of
        the stages that follow it.
        """

    def bind(self, place: Place, schedule: Schedule) -> Bound:
        """What it brings to one job, whose ``schedule`` that is."""


@runtime_checkable
class Source(Protocol):
    """What an edit's ``controls`` takes beside :class:`controls.Control`: a plug-in's own kind."""

    def prepare(self, model: SteeredModel, canvas: Canvas) -> Steer:
        """Read what it needs. Raises ``InputError`` where that cannot be done."""

    def describe(self) -> dict[str, Any]:
        """What a record keeps of it: values that JSON can hold."""
