"""From a checked request to jobs, and from their latents to pictures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from engine.denoise.companions import HeldOutside, Lockstep
from engine.denoise.guidance import Guidance, Unguided, branches_of
from engine.denoise.job import Job, Observer
from engine.denoise.strategy import AnyStrategy, Stage, Strategy, StrategyContext
from engine.edit.inputs import Inputs, View, resize_pixels, underlay
from engine.errors import InputError
from engine.picture.colour import COLOURS, match_colours, restore_round_trip
from engine.picture.fill import choose_prefill, find_prefill
from engine.picture.geometry import Box, crop
from engine.picture.masks import is_hard, to_latent_grid
from engine.picture.paste import stitch
from engine.picture.pixels import to_pixels
from engine.request.fields import SEEDS
from engine.solvers.names import fresh_scheduler
from engine.solvers.schedule import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from controls import Control
    from engine.models import Backbone
    from engine.picture.crop import Region
    from engine.picture.read import Picture
    from engine.request.request import EditRequest
    from engine.types import Conditioning, Snapshot


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
    regions: list[list[Region]]
    """Of each map, in the order of a picture's jobs."""
    alphas: list[NDArray[np.float32]] = field(default_factory=list)
    """The paste's opacity, one for each picture."""
    prefilled: Mapping[str, str] = field(default_factory=dict)
    """What each strategy's jobs started from, by its name."""
    paste_rule: str = "alpha"
    originals: Callable[[int, int], torch.Tensor] | None = None
    """Of a picture's number and its region's: the clean latents that were encoded."""
    _round_trips: dict[tuple[int, int], NDArray[np.uint8]] = field(default_factory=dict, init=False)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.strength_maps[0].shape
        return width, height

    @property
    def strength_map(self) -> NDArray[np.float32]:
        return self.strength_maps[0]

    @property
    def original(self) -> Any:
        if self.pictures is None:
            return Image.new("RGB", self.size, "grey")
        return self.pictures[0].to_pil()

    def describe_regions(self) -> list[list[int]]:
        """The first map's regions: left, top, right and bottom, then the size of editing."""
        return [
            [each.box.left, each.box.top, each.box.right, each.box.bottom, *each.size]
            for each in self.regions[0]
        ]

    def finish(
        self, jobs: Sequence[Job], request: EditRequest, clock: Clock
    ) -> tuple[Any, torch.Tensor | None]:
        """Decode the jobs' latents and paste each region over its original.

        ``jobs``: one strategy's last ones, in the order in which they were made.
        """
        own = [_own(job.latents) for job in jobs]
        of_one_size = len({each.shape for each in own}) == 1
        latents = torch.cat(own) if of_one_size else None
        if request.output_type == "latent":
            return latents, latents
        finished: list[NDArray[np.uint8]] = []
        images: list[Image.Image] = []
        queue = iter(jobs)
        while len(finished) < len(self.seeds):
            which = len(finished) // request.num_images
            picture = self.pictures[which] if self.pictures is not None else None
            width, height = self.size
            canvas = np.zeros((height, width, 3), np.uint8)
            if picture:
                canvas = underlay(picture.rgb, request.expand)
            regions = enumerate(self.regions[which % len(self.regions)])
            for (number, region), job in zip(regions, queue, strict=False):
                with clock.phase("decode"), torch.no_grad():
                    # One at a time: memory, and the same bits whatever else is in the request.
                    pixels = self._decoded(_own(job.latents), region)
                    lossy = self._round_trip(which, number, request)
                with clock.phase("paste"):
                    pixels = self._matched(pixels, lossy, which, region, request)
                    canvas = self._stitched(canvas, pixels, which, region, job)
            finished.append(canvas)
            images.append(picture.to_pil(canvas) if picture else Image.fromarray(canvas))
        if request.output_type == "np":
            return np.stack(finished).astype(np.float32) / 255.0, latents
        return images, latents

    def _decoded(self, latents: torch.Tensor, region: Region) -> NDArray[np.uint8]:
        """Pixels (H W 3) of a region's latents, at the size of its box."""
        pixels = self.backbone.decode(latents)
        if region.scaled:
            pixels = resize_pixels(pixels.float(), (region.box.height, region.box.width))
        return crop(to_pixels(pixels)[0], Box(0, 0, region.box.width, region.box.height))

    def _round_trip(
        self, which: int, number: int, request: EditRequest
    ) -> NDArray[np.uint8] | None:
        """A region's original encoded and decoded, once for all strategies, where its map is soft:
        under a hard one what is kept is pasted anyway, and a decode would be spent for nothing.
        """
        region = self.regions[which % len(self.regions)][number]
        strength_map = crop(self.strength_maps[which % len(self.strength_maps)], region.box)
        restored = COLOURS.get(request.colour).round_trip
        if not restored or self.originals is None or is_hard(strength_map):
            return None
        if (which, number) not in self._round_trips:
            latents = self.originals(which, number)
            self._round_trips[which, number] = self._decoded(latents, region)
        return self._round_trips[which, number]

    def _matched(
        self,
        pixels: NDArray[np.uint8],
        lossy: NDArray[np.uint8] | None,
        which: int,
        region: Region,
        request: EditRequest,
    ) -> NDArray[np.uint8]:
        """A region's ``pixels`` (H W 3) with their colour error taken out."""
        if self.pictures is None:
            return pixels
        rgb, box = self.pictures[which].rgb, region.box
        strength_map = crop(self.strength_maps[which % len(self.strength_maps)], box)
        if lossy is not None:
            pixels = restore_round_trip(pixels, crop(rgb, box), lossy, strength_map)
        return match_colours(
            pixels,
            crop(underlay(rgb, request.expand), box),
            strength_map,
            alpha=crop(self.alphas[which], box),
            method=request.colour,
            cell=self.backbone.cell * box.width / region.size[0],
        )

    def _stitched(
        self,
        canvas: NDArray[np.uint8],
        pixels: NDArray[np.uint8],
        which: int,
        region: Region,
        job: Job,
    ) -> NDArray[np.uint8]:
        """``canvas`` (H W 3) with a region's ``pixels`` pasted into its box."""
        under = crop(canvas, region.box)
        if self.pictures is not None:
            alpha = crop(self.alphas[which], region.box)
            if region.own is not None:
                alpha *= region.own
            if (adapted := self._adapted_alpha(job, region)) is not None:
                alpha *= adapted
            pixels = stitch(self.paste_rule, under, pixels, alpha)
        stitched = canvas.copy()
        box = region.box
        stitched[box.top : box.bottom, box.left : box.right] = pixels
        return stitched

    def _adapted_alpha(self, job: Job, region: Region) -> NDArray[np.float32] | None:
        """The paste opacity (H W, of the box) that the strategy asks for, if it does. Not after
        several stages: the last one knows only its own change, not the first one's.
        """
        if job not in self.jobs:
            return None
        alpha = job.strategy.paste_alpha(job.state, job.latents)
        if alpha is None:
            return None
        cell, box = self.backbone.cell, region.box
        size = (alpha.shape[-1] * cell, alpha.shape[-2] * cell)
        smooth = cv2.resize(
            _own(alpha)[0, 0].float().cpu().numpy(),
            (box.width, box.height) if region.scaled else size,
            interpolation=cv2.INTER_LINEAR,
        )
        return crop(np.asarray(smooth, np.float32).clip(0, 1), Box(0, 0, box.width, box.height))


