"""``compat="diffusers"``: the draws, mask rounding and blending of diffusers' inpainting pipelines.

For people who move over, and for the tests that hold the engine to its peers. What is reproduced
(diffusers 0.42): images are resized to a multiple of 8, masks to grey, binarised at 0.5 and reduced
to the latent grid by nearest neighbour; the generator draws the VAE sample of the image (not for
9-channel networks at strength 1), then the noise for all pictures at once, then the VAE sample of
the masked image, which text-to-image networks never use; at strength 1 the run starts from pure
noise; every model call is followed by the blend. Nothing is pasted. Where a family's pipeline does
otherwise, its :class:`engine.models.peer.Peer` says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from controls import check_references
from controls.canvas import Canvas
from controls.ip_adapter import ReferenceStack
from controls.steering import Place, steering_of
from engine.denoise.guidance import Unguided, branches_of
from engine.denoise.job import Job
from engine.denoise.strategy import Strategy, StrategyContext
from engine.edit.prepared import Prepared
from engine.edit.reading import reading_of
from engine.edit.schedules import ScheduleMaker
from engine.errors import InputError
from engine.models.text import Shown
from engine.picture.geometry import Size
from engine.picture.read import load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.denoise.guidance import Guidance
    from engine.models import Backbone
    from engine.models.network import Network
    from engine.request.request import EditRequest
    from engine.solvers.schedule import Schedule
    from engine.types import Conditioning


class PreparedLikeDiffusers(Prepared):
    """An edit in compatibility mode, whose pictures are what diffusers' image processor makes of
    the decoded latents.

    Raises:
        InputError: a strategy of several stages, several pictures, or what diffusers refuses.
    """

    def __init__(self, backbone: Backbone, request: EditRequest) -> None:
        super().__init__(backbone, request)
        if not isinstance(self.strategy, Strategy) or self.strategy.redirects:
            raise InputError(
                f'strategy {self.strategy.name!r} has no counterpart for compat="diffusers".'
            )
        self._parts = self.strategy
        self.processor, self.image, self.mask = _processed(backbone, request)
        self.schedules = ScheduleMaker(backbone, request, parity=True)
        self.steps = self.schedules.steps(1.0, self.size)
        self.seeds = [request.seed] * request.num_images
        self.generator = request.generator
        if self.generator is None and request.seed is not None:
            self.generator = torch.Generator("cpu").manual_seed(request.seed)
        canvas = _DiffusersCanvas(backbone, self.image, self.mask)
        asked = check_references(request.ip_adapter_image)
        references = ReferenceStack.of(asked, backbone, canvas)
        self.steering = steering_of(
            self.controls, references, backbone, canvas, guess_mode=request.guess_mode
        )

    @property
    def size(self) -> Size:
        """Of the pictures."""
        return Size.of(self.mask.shape[-2:])

    @property
    def original(self) -> Image.Image:
        return Image.new("RGB", self.size, "grey")

    @property
    def strength_map(self) -> NDArray[np.float32]:
        return np.asarray(self.mask[0, 0])

    @property
    def regions(self) -> list[list[int]]:
        return [[0, 0, *self.size, *self.size]]

    def start(self) -> list[Job]:
        with torch.no_grad():
            return [self._job()]

    def finishing(
        self, chains: Sequence[Sequence[Job]]
    ) -> Callable[[], tuple[Any, torch.Tensor | None]]:
        latents = torch.cat([chain[-1].latents for chain in chains])
        if self.request.output_type == "latent":
            return lambda: (latents, latents)
        with self.clock.phase("decode"), torch.no_grad():
            decoded = self.backbone.decode(latents, parity=True)
            images = self.processor.postprocess(decoded, output_type=self.request.output_type)
        return lambda: (images, latents)

    def _job(self) -> Job:
        request, strategy, count = self.request, self._parts, self.request.num_images
        network = self.backbone.network(strategy.network).like_diffusers
        guidance = self.backbone.family.guidance(request.guidance_scale, request.guidance_rescale)
        schedule = self.schedules(1.0, self.size)
        with self.clock.phase("text"):
            cond, uncond = self._conditioning(network, guidance)
        place = Place(
            self.size,
            rows=count,
            guided=uncond is not None,
            encode=lambda pixels: self._drawn(pixels, cond.text.dtype),
        )
        bound = self.steering.bind(place, schedule)  # control images are drawn first
        with self.clock.phase("encode"):
            context = self._context(schedule, cond.text.dtype)
        x0, noise = context.init_latents, context.noise
        if self.backbone.family.peer.shows:
            cond = network.with_reference(cond, x0)
            uncond = None if uncond is None else network.with_reference(uncond, x0)
        if self.backbone.family.peer.apart and uncond is not None:
            # Conditionings of other names than the others' do not share their call.
            uncond = uncond.adding({"apart": uncond.text.new_zeros(count)})
        if request.denoising_start is not None:
            start = x0  # diffusers continues from the latents that are given as the image
        elif request.strength == 1.0:
            start = schedule.start_from_noise(noise)
        else:
            start = schedule.start(x0, noise)
        return Job(
            name=strategy.name,
            network=network,
            schedule=schedule,
            strategy=strategy,
            state=strategy.prepare(context),
            latents=start,
            branches=bound.joined(branches_of(cond, uncond)),
            guidance=Unguided() if uncond is None else guidance,
            generator=self.generator,
            controls=bound.residuals,
            observer=self.observer(lambda rows: rows),
        )

    def _conditioning(
        self, network: Network, guidance: Guidance
    ) -> tuple[Conditioning, Conditioning | None]:
        count, negative = self.request.num_images, self.request.negative_text
        silent = negative is None and "negative_prompt_embeds" not in self.request.embeds
        peer = self.backbone.family.peer
        guided = guidance.active and not network.embeds_guidance and peer.guides(self.backbone.pipe)
        reading = reading_of(self.request)
        if peer.shows and self.backbone.text.reads_pictures:
            reading = replace(reading, shown=Shown.of(self.image))
        cond, uncond = self.backbone.encode_prompt(
            self.request.text,
            negative,
            guided=guided and not (silent and peer.guides_by_negative),
            size=self.size,
            images=count,
            reading=reading,
        )
        if network.embeds_guidance:
            cond = network.with_guidance(cond, guidance.scale)
        return cond, uncond

    def _context(self, schedule: Schedule, dtype: torch.dtype) -> StrategyContext:
        """The draws, in diffusers' order: the picture's sample, the noise, the masked picture's."""
        backbone, strategy, count = self.backbone, self._parts, self.request.num_images
        height, width = (side // backbone.cell for side in self.size.shape)
        shape = (count, backbone.latent_channels, height, width)
        latents_given = self.image.shape[1] == backbone.latent_channels
        x0 = torch.zeros(1, *shape[1:])  # never used where it is not encoded
        if latents_given:
            x0 = self.image
        elif strategy.network != "inpaint" or self.request.strength != 1.0:
            x0 = self._draw(self.image, dtype)
        x0 = x0.to(backbone.device, dtype).repeat(count, 1, 1, 1)
        noise = backbone.family.peer.noise(shape, self.generator, backbone.device, dtype)
        masked = None if latents_given else self._draw(self.image * (self.mask < 0.5), dtype)

        def masked_image_latents() -> torch.Tensor:
            if masked is None:
                raise InputError("a 9-channel strategy needs pixels; latents were given as image.")
            return masked.repeat(count, 1, 1, 1)

        grid = backbone.family.peer.grid(self.mask, (height, width))
        return StrategyContext(
            schedule=schedule,
            init_latents=x0,
            noise=noise,
            strength_map=grid.to(backbone.device, dtype).repeat(count, 1, 1, 1),
            network=strategy.network,
            masked_image_latents=masked_image_latents,
            map_pixels=lambda: self.mask.to(backbone.device, dtype),
        )

    def _drawn(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A draw of the latents of one picture (1 3 H W) for each of those that are made."""
        several = pixels.to(dtype=dtype).repeat(self.request.num_images, 1, 1, 1)
        return self.backbone.encode(several, generator=self.generator, sample=True)

    def _draw(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # Of several generators diffusers asks the first, since there is one picture.
        several = isinstance(self.generator, list)
        generator = self.generator[0] if several else self.generator
        return self.backbone.encode(pixels.to(dtype=dtype), generator=generator, sample=True)


class _DiffusersCanvas(Canvas):
    """Control images as diffusers' ControlNet pipelines prepare them: resized to the picture."""

    def __init__(self, backbone: Backbone, image: torch.Tensor, mask: torch.Tensor) -> None:
        height, width = mask.shape[-2:]
        pictures = None
        processor, _, self.processor = backbone.family.peer.processors(backbone.cell)
        if image.shape[1] == 3:
            (opened,) = processor.postprocess(image, output_type="pil")
            pictures = [np.asarray(opened)]
        super().__init__((width, height), pictures, [mask[0, 0].numpy()], backbone.cell)

    def place(self, source: Any) -> tuple[torch.Tensor, bool]:
        width, height = self.size
        if isinstance(source, np.ndarray) and source.dtype == np.uint8:
            source = Image.fromarray(source)
        try:
            pixels = self.processor.preprocess(_opened(source), height=height, width=width)
        except (ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"diffusers does not accept this control image: {error}") from error
        return pixels.to(dtype=torch.float32), True


def _processed(backbone: Backbone, request: EditRequest) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The image processor, the picture (1 3 H W in [-1, 1], or latents) and the binary mask
    (1 1 H W), as diffusers prepares them.
    """
    processor, mask_processor, _ = backbone.family.peer.processors(backbone.cell)
    source = request.mask if request.mask is not None else request.strength_map
    try:
        image = processor.preprocess(_opened(request.image)).to(dtype=torch.float32)
        scale = backbone.cell if image.shape[1] == backbone.latent_channels else 1
        height, width = (side * scale for side in image.shape[-2:])
        mask = mask_processor.preprocess(_opened(source), height=height, width=width)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"diffusers does not accept this picture or mask: {error}") from error
    if image.shape[0] != 1:
        raise InputError('compat="diffusers" takes one picture at a time.')
    return processor, image, 1 - mask if request.invert else mask


def _opened(source: Any) -> Any:
    """Paths as pictures, truth values as numbers (diffusers cannot resize them); everything else as
    it is.
    """
    if isinstance(source, str | os.PathLike):
        image = load_image(source).to_pil()
        return image.convert("RGBA" if image.mode.endswith("A") else "RGB")
    if isinstance(source, np.ndarray) and source.dtype == bool:
        return source.astype(np.float32)
    if isinstance(source, torch.Tensor) and source.dtype == torch.bool:
        return source.float()
    return source
