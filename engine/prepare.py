"""From a checked request to jobs, and from their latents to pictures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from controls import check_references
from controls.controlnet import ControlStack
from controls.ip_adapter import ReferenceStack
from controls.scene import Scene
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
from engine.masks import is_hard, load_mask, load_strength_map, paste_alpha, to_latent_grid
from engine.schedule import Schedule, fresh_scheduler
from engine.strategy import AnyStrategy, Stage, Strategy, StrategyContext

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from controls import Control
    from engine.models import Backbone
    from engine.request import EditRequest
    from engine.types import Conditioning


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
                if (adapted := self._adapted_alpha(jobs[i])) is not None:
                    alpha = alpha * adapted
                finished.append(paste(picture.rgb, cut, alpha))
                images.append(picture.to_pil(finished[-1]))
        if request.output_type == "np":
            return np.stack(finished).astype(np.float32) / 255.0, latents
        return images, latents

    def _adapted_alpha(self, job: Job) -> NDArray[np.float32] | None:
        """The paste opacity (H W) that the strategy asks for, if it does. Not after several
        stages: the last one knows only its own change, not the first one's.
        """
        if job not in self.jobs:
            return None
        alpha = job.strategy.paste_alpha(job.state, job.latents)
        if alpha is None:
            return None
        cell = self.backbone.cell
        height, width = alpha.shape[-2] * cell, alpha.shape[-1] * cell
        smooth = cv2.resize(
            alpha[0, 0].float().cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR
        )
        return crop(np.asarray(smooth, np.float32).clip(0, 1), self.box)


def prepare_edit(
    backbone: Backbone,
    request: EditRequest,
    strategies: Sequence[AnyStrategy],
    clock: Clock,
    controls: Mapping[str, Sequence[Control]] = MappingProxyType({}),
    admit: Callable[[Job], None] | None = None,
) -> Plan:
    """Everything before the first step: picture, map, text and latents once for all strategies,
    then one job for each strategy and picture.

    ``admit`` sees every job before its first step, those of later stages too, and may move it on;
    None leaves out the held steps, if the request lets it.
    """
    inputs = _Inputs.of(request, backbone)
    make_schedule = schedule_maker(backbone, request)
    for strategy in strategies:
        for stage in strategy.stages:
            make_schedule(stage.strength)  # refuses bad numbers before any model work
    seeds, generators = _generators(request, inputs.count * request.num_images)
    desk = _Desk(backbone, request, inputs, make_schedule, clock, admit)
    scene = inputs.scene(backbone, request)
    asked = check_references(request.ip_adapter_image)
    desk.references = ReferenceStack.of(asked, backbone, scene)
    for name, each in controls.items():
        desk.stacks[name] = ControlStack.of(each, backbone, scene, guess_mode=request.guess_mode)
    jobs = []
    with torch.no_grad():
        with clock.phase("text"):
            for strategy in strategies:
                for stage in strategy.stages:
                    desk.conditioning(stage)
        for strategy in strategies:
            for i, generator in enumerate(generators):
                # Every strategy starts from the same draws.
                own = generator if len(strategies) == 1 else generator.clone_state()
                jobs.append(desk.job(strategy, 0, i, own))
    alphas = [paste_alpha(each, request.feather) for each in inputs.maps]
    box = Box(0, 0, *inputs.size)
    return Plan(backbone, jobs, seeds, inputs.pictures, inputs.maps, box, alphas)


class _Desk:
    """Makes the jobs of one request; what they share is computed once."""

    def __init__(
        self,
        backbone: Backbone,
        request: EditRequest,
        inputs: _Inputs,
        make_schedule: Callable[..., Schedule],
        clock: Clock,
        admit: Callable[[Job], None] | None = None,
    ) -> None:
        self.backbone = backbone
        self.request = request
        self.inputs = inputs
        self.make_schedule = make_schedule
        self.clock = clock
        self.guidance = Guidance(
            request.guidance_scale,
            request.guidance_rescale,
            request.guidance_start,
            request.guidance_end,
        )
        self._texts: dict[
            tuple[tuple[int, int], bool], tuple[Conditioning, Conditioning | None]
        ] = {}
        self._originals: dict[tuple[int, float], torch.Tensor] = {}
        self.admit = admit or self._skip_held
        self.stacks: dict[str, ControlStack] = {}
        """The controls of each strategy's jobs, by its name."""
        self.references: ReferenceStack | None = None

    def _skip_held(self, job: Job) -> None:
        if self.request.skip:
            job.skip_to(job.first_needed())

    def job(self, strategy: AnyStrategy, number: int, image: int, generator: Any) -> Job:
        """The job of stage ``number`` for one picture, from its original."""
        which = image // self.request.num_images
        stage = strategy.stages[number]
        return self._job(strategy, number, image, generator, self.original(which, stage.scale))

    def _job(
        self, strategy: AnyStrategy, number: int, image: int, generator: Any, x0: torch.Tensor
    ) -> Job:
        which = image // self.request.num_images
        stage = strategy.stages[number]
        network = self.backbone.network(stage.strategy.network)
        strength_map = self.inputs.scaled_map(which, stage.scale, self.backbone.align)
        grid = torch.from_numpy(to_latent_grid(strength_map, self.backbone.cell))[None, None]
        schedule = self.make_schedule(stage.strength)
        context = StrategyContext(
            schedule=schedule,
            init_latents=x0,
            noise=randn_tensor(x0.shape, generator, device=x0.device, dtype=x0.dtype),
            strength_map=grid.to(x0),
            network=stage.strategy.network,
            masked_image_latents=lambda: self.masked(which, stage.scale, strength_map),
        )
        cond, uncond = self.conditioning(stage)
        stack = self.stacks.get(strategy.name)

        def follow(finished: Job) -> Job:
            following = strategy.stages[number + 1]
            x0 = finished.latents
            if following.scale != stage.scale:
                x0 = self.rescaled(which, x0, following.scale)
            return self._job(strategy, number + 1, image, generator, x0)

        job = Job(
            name=strategy.name,
            network=network,
            schedule=schedule,
            strategy=stage.strategy,
            state=stage.strategy.prepare(context),
            latents=self._start(stage.strategy, context),
            cond=cond,
            uncond=uncond,
            guidance=self.guidance,
            generator=generator,
            controls=stack.bind(
                schedule, guided=uncond is not None, which=which, size=strength_map.shape
            )
            if stack
            else (),
            observer=self.request.callback,
            image=image,
            follow=follow if number + 1 < len(strategy.stages) else None,
        )
        self.admit(job)
        return job

    def _start(self, strategy: Strategy, context: StrategyContext) -> torch.Tensor:
        if self.request.latents is not None:
            given: torch.Tensor = self.request.latents.to(context.init_latents)
            if given.shape != context.init_latents.shape:
                raise InputError(
                    f"latents of shape {tuple(given.shape)} given; this picture's are "
                    f"{tuple(context.init_latents.shape)}."
                )
            return given.clone()
        if strategy.start == "noise":
            return context.schedule.start_from_noise(context.noise)
        return context.schedule.start(context.init_latents, context.noise)

    def conditioning(self, stage: Stage) -> tuple[Conditioning, Conditioning | None]:
        """Text and references, encoded once for each size of picture."""
        network = self.backbone.network(stage.strategy.network)
        size = self.inputs.scaled_size(stage.scale, self.backbone.align)
        key = (size, network.embeds_guidance)
        if key not in self._texts:
            cond, uncond = self.backbone.encode_prompt(
                self.request.prompt,
                self.request.negative_prompt,
                guided=self.guidance.active and not network.embeds_guidance,
                size=size,
            )
            if network.embeds_guidance:
                embedded = self.backbone.guidance_embedding(self.guidance.scale)
                cond = {**cond, "timestep_cond": embedded}
            if self.references is not None:
                cond, uncond = self.references.join(cond, uncond, size=size)
            self._texts[key] = cond, uncond
        return self._texts[key]

    def original(self, which: int, scale: float) -> torch.Tensor:
        """Clean latents (1 c h w) of a picture, encoded once for each size."""
        if (which, scale) not in self._originals:
            with self.clock.phase("encode"):
                if self.inputs.latents is not None:
                    if scale != 1:
                        raise InputError("stages of other scales need pixels; latents were given.")
                    x0 = self.inputs.latents[which : which + 1]
                    x0 = x0.to(self.backbone.device, self.backbone.dtype)
                else:
                    x0 = self.backbone.encode(self._pixels(which, scale))
            self._originals[which, scale] = x0
        return self._originals[which, scale]

    def masked(self, which: int, scale: float, strength_map: NDArray[np.float32]) -> torch.Tensor:
        """Latents of a picture with mid grey in place of what is repainted."""
        if self.inputs.latents is not None:
            raise InputError("a 9-channel strategy needs pixels; latents were given as image.")
        keep = torch.from_numpy((strength_map == 0).astype(np.float32))
        with self.clock.phase("encode"):
            return self.backbone.encode(self._pixels(which, scale) * keep)

    def rescaled(self, which: int, latents: torch.Tensor, scale: float) -> torch.Tensor:
        """A stage's result brought to another size, with the original's own pixels where nothing
        is repainted.
        """
        target = self._pixels(which, scale)
        strength_map = self.inputs.scaled_map(which, scale, self.backbone.align)
        changed = torch.from_numpy(strength_map > 0)
        with self.clock.phase("encode"):
            pixels = _resize(self.backbone.decode(latents).float().cpu(), target.shape[-2:])
            return self.backbone.encode(torch.where(changed, pixels.clamp(-1, 1), target))

    def _pixels(self, which: int, scale: float) -> torch.Tensor:
        size = self.inputs.scaled_size(scale, self.backbone.align)
        return _resize(self.inputs.tensors[which], size)


