"""From a request to its jobs: noise, start, strategy's state, conditioning and controls of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from controls.steering import Place, Steering, steering_of
from engine.denoise.companions import HeldOutside, Lockstep
from engine.denoise.guidance import UNCOND, Unguided, branches_of
from engine.denoise.job import Job
from engine.denoise.strategy import Stage, Strategy, StrategyContext
from engine.edit.after import Decoded, decoded, finishing, own_row
from engine.edit.coupling import repeated
from engine.edit.look import sight
from engine.edit.memory import Memory
from engine.edit.prepared import Prepared
from engine.edit.seeds import divide
from engine.edit.shared import Shared
from engine.edit.stages import stages_for, stages_of
from engine.errors import InputError, setting
from engine.models.unheard import PromptWarning
from engine.picture.fill import choose_prefill
from engine.picture.geometry import Size
from engine.picture.masks import to_latent_grid
from engine.request.fields import SEEDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from engine.denoise.guidance import Guidance, Guider
    from engine.edit.coupling import Coupling
    from engine.edit.look import Sight
    from engine.edit.views import View
    from engine.models import Backbone
    from engine.request.request import EditRequest
    from engine.solvers.schedule import Schedule
    from engine.types import Conditioning


def prepare_edits(
    backbone: Backbone, requests: Sequence[EditRequest], memory: Memory | None = None
) -> list[PreparedEdit]:
    """Read and check requests that differ in strategy, options, controls and seed only. What they
    have in common is made once; those of one seed start from the same draws.

    Raises:
        InputError: bad input in one of them; no network was called.
    """
    shared = Shared(backbone, requests[0], memory or Memory())
    alone = len(requests) == 1
    return [PreparedEdit(shared.seeded(request), request, alone=alone) for request in requests]


class PreparedEdit(Prepared):
    """An edit in the engine's own mode.

    Args:
        shared: of the request, and of others that differ from it in strategy and controls only.
        request: with the strategy.
        alone: nobody else has ``shared``: the edit draws from its generators themselves.
        coupling: the regions that share its run, where there are several.
    """

    def __init__(
        self,
        shared: Shared,
        request: EditRequest,
        *,
        alone: bool = True,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__(shared.backbone, request)
        if any(stage.model for stage in self.strategy.stages):
            raise InputError("stages of several models are edits by themselves, without others.")
        self.name = self.strategy.name
        self.then: Callable[[View, Job], Job | None] | None = None
        """Makes the job that follows the last stage's, on another model."""
        self.coupling = coupling
        self.shared = shared
        self.alone = alone
        self.stages = stages_for(request, self.strategy.stages)
        self.seeds = shared.seeds
        if request.strength * request.num_inference_steps < 1 and not request.exact_steps:
            warnings.warn(
                f"strength {request.strength:g} of {request.num_inference_steps} steps is less "
                "than one step: one is run. More steps make such a strength finer.",
                stacklevel=2,
            )
        self._warn_of_what_is_not_read()
        for view in shared.inputs.views:
            _check_reach(self.backbone, shared.size_at(view, 1.0))
        steps = [
            shared.schedules.steps(stage.strength, shared.size_at(view, stage.scale))
            for view in shared.inputs.views
            for stage in stages_of(self.stages, view)
        ]
        self.steps = sum(steps) * request.num_images
        self.steering = steering_of(
            self.controls,
            shared.references,
            self.backbone,
            shared.canvas,
            guess_mode=request.guess_mode,
        )
        self.prefilled = self._choose_prefill()

    def _warn_of_what_is_not_read(self) -> None:
        """Warn of settings of the texts that have no effect on this model."""
        request, backbone = self.request, self.backbone
        without = []
        if request.negative_text and not self._reads_both():
            told = "is told the guidance scale" if backbone.main.embeds_guidance else ""
            why = told or f"is not guided by a scale of {request.guidance_scale:g}"
            without.append(
                f"the negative prompt has no effect: {backbone.family.description} {why}"
            )
        if request.clip_skip and not backbone.text.skips:
            way = setting("clip_skip")
            without.append(f"{way} has no effect: {backbone.family.description} reads all layers")
        for each in without:
            warnings.warn(PromptWarning(each), stacklevel=3)

    @property
    def original(self) -> Image.Image:
        return self.shared.inputs.original

    @property
    def strength_map(self) -> NDArray[np.float32]:
        return self.shared.inputs.maps[0]

    @property
    def regions(self) -> list[list[int]]:
        return [
            [each.box.left, each.box.top, each.box.right, each.box.bottom, *each.size]
            for each in self.shared.inputs.regions[0]
        ]

    def start(self) -> list[Job]:
        jobs = []
        with torch.no_grad():
            for output, generator in enumerate(self.shared.generators):
                own = generator if self.alone else generator.clone_state()
                views = self.shared.inputs.views_of(output // self.request.num_images)
                for view, each in zip(views, divide(own, len(views)), strict=True):
                    jobs.append(self._first_job(output, view, each))
        return jobs

    def finishing(
        self, chains: Sequence[Sequence[Job]]
    ) -> Callable[[], tuple[Any, torch.Tensor | None]]:
        return finishing(self.shared, chains, self.clock, self.prefilled)

    def decoded(
        self, chains: Sequence[Sequence[Job]], pixels: Mapping[int, NDArray[np.uint8]]
    ) -> list[Decoded]:
        """Its views as the model has made them; ``pixels``: what is decoded already."""
        return decoded(self.shared, chains, self.clock, self.prefilled, pixels)

    @property
    def can_be_seen(self) -> bool:
        return self.shared.inputs.pictures is not None

    def sight(self, clean: Sequence[torch.Tensor]) -> Sight:
        shares = () if self.coupling is None else self.coupling.shares
        texts = [share.prompt for share in shares] or [self.request.text]
        return sight(self.shared, [own_row(latents) for latents in clean], texts)

    # Jobs --------------------------------------------------------------------------------------

    def _first_job(self, output: int, view: View, generator: Any) -> Job:
        """The first stage's job for one view of a picture, from its original.

        ``output``: which of the pictures that are made it is for.
        """
        stage = stages_of(self.stages, view)[0]
        steering = self._steering_of(view)
        with self.clock.phase("encode"):
            x0 = start = self.shared.original(view, stage.scale)
            if stage.strategy.start != "noise" and self.request.latents is None:
                start = self.shared.filled(self.prefilled or "original", view, stage.scale)
        if steering.companions:
            rows = steering.companions + 1
            x0, generator = x0.repeat(rows, 1, 1, 1), Lockstep.of(generator, rows)
        return self._job(0, output, view, generator, steering, x0, start)

    def _job(
        self,
        number: int,
        output: int,
        view: View,
        generator: Any,
        steering: Steering,
        x0: torch.Tensor,
        start: torch.Tensor,
    ) -> Job:
        """The job of stage ``number``.

        Args:
            number: of the stage.
            output: which of the pictures that are made it is for.
            view: of the picture that it is made of.
            generator: of its noise.
            steering: the view's.
            x0: the clean latents of what is held, for each of its rows: b c h w.
            start: those of what the run starts from.
        """
        stages = stages_of(self.stages, view)
        # What the controls asked for is laid out by the time that a region is gone over.
        stage, refining = stages[number], number == len(self.strategy.stages)
        steering = steering.without_controls() if refining else steering
        rows = steering.companions + 1
        strength_map = self.shared.map_at(view, stage.scale)
        context = self._context(stage, view, strength_map, generator, x0, output)
        parts, state = stage.strategy, stage.strategy.prepare(context)
        guidance = self._guidance(stage)
        network = self.backbone.network(stage.strategy.network)
        size = self.shared.size_at(view, stage.scale)
        if refining:
            network, size = self.shared.tiled(network)
        with self.clock.phase("text"):
            branches, guide = self._told(network, guidance, size, None if refining else view, stage)
        if not refining:
            branches, guide = parts.told(state, branches, guide)
        if self.request.instruct and not refining:
            shown = self.shared.original(view, stage.scale)
            branches = {k: network.with_reference(each, shown) for k, each in branches.items()}
        if rows > 1:
            parts = replace(parts, parts=(*parts.parts, HeldOutside()))
            state = (*state, steering.regions(x0.shape[-2:]))
        asked = {name for at in _progress(context.schedule) for name in guide.at(at).branches}
        guided = any(name.partition(".")[0] == UNCOND for name in asked)
        place = Place(
            Size.of(strength_map.shape),
            view.source,
            view.box,
            rows,
            guided,
            self.shared.encode,
        )
        bound = steering.bind(place, context.schedule)
        follow: Callable[[Job], Job | None] | None = self.then and partial(self.then, view)
        if number + 1 < len(stages):
            follow = partial(self._follow, number, view, steering)
        job = Job(
            name=self.name,
            network=network,
            schedule=context.schedule,
            strategy=parts,
            state=state,
            latents=self._start_of(stage.strategy, context, start),
            branches=bound.joined(repeated(branches, rows)),
            guidance=guide,
            generator=generator,
            controls=bound.residuals,
            observer=self.observer(own_row),
            output=output,
            follow=follow,
        )
        job.judged = self.judged
        self.shared.memory.admit(job, skip=self.request.skip)
        return job

    def taken_over(self, view: View, finished: Job, made: torch.Tensor) -> Job:
        """The first stage's job for a view, from what another model's ``finished`` job has ``made``
        of it: pixels, 1 3 H W in [-1, 1].
        """
        with self.clock.phase("encode"):
            held = self.shared.received(view, made, stages_of(self.stages, view)[0].scale)
        steering = self._steering_of(view)
        return self._job(0, finished.output, view, finished.generator, steering, held, held)

    def _told(
        self, network: Any, guidance: Guidance, size: Size, view: View | None, stage: Stage
    ) -> tuple[Mapping[str, Conditioning], Guider]:
        """A job's branches, 1 row each, and how it is guided; ``view``: None where no region's own
        prompt counts.
        """
        shown = view if self.request.instruct else None
        own = self.shared.conditioning(network, guidance.scale, size, shown=shown)
        if self.coupling is None or view is None:
            return branches_of(*own), guidance if own[1] is not None else Unguided()
        others = [
            self.shared.conditioning(
                network,
                guidance.scale,
                size,
                (share.prompt, share.negative_prompt),
                shown,
                model=share.model,
            )
            for share in self.coupling.shares
        ]
        return self.coupling.told([own, *others], self._weights(view, stage.scale), guidance)

    def _weights(self, view: View, scale: float) -> torch.Tensor:
        """How much each region counts, see :meth:`Coupling.weights`."""
        assert self.coupling is not None  # noqa: S101 - the caller asked
        size = self.shared.size_at(view, scale)
        weights = self.coupling.weights(view, size, self.backbone.cell, self.backbone.align)
        return weights.to(self.backbone.device)

    def _follow(self, number: int, view: View, steering: Steering, finished: Job) -> Job:
        """The job of the stage after ``number``, whose job is ``finished``."""
        stages, held, draws = stages_of(self.stages, view), finished.latents, finished.generator
        if steering.companions and number + 1 == len(self.strategy.stages):
            held, draws = own_row(held), draws[-1]
        if (scale := stages[number + 1].scale) != stages[number].scale:
            with self.clock.phase("encode"):
                held = self.shared.rescaled(view, held, scale)
        return self._job(number + 1, finished.output, view, draws, steering, held, held)

    def _context(
        self,
        stage: Stage,
        view: View,
        strength_map: NDArray[np.float32],
        generator: Any,
        x0: torch.Tensor,
        output: int,
    ) -> StrategyContext:
        """What a strategy is told. ``strength_map``: H W; ``x0``: b c h w, of what is held."""
        grid = torch.from_numpy(to_latent_grid(strength_map, self.backbone.cell))[None, None]

        def masked_image_latents() -> torch.Tensor:
            with self.clock.phase("encode"):
                return self.shared.masked(view, stage.scale, strength_map)

        noise = randn_tensor(x0.shape, generator, device=x0.device, dtype=x0.dtype)
        if self.coupling is not None:
            first = own_row(x0)

            def drawn(seed: int) -> torch.Tensor:
                own = torch.Generator("cpu").manual_seed((seed + output) % SEEDS)
                draws: torch.Tensor = randn_tensor(
                    first.shape, own, device=x0.device, dtype=x0.dtype
                )
                return draws

            noise = self.coupling.noise(noise, self._weights(view, stage.scale), drawn)
        return StrategyContext(
            schedule=self.shared.schedules(stage.strength, Size.of(strength_map.shape)),
            init_latents=x0,
            noise=noise,
            strength_map=grid.to(x0),
            network=stage.strategy.network,
            masked_image_latents=masked_image_latents,
            map_pixels=lambda: torch.from_numpy(strength_map)[None, None].to(x0),
            map_levels=lambda: self.shared.inputs.levels_of(view),
        )

    def _start_of(
        self, strategy: Strategy, context: StrategyContext, start: torch.Tensor
    ) -> torch.Tensor:
        """The noisy latents (b c h w) before the first step, from clean ones."""
        if self.request.latents is not None:
            given: torch.Tensor = self.request.latents.to(context.init_latents)
            needed = own_row(context.init_latents).shape
            if given.shape != needed:
                raise InputError(
                    f"latents of shape {tuple(given.shape)} given; this picture's are "
                    f"{tuple(needed)}."
                )
            return given.repeat(len(context.init_latents), 1, 1, 1)
        if strategy.start == "noise":
            return context.schedule.start_from_noise(context.noise)
        return context.schedule.start(start, context.noise)

    # What a job is made of ---------------------------------------------------------------------

    def _guidance(self, stage: Stage) -> Guidance:
        request = self.request
        return self.backbone.family.guidance(
            request.guidance_scale,
            request.guidance_rescale,
            request.guidance_start,
            request.guidance_end,
        ).weakened(stage.guidance)

    def _steering_of(self, view: View) -> Steering:
        """What steers the jobs for one view."""
        if self.steering.idle:
            return self.steering
        grid = torch.from_numpy(to_latent_grid(view.strength_map, self.backbone.cell))[None, None]
        schedules = [
            self.shared.schedules(stage.strength, self.shared.size_at(view, stage.scale))
            for stage in self.stages
        ]
        return self.steering.cut(view.box, grid > 0, schedules)

    def _choose_prefill(self) -> str:
        """The name of what the hole is filled with before the first step."""
        asked, inputs = self.request.prefill, self.shared.inputs
        if asked != "auto":
            return asked
        if inputs.latents is not None:
            return "original"
        if self.strategy.prefill == "background":
            return self.backbone.background_fill
        if self.strategy.prefill != "auto":
            return self.strategy.prefill
        first = self.stages[0]
        task = self.request.task if first.strategy.network == "base" else "auto"
        return choose_prefill(inputs.maps, self.request.strength * first.strength, task)


def _progress(schedule: Schedule) -> set[float]:
    """The share of a run that lies before each of its steps."""
    return {step.position / schedule.num_steps for step in schedule.steps}


def _check_reach(backbone: Backbone, size: Size) -> None:
    """Raise ``InputError`` if no position is left for some of a canvas of ``size``."""
    most = backbone.main.reach * backbone.cell
    if max(size) > most:
        raise InputError(
            f"this model has positions for {most} px a side, and {size.width} x {size.height} are "
            f"to be edited at once: {setting('region', 'mask')} cuts out what the map asks for."
        )
