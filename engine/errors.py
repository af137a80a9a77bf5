"""Softpaint's own errors.

Every error that a user can cause derives from :class:`SoftpaintError`. Bad input is an
:class:`InputError`, which is also a ``ValueError``; the command line exits with code 2 for it and
with code 1 for the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SoftpaintError(Exception):
    """Base class of Softpaint's errors."""


class InputError(SoftpaintError, ValueError):
    """The caller asked for something that cannot be done; nothing was computed or written."""


class UnknownNameError(InputError):
    """A name that is not registered. Lists what exists and the nearest match."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


class ModelError(SoftpaintError):
    """A model could not be found, loaded or used."""


class OutputError(SoftpaintError):
    """A result could not be written; no partial file is left behind."""


class MemoryLimitError(SoftpaintError):
    """The device's memory does not suffice for a single picture's model call."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(
            f"out of memory in a model call of one picture ({width} x {height} latents). What "
            "helps: a smaller picture, dtype float16, engine.optimise('memory')."
        )


class CancelledError(SoftpaintError):
    """The edit was cancelled by its callback; other jobs in the loop went on."""
