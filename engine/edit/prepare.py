"""Requests read and checked, each in the mode that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.edit.before import prepare_edits
from engine.edit.memory import Memory
from engine.edit.parity import PreparedLikeDiffusers
from engine.edit.regional import PreparedRegions
from engine.edit.relay import PreparedRelay, is_relay
from engine.errors import InputError, setting

if TYPE_CHECKING:
    from engine.edit.placing import Layout
    from engine.edit.prepared import Prepared
    from engine.models import Backbone
    from engine.request.request import EditRequest


def prepare(
    backbone: Backbone,
    requests: Sequence[EditRequest],
    memory: Memory | None = None,
    layout: Layout | None = None,
) -> Sequence[Prepared]:
    """Read and check requests that differ in strategy, options, controls and seed only.

    Args:
        backbone: the model.
        requests: at least one. What they have in common is read and encoded once.
        memory: what they take over from earlier edits; None is nothing.
        layout: of edits of regions, where it is known: only these runs are made.

    Raises:
        InputError: bad input in one of them; no network was called.
    """
    if any(request.chooses for request in requests):
        raise InputError(
            f"{setting('candidates')}, several strategies and {setting('strategy', 'auto')} are "
            "for edits alone (edit, edit_many): sessions and comparisons choose none."
        )
    if any(request.regions is not None for request in requests):
        own = memory or Memory()
        return [_of_regions(backbone, request, own, layout) for request in requests]
    if any(map(is_relay, requests)):
        if len(requests) > 1:
            raise InputError("stages of several models are no candidates of a comparison.")
        return [PreparedRelay(backbone, requests[0], memory or Memory())]
    if not any(request.compat for request in requests):
        return prepare_edits(backbone, requests, memory)
    if len(requests) > 1 or memory is not None:
        raise InputError('compat="diffusers" makes one edit at a time.')
    return [PreparedLikeDiffusers(backbone, requests[0])]


def _of_regions(
    backbone: Backbone, request: EditRequest, memory: Memory, layout: Layout | None
) -> Prepared:
    if request.regions is None:
        return prepare_edits(backbone, [request], memory)[0]
    return PreparedRegions(backbone, request, memory, layout)
