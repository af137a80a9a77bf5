"""Stepping a runtime until it is idle, with a bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.request.request import EditRequest
    from engine.request.result import EditResult
    from engine.runtime.core import Runtime, Ticket


class Running(Protocol):
    """An edit in a runtime: a ticket, or several of which the best are kept."""

    request: EditRequest

    @property
    def tickets(self) -> Sequence[Ticket]: ...

    @property
    def left(self) -> bool: ...

    @property
    def error(self) -> Exception | None: ...

    def advance(self) -> None:
        """Decide what there is to decide, after each step."""

    def outcome(self) -> EditResult: ...


def run(runtime: Runtime, edits: Sequence[Running], *, progress: bool | None = None) -> None:
    """Step until all ``edits`` have left; those of others in the runtime go on meanwhile.

    An interrupt (Ctrl-C) leaves no ticket behind.

    Args:
        runtime: theirs.
        edits: to wait for.
        progress: show a bar; None shows it on a terminal.
    """
    try:
        if sys.stderr.isatty() if progress is None else progress:
            _run_with_bar(runtime, edits)
        else:
            while not all(edit.left for edit in edits):
                _step(runtime, edits)
    finally:
        for ticket in _tickets(edits):
            runtime.abort(ticket)


def _step(runtime: Runtime, edits: Sequence[Running]) -> None:
    runtime.step()
    for edit in edits:
        edit.advance()


def _tickets(edits: Sequence[Running]) -> list[Ticket]:
    return [ticket for edit in edits for ticket in edit.tickets]


def _run_with_bar(runtime: Runtime, edits: Sequence[Running]) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, force_terminal=True), transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        while not all(edit.left for edit in edits):
            _step(runtime, edits)
            counted = [ticket.progress for ticket in _tickets(edits)]
            done, total = (sum(values) for values in zip(*counted, strict=True))
            bar.update(task, completed=done, total=total)
