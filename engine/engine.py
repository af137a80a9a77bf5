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
from engine.denoise.strategy import AnyStrategy, StagedStrategy, Strategy
from engine.edit.before import Clock, Plan, draw_seed, prepare_edit
from engine.edit.parity import prepare_like_diffusers
from engine.edit.session import SESSION_BYTES, Session
from engine.errors import InputError
from engine.models import Backbone, backbone_for, load_inpaint_network, load_pipeline
from engine.models.base import Network
from engine.models.checkpoints import find_checkpoint
from engine.models.formats.loading import (
    default_inpaint_model,
    load_preview_vae,
    resolve_device,
    resolve_dtype,
)
from engine.models.previews import Previewer
from engine.models.speed.optimise import optimise
from engine.request.request import EditRequest
from engine.request.result import Comparison, EditResult
from strategies import create_strategy, get_strategy, list_strategies, options_of

if TYPE_CHECKING:
    from engine.denoise.job import Job


DEFAULT_STRATEGY = "differential"
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
        inpaint = load_inpaint_network(inpaint_model, dtype, device) if inpaint_model else None
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
        network = Network(inpaint_unet) if inpaint_unet is not None else None
        name = getattr(pipe.config, "_name_or_path", None) or type(pipe).__name__
        return cls(backbone_for(pipe, network), str(name))

    def strategies(self) -> list[str]:
        """Names of the registered strategies that the loaded networks can run and that are for any
        kind of edit.
        """
        infos = [get_strategy(name) for name in list_strategies()]
        able = (each for each in infos if each.network in self.backbone.networks)
        return [each.name for each in able if not each.only]

    def edit(
        self,
        *,
        image: Any,
        prompt: str,
        mask: Any = None,
        strength_map: Any = None,
        negative_prompt: str | None = None,
        strategy: str | AnyStrategy = DEFAULT_STRATEGY,
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        guidance_rescale: float = 0.0,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        strength: float = 1.0,
        seed: int | None = None,
        generator: Any = None,
        num_images: int = 1,
        controls: Any = None,
        guess_mode: bool = False,
        ip_adapter_image: Any = None,
        expand: tuple[int, int, int, int] | None = None,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        latents: Any = None,
        scheduler: Any = None,
        eta: float | None = None,
        colour: str = "field",
        invert: bool = False,
        feather: float = 4.0,
        skip: bool = True,
        region: Any = "auto",
        context: float = 2.0,
        context_mask: Any = None,
        native_size: int | None = None,
        zoom: float = 1.0,
        prefill: str = "auto",
        prefill_mask: Any = None,
        paste: Any = "alpha",
        paste_mask: Any = None,
        output_type: Any = "pil",
        compat: Any = None,
        callback: Any = None,
        progress: bool | None = None,
        **options: Any,
    ) -> EditResult:
        """Repaint part of a picture.

        Args:
            image: path, Pillow image, array, tensor (c h w or b c h w in [0, 1]), or latents
                (b 4 h/8 w/8). Any size: it is padded to the model's multiple and cropped back.
            prompt: what the picture shows when it is done.
            mask: hard: what is repainted (white, 1). Path, Pillow image, array or tensor.
            strength_map: a strength in [0, 1] for every pixel, 1 = repaint, in mask's place.
            negative_prompt: what it should not show; None is the model's own empty prompt.
            strategy: a name of ``strategies.list_strategies()``, several joined by ``+``, or a
                :class:`~engine.denoise.strategy.Strategy`.
            num_inference_steps: steps of a run at strength 1; 1 to 1000.
            guidance_scale: classifier-free guidance, from 0; at most 1 is off.
            guidance_rescale: in [0, 1], see :class:`~engine.denoise.guidance.Guidance`.
            guidance_start, guidance_end: shares of the run, in [0, 1], between which it guides; the
                other steps cost half, as they have no unconditional branch.
            strength: global strength in (0, 1]: the share of the steps that is run.
            seed: 0 to 2**63 - 1; picture i uses seed + i, so that each equals its single run.
                Drawn if neither it nor ``generator`` is given, and reported in the result.
            generator: a torch generator; with several pictures, one for each or one that draws
                their seeds.
            num_images: pictures to make of each input picture.
            controls: a :class:`~controls.Control`, a control's name, or a list of such; also as
                part of the strategy's name (``"differential+canny"``).
            guess_mode: controls act on the conditional prediction only and work without a prompt
                (guidance_scale 3 to 5 is recommended).
            ip_adapter_image: what the IP-Adapter that ``engine.pipe.load_ip_adapter`` has loaded
                reads: a picture, or a :class:`~controls.Reference` with its own scale and mask. Of
                several adapters a list, one entry for each; an entry may be a list of several.
            expand: pixels (left, top, right, bottom) by which the canvas grows; the new area is
                repainted, together with the mask's if one is given.
            denoising_start: share of the training schedule, in (0, 1), at which the run starts, in
                place of ``strength``.
            denoising_end: share at which it stops, leaving noisy latents for another run
                (``output_type="latent"``).
            latents: noisy latents (b c h/cell w/cell) to continue from at ``denoising_start``.
            scheduler: a name of ``engine.solvers.schedule.list_schedulers()``, a diffusers
                scheduler (a fresh copy is used), or None for the model's own.
            eta: of DDIM and TCD, in [0, 1]; None is the scheduler's default.
            colour: how the edit's colours are matched to the picture's, measured on the ring around
                what is repainted, see :func:`engine.picture.colour.match_colours`: ``"field"`` (a
                local correction; under a soft map the VAE's losses are given back too, for one more
                decode), the global ``"lab"`` and ``"histogram"``, or ``"none"``. Without effect
                on latents and with ``compat``.
            invert: flip the map's polarity (1 = keep).
            feather: width in px of the fade inside the repainted region, over which the result
                is laid on the original; up to twice that where the original goes on inside as
                it is outside, so that nothing that stood there shows through (see
                :func:`engine.picture.fade.paste_alpha`), and on new canvas, where it is laid on the
                border's colours. Where the strength is 0, pixels stay as they were to the bit.
            skip: leave out the steps in which every pixel is still held (a strength map whose
                maximum is below 1): the same pixels for less work. The callback is not called for
                them. False computes them.
            region: ``"mask"`` cuts out the mask's surroundings, edits them at the model's own size
                and puts them back; ``"full"`` edits the whole picture; ``"auto"`` cuts out where
                that saves at least half (see :class:`engine.picture.crop.Cutter`). Islands of the
                mask far from each other are cut out apart and share model calls; the first draws
                its noise from the picture's own generator, each further one from a generator seeded
            by it. context: sides of a cut-out over those of the mask's bounding box, from 1.
            context_mask: more that the cut-out should hold; as ``mask``.
            native_size: side in px at which cut-outs are edited; None is what the model was
                trained on.
            zoom: how far a cut-out smaller than that may be enlarged for editing; 1 (not at all)
                to 16.
            prefill: what stands in the hole when the run starts: a name of
                ``engine.picture.fill.list_prefills()``, ``"gan:PATH"`` for an inpainting GAN of
                your own (:func:`engine.picture.fill.gan`), or ``"auto"``, which the result's
                settings name under ``prefilled``. What is held and pasted is the original in any
            case. prefill_mask: what is prefilled, and how strongly, if it is not the map; as
                ``strength_map``.
            paste: how the result is laid over the original: a name of
                ``engine.picture.paste.list_pastes()``.
            paste_mask: with what opacity, in place of the map's support faded over ``feather``;
                as ``strength_map``. It cannot paste where the strength is 0.
            output_type: ``"pil"``, ``"np"`` or ``"latent"``.
            compat: ``"diffusers"`` reproduces the random draws, mask rounding and blending of
                diffusers' inpainting pipelines to the bit, without paste (strategies ``blend``
                and ``inpaint9``; ``differential`` is untouched by it but for the draws).
            callback: called with a :class:`~engine.types.Snapshot` after every step, whose
                ``preview()`` is a picture to look at; returning False cancels.
            progress: show a progress bar; None shows it on a terminal.
            **options: the strategy's options by name.

        Raises:
            InputError: bad input; nothing was computed.
            CancelledError: the callback cancelled.
        """
        request = EditRequest(
            image=image,
            prompt=prompt,
            mask=mask,
            strength_map=strength_map,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            strength=strength,
            seed=seed,
            generator=generator,
            num_images=num_images,
            controls=controls,
            guess_mode=guess_mode,
            ip_adapter_image=ip_adapter_image,
            expand=expand,
            denoising_start=denoising_start,
            denoising_end=denoising_end,
            latents=latents,
            scheduler=scheduler,
            eta=eta,
            colour=colour,
            invert=invert,
            feather=feather,
            skip=skip,
            region=region,
            context=context,
            context_mask=context_mask,
            native_size=native_size,
            zoom=zoom,
            prefill=prefill,
            prefill_mask=prefill_mask,
            paste=paste,
            paste_mask=paste_mask,
            output_type=output_type,
            compat=compat,
            callback=callback,
            progress=progress,
        )
        built = self._strategy(strategy, options)
        return self._run((request, {built.name: built}, options)).results[built.name]

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
        known = set(EditRequest.__dataclass_fields__) - {"compat"}
        options = {key: arguments.pop(key) for key in list(arguments) if key not in known}
        if "compat" in options or arguments.get("output_type") == "latent":
            raise InputError("compare makes pictures in the engine's own mode only.")
        sets = controls if isinstance(controls, Mapping) else {"": controls}
        if not sets:
            raise InputError("controls is an empty mapping; give it a label with None for none.")
        request = EditRequest(**arguments)
        built = [self._strategy(each, options, partial=True) for each in chosen]
        names = {strategy.name: strategy for strategy in built}
        if len(names) < len(built):
            raise InputError("strategies must not be named twice.")
        used = {key for each in built for key in each.options}
        if unused := set(options) - used:
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
        if isinstance(strategy, Strategy | StagedStrategy):
            if options and not partial:
                raise InputError("options go into the strategy object itself, not beside it.")
            built = strategy
        else:
            plain, named = split_controls(strategy, list_strategies())
            if partial:
                known = options_of(plain)
                options = {key: value for key, value in options.items() if key in known}
            built = create_strategy(plain, **options)
            if named:
                built = replace(built, name=strategy)
        for stage in built.stages:
            self.backbone.network(stage.strategy.network)
        return built

    def _asked(self, arguments: Mapping[str, Any]) -> Asked:
        """The arguments of :meth:`edit`, checked."""
        known = EditRequest.__dataclass_fields__
        fields = {key: value for key, value in arguments.items() if key in known}
        options = {
            key: value for key, value in arguments.items() if key not in known and key != "strategy"
        }
        built = self._strategy(arguments.get("strategy", DEFAULT_STRATEGY), options)
        return EditRequest(**fields), {built.name: built}, options

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
        same = (
            *("prompt", "negative_prompt", "num_inference_steps", "guidance_scale"),
            *("guidance_rescale", "strength", "num_images", "eta", "invert", "feather", "compat"),
            "colour",
            *(
                "guidance_start",
                "guidance_end",
                "expand",
                "denoising_start",
                "denoising_end",
                "guess_mode",
                "skip",
            ),
            *("region", "context", "native_size", "zoom", "prefill", "paste"),
        )
        return {
            "model": self.name,
            "family": self.backbone.family,
            "strategy": strategy.name,
            "options": {
                key: value
                for key, value in strategy.options.items()
                if isinstance(value, str | int | float | None)
            },
            **{key: _jsonable(getattr(request, key)) for key in same},
            "seeds": plan.seeds,
            "scheduler": request.scheduler
            if isinstance(request.scheduler, str)
            else type(job.schedule.scheduler).__name__,
            "size": list(plan.size),
            "regions": plan.describe_regions(),
            "prefilled": plan.prefilled.get(strategy.name),
            "unheard": self.backbone.unheard(request.prompt, request.negative_prompt),
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


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


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
