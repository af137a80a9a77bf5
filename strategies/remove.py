"""Taking things away: fill the hole from its surroundings, then let the model knit it in."""

from __future__ import annotations

from engine.denoise.strategy import Stage, StagedStrategy
from engine.picture.fill import find_prefill
from strategies.staged import single


def remove(
    stage: str = "inpaint9",
    redraw: float = 0.2,
    guidance: float = 0.25,
    fill: str = "background",
) -> StagedStrategy:
    """Fill the hole with ``fill`` and run ``stage`` over it at strength ``redraw``.

    A run at full strength decides anew what stands in the hole, and now and then puts a thing there
    (a second sun, another balloon). Begun from a fill, it only draws what the fill leaves out. Most
    programs that take things away do so in these two steps (krita-ai-diffusion, Fooocus).

    Args:
        stage: name of a registered strategy, a composed one too; ``differential`` for models
            without a 9-channel network.
        redraw: in (0, 1], multiplied with the edit's own strength. From .3 on suns come back.
        guidance: in [0, 1], how much of the edit's guidance above 1 is taken: what is redrawn is
            there already, and guidance draws it in stronger colours than its surroundings'.
        fill: a name that ``prefill=`` takes, or ``background``: the pocket model's own GAN, and
            with other models ``patch``, where ``gan:FILE`` takes a GAN that knows photographs.
            Where the edit names a prefill itself, that is taken.

    Raises ``InputError`` for other values.
    """
    if fill not in {"auto", "background"}:
        find_prefill(fill)
    options = {"stage": stage, "redraw": redraw, "guidance": guidance, "fill": fill}
    only = Stage(single(stage), redraw, guidance=guidance)
    return StagedStrategy("remove", (only,), options, prefill=fill)


remove.help = {  # type: ignore[attr-defined]
    "stage": "name of the strategy that redraws",
    "redraw": "its strength, in (0, 1]",
    "guidance": "how much of the edit's guidance above 1 it takes, in [0, 1]",
    "fill": "what the hole is filled with first: background, or as for prefill",
}
