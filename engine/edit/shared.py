"""What the edits of one request have in common, made once.

Edits of a comparison differ in strategy and controls only: their pictures are read, filled,
encoded and taken there and back through the VAE once for all of them, and once for all the pictures
that are made of one. (Between requests the model remembers prompts and pictures:
:class:`engine.models.Backbone`.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from controls import check_references
from controls.ip_adapter import ReferenceStack
from engine.edit.inputs import Inputs
from engine.edit.reading import reading_of
from engine.edit.schedules import ScheduleMaker
from engine.edit.seeds import generators_of
from engine.edit.views import View, resize_pixels
from engine.errors import InputError
from engine.models.text import Shown
from engine.models.tiled import TiledNetwork
from engine.picture.crop import STRETCH
from engine.picture.fill import find_prefill
from engine.picture.geometry import Box, Size, crop
from engine.picture.pixels import to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.edit.memory import Memory
    from engine.models import Backbone
    from engine.models.network import Network
    from engine.picture.crop import Region
    from engine.request.request import EditRequest
    from engine.types import Conditioning

T = TypeVar("T")

TILES = 4
"""Tiles in one forward: more gain nothing at the size that fills a model."""


class Shared:
    """The inputs of a request and everything that is computed of them alone.

    Raises:
        InputError: the pictures, maps, generators or references cannot be used. No network has
            been called by then, but an IP-Adapter's encoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        request: EditRequest,
        memory: Memory,
        inputs: Inputs | None = None,
    ) -> None:
        self.backbone = backbone
        self.request = request
        self.memory = memory
        self.inputs = Inputs.of(request, backbone) if inputs is None else inputs
        self.schedules = ScheduleMaker(backbone, request)
        count = self.inputs.count * request.num_images
        self.seeds, self.generators = generators_of(request, count)
        self.canvas = self.inputs.canvas(request)
        references = check_references(request.ip_adapter_image)
        self.references = ReferenceStack.of(references, backbone, self.canvas)
        self._made: dict[Hashable, Any] = {}

    def seeded(self, request: EditRequest) -> Shared:
        """The same for ``request``, which may have another seed: what is made is shared."""
        if request.seed == self.request.seed:
            return self
        other = copy.copy(self)
        other.request = request
        other.seeds, other.generators = generators_of(request, len(self.seeds))
        return other

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for all that share this."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    # Text --------------------------------------------------------------------------------------

    def conditioning(
        self,
        network: Network,
        scale: float,
        size: Size,
        texts: tuple[str, str | None] | None = None,
        shown: View | None = None,
        model: Backbone | None = None,
    ) -> tuple[Conditioning, Conditioning | None]:
        """The text for jobs (1 row each), with and without the prompt.

        Args:
            network: that reads them.
            scale: of the guidance, for a network that embeds it.
            size: of the job's canvas.
            texts: prompt and negative prompt in place of the request's.
            shown: the view that is read with the texts, where the model reads pictures.
            model: that reads them; None is the run's.
        """
        embedded = scale if network.embeds_guidance else None
        reader = model or self.backbone
        return self.remember(
            ("text", size, embedded, texts, shown, reader),
            lambda: self._conditioning(reader, network, embedded, size, texts, shown),
        )

    def _conditioning(
        self,
        reader: Backbone,
        network: Network,
        embedded: float | None,
        size: Size,
        texts: tuple[str, str | None] | None,
        shown: View | None,
    ) -> tuple[Conditioning, Conditioning | None]:
        request = self.request
        reading = reading_of(request)
        if shown is not None and reader.text.reads_pictures:
            reading = replace(reading, shown=Shown.of(shown.pixels))
        cond, uncond = reader.encode_prompt(
            *(texts or (request.text, request.negative_text)),
            guided=embedded is None and reader.family.guidance(request.guidance_scale).active,
            size=size,
            reading=replace(reading, embeds=None) if texts else reading,
        )
        if embedded is not None:
            cond = network.with_guidance(cond, embedded)
        return cond, uncond

    def tiled(self, network: Network) -> tuple[Any, Size]:
        """A network that sees its input in tiles, and the size of a tile."""
        align, cell = self.backbone.align, self.backbone.cell
        native = self.request.native_size or self.backbone.native_size
        side = max(align, round(STRETCH * native / align) * align)

        def make() -> TiledNetwork:
            return TiledNetwork(network, side // cell, rows=TILES)

        return self.remember(("tiled", id(network)), make), Size(side, side)

    # Latents -----------------------------------------------------------------------------------

    def original(self, view: View, scale: float = 1.0) -> torch.Tensor:
        """Clean latents (1 c h w) of a view."""
        return self.remember(("original", view, scale), lambda: self._original(view, scale))

    def _original(self, view: View, scale: float) -> torch.Tensor:
        if self.inputs.latents is None:
            return self.encode(self.pixels(view, scale))
        if scale != 1:
            raise InputError("stages of other scales need pixels; latents were given.")
        x0 = self.inputs.latents[view.source : view.source + 1]
        return x0.to(self.backbone.device, self.backbone.main.latents_dtype)

    def filled(self, name: str, view: View, scale: float) -> torch.Tensor:
        """Clean latents (1 c h w) of a view whose hole is prefilled."""
        if name == "original":
            return self.original(view, scale)
        return self.remember(("filled", name, view, scale), lambda: self._filled(name, view, scale))

    def _filled(self, name: str, view: View, scale: float) -> torch.Tensor:
        pixels = self.inputs.filled(view, find_prefill(name))
        return self.encode(resize_pixels(pixels, self.size_at(view, scale)))

    def masked(self, view: View, scale: float, strength_map: NDArray[np.float32]) -> torch.Tensor:
        """Latents (1 c h w) of a view with mid grey where ``strength_map`` (H W) repaints."""
        if self.inputs.latents is not None:
            raise InputError("a 9-channel strategy needs pixels; latents were given as image.")
        keep = torch.from_numpy((strength_map == 0).astype(np.float32))
        return self.encode(self.pixels(view, scale) * keep)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Clean latents (1 c h w) of pixels (1 3 H W in [-1, 1])."""
        with self.backbone.codec.in_tiles(Size.of(pixels.shape[-2:]), self.backbone.native_size):
            return self.backbone.encode(pixels)

    def received(self, view: View, made: torch.Tensor, scale: float) -> torch.Tensor:
        """Latents (1 c h w) of what another model has made (1 3 H W in [-1, 1]) of a view, with the
        original's own pixels where nothing is repainted.
        """
        target = self.pixels(view, scale)
        changed = torch.from_numpy(self.map_at(view, scale) > 0)
        resized = resize_pixels(made, Size.of(target.shape[-2:])).clamp(-1, 1)
        return self.encode(resized.where(changed, target))

    def rescaled(self, view: View, latents: torch.Tensor, scale: float) -> torch.Tensor:
        """A stage's latents (b c h w) brought to another size, with the original's own pixels
        where nothing is repainted.
        """
        target = self.pixels(view, scale)
        changed = torch.from_numpy(self.map_at(view, scale) > 0)
        # One at a time: memory, and the same bits whatever else is in the request.
        decoded = [self.decode(row).float().cpu() for row in latents.split(1)]
        resized = [resize_pixels(row, Size.of(target.shape[-2:])).clamp(-1, 1) for row in decoded]
        return torch.cat([self.encode(row.where(changed, target)) for row in resized])

    # Pixels ------------------------------------------------------------------------------------

    def size_at(self, view: View, scale: float) -> Size:
        """The size of a view's canvas at a stage's ``scale``."""
        return view.size_at(scale, self.backbone.align)

    def map_at(self, view: View, scale: float) -> NDArray[np.float32]:
        """A view's strength map (H W) at a stage's ``scale``."""
        return view.map_at(scale, self.backbone.align)

    def pixels(self, view: View, scale: float) -> torch.Tensor:
        """A view's pixels (1 3 H W in [-1, 1]) at a stage's ``scale``."""
        return resize_pixels(view.pixels, self.size_at(view, scale))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (1 3 H W, about [-1, 1]) of latents (1 c h w)."""
        cell = self.backbone.cell
        size = Size(latents.shape[-1] * cell, latents.shape[-2] * cell)
        with self.backbone.codec.in_tiles(size, self.backbone.native_size):
            return self.memory.decode(latents, self.backbone.decode)

    def decoded(self, latents: torch.Tensor, region: Region) -> NDArray[np.uint8]:
        """Pixels (H W 3) of a region's latents (1 c h w), at the size of its box."""
        box, pixels = region.box, self.decode(latents)
        if region.scaled:
            pixels = resize_pixels(pixels.float(), box.size)
        return crop(to_pixels(pixels)[0], Box(0, 0, box.width, box.height))

    def round_trip(self, view: View) -> NDArray[np.uint8]:
        """A view's original encoded and decoded (H W 3, of its box)."""
        latents, region = self.original(view), view.region

        def make() -> NDArray[np.uint8]:
            form = region.box.size, region.scaled
            return self.backbone.round_trip(latents, form, lambda: self.decoded(latents, region))

        return self.remember(("round trip", view), make)
