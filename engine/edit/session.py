"""An edit made again and again with small changes, each time for the work of the change alone."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from engine.denoise.resume import Trace, nbytes
from engine.errors import InputError
from engine.lru import LRU
from engine.models.state import contents

if TYPE_CHECKING:
    from engine.denoise.job import Job
    from engine.models import Backbone
    from engine.request.request import EditRequest
    from engine.request.result import Comparison, EditResult

SESSION_BYTES = 512 * 2**20
"""What a session keeps by default: 40 renders of 30 steps of DPM++ 2M at 1024 px in float16."""
DECODED = 4
"""Decoded pictures that a session keeps beside them: 13 MB each at 1024 px."""


class Session:
    """Renders one edit with changes; :meth:`engine.engine.InpaintEngine.session` makes it.

    Every render gives the pixels of a full run with its arguments, to the bit, under every
    scheduler, and goes on from the first step that no earlier render has in common with it:

    - a strength map that changes where strengths are low, with ``differential``: the steps before
      those pixels are released are not computed again;
    - a control's later window, scale or weights, or a ``guidance_end``: from the first step on that
      differs (adding or leaving out a masked control starts anew: it comes with a companion);
    - ``feather`` and whatever else is done to the finished picture: no step.

    A cancelled render counts for the steps that it had.
    """

    def __init__(
        self,
        backbone: Backbone,
        ask: Callable[[Mapping[str, Any]], tuple[EditRequest, Any, Any]],
        run: Callable[..., Comparison],
        arguments: Mapping[str, Any],
        *,
        max_bytes: int = SESSION_BYTES,
        store: Any = None,
    ) -> None:
        if arguments.get("compat"):
            raise InputError("a session renders in the engine's own mode only.")
        if max_bytes < 0:
            raise InputError(f"max_bytes must not be negative: {max_bytes}.")
        self.arguments = dict(arguments)
        if arguments.get("generator") is None and arguments.get("seed") is None:
            self.arguments["seed"] = secrets.randbelow(2**31)
        self.max_bytes = max_bytes
        self.store = None if store is None else torch.device(store)
        self._ask = ask
        self._run = run
        self._remembering = _Remembering(backbone)
        self._weights = backbone.fingerprint()
        self._traces: list[Trace] = []
        """The one used longest ago first."""
        self._made: list[Trace] = []

    def render(self, **changes: Any) -> EditResult:
        """The edit with ``changes`` to the session's arguments, in this render only.

        ``result.model_calls`` are those made, ``result.reused_calls`` those that earlier renders
        had made. The callback is called for steps that are computed.

        Raises:
            InputError: bad input; nothing was computed.
            CancelledError: the callback cancelled.
        """
        arguments = self._changed(changes)
        for needed in ("image", "prompt"):
            if needed not in arguments:
                raise InputError(f"{needed} is missing.")
        if arguments.get("compat"):
            raise InputError("a session renders in the engine's own mode only.")
        asked = self._ask(arguments)
        if (weights := self._remembering.fingerprint()) != self._weights:
            self.clear()
            self._weights = weights

        def admit(job: Job) -> None:
            self._admit(job, skip=asked[0].skip)

        try:
            made = self._run(asked, backbone=cast("Backbone", self._remembering), admit=admit)
        finally:
            self._keep()
        return next(iter(made.results.values()))

    def clear(self) -> None:
        """Forget all renders: needed after changes to the model that are neither new weights nor
        adapters (FreeU, say).
        """
        self._traces.clear()
        self._remembering.decoded.clear()

    @property
    def cached_bytes(self) -> int:
        """Memory that the steps of earlier renders take; at most ``max_bytes``."""
        return nbytes(self._traces)

    @property
    def bytes_per_step(self) -> int:
        """What a step of the last render takes, latents and scheduler state; 0 before it."""
        if not self._traces:
            return 0
        last = self._traces[-1]
        return nbytes([last]) // max(len(last.stepped), 1)

    def _changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
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

    def _admit(self, job: Job, *, skip: bool) -> None:
        """Take a job to the first step that has to be computed."""
        trace = Trace(job, self.store)
        found = max(
            filter(None, (each.find(job) for each in [*self._traces, *self._made])),
            key=lambda each: each.index,
            default=None,
        )
        held = job.first_needed() if skip else 0
        if found is None or found.index <= held:
            found = None
            job.skip_to(held)
        elif found.trace in self._traces:
            self._traces.remove(found.trace)
            self._traces.append(found.trace)
        trace.begin(job, found)
        self._made.append(trace)

    def _keep(self) -> None:
        """Take in what was just made, and forget the oldest beyond the limit."""
        self._traces += self._made
        self._made = []
        needed = nbytes(self._traces[-1:])
        while self._traces and nbytes(self._traces) > self.max_bytes:
            self._traces.pop(0)
        if not self._traces and needed > self.max_bytes > 0:
            warnings.warn(
                f"a render of this session takes {needed} bytes, more than max_bytes="
                f"{self.max_bytes}: nothing is kept.",
                stacklevel=3,
            )


class _Remembering:
    """A backbone that does not decode the same latents twice."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.decoded: LRU[Hashable, torch.Tensor] = LRU(DECODED)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoded.get(contents(latents), lambda: self._backbone.decode(latents))
