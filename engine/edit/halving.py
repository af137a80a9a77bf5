"""Successive halving (Jamieson & Talwalkar 2016): when candidates are judged, how many go on.

A third does, as in Hyperband (Li et al. 2018): those that leave wait, and may be called back.
"""

from __future__ import annotations

from typing import Final

SHARES: Final = (0.2, 0.4, 0.6, 0.8)
"""Of a run's steps, after which the candidates are judged while more than enough are left."""


def going_on(running: int, keep: int) -> int:
    """How many of those that run go on."""
    return max(keep, -(-running // 3))


def cost(candidates: int, keep: int) -> float:
    """Full runs that ``candidates`` cost of which ``keep`` are finished, and nobody is called
    back.
    """
    running, runs, before = candidates, 0.0, 0.0
    for share in SHARES:
        left = going_on(running, keep)
        if left >= running:
            break
        runs, before, running = runs + running * (share - before), share, left
    return runs + running * (1 - before)
