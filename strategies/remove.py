"""Taking things away: fill the hole from its surroundings, then let the model knit it in."""

from __future__ import annotations

from engine.prefill import find_prefill
from engine.strategy import Stage, StagedStrategy
from strategies.staged import single


def remove(stage: str = "inpaint9", redraw: float = 0.35, fill: str = "patch") -> StagedStrategy:
    """Fill the hole with ``fill`` and run ``stage`` over it at strength ``redraw``.

    A run at full strength decides anew what stands in the hole, and now and then puts a thing there
    (a second sun, another balloon). Begun from a fill, it only draws what the fill leaves out. Most
    programs that take things away do so in these two steps (krita-ai-diffusion, Fooocus).

    Args:
        stage: name of a registered strategy, a composed one too; ``differential`` for models
            without a 9-channel network.
        redraw: in (0, 1], multiplied with the edit's own strength.
        fill: a name that ``prefill=`` takes; where the edit names one itself, that is taken.

    Raises ``InputError`` for other values.
    """
    if fill != "auto":
        find_prefill(fill)
    options = {"stage": stage, "redraw": redraw, "fill": fill}
    return StagedStrategy("remove", (Stage(single(stage), redraw),), options, prefill=fill)


remove.help = {  # type: ignore[attr-defined]
    "stage": "name of the strategy that redraws",
    "redraw": "its strength, in (0, 1]",
    "fill": "what the hole is filled with first, as for prefill",
}
