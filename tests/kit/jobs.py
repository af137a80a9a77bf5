"""Jobs as the engine makes them, for tests that step a loop by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.edit.before import PreparedEdit, prepare_edits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine import InpaintEngine
    from engine.denoise.job import Job
    from engine.request.request import EditRequest


def prepared_for(
    engine: InpaintEngine, request: EditRequest, strategies: Sequence[Any] = ()
) -> list[PreparedEdit]:
    """The request with each of the strategies, or with its own."""
    requests = [replace(request, strategy=each) for each in strategies] or [request]
    return prepare_edits(engine.backbone, requests)


def jobs_of(
    engine: InpaintEngine, request: EditRequest, strategies: Sequence[Any] = ()
) -> list[Job]:
    """The jobs of the request with each of the strategies, or with its own."""
    return [job for each in prepared_for(engine, request, strategies) for job in each.start()]
