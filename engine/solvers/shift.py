"""The shift of a flow's noise levels with the size of the picture (Esser et al. 2024, 5.3.2).

More tokens hide less under the same noise, so that large pictures are given more of it: a level
``sigma`` becomes ``s sigma / (1 + (s - 1) sigma)``, and ``mu = log s``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def is_dynamic(scheduler: Any) -> bool:
    """Whether a scheduler's levels depend on the size of the picture."""
    return bool(scheduler.config.get("use_dynamic_shifting", False))


def dynamic_shift(scheduler: Any, tokens: int) -> Mapping[str, float]:
    """``mu`` for a picture of so many ``tokens``, for a scheduler that shifts by size; nothing for
    one that does not.

    On the line through ``base_shift`` at ``base_image_seq_len`` and ``max_shift`` at
    ``max_image_seq_len`` of its config, and on beyond both, as diffusers' pipelines have it.
    """
    if not is_dynamic(scheduler):
        return {}
    config = scheduler.config
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (most - fewest)
    return {"mu": tokens * slope + (low - slope * fewest)}


def even_levels(steps: int) -> NDArray[np.float64]:
    """The levels that pipelines since Flux give their schedulers to be shifted: evenly from 1 to
    1 / ``steps``.
    """
    import numpy as np

    return np.linspace(1.0, 1 / steps, steps)
