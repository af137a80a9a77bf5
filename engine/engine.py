"""InpaintEngine: a loaded model, and what one does with it; a client of the runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.edit.advice import Advice, advise
from engine.edit.map_sources import find_map
from engine.edit.strategies import OF_A_STAGE, build_each
from engine.errors import InputError, SoftpaintError
from engine.models import Backbone, backbone_for
from engine.models.formats.adapters import Adapters, Embedding, Lora, several
from engine.models.formats.places import portable
from engine.models.formats.vaes import load_preview_vae
from engine.models.opening import open_model
from engine.models.previews import Previewer
from engine.models.speed.optimise import optimise
from engine.request.request import EditRequest
from engine.request.result import Comparison, EditResult, Outcomes
from engine.request.signature import takes
from engine.runtime.contest import Contest
from engine.runtime.core import Runtime
from engine.runtime.progress import Running, run
from engine.runtime.session import SESSION_BYTES, Session
from strategies import get_strategy, list_strategies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.denoise.strategy import AnyStrategy


class InpaintEngine:
    """An inpainting engine around one loaded model.

    Make one with :meth:`from_pretrained` or :meth:`from_pipe`.

    Example:
        >>> engine = InpaintEngine.from_pretrained()
        >>> result = engine.edit(
        ...     image="photo.png",
        ...     mask="mask.png",
        ...     prompt="a red house",
        ...     num_inference_steps=4,
        ...     seed=7,
        ... )
        >>> result.images[0].size, result.seeds
        ((72, 56), [7])
    """

    def __init__(self, backbone: Backbone, name: str) -> None:
        self.backbone = backbone
        self.name = name
        self.adapters = Adapters(backbone.pipe)
        self._load: dict[str, Any] = {}

    @property
    def load(self) -> dict[str, Any]:
        """The arguments of :meth:`from_pretrained` that make it, as a record holds them."""
        return {**self._load, **self.adapters.recorded()}

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline underneath, for LoRA, textual inversion, offload and the like."""
        return self.backbone.pipe

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out or decided when the model was loaded: a sentence each."""
        return self.backbone.notes

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "pocket",
        inpaint_model: str | os.PathLike[str] | None = None,
        dtype: Any = None,
        device: Any = None,
        vae: str | os.PathLike[str] | None = None,
        prediction_type: str | None = None,
        *,
        inpaint_patch: Any = None,
        base: str | os.PathLike[str] | None = None,
        text_encoder: Any = None,
        lora: Any = None,
        embedding: Any = None,
        ip_adapter: Any = None,
    ) -> InpaintEngine:
        """Load a model. No hub is asked for what is in a file: configs and vocabulary of SD 1.x,
        SD 2.x and SDXL are part of this package.

        Args:
            model: ``"pocket"`` or ``"pocket-flow"`` (embedded, need no download), a diffusers
                folder, a hub id, or a single ``.safetensors`` or ``.gguf`` file: a whole checkpoint
                of SDXL, SD 1.x and SD 2.x, the transformer alone of flow models.
            inpaint_model: where the 9-channel inpainting UNet is, for the strategies that use it.
            dtype: a torch dtype or its name; if None float32 on the CPU, on a GPU float16, for flow
                models bfloat16.
            device: a torch device or its name; the best that is there if None.
            vae: where the VAE is that takes the place of the model's own: a folder, a hub id or a
                file; an ``AutoencoderTiny`` too.
            prediction_type: ``"epsilon"`` or ``"v_prediction"``, where the model does not say, or
                says otherwise.
            inpaint_patch: in ``inpaint_model``'s place, Fooocus' patch, which makes one of any SDXL
                checkpoint: ``inpaint_v26.fooocus.patch``, beside which
                ``fooocus_inpaint_head.pth`` lies, or both files as (patch, head).
            base: for a transformer alone in a file, where the rest is (text encoders, tokenizers,
                VAE, scheduler): a folder or a hub id of the whole model; if None the family's own
                on the hub.
            text_encoder: where text encoders are that take the places of the model's own: a folder,
                a hub id or a file, or several; their tokenizers stay the model's.
            lora: ``"FILE[:WEIGHT]"``, a (file, weight) pair, or a list of such: see
                :meth:`load_lora`.
            embedding: ``"FILE[:TOKEN]"``, a (file, token) pair, or a list of such: see
                :meth:`load_embedding`.
            ip_adapter: an IP-Adapter's file, or a list of such; the image encoder that they read
                pictures with is looked for beside them (``image_encoder/``). An edit's
                ``ip_adapter_image`` has an entry for each.

        Raises:
            InputError: a dtype, device or prediction type that cannot be used.
            ModelError: the model is missing, unreachable or of an unsupported family; a LoRA or an
                embedding is missing or made for another.
        """
        loras, embeddings = several(lora, Lora.of), several(embedding, Embedding.of)
        opened = {
            "model": model,
            "inpaint_model": inpaint_model,
            "inpaint_patch": inpaint_patch,
            "dtype": dtype,
            "device": device,
            "vae": vae,
            "prediction_type": prediction_type,
            "base": base,
            "text_encoder": text_encoder,
        }
        engine = cls(open_model(**opened), str(model))
        engine._load = portable(opened)
        engine.adapters.add_all(loras, embeddings, several(ip_adapter, os.fspath))
        return engine

    @classmethod
    def from_pipe(cls, pipe: Any, inpaint_unet: Any = None) -> InpaintEngine:
        """Share a loaded diffusers pipeline's modules; nothing in it is changed.

        Args:
            pipe: a pipeline of any family that is supported: text-to-image, image-to-image,
                inpainting, or one that edits by instruction.
            inpaint_unet: a 9-channel ``UNet2DConditionModel`` of the same family. Where ``pipe``
                has an IP-Adapter, it is lent that when it is used.

        Raises:
            ModelError: the pipeline or the UNet is of an unsupported kind.
        """
        name = getattr(pipe.config, "_name_or_path", None) or type(pipe).__name__
        return cls(backbone_for(pipe, inpaint_unet), str(name))

    def beside(self, name: str, other: InpaintEngine, **settings: Any) -> None:
        """Let stages of an edit run on another model: one lays out, another paints the texture.

        ``edit(strategy="staged", stages="blend,differential", models=",NAME")`` runs the first on
        this engine's model and the second on ``other``'s, through pixels, with one map and one
        seed.

        Args:
            name: what ``models`` calls it.
            other: an engine with that model, of any family.
            settings: of its stages, in place of that model's own: ``num_inference_steps``,
                ``guidance_scale``, ``guidance_rescale``, ``scheduler``, ``instruct``.

        Raises:
            InputError: an empty name or one with a comma, this engine itself, or another setting.
        """
        if not name or "," in name or name != name.strip():
            raise InputError(f"a model's name is text without commas, not {name!r}.")
        if other.backbone is self.backbone:
            raise InputError("a model stands beside another one, not beside itself.")
        if strange := sorted(settings.keys() - set(OF_A_STAGE)):
            raise InputError(f"{strange[0]} is the edit's, not a model's; {', '.join(OF_A_STAGE)}.")
        self.backbone.others[name] = other.backbone, settings

    def strategies(self) -> list[str]:
        """Names of the registered strategies that the loaded networks can run and that are for any
        kind of edit.
        """
        infos = [get_strategy(name) for name in list_strategies()]
        able = (each for each in infos if each.network in self.backbone.networks)
        return [each.name for each in able if not each.only]

    def read(self, arguments: Mapping[str, Any]) -> EditRequest:
        """A request from the arguments of :meth:`edit`, with this model's own defaults for what
        they leave open.

        Raises:
            InputError: an argument that is missing or not accepted.
        """
        return EditRequest.read(arguments, self.pipe, self.backbone.defaults)

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
        request = self.read(arguments)
        runtime = self.runtime()
        tickets = self._add(runtime, request)
        run(runtime, tickets, progress=request.progress)
        joined = EditResult.joined([ticket.outcome() for ticket in tickets])
        return replace(joined, request=request)

    def advise(self, **arguments: Any) -> Advice:
        """What ``strategy="auto"`` would do with an edit, why, and what it costs. Nothing is
        computed with the model.

        Args:
            **arguments: as for :meth:`edit`; of several prompts the first counts.

        Raises:
            InputError: bad input.
        """
        request = EditRequest.read({"prompt": "", **arguments}, self.pipe, self.backbone.defaults)
        return advise(request.split()[0], self.backbone)

    def map_from(self, how: str, *, image: Any, **wanted: Any) -> NDArray[np.float32]:
        """A strength map from less than a mask, to be looked at and changed before it is used.

        Args:
            how: ``"change"``: where the predictions for ``prompt`` and for ``was``, what the
                picture shows now, differ; ``"words"``: where the network looks for ``words``, a
                tuple of texts that stand in ``prompt`` (or alone); ``"click"``: the thing that the
                points ``inside`` ((x, y) in px) lie on and ``outside`` do not, by GrabCut or
                the Segment Anything model ``segmenter``; ``"alpha"``: where it is transparent.
            image: the picture, in any form.
            **wanted: the above, ``seed``, and ``refine=False`` for a map as soft as it was found.

        Returns:
            float32 H W in [0, 1], 1 = repaint.

        Raises:
            InputError: an unknown ``how``, or what it needs is missing.
            ModelError: there is no such segmenter.
        """
        return find_map(how, self.backbone, {"image": image, **wanted})

    def edit_many(self, edits: Sequence[Mapping[str, Any] | EditRequest]) -> Outcomes:
        """Several edits in shared model calls; their pictures, maps and prompts may all differ.

        One that fails leaves the others alone::

            for edit, outcome in zip(edits, engine.edit_many(edits)):
                if isinstance(outcome, Exception):
                    print(edit["prompt"], outcome)
                else:
                    outcome.images[0].save(...)

        Args:
            edits: the arguments of :meth:`edit`, once for each edit, or requests.

        Returns:
            For each edit, in the same order, its result or the error that it would have raised:
            bad input, a failure or its callback's cancelling. ``unwrap()`` gives the results, or
            raises the first error. Pixels may differ from single runs in the last bits, as model
            calls are shared; ``timings`` hold the shared calls in full.
        """
        runtime = self.runtime()
        added: list[list[Running] | SoftpaintError] = []
        for edit in edits:
            try:
                asked = edit if isinstance(edit, EditRequest) else self.read(edit)
                added.append(self._add(runtime, asked))
            except SoftpaintError as error:
                added.append(error)
        waiting = [ticket for each in added if isinstance(each, list) for ticket in each]
        run(runtime, waiting, progress=waiting[0].request.progress if waiting else False)
        return Outcomes(
            each if isinstance(each, SoftpaintError) else _outcome(each) for each in added
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
        return Runtime(self.backbone, self.name, load=self.load, max_running=max_running)

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

    def load_lora(self, file: Any, weight: float | None = None, *, name: str | None = None) -> str:
        """Lay a LoRA over the model, the inpainting UNet beside it included.

        LoRA, LoCon, LoHa, LoKr and DoRA, with kohya's or diffusers' names; of flow models what
        diffusers' own loaders read. Loaded again under its name it only gets another weight.

        Args:
            file: a ``.safetensors`` file (``"FILE[:WEIGHT]"``), a folder, or a hub id.
            weight: how much of it; 0 is off. 1 if None.
            name: how :meth:`unload_lora` calls it; the file's if None.

        Returns:
            Its name.

        Raises:
            ModelError: it is missing, no LoRA, or of another family.
        """
        return self.adapters.add_lora(Lora.of(file if weight is None else (file, weight)), name)

    def unload_lora(self, name: str | None = None) -> None:
        """Take a LoRA out again, all if None: the model is what it was, to the bit.

        Raises:
            InputError: there is none of that name.
        """
        self.adapters.remove_lora(name)

    def load_embedding(self, file: Any, token: str | None = None) -> str:
        """Teach the text encoders a textual inversion.

        Args:
            file: ``.safetensors``, ``.pt`` or ``.bin`` (``"FILE[:TOKEN]"``): SDXL's for both
                encoders, or for one.
            token: the word for it in prompts; what the file says, or its name, if None.

        Returns:
            The word.

        Raises:
            ModelError: it is missing, no embedding, or for other text encoders.
            InputError: the word has spaces, or is taken.
        """
        return self.adapters.add_embedding(Embedding.of(file if token is None else (file, token)))

    def unload_embedding(self, token: str | None = None) -> None:
        """Forget an embedding, all if None. Raises ``InputError`` if there is none of that word."""
        self.adapters.remove_embedding(token)

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
        sets = controls if isinstance(controls, Mapping) else {"": controls}
        requests = self.variants(strategies=strategies, controls=controls, **arguments)
        return self._compare(requests, per_row=len(sets) if len(sets) > 1 else None)

    def variants(
        self,
        *,
        strategies: Sequence[str | AnyStrategy] | None = None,
        controls: Any = None,
        **arguments: Any,
    ) -> dict[str, EditRequest]:
        """What :meth:`compare` asks the runtime for, by the names of its results.

        Raises:
            InputError: bad input.
        """
        chosen = self.strategies() if strategies is None else list(strategies)
        if isinstance(strategies, str) or not chosen:
            raise InputError("strategies must be a list of at least one name.")
        sets = controls if isinstance(controls, Mapping) else {"": controls}
        if not sets:
            raise InputError("controls is an empty mapping; give it a label with None for none.")
        if "strategy" in arguments:
            raise InputError("a comparison takes strategies=, a list.")
        request = self.read(arguments)
        if request.compat or request.output_type == "latent":
            raise InputError("compare makes pictures in the engine's own mode only.")
        if len(sets) > 1 and request.generator is not None:
            raise InputError("several sets of controls take seed=, not generator=.")
        return {
            f"{strategy.name}, {label}" if label else strategy.name: replace(
                request, strategy=strategy, options={}, controls=own
            )
            for strategy in build_each(chosen, request.options)
            for label, own in sets.items()
        }

    # --------------------------------------------------------------------------------------------

    def _add(self, runtime: Runtime, asked: EditRequest) -> list[Running]:
        """What runs for each prompt of an edit; nothing where one of them is refused."""
        added: list[Running] = []
        try:
            for each in asked.split():
                request = advise(each, self.backbone).applied(each) if each.advised else each
                chooses = request.chooses
                added.append(Contest(runtime, request) if chooses else runtime.add(request))
        except BaseException:
            for ticket in (ticket for each in added for ticket in each.tickets):
                runtime.abort(ticket)
            raise
        return added

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


def _outcome(tickets: Sequence[Running]) -> EditResult | Exception:
    """The result of an edit's prompts, or the first error."""
    error = next((ticket.error for ticket in tickets if ticket.error), None)
    return error or EditResult.joined([ticket.outcome() for ticket in tickets])
