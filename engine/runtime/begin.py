"""What runs in a runtime for an edit: a ticket, or several of which the best are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.edit.placing import Layout
from engine.edit.regional_advice import advised
from engine.runtime.contest import Contest
from engine.runtime.regional_contest import RegionalContest, units_of

if TYPE_CHECKING:
    from engine.request.request import EditRequest
    from engine.runtime.core import Runtime
    from engine.runtime.progress import Running


def begun(runtime: Runtime, request: EditRequest, *, queued: bool = True) -> Running:
    """What runs for an edit of one prompt: by what is advised, where its strategy is ``auto``, and
    several of which the best is kept, where it says so.

    Args:
        runtime: where it runs.
        request: the edit.
        queued: as for :class:`~engine.runtime.contest.Contest`.

    Raises:
        InputError: bad input; nothing was queued.
        ModelError: the judge's network is missing.
    """
    if request.advised:
        request = advised(request, runtime.backbone).applied(request)
    if not request.chooses:
        (ticket,) = runtime.prepare([request])
        if queued:
            runtime.queue([ticket])
        return ticket
    # A coupling that is named joins what is told nothing of its own, which a seed would be.
    if request.regions is not None and request.coupling == "auto":
        layout = Layout.of(request, runtime.backbone)
        if len(units_of(layout)) > 1:
            return RegionalContest(runtime, request, layout, queued=queued)
    return Contest(runtime, request, queued=queued)