def _own(rows: torch.Tensor) -> torch.Tensor:
    """A job's picture (1 ...), without its companions."""
    return rows[-1:]


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
    inputs = Inputs.of(request, backbone)
    make_schedule = ScheduleMaker(backbone, request)
    for strategy in strategies:
        for stage in strategy.stages:
            make_schedule.check(stage.strength)
    seeds, generators = _generators(request, inputs.count * request.num_images)
    desk = _Desk(backbone, request, inputs, make_schedule, clock, admit)
    scene = inputs.scene(request)
    asked = check_references(request.ip_adapter_image)
    desk.references = ReferenceStack.of(asked, backbone, scene)
    for strategy in strategies:
        several = controls.get(strategy.name, ())
        desk.stacks[strategy.name] = ControlStack.of(
            several, backbone, scene, guess_mode=request.guess_mode
        )
    jobs = []
    with torch.no_grad():
        with clock.phase("text"):
            for strategy in strategies:
                for stage in strategy.stages:
                    for view in inputs.views:
                        desk.conditioning(stage, view)
        for strategy in strategies:
            for i, generator in enumerate(generators):
                # Every strategy starts from the same draws.
                own = generator if len(strategies) == 1 else generator.clone_state()
                views = inputs.views_of(i // request.num_images)
                for view, each in zip(views, _divide(own, len(views)), strict=True):
                    jobs.append(desk.job(strategy, 0, i, view, each))
    return Plan(
        backbone,
        jobs,
        seeds,
        inputs.pictures,
        inputs.maps,
        inputs.regions,
        inputs.alphas,
        {strategy.name: desk.prefill_of(strategy) for strategy in strategies},
        request.paste,
        desk.original_of if inputs.pictures is not None else None,
    )


class _Desk:
    """Makes the jobs of one request; what they share is computed once."""

    def __init__(
        self,
        backbone: Backbone,
        request: EditRequest,
        inputs: Inputs,
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
            tuple[tuple[int, int], float | None, Box | None],
            tuple[Conditioning, Conditioning | None],
        ] = {}
        self._originals: dict[tuple[View, float], torch.Tensor] = {}
        self._filled: dict[tuple[View, float, str], torch.Tensor] = {}
        self.admit = admit or self._skip_held
        self.stacks: dict[str, ControlStack] = {}
        """The controls of each strategy's jobs, by its name."""
        self.references: ReferenceStack | None = None

    def _guidance(self, stage: Stage) -> Guidance:
        if self.guidance.scale <= 1 or stage.guidance == 1:
            return self.guidance
        scale = 1 + stage.guidance * (self.guidance.scale - 1)
        return replace(self.guidance, scale=scale)

    def _skip_held(self, job: Job) -> None:
        if self.request.skip:
            job.skip_to(job.first_needed())

    def job(
        self, strategy: AnyStrategy, number: int, image: int, view: View, generator: Any
    ) -> Job:
        """The job of stage ``number`` for one view of a picture, from its original."""
        stage = strategy.stages[number]
        stack = self.stack(strategy, view)
        x0 = self.original(view, stage.scale)
        start = None
        if stage.strategy.start != "noise" and self.request.latents is None:
            start = self.filled(self.prefill_of(strategy), view, stage.scale)
        if stack.companions:
            rows = stack.companions + 1
            x0, generator = x0.repeat(rows, 1, 1, 1), Lockstep.of(generator, rows)
        return self._job(strategy, number, image, view, generator, stack, x0, start)

    def stack(self, strategy: AnyStrategy, view: View) -> ControlStack:
        """The controls of a strategy's jobs for one view."""
        whole = self.stacks[strategy.name]
        if not whole.entries:
            return whole
        grid = torch.from_numpy(to_latent_grid(view.strength_map, self.backbone.cell))[None, None]
        schedules = [self.make_schedule(stage.strength) for stage in strategy.stages]
        return whole.cut(view.box, grid > 0, schedules)

    def prefill_of(self, strategy: AnyStrategy) -> str:
        """The name of what a strategy's hole is filled with before its first step."""
        if self.request.prefill != "auto":
            return self.request.prefill
        if self.inputs.latents is not None:
            return "original"
        if strategy.prefill == "background":
            return self.backbone.background_fill
        if strategy.prefill != "auto":
            return strategy.prefill
        first = strategy.stages[0]
        return choose_prefill(self.inputs.maps, self.request.strength * first.strength)

    def _job(
        self,
        strategy: AnyStrategy,
        number: int,
        image: int,
        view: View,
        generator: Any,
        stack: ControlStack,
        x0: torch.Tensor,
        start: torch.Tensor | None = None,
    ) -> Job:
        """``stack``: the view's controls; ``x0``: the clean latents of what is held, for each of
        its rows; ``start``: of what the run starts from, where that is something else.
        """
        stage = strategy.stages[number]
        network = self.backbone.network(stage.strategy.network)
        strength_map = view.map_at(stage.scale, self.backbone.align)
        grid = torch.from_numpy(to_latent_grid(strength_map, self.backbone.cell))[None, None]
        schedule = self.make_schedule(stage.strength)
        context = StrategyContext(
            schedule=schedule,
            init_latents=x0,
            noise=randn_tensor(x0.shape, generator, device=x0.device, dtype=x0.dtype),
            strength_map=grid.to(x0),
            network=stage.strategy.network,
            masked_image_latents=lambda: self.masked(view, stage.scale, strength_map),
        )
        parts, state = stage.strategy, stage.strategy.prepare(context)
        cond, uncond = self.conditioning(stage, view)
        rows = stack.companions + 1
        if stack.companions:
            parts = replace(parts, parts=(*parts.parts, HeldOutside()))
            state = (*state, stack.regions(x0.shape[-2:]))
            cond, uncond = cond.repeat(rows), None if uncond is None else uncond.repeat(rows)

        def follow(finished: Job) -> Job:
            following = strategy.stages[number + 1]
            x0 = finished.latents
            if following.scale != stage.scale:
                x0 = self.rescaled(view, x0, following.scale)
            return self._job(strategy, number + 1, image, view, generator, stack, x0)

        job = Job(
            name=strategy.name,
            network=network,
            schedule=schedule,
            strategy=parts,
            state=state,
            latents=self._start(stage.strategy, context, x0 if start is None else start),
            branches=branches_of(cond, uncond),
            guidance=Unguided() if uncond is None else self._guidance(stage),
            generator=generator,
            controls=stack.bind(
                schedule,
                guided=uncond is not None,
                which=view.picture,
                rows=rows,
                size=strength_map.shape,
            ),
            observer=self._observer(),
            image=image,
            follow=follow if number + 1 < len(strategy.stages) else None,
        )
        self.admit(job)
        return job

    def _observer(self) -> Observer | None:
        """The caller's callback, which is shown the picture alone."""
        callback = self.request.callback
        if callback is None:
            return None

        def observe(shot: Snapshot) -> Any:
            denoised = None if shot.denoised is None else _own(shot.denoised)
            return callback(replace(shot, latents=_own(shot.latents), denoised=denoised))

        return observe

    def _start(
        self, strategy: Strategy, context: StrategyContext, x0: torch.Tensor
    ) -> torch.Tensor:
        if self.request.latents is not None:
            given: torch.Tensor = self.request.latents.to(context.init_latents)
            needed = _own(context.init_latents).shape
            if given.shape != needed:
                raise InputError(
                    f"latents of shape {tuple(given.shape)} given; this picture's are "
                    f"{tuple(needed)}."
                )
            return given.repeat(len(context.init_latents), 1, 1, 1)
        if strategy.start == "noise":
            return context.schedule.start_from_noise(context.noise)
        return context.schedule.start(x0, context.noise)

    def conditioning(self, stage: Stage, view: View) -> tuple[Conditioning, Conditioning | None]:
        """Text and references, encoded once for each size of picture."""
        network = self.backbone.network(stage.strategy.network)
        size = view.size_at(stage.scale, self.backbone.align)
        embedded_scale = self._guidance(stage).scale if network.embeds_guidance else None
        key = (size, embedded_scale, view.box if self.references else None)
        if key not in self._texts:
            cond, uncond = self.backbone.encode_prompt(
                self.request.text,
                self.request.negative_text,
                guided=self.guidance.active and not network.embeds_guidance,
                size=size,
            )
            if embedded_scale is not None:
                cond = network.with_guidance(cond, embedded_scale)
            if self.references is not None:
                cond, uncond = self.references.join(cond, uncond, size=size, box=view.box)
            self._texts[key] = cond, uncond
        return self._texts[key]

    def original(self, view: View, scale: float) -> torch.Tensor:
        """Clean latents (1 c h w) of a view, encoded once for each size."""
        if (view, scale) not in self._originals:
            with self.clock.phase("encode"):
                if self.inputs.latents is not None:
                    if scale != 1:
                        raise InputError("stages of other scales need pixels; latents were given.")
                    x0 = self.inputs.latents[view.picture : view.picture + 1]
                    x0 = x0.to(self.backbone.device, self.backbone.dtype)
                else:
                    x0 = self.backbone.encode(self._pixels(view, scale))
            self._originals[view, scale] = x0
        return self._originals[view, scale]

    def original_of(self, which: int, number: int) -> torch.Tensor:
        """The same by the numbers of a picture and of its region."""
        return self.original(self.inputs.views_of(which)[number], 1)

    def filled(self, name: str, view: View, scale: float) -> torch.Tensor:
        """Clean latents (1 c h w) of a view whose hole is prefilled, made once for each size."""
        if name == "original":
            return self.original(view, scale)
        key = (view, scale, name)
        if key not in self._filled:
            with self.clock.phase("encode"):
                pixels = self.inputs.filled(view, find_prefill(name))
                size = view.size_at(scale, self.backbone.align)
                self._filled[key] = self.backbone.encode(resize_pixels(pixels, size))
        return self._filled[key]

    def masked(self, view: View, scale: float, strength_map: NDArray[np.float32]) -> torch.Tensor:
        """Latents of a view with mid grey in place of what is repainted."""
        if self.inputs.latents is not None:
            raise InputError("a 9-channel strategy needs pixels; latents were given as image.")
        keep = torch.from_numpy((strength_map == 0).astype(np.float32))
        with self.clock.phase("encode"):
            return self.backbone.encode(self._pixels(view, scale) * keep)

    def rescaled(self, view: View, latents: torch.Tensor, scale: float) -> torch.Tensor:
        """A stage's result brought to another size, with the original's own pixels where nothing
        is repainted.
        """
        target = self._pixels(view, scale)
        changed = torch.from_numpy(view.map_at(scale, self.backbone.align) > 0)
        with self.clock.phase("encode"):
            # One at a time, as in Plan.finish.
            decoded = [self.backbone.decode(each).float().cpu() for each in latents.split(1)]
            resized = [resize_pixels(each, target.shape[-2:]).clamp(-1, 1) for each in decoded]
            return torch.cat(
                [self.backbone.encode(each.where(changed, target)) for each in resized]
            )

    def _pixels(self, view: View, scale: float) -> torch.Tensor:
        return resize_pixels(view.pixels, view.size_at(scale, self.backbone.align))


class ScheduleMaker:
    """Makes fresh schedules, one for each job: schedulers keep state."""

    def __init__(self, backbone: Backbone, request: EditRequest, *, parity: bool = False) -> None:
        self.backbone, self.request, self.parity = backbone, request, parity
        self._spare: dict[float, Schedule] = {}

    def check(self, strength: float) -> None:
        """Refuse bad numbers before any model work; the schedule is kept for who asks first."""
        if strength not in self._spare:
            self._spare[strength] = self(strength)

    def __call__(self, strength: float = 1.0) -> Schedule:
        """``strength``: the stage's, in (0, 1]."""
        if strength in self._spare:
            return self._spare.pop(strength)
        request = self.request
        return Schedule(
            fresh_scheduler(request.scheduler, self.backbone.pipe.scheduler),
            request.num_inference_steps,
            request.strength * strength,
            device=self.backbone.device,
            eta=request.eta,
            parity=self.parity,
            denoising_start=request.denoising_start,
            denoising_end=request.denoising_end,
        )


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
        seeds = [(first + i) % SEEDS for i in range(count)]
    # Drawn on the CPU, so that a seed means the same picture on every device.
    return seeds, [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_seed() -> int:
    """A seed for who gives none."""
    return secrets.randbelow(2**31)


def _divide(generator: Any, count: int) -> list[Any]:
    """A generator for each of a picture's ``count`` regions: its own for the first, and for each
    further one a new generator, seeded by a copy of it (so that its own draws stay the same).
    """
    if count == 1:
        return [generator]
    copy = generator.clone_state()
    seeds = torch.randint(2**63 - 1, (count - 1,), generator=copy, device=copy.device).tolist()
    return [generator, *(torch.Generator(copy.device).manual_seed(seed) for seed in seeds)]
