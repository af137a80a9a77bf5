"""Stepping a runtime until it is idle, with a bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.runtime.core import Runtime, Ticket


def run(runtime: Runtime, tickets: Sequence[Ticket], *, progress: bool | None = None) -> None:
    """Step until all ``tickets`` have left; those of others in the runtime go on meanwhile.

    An interrupt (Ctrl-C) leaves no ticket behind.

    Args:
        runtime: theirs.
        tickets: to wait for.
        progress: show a bar; None shows it on a terminal.
    """
    try:
        if sys.stderr.isatty() if progress is None else progress:
            _run_with_bar(runtime, tickets)
        else:
            while not all(ticket.left for ticket in tickets):
                runtime.step()
    finally:
        for ticket in tickets:
            runtime.abort(ticket)


def _run_with_bar(runtime: Runtime, tickets: Sequence[Ticket]) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, force_terminal=True), transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        while not all(ticket.left for ticket in tickets):
            runtime.step()
            counted = [ticket.progress for ticket in tickets]
            done, total = (sum(values) for values in zip(*counted, strict=True))
            bar.update(task, completed=done, total=total)
