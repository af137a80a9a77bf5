"""From a checked request to jobs, and from their latents to pictures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from engine.canvas import (
    Box,
    Picture,
    crop,
    load_image,
    pad_to_multiple,
    paste,
    to_pixels,
    to_tensor,
)
from engine.errors import InputError
from engine.guidance import Guidance
from engine.loop import Job
from engine.masks import load_mask, load_strength_map, paste_alpha, to_latent_grid
from engine.schedule import Schedule, fresh_scheduler
from engine.strategy import Strategy, StrategyContext

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from engine.models import Backbone
    from engine.request import EditRequest


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._phases = dict.fromkeys(("text", "encode", "denoise", "decode", "paste"), 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._phases[name] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        return {**self._phases, "total": time.perf_counter() - self._began}


@dataclass
class Plan:
    """An edit ready to run: its jobs, and how their latents become pictures again."""

    backbone: Backbone
    jobs: list[Job]
    seeds: list[int | None]
    pictures: list[Picture] | None
    """The input pictures; None where latents were given."""
    strength_maps: list[NDArray[np.float32]]
    """H W each, one for all pictures or one for each, before padding."""
    box: Box
    alphas: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        return self.box.width, self.box.height

    @property
    def strength_map(self) -> NDArray[np.float32]:
        return self.strength_maps[0]

    @property
    def original(self) -> Any:
        if self.pictures is None:
            return Image.new("RGB", self.size, "grey")
        return self.pictures[0].to_pil()

    def finish(
        self, jobs: Sequence[Job], request: EditRequest, clock: Clock
    ) -> tuple[Any, torch.Tensor]:
        """Decode the jobs' latents, crop, and paste over the originals."""
        import torch

        latents = torch.cat([job.latents for job in jobs])
        if request.output_type == "latent":
            return latents, latents
        with clock.phase("decode"), torch.no_grad():
            # One at a time: memory, and the same bits whatever else is in the request.
            decoded = [to_pixels(self.backbone.decode(row[None]))[0] for row in latents]
        with clock.phase("paste"):
            finished: list[NDArray[np.uint8]] = []
            images: list[Image.Image] = []
            for i, pixels in enumerate(decoded):
                which = i // request.num_images
                cut = crop(pixels, self.box)
                if self.pictures is None:
                    finished.append(cut)
                    images.append(Image.fromarray(cut))
                    continue
                picture = self.pictures[which]
                alpha = self.alphas[which % len(self.alphas)]
                finished.append(paste(picture.rgb, cut, alpha))
                images.append(picture.to_pil(finished[-1]))
        if request.output_type == "np":
            return np.stack(finished).astype(np.float32) / 255.0, latents
        return images, latents


def prepare_edit(
    backbone: Backbone, request: EditRequest, strategies: Sequence[Strategy], clock: Clock
) -> Plan:
    """Everything before the first step: picture, map, text and latents once for all strategies,
    then one job for each strategy and picture.
    """
    import torch

    inputs = _Inputs.of(request, backbone)
    make_schedule = schedule_maker(backbone, request)
    make_schedule()  # it refuses numbers that the scheduler cannot run: before any model work
    seeds, generators = _generators(request, inputs.count * request.num_images)
    grids = [to_latent_grid(each, backbone.cell) for each in inputs.padded_maps]
    guidance = Guidance(request.guidance_scale, request.guidance_rescale)

    with torch.no_grad():
        with clock.phase("text"):
            networks = [backbone.network(strategy.network) for strategy in strategies]
            guided = guidance.active and not any(each.embeds_guidance for each in networks)
            text = backbone.encode_prompt(
                request.prompt,
                request.negative_prompt,
                guided=guided,
                size=inputs.padded_maps[0].shape,
            )
        with clock.phase("encode"):
            originals = inputs.encode(backbone)
        jobs = []
        for strategy, network in zip(strategies, networks, strict=True):
            cond: dict[str, torch.Tensor] = dict(text[0])
            if network.embeds_guidance:
                cond["timestep_cond"] = backbone.guidance_embedding(guidance.scale)
            for i, generator in enumerate(generators):
                which = i // request.num_images
                # Every strategy starts from the same draws.
                own = generator if len(strategies) == 1 else generator.clone_state()
                x0 = originals[which]
                grid = torch.from_numpy(grids[which % len(grids)])[None, None]
                schedule = make_schedule()
                context = StrategyContext(
                    schedule=schedule,
                    init_latents=x0,
                    noise=randn_tensor(x0.shape, own, device=x0.device, dtype=x0.dtype),
                    strength_map=grid.to(x0),
                    masked_image_latents=inputs.masked_encoder(which, backbone, clock),
                )
                jobs.append(
                    Job(
                        name=strategy.name,
                        network=network,
                        schedule=schedule,
                        strategy=strategy,
                        state=strategy.prepare(context),
                        latents=_start(strategy, context),
                        cond=cond,
                        uncond=text[1],
                        guidance=guidance,
                        generator=own,
                        observer=request.callback,
                        image=i,
                    )
                )
    alphas = [paste_alpha(each, request.feather) for each in inputs.maps]
    box = Box(0, 0, *inputs.size)
    return Plan(backbone, jobs, seeds, inputs.pictures, inputs.maps, box, alphas)


def _start(strategy: Strategy, context: StrategyContext) -> torch.Tensor:
    if strategy.start == "noise":
        return context.schedule.start_from_noise(context.noise)
    return context.schedule.start(context.init_latents, context.noise)


