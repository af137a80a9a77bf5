"""The fill that copies from where the surroundings look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.picture.fill.classic import blur

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rgb = NDArray[np.uint8]
    Hole = NDArray[np.bool_]

PATCH = 7
"""Side of the patches that :func:`patch` compares, in px of each level."""
_SEARCHED = 6_000
"""A level with more hole pixels than this takes its patches from the level below it, unsearched."""


def patch(rgb: Rgb, hole: Hole) -> Rgb:
    """Copy from where the surroundings look alike: PatchMatch (Barnes et al. 2009) inside the
    coarse-to-fine scheme of Wexler et al. ("Space-Time Completion of Video", 2007).

    At each level of a pyramid every hole pixel looks for the known patch that is most like its own,
    and takes the mean of what the patches over it say. Deterministic.
    """
    levels: list[tuple[NDArray[Any], Hole]] = [(rgb.astype(np.float32), hole)]
    while min(levels[-1][1].shape) >= 6 * PATCH and levels[-1][1].sum() > 200:
        colour, empty = levels[-1]
        height, width = empty.shape
        size = (width // 2, height // 2)
        known = (~empty).astype(np.float32)
        share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
        mean = cv2.resize(colour * known[..., None], size, interpolation=cv2.INTER_AREA)
        if not (share > 0.99).any():
            break
        levels.append((mean / np.maximum(share, 1e-6)[..., None], share < 0.99))
    rng = np.random.default_rng(0)
    colour, empty = levels[-1]
    filled: NDArray[Any] = blur(colour.round().clip(0, 255).astype(np.uint8), empty)
    filled = filled.astype(np.float32)
    filled[~empty] = colour[~empty]
    source: NDArray[Any] | None = None
    for colour, empty in reversed(levels):
        match = _Match(empty)
        if not len(match.sources):  # no whole patch is known
            return blur(rgb, hole)
        if filled.shape != colour.shape:
            size = (empty.shape[1], empty.shape[0])
            filled = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)
            filled[~empty] = colour[~empty]
        at = match.start(source, rng)
        for _ in range(6 if len(match.holes) <= _SEARCHED else 0):
            at = match.search(filled, at, rng)
            filled = match.vote(filled, at)
        if len(match.holes) > _SEARCHED:
            filled = match.vote(filled, at)
        source = np.full((*empty.shape, 2), -1)
        source[tuple(match.holes.T)] = at
    return filled.round().clip(0, 255).astype(np.uint8)


class _Match:
    """Patches over the hole of one level, and the known ones that they may be like."""

    def __init__(self, empty: Hole) -> None:
        self.shape = np.array(empty.shape)
        reach = PATCH // 2
        square = np.ones((PATCH, PATCH), np.uint8)
        near = cv2.dilate(empty.astype(np.uint8), square) > 0
        inside = np.zeros_like(near)
        inside[reach:-reach, reach:-reach] = True
        self.empty = empty
        self.targets = near
        self.allowed = inside & ~near
        self.sources = np.argwhere(self.allowed)
        self.holes = np.argwhere(near)
        """Centres (y, x) of all patches that touch the hole."""
        span = np.arange(-reach, reach + 1)
        self.offsets = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)

    def start(self, below: NDArray[Any] | None, rng: np.random.Generator) -> NDArray[Any]:
        """First guesses: the coarser level's matches, at random where it has none."""
        at = self.sources[rng.integers(len(self.sources), size=len(self.holes))]
        if below is not None:
            half = np.minimum(self.holes // 2, np.array(below.shape[:2]) - 1)
            found = below[tuple(half.T)]
            self._take(at, found * 2 + self.holes % 2, found[:, 0] >= 0)
        return at

    def search(
        self, filled: NDArray[Any], at: NDArray[Any], rng: np.random.Generator
    ) -> NDArray[Any]:
        """Better matches: the neighbours', shifted, then at random in shrinking windows."""
        patches = self._patches(filled, self.holes)
        cost = self._cost(filled, patches, at)
        number = np.full(self.shape, -1)
        number[tuple(self.holes.T)] = np.arange(len(self.holes))
        for jump in (4, 1):
            for step in ((0, jump), (0, -jump), (jump, 0), (-jump, 0)):
                beside = np.clip(self.holes + step, 0, self.shape - 1)
                other = number[tuple(beside.T)]
                guess = np.where((other >= 0)[:, None], at[other] + self.holes - beside, at)
                cost = self._improve(filled, patches, at, guess, cost)
        radius = int(self.shape.max())
        while radius >= 1:
            guess = at + rng.integers(-radius, radius + 1, size=at.shape)
            cost = self._improve(filled, patches, at, guess, cost)
            radius //= 3
        return at

    def vote(self, filled: NDArray[Any], at: NDArray[Any]) -> NDArray[Any]:
        """Each hole pixel becomes the mean of what the patches over it say."""
        total = np.zeros_like(filled)
        count = np.zeros(filled.shape[:2], np.float32)
        for offset in self.offsets:
            onto, of = self.holes + offset, at + offset
            fits = ((onto >= 0) & (onto < self.shape)).all(axis=1)
            place = tuple(onto[fits].T)  # distinct places: plain indexing adds each once
            total[place] += filled[tuple(of[fits].T)]
            count[place] += 1
        voted = filled.copy()
        voted[self.empty] = total[self.empty] / count[self.empty][:, None]
        return voted

    def _patches(self, filled: NDArray[Any], centres: NDArray[Any]) -> NDArray[Any]:
        """N patches (N, PATCH^2, 3) around ``centres`` (N 2), clamped to the picture."""
        where = np.clip(centres[:, None] + self.offsets, 0, self.shape - 1)
        return np.asarray(filled[where[..., 0], where[..., 1]])

    def _cost(self, filled: NDArray[Any], patches: NDArray[Any], at: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(((self._patches(filled, at) - patches) ** 2).sum(axis=(1, 2)))

    def _improve(
        self,
        filled: NDArray[Any],
        patches: NDArray[Any],
        at: NDArray[Any],
        guess: NDArray[Any],
        cost: NDArray[Any],
    ) -> NDArray[Any]:
        """Take ``guess`` into ``at`` where it is allowed and costs less; the new costs."""
        better = self._valid(guess)
        tried = self._cost(filled, patches[better], guess[better])
        wins = tried < cost[better]
        better[better] = wins
        at[better] = guess[better]
        cost[better] = tried[wins]
        return cost

    def _valid(self, guess: NDArray[Any]) -> NDArray[np.bool_]:
        inside = ((guess >= 0) & (guess < self.shape)).all(axis=1)
        clipped = np.clip(guess, 0, self.shape - 1)
        return np.asarray(inside & self.allowed[tuple(clipped.T)], bool)

    def _take(self, at: NDArray[Any], guess: NDArray[Any], where: NDArray[np.bool_]) -> None:
        where = where & self._valid(guess)
        at[where] = guess[where]
