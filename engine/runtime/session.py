"""An edit made again and again with small changes, each time for the work of the change alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from engine.edit.map_sources import Redrawn, drift_of, map_of_change
from engine.edit.memory import Renders
from engine.edit.seeds import draw_seed
from engine.errors import InputError, setting
from engine.models.formats.devices import resolve_device
from engine.picture.geometry import Size
from engine.picture.read import load_image
from engine.request.aliases import ALIASES
from engine.request.elsewhere import check_given, check_settings
from engine.request.field import Range, check_number, fields_of
from engine.request.request import EditRequest
from engine.runtime.core import Runtime
from engine.runtime.progress import run
from strategies import list_strategies, options_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.edit.before import PreparedEdit
    from engine.models import Backbone
    from engine.request.result import EditResult

WHOLE = {"strategy": "whole", "region": "full", "prefill": "original"}
"""What draws all of a frame, and goes on from there whatever the map is then."""
SESSION_BYTES = 512 * 2**20
"""What a session keeps by default: 40 renders of 30 steps of DPM++ 2M at 1024 px in float16."""


class Session:
    """Renders one edit with changes; :meth:`engine.engine.InpaintEngine.session` makes it.

    Every render gives the pixels of a full run with its arguments, to the bit, under every
    scheduler, and goes on from the first step that no earlier render has in common with it:

    - a strength map that changes where strengths are low, with ``differential``: the steps before
      those pixels are released are not computed again;
    - a control's later window, scale or weights, or a ``guidance_end``: from the first step on that
      differs (adding or leaving out a masked control starts anew: it comes with a companion);
    - ``feather`` and whatever else is done to the finished picture: no step.

    A cancelled render counts for the steps that it had. Threads that render take turns.

    Example:
        >>> session = engine.session(
        ...     image="photo.png",
        ...     mask="mask.png",
        ...     prompt="a red house",
        ...     num_inference_steps=6,
        ...     seed=7,
        ... )
        >>> first = session.render()
        >>> again = session.render(feather=8)
        >>> again.model_calls, again.reused_calls
        (0, 6)
    """

    def __init__(
        self,
        backbone: Backbone,
        model: str,
        arguments: Mapping[str, Any],
        *,
        max_bytes: int = SESSION_BYTES,
        store: Any = None,
    ) -> None:
        check_number("max_bytes", max_bytes, Range(0), whole=True)
        device = None if store is None else resolve_device(store)
        self.arguments = dict(arguments)
        _refuse_compat(self.arguments)
        _check_names(self.arguments)
        if arguments.get("generator") is None and arguments.get("seed") in (None, -1):
            self.arguments["seed"] = draw_seed()
        self._runtime = Runtime(backbone, model)
        self.memory = Renders(max_bytes, device)
        """The steps of its renders."""
        self._weights = backbone.fingerprint()
        self._turn = threading.RLock()
        self.drift = math.nan
        """How far, by :meth:`map_from_change`, a frame that was drawn anew is off where nothing was
        to change: mean Delta-E 2000. No render shows it: outside its map the picture stays, and
        inside the colour field takes it away."""

    def render(self, **changes: Any) -> EditResult:
        """The edit with ``changes`` to the session's arguments, in this render only.

        ``result.model_calls`` are those made, ``result.reused_calls`` those that earlier renders
        had made. The callback is called for steps that are computed.

        Raises:
            InputError: bad input; nothing was computed.
            CancelledError: the callback cancelled.
        """
        with self._turn:
            request = self.request(changes)
            ticket = self._runtime.add(request, self.memory)
            try:
                run(self._runtime, [ticket], progress=request.progress)
            finally:
                self.memory.keep()
            return ticket.outcome()

    def map_from_change(self, *, refine: bool = True, **changes: Any) -> NDArray[np.float32]:
        """Draw the whole frame as the instruction says, and propose where it was changed as a
        strength map: to be looked at, edited, and rendered with.

        From here on the session draws the whole frame (``strategy="whole"`` where it was given
        none, ``region="full"``): a render with a map takes what that covers and computes no step.

        Args:
            refine: along the edges of what was there and of what is there now; else as soft as the
                change.
            **changes: as for :meth:`render`.

        Returns:
            float32 H W in [0, 1], 1 = repaint.

        Raises:
            InputError: bad input, or the model is shown no picture; nothing was computed.
            CancelledError: the callback cancelled.

        Example:
            >>> session = engine.session(image="photo.png", prompt="make the door red")
            >>> strength_map = session.map_from_change()  # doctest: +SKIP
            >>> result = session.render(strength_map=strength_map)  # doctest: +SKIP
        """
        with self._turn:
            redrawn = self.redraw(changes)
        found = map_of_change(redrawn, refine=refine)
        self.drift = drift_of(redrawn, found)
        return found

    def redraw(self, changes: Mapping[str, Any]) -> Redrawn:
        """What :meth:`map_from_change` compares."""
        if not self._runtime.backbone.main.takes_reference:
            raise InputError(
                "a map from what an instruction changes is for models that are shown the picture, "
                f"such as Flux.2; for others {setting('was')} says what is seen now."
            )
        self.arguments = {**WHOLE, **self.arguments, "region": "full", "instruct": True}
        image: Any = {**self.arguments, **changes}.get("image")
        size = load_image(image).size
        everywhere = np.ones(Size(*size).shape, np.float32)
        request = self.request({"num_images": 1, **changes, "strength_map": everywhere})
        ticket = self._runtime.add(request, self.memory)
        prepared = cast("PreparedEdit", ticket.prepared)
        try:
            run(self._runtime, [ticket], progress=request.progress)
        finally:
            self.memory.keep()
        made = ticket.outcome()
        (view,) = prepared.shared.inputs.views
        assert made.latents is not None  # noqa: S101 - there is one view
        return Redrawn(
            before=prepared.shared.original(view),
            after=made.latents,
            original=np.asarray(prepared.original),
            made=np.asarray(made.picture()),
            size=Size.of(view.strength_map.shape),
            shown=view.region.size,
        )

    def request(self, changes: Mapping[str, Any]) -> EditRequest:
        """What :meth:`render` asks its runtime for. Who runs it in a runtime of his own gives it
        :attr:`memory`, one render at a time, and calls ``memory.keep()`` when its ticket has left.

        Raises:
            InputError: bad input.
        """
        arguments = self._changed(changes)
        _refuse_compat(arguments)
        backbone = self._runtime.backbone
        request = EditRequest.read(arguments, backbone.pipe, backbone.defaults)
        if (weights := backbone.fingerprint()) != self._weights:
            self.clear()
            self._weights = weights
        return request

    def clear(self) -> None:
        """Forget all renders: needed after changes to the model that are neither new weights nor
        adapters (FreeU, say).
        """
        self.memory.clear()

    @property
    def max_bytes(self) -> int:
        """Beyond this, the renders used longest ago are forgotten."""
        return self.memory.max_bytes

    @max_bytes.setter
    def max_bytes(self, limit: int) -> None:
        self.memory.max_bytes = limit

    @property
    def cached_bytes(self) -> int:
        """Memory that the steps of earlier renders take; at most ``max_bytes``."""
        return self.memory.nbytes

    @property
    def bytes_per_step(self) -> int:
        """What a step of the last render takes, latents and scheduler state; 0 before it."""
        return self.memory.bytes_per_step

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The session's arguments with ``changes``, and generators that may be advanced."""
        arguments = {**self.arguments, **changes}
        for one, other in (("mask", "strength_map"), ("seed", "generator")):
            for given, old in ((one, other), (other, one)):
                if changes.get(given) is not None and changes.get(old) is None:
                    arguments.pop(old, None)
        generator = arguments.get("generator")
        if isinstance(generator, torch.Generator):
            arguments["generator"] = generator.clone_state()
        elif isinstance(generator, list | tuple):
            arguments["generator"] = [each.clone_state() for each in generator]
        return arguments


def _check_names(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that no render could take, and a session without a picture."""
    fields = fields_of(EditRequest)
    if "image" not in arguments:
        check_given("image", arguments)
    strange = arguments.keys() - fields.keys() - ALIASES.keys()
    check_settings(strange, options_of(*list_strategies()))


def _refuse_compat(arguments: Mapping[str, Any]) -> None:
    if arguments.get("compat"):
        raise InputError("a session renders in the engine's own mode only.")
