"""InpaintEngine: a loaded model, and what one does with it; a client of the runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from controls import split_controls
from engine.edit.prepared import build_strategy
from engine.errors import InputError, SoftpaintError
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
from engine.request.result import Comparison, EditResult, Outcomes
from engine.runtime.core import Runtime, Ticket
from engine.runtime.progress import run
from engine.runtime.session import SESSION_BYTES, Session
from strategies import get_strategy, list_strategies, options_of

if TYPE_CHECKING:
    from engine.denoise.strategy import AnyStrategy

DEFAULT_STRATEGY = "differential"


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
            strategy=strategy,
            options=options,
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
        return self._run(request)

    def edit_many(self, edits: Sequence[Mapping[str, Any]]) -> Outcomes:
        """Several edits in shared model calls; their pictures, maps and prompts may all differ.

        One that fails leaves the others alone::

            for edit, outcome in zip(edits, engine.edit_many(edits)):
                if isinstance(outcome, Exception):
                    print(edit["prompt"], outcome)
                else:
                    outcome.images[0].save(...)

        Args:
            edits: the arguments of :meth:`edit`, once for each edit.

        Returns:
            For each edit, in the same order, its result or the error that it would have raised:
            bad input, a failure or its callback's cancelling. ``unwrap()`` gives the results, or
            raises the first error. Pixels may differ from single runs in the last bits, as model
            calls are shared; ``timings`` hold the shared calls in full.
        """
        runtime = self.runtime()
        tickets: list[Ticket | Exception] = []
        for edit in edits:
            try:
                tickets.append(runtime.add(EditRequest.read(edit)))
            except SoftpaintError as error:
                tickets.append(error)
        waiting = [ticket for ticket in tickets if isinstance(ticket, Ticket)]
        run(runtime, waiting, progress=edits[0].get("progress") if edits else False)
        return Outcomes(
            each if isinstance(each, Exception) else each.error or each.outcome()
            for each in tickets
        )

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
        return Session(self.backbone, self.name, arguments, max_bytes=max_bytes, store=store)

    def runtime(self, *, max_running: int | None = None) -> Runtime:
        """A runtime of this model, for a server or a queue: edits are added at any time, share
        model calls, and leave one by one. :meth:`edit` and its like make one of their own.

        Args:
            max_running: how many edits run at a time; None is all that are added.
        """
        return Runtime(self.backbone, self.name, max_running=max_running)

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
        if arguments.get("compat") or arguments.get("output_type") == "latent":
            raise InputError("compare makes pictures in the engine's own mode only.")
        sets = controls if isinstance(controls, Mapping) else {"": controls}
        if not sets:
            raise InputError("controls is an empty mapping; give it a label with None for none.")
        if len(sets) > 1 and arguments.get("generator") is not None:
            raise InputError("several sets of controls take seed=, not generator=.")
        request = EditRequest.read(arguments)
        requests = {
            f"{strategy.name}, {label}" if label else strategy.name: replace(
                request, strategy=strategy, options={}, controls=own
            )
            for strategy in _build_each(chosen, request.options)
            for label, own in sets.items()
        }
        return self._compare(requests, per_row=len(sets) if len(sets) > 1 else None)

    # --------------------------------------------------------------------------------------------

    def _run(self, request: EditRequest) -> EditResult:
        runtime = self.runtime()
        ticket = runtime.add(request)
        run(runtime, [ticket], progress=request.progress)
        return ticket.outcome()

    def _compare(self, requests: Mapping[str, EditRequest], *, per_row: int | None) -> Comparison:
        """Requests for the same picture, by the names of their results."""
        began = perf_counter()
        runtime = self.runtime()
        tickets = runtime.add_variants(list(requests.values()))
        prepared = tickets[0].prepared
        assert prepared is not None  # noqa: S101 - nothing has been stepped
        original, strength_map = prepared.original, prepared.strength_map
        run(runtime, tickets, progress=tickets[0].request.progress)
        outcomes = {
            name: ticket.error or ticket.outcome()
            for name, ticket in zip(requests, tickets, strict=True)
        }
        if not any(ticket.result for ticket in tickets):
            tickets[0].outcome()
        return Comparison(
            outcomes, original, strength_map, seconds=perf_counter() - began, per_row=per_row
        )


def _build_each(
    strategies: Sequence[str | AnyStrategy], options: Mapping[str, Any]
) -> list[AnyStrategy]:
    """Strategies to be compared; an option goes to those that have it.

    Raises:
        InputError: a name that is unknown or given twice, or an option that none has.
    """
    built, used = [], set()
    for strategy in strategies:
        own = {}
        if isinstance(strategy, str):
            known = options_of(split_controls(strategy, list_strategies())[0])
            own = {key: value for key, value in options.items() if key in known}
        built.append(build_strategy(strategy, own))
        used |= set(built[-1].options)
    if len({strategy.name for strategy in built}) < len(built):
        raise InputError("strategies must not be named twice.")
    if unused := set(options) - used:
        raise InputError(f"no compared strategy has the option {min(unused)!r}.")
    return built
