"""Sessions as a resource: a picture and its settings, rendered again and again with changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError
from engine.serve.errors import GoneError, NotFoundError
from engine.serve.ids import NAMING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.runtime.session import Session
    from engine.serve.jobs import Job

Rect = tuple[int, int, int, int]


@dataclass(eq=False)
class Opened:
    """A session of a client."""

    session: Session
    width: int
    height: int
    """Of its picture, in px."""
    nbytes: int
    """Of its picture's file."""
    id: str = field(default_factory=NAMING.new)
    strength_map: NDArray[np.float32] | None = None
    """H W in [0, 1], as the last render had it; None before the first."""
    job: Job | None = None
    """Its last render."""

    def mapped(self, patch: NDArray[np.float32], rect: Rect | None) -> NDArray[np.float32]:
        """The session's map with ``patch`` (h w) laid into ``rect`` (left, top, width, height); the
        patch itself where there is no rectangle. Kept for the next one.

        Raises:
            InputError: the patch is not of its rectangle's size, or lies outside the picture.
        """
        if rect is None:
            if patch.shape != (self.height, self.width):
                raise InputError(
                    f"the map has {patch.shape[1]} x {patch.shape[0]} px, the session's picture "
                    f"{self.width} x {self.height}."
                )
            self.strength_map = patch
            return patch
        left, top, width, height = rect
        if patch.shape != (height, width):
            raise InputError(
                f"the patch has {patch.shape[1]} x {patch.shape[0]} px, "
                f"its rect {width} x {height}."
            )
        if left < 0 or top < 0 or left + width > self.width or top + height > self.height:
            raise InputError(
                f"rect={left},{top},{width},{height} lies outside the picture of "
                f"{self.width} x {self.height} px."
            )
        before = self.strength_map
        if before is None:
            before = np.zeros((self.height, self.width), np.float32)
        changed = before.copy()  # the render that runs has the one before
        changed[top : top + height, left : left + width] = patch
        self.strength_map = changed
        return changed

    @property
    def cost(self) -> int:
        """Bytes that it keeps: steps, picture and map."""
        mapped = 0 if self.strength_map is None else self.strength_map.nbytes
        return self.session.cached_bytes + self.nbytes + mapped


class Sessions:
    """Those that are open; the one used longest ago is dropped where they become too many or too
    large. Belongs to the worker's thread.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        self.count = count
        self.nbytes = nbytes
        self._open: OrderedDict[str, Opened] = OrderedDict()
        """The one used last stands last."""
        self._dropped: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def cost(self) -> int:
        """Bytes that all of them keep."""
        return sum(opened.cost for opened in self._open.values())

    def add(self, opened: Opened) -> None:
        """Take one in."""
        self._open[opened.id] = opened
        self.trim()

    def get(self, name: str) -> Opened:
        """The session of that id, used now.

        Raises:
            GoneError: it was dropped or closed.
            NotFoundError: there was never such a one.
        """
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if name in self._dropped:
            raise GoneError(f"this session was {self._dropped[name]}; open another one.")
        if NAMING.is_elsewhere(name):
            raise GoneError("this session's replica has ended; open another one.")
        raise NotFoundError("there is no such session.")

    def close(self, name: str) -> Opened:
        """Forget one whose client is done with it."""
        opened = self.get(name)
        self._forget(name, "closed")
        return opened

    def trim(self) -> None:
        """Drop those used longest ago, down to the limits; never the last, nor one that runs."""
        idle = [
            name
            for name, opened in list(self._open.items())[:-1]
            if opened.job is None or opened.job.over
        ]
        for name in idle:
            if len(self._open) <= self.count and self.cost <= self.nbytes:
                return
            self._forget(name, "dropped, as others needed its place")

    def _forget(self, name: str, why: str) -> None:
        self._open.pop(name)
        self._dropped[name] = why
        while len(self._dropped) > 4096:
            self._dropped.popitem(last=False)


def session_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a session among a request's: its map comes with each render."""
    return {
        name: value for name, value in arguments.items() if name not in {"mask", "strength_map"}
    }
