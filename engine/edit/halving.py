"""Successive halving (Jamieson & Talwalkar 2016): when candidates are judged, how many go on."""

from __future__ import annotations

from typing import Final

SHARES: Final = (0.2, 0.4, 0.6, 0.8)
"""Of a run's steps, after which the candidates are judged while more than enough are left."""


def halved(running: int, keep: int) -> int:
    """How many of those that run go on."""
    return max(keep, -(-running // 2))


def cost(candidates: int, keep: int) -> float:
    """Full runs that ``candidates`` cost of which ``keep`` are finished."""
    running, runs, before = candidates, 0.0, 0.0
    for share in SHARES:
        going_on = halved(running, keep)
        if going_on >= running:
            break
        runs, before, running = runs + running * (share - before), share, going_on
    return runs + running * (1 - before)
