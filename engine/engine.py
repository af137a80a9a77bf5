"""InpaintEngine: model, strategies and loop put together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

from controls import Control, check_controls, check_references, split_controls
from engine.denoise.loop import Loop
from engine.denoise.strategy import AnyStrategy
from engine.edit.before import Clock, Plan, draw_seed, prepare_edit
from engine.edit.parity import prepare_like_diffusers
from engine.edit.session import SESSION_BYTES, Session
from engine.edit.strategies import build_strategy
from engine.errors import InputError
from engine.models import Backbone, backbone_for
from engine.models.checkpoints import find_checkpoint
from engine.models.formats.devices import resolve_device, resolve_dtype
from engine.models.formats.folders import (
    default_inpaint_model,
    load_inpaint_unet,
    load_pipeline,
    load_preview_vae,
)
from engine.models.previews import Previewer
from engine.models.speed.optimise import optimise
from engine.request.fields import check_settings
from engine.request.request import EditRequest
from engine.request.result import Comparison, EditResult
from engine.request.signature import takes
from strategies import get_strategy, list_strategies

if TYPE_CHECKING:
    from engine.denoise.job import Job


Asked: TypeAlias = tuple[EditRequest, dict[str, AnyStrategy], dict[str, Any]]
"""A request, its strategies by name, and their options."""


class InpaintEngine:
    """An inpainting engine around one loaded model.

    Make one with :meth:`from_pretrained` or :meth:`from_pipe`.
    """

    def __init__(self, backbone: Backbone, name: str) -> None:
        self.backbone = backbone
        self.name = name

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline underneath, for LoRA, textual inversion, offload and the like."""
        return self.backbone.pipe

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "pocket",
        inpaint_model: str | os.PathLike[str] | None = None,
        dtype: Any = None,
        device: Any = None,
    ) -> InpaintEngine:
        """Load a model.

        Args:
            model: ``"pocket"`` (embedded, needs no download), a diffusers folder, a hub id, or a
                single ``.safetensors`` checkpoint. SDXL, SD 1.x and SD 2.x.
            inpaint_model: where the 9-channel inpainting UNet is, for the strategies that use it.
            dtype: a torch dtype or its name; float16 on a GPU and float32 on the CPU if None.
            device: a torch device or its name; the best that is there if None.

        Raises:
            InputError: a dtype or device that cannot be used.
            ModelError: the model is missing, unreachable or of an unsupported family.
        """
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        inpaint_model = inpaint_model or default_inpaint_model(model)
        pipe = load_pipeline(model, dtype, device)
        inpaint = load_inpaint_unet(inpaint_model, dtype, device) if inpaint_model else None
        backbone = backbone_for(pipe, inpaint)
        backbone.checkpoint = find_checkpoint(model)
        return cls(backbone, str(model))

    @classmethod
    def from_pipe(cls, pipe: Any, inpaint_unet: Any = None) -> InpaintEngine:
        """Share a loaded diffusers pipeline's modules; nothing in it is changed.

        Args:
            pipe: an SDXL or SD pipeline (text-to-image, image-to-image or inpainting).
            inpaint_unet: a 9-channel ``UNet2DConditionModel`` of the same family. Where ``pipe``
                has an IP-Adapter, it is lent that when it is used.

        Raises:
            ModelError: the pipeline or the UNet is of an unsupported kind.
        """
        name = getattr(pipe.config, "_name_or_path", None) or type(pipe).__name__
        return cls(backbone_for(pipe, inpaint_unet), str(name))

    def strategies(self) -> list[str]:
        """Names of the registered strategies that the loaded networks can run and that are for any
        kind of edit.
        """
        infos = [get_strategy(name) for name in list_strategies()]
        able = (each for each in infos if each.network in self.backbone.networks)
        return [each.name for each in able if not each.only]

    @takes(EditRequest)
    def edit(self, **arguments: Any) -> EditResult:
        """Repaint part of a picture.

        diffusers' names of these settings work too (``mask_image``, ``num_images_per_prompt``,
        ``padding_mask_crop``, ``callback_on_step_end``).

        Args:
            {settings}

        Returns:
            The pictures, and everything that was used to make them.

        Raises:
            InputError: bad input; nothing was computed.
            CancelledError: the callback cancelled.
        """
        requests = EditRequest.read(arguments, self.pipe).split()
        asked = [self._built(request) for request in requests]
        results = [next(iter(each.results.values())) for each in self._run_all(asked)]
        return EditResult.joined(results)

    def edit_many(self, edits: Sequence[Mapping[str, Any]]) -> list[EditResult]:
        """Several edits in shared model calls; their pictures, maps and prompts may all differ.

        Args:
            edits: the arguments of :meth:`edit`, once for each edit.

        Returns:
            One result for each edit. Their ``timings`` are those of all edits together, and their
            pixels may differ from single runs in the last bits, as model calls are shared.

        Raises:
            InputError: bad input in one of them; nothing was computed.
        """
        asked = [self._asked(edit) for edit in edits]
        return [next(iter(each.results.values())) for each in self._run_all(asked)]

    def session(
        self, *, max_bytes: int = SESSION_BYTES, store: Any = None, **arguments: Any
    ) -> Session:
        """An edit to be made again and again with changes, as one tunes a strength map.

        Args:
            max_bytes: of latents and scheduler states, beyond which the least recently used renders
                are forgotten. ``session.bytes_per_step`` tells what a step takes.
            store: the device that keeps them (``"cpu"`` spares GPU memory); None is the model's.
            **arguments: as for :meth:`edit`, for all renders; the image and the prompt at least.

        Raises:
            InputError: ``compat``, or arguments that are not :meth:`edit`'s.
        """
        return Session(
            self.backbone, self._asked, self._run, arguments, max_bytes=max_bytes, store=store
        )

    def optimise(self, *options: str) -> InpaintEngine:
        """Make the loaded model faster or smaller, with diffusers' own means; changes its modules.

        Args:
            *options: names of :data:`engine.models.speed.optimise.OPTIMISATIONS`,
                which says what each one gives and costs. None is the level ``"speed"``.

        Raises:
            InputError: an unknown option, or one that this device cannot have.
        """
        optimise(self.backbone, options or ("speed",))
        return self

    def preview_with(self, model: Any) -> InpaintEngine:
        """Make the previews of snapshots with a tiny VAE, which draws shapes; without one they are
        a projection of the latents to colours.

        Args:
            model: a folder or hub id of diffusers' ``AutoencoderTiny`` (``madebyollin/taesdxl``,
                ``madebyollin/taesd``), a loaded one, or None for the projection.

        Raises:
            ModelError: it is missing, unreachable or made for other latents.
        """
        if isinstance(model, str | os.PathLike):
            channels, dtype = self.backbone.latent_channels, self.backbone.dtype
            model = load_preview_vae(model, channels, dtype, self.backbone.device)
        self.backbone.previewer = Previewer(self.backbone, model)
        return self

    def clear_cache(self) -> None:
        """Forget encoded prompts and pictures. New weights and adapters are noticed; this is for
        changes to the model that are neither, and to free memory.
        """
        self.backbone.forget()

    def compare(
        self,
        *,
        strategies: Sequence[str | AnyStrategy] | None = None,
        controls: Any = None,
        **arguments: Any,
    ) -> Comparison:
        """The same picture, prompt and seed through several strategies, in shared model calls.

        Args:
            strategies: names or strategies; all that the model can run if None.
            controls: as for :meth:`edit`; or a mapping of labels to such, each of which every
                strategy is run with, for a result named ``"strategy, label"``.
            **arguments: as for :meth:`edit`, for all of them; a strategy's option goes to those
                that have it. ``compat`` is not accepted.

        Raises:
            InputError: bad input; nothing was computed.
        """
        chosen = self.strategies() if strategies is None else list(strategies)
        if isinstance(strategies, str) or not chosen:
            raise InputError("strategies must be a list of at least one name.")
        sets = controls if isinstance(controls, Mapping) else {"": controls}
        if not sets:
            raise InputError("controls is an empty mapping; give it a label with None for none.")
        if "strategy" in arguments:
            raise InputError("a comparison takes strategies=, a list.")
        request = EditRequest.read(arguments, self.pipe)
        options = dict(request.options)
        if request.compat or request.output_type == "latent":
            raise InputError("compare makes pictures in the engine's own mode only.")
        built = [self._strategy(each, options, partial=True) for each in chosen]
        names = {strategy.name: strategy for strategy in built}
        if len(names) < len(built):
            raise InputError("strategies must not be named twice.")
        used = {key for each in built for key in each.options}
        if unused := set(options) - used:
            check_settings(unused)
            raise InputError(f"no compared strategy has the option {min(unused)!r}.")
        return self._run_with_each(sets, request, names, options)

    def _run_with_each(
        self,
        sets: Mapping[str, Any],
        request: EditRequest,
        strategies: dict[str, AnyStrategy],
        options: dict[str, Any],
    ) -> Comparison:
        """Every strategy with each of the sets of controls, all in one loop."""
        if len(sets) > 1:
            if request.generator is not None:
                raise InputError("several sets of controls take seed=, not generator=.")
            request = replace(request, seed=draw_seed() if request.seed is None else request.seed)
        asked = [(replace(request, controls=each), strategies, options) for each in sets.values()]
        comparisons = self._run_all(asked)
        results = {
            f"{name}, {label}" if label else name: comparison.results[name]
            for name in strategies
            for label, comparison in zip(sets, comparisons, strict=True)
        }
        per_row = len(sets) if len(sets) > 1 else None
        return replace(comparisons[0], results=results, per_row=per_row)

    # --------------------------------------------------------------------------------------------

    def _strategy(
        self, strategy: str | AnyStrategy, options: dict[str, Any], *, partial: bool = False
    ) -> AnyStrategy:
        """Build a strategy and check that its network is loaded."""
        built = build_strategy(strategy, options, partial=partial)
        for stage in built.stages:
            self.backbone.network(stage.strategy.network)
        return built

    def _asked(self, arguments: Mapping[str, Any]) -> Asked:
        """The arguments of :meth:`edit`, checked."""
        return self._built(EditRequest.read(arguments, self.pipe))

    def _built(self, request: EditRequest) -> Asked:
        built = self._strategy(request.strategy, dict(request.options))
        return request, {built.name: built}, dict(request.options)

    def _run(self, asked: Asked, **how: Any) -> Comparison:
        return self._run_all([asked], **how)[0]

    def _run_all(
        self,
        asked: Sequence[Asked],
        backbone: Backbone | None = None,
        admit: Callable[[Job], None] | None = None,
    ) -> list[Comparison]:
        """Run requests, each through its strategies, in one loop."""
        clock, loop = Clock(), Loop()
        plans: list[tuple[Plan, dict[str, tuple[Control, ...]]]] = []
        backbone = backbone or self.backbone
        for given, strategies, _ in asked:
            request = _with_previews(given, backbone)
            controls = {name: _controls_of(name, request) for name in strategies}
            several = list(strategies.values())
            plan: Plan
            if request.compat:
                plan = prepare_like_diffusers(backbone, request, several, clock, controls)
            else:
                plan = prepare_edit(backbone, request, several, clock, controls, admit)
            loop.submit(plan.jobs)
            plans.append((plan, controls))
        with clock.phase("denoise"):
            _run_with_progress(loop, next((each.progress for each, _, _ in asked), False))
        for job in (each for plan, _ in plans for first in plan.jobs for each in first.chain):
            if job.error is not None:
                raise job.error
        comparisons = []
        for (request, strategies, options), (plan, controls) in zip(asked, plans, strict=True):
            results = {}
            for name, strategy in strategies.items():
                chains = [job.chain for job in plan.jobs if job.name == name]
                jobs = [chain[-1] for chain in chains]
                images, latents = plan.finish(jobs, request, clock)
                results[name] = EditResult(
                    images=images,
                    latents=latents,
                    seeds=plan.seeds,
                    settings={
                        **self._settings(request, strategy, options, jobs[0], plan),
                        "controls": [control.describe() for control in controls[name]],
                        "ip_adapter_image": [
                            [each.describe() for each in several]
                            for several in check_references(request.ip_adapter_image)
                        ],
                    },
                    timings={},
                    model_calls=sum(job.calls for chain in chains for job in chain),
                    skipped_calls=_spared(chains, resumed=False),
                    reused_calls=_spared(chains, resumed=True),
                )
            comparisons.append(Comparison(results, plan.original, plan.strength_map, 0.0))
        timings = clock.read()
        for comparison in comparisons:
            for result in comparison.results.values():
                result.timings.update(timings)
        return [replace(each, seconds=timings["total"]) for each in comparisons]

    def _settings(
        self,
        request: EditRequest,
        strategy: AnyStrategy,
        options: dict[str, Any],
        job: Job,
        plan: Plan,
    ) -> dict[str, Any]:
        return {
            "model": self.name,
            "family": self.backbone.family.name,
            "strategy": strategy.name,
            "options": {
                key: value
                for key, value in strategy.options.items()
                if isinstance(value, str | int | float | None)
            },
            **request.recorded(),
            "seeds": plan.seeds,
            "scheduler": request.scheduler
            if isinstance(request.scheduler, str)
            else type(job.schedule.scheduler).__name__,
            "size": list(plan.size),
            "regions": plan.describe_regions(),
            "prefilled": plan.prefilled.get(strategy.name),
            "unheard": self.backbone.unheard(request.text, request.negative_text),
            "map": _kind_of_map(request),
            "device": str(self.backbone.device.type),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "versions": dict(_versions()),
        }


