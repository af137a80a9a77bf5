"""Seeds and generators: one for each picture, and for each region of it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import InputError
from engine.request.fields import SEEDS

if TYPE_CHECKING:
    from engine.request.request import EditRequest


def draw_seed() -> int:
    """Draw a seed for a request without one."""
    return secrets.randbelow(2**31)


def generators_of(request: EditRequest, count: int) -> tuple[list[int | None], list[Any]]:
    """Seeds to report (None where the caller's own generator draws) and a generator for each of
    ``count`` pictures.

    Raises:
        InputError: ``generator`` is no torch generator, or as many are given as there are not
            pictures.
    """
    generator = request.generator
    seeds: list[Any]
    if isinstance(generator, list | tuple):
        if len(generator) != count:
            raise InputError(f"{len(generator)} generators for {count} pictures.")
        return [None] * count, list(generator)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise InputError(
                f"generator must be a torch.Generator, not {type(generator).__name__}."
            )
        if count == 1:
            return [None], [generator]
        device = generator.device
        seeds = torch.randint(2**31, (count,), generator=generator, device=device).tolist()
    else:
        first = draw_seed() if request.seed is None else int(request.seed)
        seeds = [(first + i) % SEEDS for i in range(count)]
    # Drawn on the CPU, so that a seed means the same picture on every device.
    return seeds, [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def divide(generator: Any, count: int) -> list[Any]:
    """A generator for each of a picture's ``count`` regions: its own for the first, and for each
    further one a new generator, seeded by a copy of it (so that its own draws stay the same).
    """
    if count == 1:
        return [generator]
    copy = generator.clone_state()
    seeds = torch.randint(2**63 - 1, (count - 1,), generator=copy, device=copy.device).tolist()
    return [generator, *(torch.Generator(copy.device).manual_seed(seed) for seed in seeds)]
