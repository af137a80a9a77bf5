"""Other ways to compute a layer, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

__all__ = ["in_fours", "is_compiled", "parts", "replaced_forwards"]

_TURNS: WeakKeyDictionary[Any, RLock] = WeakKeyDictionary()
"""Whose turn it is, of each whole network."""


@contextmanager
def replaced_forwards(
    whole: Any, changes: Iterable[tuple[Any, Callable[..., Any]]]
) -> Iterator[None]:
    """Inside, modules of ``whole`` have other forwards; afterwards they are as they were, for they
    are the pipeline's own. One thread at a time, each network for itself.
    """
    with _TURNS.setdefault(whole, RLock()):
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


def parts(module: Any) -> list[Any]:
    """``module`` and all that it is made of, those before these: torch's ``modules()``, whose
    generators inside generators take twice as long; but what is shared comes more than once.
    """
    every = [module]
    for each in every:
        every.extend(part for part in vars(each)["_modules"].values() if part is not None)
    return every


def is_compiled(module: Any) -> bool:
    """Whether ``torch.compile`` has a hand in how ``module`` runs: of other forwards inside, it
    would make new code at every call.
    """
    own = vars(module)
    return own.get("_compiled_call_impl") is not None or "_orig_mod" in own["_modules"]


def in_fours(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``forward`` (of tensors with a row for each picture) at a multiple of four rows: matrix
    libraries take products of fewer than four rows, and what remains beyond fours, by other ways.
    """
    import torch

    def filled(rows: Any) -> Any:
        if not isinstance(rows, torch.Tensor):
            return rows
        return torch.cat([rows, rows[:1].expand(-len(rows) % 4, *rows.shape[1:])])

    def padded(rows: torch.Tensor, *others: Any) -> torch.Tensor:
        return forward(filled(rows), *map(filled, others))[: len(rows)]

    return padded