def _controls_of(name: str, request: EditRequest) -> tuple[Control, ...]:
    """The controls of a strategy's run: the request's, then those in the strategy's name."""
    named = split_controls(name, list_strategies())[1]
    return check_controls(request.controls) + check_controls(named)


def _with_previews(request: EditRequest, backbone: Backbone) -> EditRequest:
    """The request with a callback whose snapshots can be looked at."""
    callback, show = request.callback, backbone.previewer.picture
    if callback is None:
        return request
    return replace(request, callback=lambda shot: callback(replace(shot, show=show)))


@cache
def _versions() -> dict[str, str]:
    """Of what decides about pixels; to look them up takes as long as a scheduler's step."""
    return {name: version(name) for name in ("torch", "diffusers")}


def _spared(chains: Sequence[Sequence[Job]], *, resumed: bool) -> int:
    return sum(job.spared for chain in chains for job in chain if job.resumed == resumed)


def _kind_of_map(request: EditRequest) -> str | None:
    if request.mask is not None:
        return "mask"
    return None if request.strength_map is None else "strength_map"


def _run_with_progress(loop: Loop, progress: bool | None) -> None:
    show = sys.stderr.isatty() if progress is None else progress
    if not show:
        loop.run()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, force_terminal=True), transient=True) as bar:
        task, left = bar.add_task("denoising", total=None), loop.steps_left
        done = 0
        while loop.active:
            loop.step()
            left, before = loop.steps_left, left
            done += max(before - left, 0)  # a later stage brings its own steps
            bar.update(task, completed=done, total=done + left)