def _resize(pixels: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """``pixels`` (b c h w) at ``size`` (height, width), bicubic with antialiasing."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)


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
            maps = _load_maps(request, size, count)
            if request.expand is not None:
                pictures, maps = _expanded(pictures, maps, request.expand)
                size = pictures[0].size
        else:
            count, _, height, width = latents.shape
            size, align = (width * backbone.cell, height * backbone.cell), backbone.cell
            if request.expand is not None:
                raise InputError("expand needs pixels; latents were given as image.")
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

    def scene(self, backbone: Backbone, request: EditRequest) -> Scene:
        """What controls need to know of the pictures."""
        width, height = self.size
        left, top, right, bottom = request.expand or (0, 0, 0, 0)
        return Scene(
            self.size,
            None if self.pictures is None else [picture.rgb for picture in self.pictures],
            self.maps,
            backbone.align if self.latents is None else backbone.cell,
            Box(left, top, width - right, height - bottom),
        )

    def scaled_size(self, scale: float, align: int) -> tuple[int, int]:
        """(height, width) of the padded picture at ``scale``, multiples of ``align``."""
        height, width = self.padded_maps[0].shape
        if scale == 1:
            return height, width
        return tuple(max(1, round(side * scale / align)) * align for side in (height, width))

    def scaled_map(self, which: int, scale: float, align: int) -> NDArray[np.float32]:
        """A picture's padded map at ``scale``; a hard one grows, so that nothing is lost."""
        strength_map = self.padded_maps[which % len(self.padded_maps)]
        height, width = self.scaled_size(scale, align)
        if strength_map.shape == (height, width):
            return strength_map
        resized = cv2.resize(strength_map, (width, height), interpolation=cv2.INTER_AREA)
        if is_hard(strength_map):
            resized = np.ceil(resized)
        return np.asarray(resized, dtype=np.float32).clip(0, 1)


def _expanded(
    pictures: list[Picture], maps: list[NDArray[np.float32]], by: tuple[int, int, int, int]
) -> tuple[list[Picture], list[NDArray[np.float32]]]:
    """Grow canvas and maps. The new area mirrors the picture and is repainted fully."""
    left, top, right, bottom = by
    sides = ((top, bottom), (left, right))
    grown = [
        Picture(
            np.pad(picture.rgb, (*sides, (0, 0)), mode="symmetric"),
            None if picture.alpha is None else np.pad(picture.alpha, sides, constant_values=255),
            picture.info,
        )
        for picture in pictures
    ]
    return grown, [np.pad(each, sides, constant_values=1.0) for each in maps]


def schedule_maker(
    backbone: Backbone, request: EditRequest, *, parity: bool = False
) -> Callable[..., Schedule]:
    """Makes fresh schedules, one for each job: schedulers keep state. Takes a stage's strength."""

    def make(strength: float = 1.0) -> Schedule:
        return Schedule(
            fresh_scheduler(request.scheduler, backbone.pipe.scheduler),
            request.num_inference_steps,
            request.strength * strength,
            device=backbone.device,
            eta=request.eta,
            parity=parity,
            denoising_start=request.denoising_start,
            denoising_end=request.denoising_end,
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
    if request.mask is None and request.strength_map is None:
        return [np.zeros((size[1], size[0]), np.float32)]
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
        first = draw_seed() if request.seed is None else int(request.seed)
        seeds = [first + i for i in range(count)]
    # Drawn on the CPU, so that a seed means the same picture on every device.
    return seeds, [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_seed() -> int:
    """A seed for who gives none."""
    return secrets.randbelow(2**31)
