"""Several runs, one after the other: first dare, then knit in."""

from __future__ import annotations

from collections.abc import Sequence

from engine.denoise.strategy import Stage, StagedStrategy, Strategy
from engine.errors import InputError
from strategies.registry import create_strategy


def staged(
    stages: str | Sequence[str] = ("blend", "differential"),
    strengths: str | Sequence[float] = (1.0, 0.5),
    scales: str | Sequence[float] = (1.0, 1.0),
    models: str | Sequence[str] = "",
) -> StagedStrategy:
    """Run the ``stages`` in turn, each on the result of the one before.

    The default paints with a hard blend at full strength, which dares to put new things into empty
    space (where differential diffusion hesitates: diffusers issue 7038), then lets a differential
    run at half strength knit the result into its surroundings. A first stage at scale .5 lays the
    composition out at half the size, for a quarter of the work.

    Args:
        stages: names of registered strategies, composed ones too.
        strengths: in (0, 1], one for each stage.
        scales: side over full side, in (0, 1], one for each stage; the last is 1.

        models: names of the models that run them, one for each stage: of those that
            ``engine.beside`` has put beside the edit's own, or empty for that one. What one has
            made goes to the next through pixels.

    All also as text with commas. Raises ``InputError`` if their lengths differ.
    """
    names = _split(stages)
    numbers = {"strengths": _numbers("strengths", strengths), "scales": _numbers("scales", scales)}
    for what, values in numbers.items():
        if len(values) != len(names):
            raise InputError(f"{len(names)} stages, but {len(values)} {what}: one for each.")
    places = _split(models) if models else [""] * len(names)
    if len(places) != len(names):
        raise InputError(f"{len(names)} stages, but {len(places)} models: one for each.")
    strategies = [single(name) for name in names]
    return StagedStrategy(
        "staged",
        tuple(
            Stage(strategy, strength, scale, model=model)
            for strategy, strength, scale, model in zip(
                strategies, numbers["strengths"], numbers["scales"], places, strict=True
            )
        ),
        {
            "stages": ",".join(names),
            **{k: ",".join(map(str, v)) for k, v in numbers.items()},
            **({"models": ",".join(places)} if models else {}),
        },
    )


staged.help = {  # type: ignore[attr-defined]
    "stages": "names of strategies, in order",
    "strengths": "strength of each stage, in (0, 1]",
    "scales": "size of each stage over the full size, in (0, 1]; the last is 1",
    "models": "name of each stage's model, of those beside this one; empty for this one",
}


def single(name: str) -> Strategy:
    """The strategy ``name`` (composed ones too), which must be of one stage."""
    built = create_strategy(name)
    if not isinstance(built, Strategy):
        raise InputError("a stage cannot be staged itself.")
    return built


def _split(values: str | Sequence[object]) -> list[str]:
    parts = values.split(",") if isinstance(values, str) else list(values)
    return [str(part).strip() for part in parts]


def _numbers(what: str, values: str | Sequence[float] | float) -> list[float]:
    if isinstance(values, int | float):
        values = [values]
    try:
        return [float(value) for value in _split(values)]
    except ValueError as error:
        raise InputError(f"{what} must be numbers with commas between, not {values!r}.") from error
