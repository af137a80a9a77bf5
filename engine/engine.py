"""InpaintEngine: a loaded model, and what one does with it; a client of the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.edit.map_sources import Redrawn, Wanted, find_map
from engine.edit.regional_advice import advised
from engine.edit.strategies import build_each
from engine.edit.unused import warn_of_unused
from engine.errors import InputError, SoftpaintError
from engine.loaded import LoadedModel
from engine.request.request import EditRequest
from engine.request.result import Comparison, EditResult, Outcomes
from engine.request.signature import takes
from engine.runtime.begin import begun
from engine.runtime.core import Runtime
from engine.runtime.progress import Running, run
from engine.runtime.session import SESSION_BYTES, Session
from strategies import get_strategy, list_strategies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.denoise.strategy import AnyStrategy
    from engine.edit.advice import Advice


class InpaintEngine(LoadedModel):
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

    def strategies(self) -> list[str]:
        """Names of the registered strategies that the loaded networks can run and that are for any
        kind of edit.
        """
        infos = [get_strategy(name) for name in list_strategies()]
        able = (each for each in infos if each.runs_on(self.backbone.networks))
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
        warn_of_unused(request, arguments, self.backbone)
        runtime = self.runtime()
        tickets = self._add(runtime, request)
        run(runtime, tickets, progress=request.progress)
        joined = EditResult.joined([ticket.outcome() for ticket in tickets])
        return replace(joined, request=request)

    def advise(self, **arguments: Any) -> Advice:
        """What ``strategy="auto"`` would do with an edit, why, and what it costs; of regions with
        each that names no strategy. Nothing is computed with the model.

        Args:
            **arguments: as for :meth:`edit`; of several prompts the first counts.

        Raises:
            InputError: bad input.
        """
        request = EditRequest.read({"prompt": "", **arguments}, self.pipe, self.backbone.defaults)
        return advised(request.split()[0], self.backbone)

    def map_from(self, how: str, *, image: Any, **wanted: Any) -> NDArray[np.float32]:
        """A strength map from less than a mask, to be looked at and changed before it is used.

        Args:
            how: ``"change"``: where the predictions for ``prompt`` and for ``was``, what the
                picture shows now, differ, or, with a model that edits by instruction and without
                ``was``, what the instruction ``prompt`` changes when the whole picture is drawn
                by it (:meth:`Session.map_from_change` renders on from there); ``"words"``: where
                the network looks for ``words``, a tuple of texts that stand in ``prompt`` (or
                alone); ``"click"``: the thing that the points ``inside`` ((x, y) in px) lie on and
                ``outside`` do not, by GrabCut or the Segment Anything model ``segmenter``;
                ``"alpha"``: where it is transparent.
            image: the picture, in any form.
            **wanted: the above, ``seed``, and ``refine=False`` for a map as soft as it was found.

        Returns:
            float32 H W in [0, 1], 1 = repaint.

        Raises:
            InputError: an unknown ``how``, or what it needs is missing.
            ModelError: there is no such segmenter.
        """

        def redraw(wanted: Wanted) -> Redrawn:
            session = self.session(image=image, prompt=wanted.prompt, seed=wanted.seed)
            return session.redraw({})

        return find_map(how, self.backbone, {"image": image, "redraw": redraw, **wanted})

    def edit_many(self, edits: Iterable[Mapping[str, Any] | EditRequest]) -> Outcomes:
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
        given: object = edits
        if isinstance(given, Mapping | EditRequest):
            raise InputError("edit_many takes a list of edits, and this is one: engine.edit(...).")
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputError(f"edit_many takes a list of edits, not {type(given).__name__}.")
        runtime = self.runtime()
        added: list[list[Running] | SoftpaintError] = []
        for edit in edits:
            try:
                if isinstance(edit, EditRequest):
                    asked = edit
                else:
                    asked = self.read(edit)
                    warn_of_unused(asked, edit, self.backbone)
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

    def runtime(self, *, max_running: int | None = None, touches: bool = True) -> Runtime:
        """A runtime of this model, for a server or a queue: edits are added at any time, share
        model calls, and leave one by one. :meth:`edit` and its like make one of their own.

        Args:
            max_running: how many edits run at a time; None is all that are added.
            touches: finish pictures before their ticket leaves; else ``ticket.outcome()`` does, in
                any thread, while the next steps run.
        """
        own = self.backbone, self.name
        return Runtime(*own, load=self.load, max_running=max_running, touches=touches)

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
            added.extend(begun(runtime, each) for each in asked.split())
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
