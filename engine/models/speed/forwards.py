"""Other ways to compute a layer, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["is_compiled", "replaced_forwards", "turn_of"]

_TURNS: WeakKeyDictionary[Any, RLock] = WeakKeyDictionary()
"""Whose turn it is, of each whole network."""


@contextmanager
def replaced_forwards(
    whole: Any, changes: Iterable[tuple[Any, Callable[..., Any]]]
) -> Iterator[None]:
    """Inside, modules of ``whole`` have other forwards; afterwards they are as they were, for they
    are the pipeline's own. One thread at a time, each network for itself.
    """
    with turn_of(whole):
        before: list[tuple[dict[str, Any], Any]] = []
        try:
            for module, forward in changes:
                own = vars(module)
                before.append((own, own.get("forward")))
                own["forward"] = forward
            yield
        finally:
            for own, forward in reversed(before):
                own.pop("forward")
                if forward is not None:
                    own["forward"] = forward


def turn_of(whole: Any) -> RLock:
    """What whoever changes modules of ``whole`` for a while holds meanwhile."""
    return _TURNS.setdefault(whole, RLock())


def is_compiled(module: Any) -> bool:
    """Whether ``torch.compile`` has a hand in how ``module`` runs: of other forwards inside, it
    would make new code at every call.
    """
    own = vars(module)
    return own.get("_compiled_call_impl") is not None or "_orig_mod" in own["_modules"]
