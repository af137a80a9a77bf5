"""``compat="diffusers"``: the draws, mask rounding and blending of diffusers' inpainting pipelines.

For people who move over, and for the tests that hold the engine to its peers. What is reproduced
(diffusers 0.42): images are resized to a multiple of 8, masks to grey, binarised at 0.5 and reduced
to the latent grid by nearest neighbour; the generator draws the VAE sample of the image (not for
9-channel networks at strength 1), then the noise for all pictures at once, then the VAE sample of
the masked image, which 4-channel networks never use; at strength 1 the run starts from pure noise;
every model call is followed by the blend. Nothing is pasted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from controls import check_references
from controls.controlnet import ControlStack
from controls.ip_adapter import ReferenceStack
from controls.scene import Scene
from engine.denoise.guidance import Guidance, Unguided, branches_of
from engine.denoise.job import Job
from engine.denoise.strategy import AnyStrategy, Strategy, StrategyContext
from engine.edit.before import Clock, Plan, ScheduleMaker
from engine.errors import InputError
from engine.models.processors import control_image_processor, image_processors
from engine.picture.crop import Region
from engine.picture.read import load_image

if TYPE_CHECKING:
    from controls import Control
    from engine.models import Backbone
    from engine.request.request import EditRequest


@dataclass
class ParityPlan(Plan):
    """A plan whose pictures are what diffusers' image processor makes of the decoded latents."""

    processor: Any = None

    def finish(
        self, jobs: Sequence[Job], request: EditRequest, clock: Clock
    ) -> tuple[Any, torch.Tensor]:
        latents = torch.cat([job.latents for job in jobs])
        if request.output_type == "latent":
            return latents, latents
        with clock.phase("decode"), torch.no_grad():
            decoded = self.backbone.decode(latents, parity=True)
            images = self.processor.postprocess(decoded, output_type=request.output_type)
        return images, latents


def prepare_like_diffusers(
    backbone: Backbone,
    request: EditRequest,
    strategies: Sequence[AnyStrategy],
    clock: Clock,
    controls: Mapping[str, Sequence[Control]] = MappingProxyType({}),
) -> ParityPlan:
    """The counterpart of :func:`engine.edit.before.prepare_edit` in compatibility mode."""
    (strategy,) = strategies
    if not isinstance(strategy, Strategy):
        raise InputError(f'strategy {strategy.name!r} has no counterpart for compat="diffusers".')
    processor, image, mask = _processed(backbone, request)
    latents_given = image.shape[1] == backbone.latent_channels
    height, width = mask.shape[-2:]
    network = backbone.network(strategy.network).like_diffusers
    guidance = Guidance(request.guidance_scale, request.guidance_rescale)
    schedule = ScheduleMaker(backbone, request, parity=True)()
    generator = request.generator
    if generator is None and request.seed is not None:
        generator = torch.Generator("cpu").manual_seed(request.seed)

    scene = _DiffusersScene(backbone, image, mask)
    references = ReferenceStack.of(check_references(request.ip_adapter_image), backbone, scene)
    asked = controls.get(strategy.name, ())
    stack = ControlStack.of(asked, backbone, scene, guess_mode=request.guess_mode)
    count = request.num_images
    shape = (count, backbone.latent_channels, height // backbone.cell, width // backbone.cell)
    with torch.no_grad():
        with clock.phase("text"):
            cond, uncond = backbone.encode_prompt(
                request.text,
                request.negative_text,
                guided=guidance.active and not network.embeds_guidance,
                size=(height, width),
                images=count,
            )
            if references is not None:
                cond, uncond = references.join(cond, uncond, size=(height, width), rows=count)
            if network.embeds_guidance:
                cond = network.with_guidance(cond, guidance.scale)
        dtype = cond.text.dtype

        def draw(pixels: torch.Tensor) -> torch.Tensor:
            # Of several generators diffusers asks the first, since there is one picture.
            first = generator[0] if isinstance(generator, list) else generator
            return backbone.encode(pixels.to(dtype=dtype), generator=first, sample=True)

        with clock.phase("encode"):
            pure = request.strength == 1.0
            x0 = torch.zeros(1, *shape[1:])  # never used where it is not encoded
            if latents_given:
                x0 = image
            elif strategy.network == "base" or not pure:
                x0 = draw(image)
            x0 = x0.to(backbone.device, dtype).repeat(count, 1, 1, 1)
            noise = randn_tensor(shape, generator, device=backbone.device, dtype=dtype)
            masked = None if latents_given else draw(image * (mask < 0.5))

        def masked_image_latents() -> torch.Tensor:
            if masked is None:
                raise InputError("a 9-channel strategy needs pixels; latents were given as image.")
            return masked.repeat(count, 1, 1, 1)

        grid = torch.nn.functional.interpolate(mask, size=shape[-2:]).to(backbone.device, dtype)
        context = StrategyContext(
            schedule=schedule,
            init_latents=x0,
            noise=noise,
            strength_map=grid.repeat(count, 1, 1, 1),
            network=strategy.network,
            masked_image_latents=masked_image_latents,
        )
        start = schedule.start_from_noise(noise) if pure else schedule.start(x0, noise)
        if request.denoising_start is not None:
            start = x0  # diffusers continues from the latents that are given as the image
        job = Job(
            name=strategy.name,
            network=network,
            schedule=schedule,
            strategy=strategy,
            state=strategy.prepare(context),
            latents=start,
            branches=branches_of(cond, uncond),
            guidance=Unguided() if uncond is None else guidance,
            generator=generator,
            controls=stack.bind(schedule, guided=uncond is not None, rows=count),
            observer=request.callback,
        )
    return ParityPlan(
        backbone=backbone,
        jobs=[job],
        seeds=[request.seed] * count,
        pictures=None,
        strength_maps=[np.asarray(mask[0, 0])],
        regions=[[Region.whole((width, height))]],
        processor=processor,
    )


class _DiffusersScene(Scene):
    """Control images as diffusers' ControlNet pipelines prepare them: resized to the picture."""

    def __init__(self, backbone: Backbone, image: torch.Tensor, mask: torch.Tensor) -> None:
        height, width = mask.shape[-2:]
        pictures = None
        if image.shape[1] == 3:
            (opened,) = image_processors(backbone.cell)[0].postprocess(image, output_type="pil")
            pictures = [np.asarray(opened)]
        super().__init__((width, height), pictures, [mask[0, 0].numpy()], backbone.cell)
        self.processor = control_image_processor(backbone.cell)

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
    processor, mask_processor = image_processors(backbone.cell)
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
        return load_image(source).to_pil()
    if isinstance(source, np.ndarray) and source.dtype == bool:
        return source.astype(np.float32)
    if isinstance(source, torch.Tensor) and source.dtype == torch.bool:
        return source.float()
    return source