@dataclass(frozen=True)
class _Inputs:
    """The checked pictures (or latents) and maps of a request."""

    size: tuple[int, int]
    """(width, height) in px."""
    count: int
    maps: list[NDArray[np.float32]]
    """H W each; one for all pictures, or one for each."""
    padded_maps: list[NDArray[np.float32]]
    pictures: list[Picture] | None
    tensors: list[torch.Tensor]
    """1 3 H W in [-1, 1] each, padded; empty where latents were given."""
    latents: torch.Tensor | None
    """b c h w, where they were given in place of pictures."""

    @classmethod
    def of(cls, request: EditRequest, backbone: Backbone) -> _Inputs:
        latents = _as_latents(request.image, backbone)
        pictures = None
        if latents is None:
            pictures = _load_pictures(request.image)
            size, count, align = pictures[0].size, len(pictures), backbone.align
        else:
            count, _, height, width = latents.shape
            size, align = (width * backbone.cell, height * backbone.cell), backbone.cell
        maps = _load_maps(request, size, count)
        return cls(
            size=size,
            count=count,
            maps=maps,
            padded_maps=[pad_to_multiple(each, align)[0] for each in maps],
            pictures=pictures,
            tensors=[to_tensor(pad_to_multiple(p.rgb, align)[0]) for p in pictures or []],
            latents=latents,
        )

    def encode(self, backbone: Backbone) -> Sequence[torch.Tensor]:
        """Clean latents (1 c h w) of each picture."""
        if self.latents is not None:
            rows: Sequence[torch.Tensor] = self.latents.to(backbone.device, backbone.dtype).split(1)
            return rows
        return [backbone.encode(tensor) for tensor in self.tensors]

    def masked_encoder(
        self, which: int, backbone: Backbone, clock: Clock
    ) -> Callable[[], torch.Tensor]:
        """Encodes a picture with mid grey in place of what is repainted, when it is asked for."""

        def encode() -> torch.Tensor:
            import torch

            if not self.tensors:
                raise InputError("a 9-channel strategy needs pixels; latents were given as image.")
            strength_map = self.padded_maps[which % len(self.padded_maps)]
            keep = torch.from_numpy((strength_map == 0).astype(np.float32))
            with clock.phase("encode"), torch.no_grad():
                return backbone.encode(self.tensors[which] * keep)

        return encode


def schedule_maker(
    backbone: Backbone, request: EditRequest, *, parity: bool = False
) -> Callable[[], Schedule]:
    """Makes fresh schedules, one for each job: schedulers keep state."""

    def make() -> Schedule:
        return Schedule(
            fresh_scheduler(request.scheduler, backbone.pipe.scheduler),
            request.num_inference_steps,
            request.strength,
            device=backbone.device,
            eta=request.eta,
            parity=parity,
        )

    return make


def _as_latents(image: Any, backbone: Backbone) -> torch.Tensor | None:
    """``image`` if it is a tensor of latents (b 4 h w), which diffusers tells apart likewise."""
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if not hasattr(image, "detach") or len(shape) != 4 or shape[1] != backbone.latent_channels:
        return None
    if not bool(image.isfinite().all()):
        raise InputError("the latents given as image hold NaN or infinite values.")
    latents: torch.Tensor = image.detach()
    return latents


def _load_pictures(image: Any) -> list[Picture]:
    """One picture, or those of a batch (b c h w tensor, b h w c array, or a list)."""
    if isinstance(image, (list, tuple)):
        if not image:
            raise InputError("image is an empty list.")
        pictures = [load_image(each) for each in image]
    elif len(getattr(image, "shape", ())) == 4 and image.shape[0] > 1:
        pictures = [load_image(each) for each in image]
    else:
        pictures = [load_image(image)]
    if len({picture.size for picture in pictures}) > 1:
        raise InputError("the pictures of one request must have one size; edit them one by one.")
    return pictures


def _load_maps(
    request: EditRequest, size: tuple[int, int], count: int
) -> list[NDArray[np.float32]]:
    """One map for all pictures, or one for each."""
    source = request.mask if request.mask is not None else request.strength_map
    load: Any = load_mask if request.mask is not None else load_strength_map
    if isinstance(source, (list, tuple)) or (
        len(getattr(source, "shape", ())) == 4 and source.shape[0] > 1
    ):
        several = list(source)
    else:
        several = [source]
    if len(several) not in (1, count):
        raise InputError(f"{len(several)} maps for {count} pictures: give one, or one for each.")
    return [load(each, size, invert=request.invert) for each in several]


def _generators(request: EditRequest, count: int) -> tuple[list[int | None], list[Any]]:
    """Seeds to report and one generator for each of ``count`` pictures."""
    import torch

    generator = request.generator
    seeds: list[Any]
    if isinstance(generator, list | tuple):
        if len(generator) != count:
            raise InputError(f"{len(generator)} generators for {count} pictures.")
        return [None] * count, list(generator)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise InputError(
                f"generator must be a torch.Generator, not {type(generator).__name__}."
            )
        if count == 1:
            return [None], [generator]
        device = generator.device
        seeds = torch.randint(2**31, (count,), generator=generator, device=device).tolist()
    else:
        first = secrets.randbelow(2**31) if request.seed is None else int(request.seed)
        seeds = [first + i for i in range(count)]
    # Drawn on the CPU, so that a seed means the same picture on every device.
    return seeds, [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
