"""Who is run in an evaluation, and what everybody is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from controls import split_controls
from engine.errors import InputError
from engine.evaluate.peers import list_peers
from engine.evaluate.suites import PURPOSES
from engine.request.request import EditRequest
from strategies import create_strategy, get_strategy, list_strategies

if TYPE_CHECKING:
    from engine.denoise.strategy import AnyStrategy
    from engine.engine import InpaintEngine

_OF_THE_CASE = ("image", "mask", "strength_map", "expand", "prompt", "seed", "generator", "latents")


@dataclass(frozen=True)
class Variant:
    """A strategy with settings of its own, under the name that tables give it."""

    name: str
    strategy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``InpaintEngine.edit``, the strategy's options among them."""
    only: str = ""
    """The one task that it is run in, if there is one."""

    def runs_in(self, task: str) -> bool:
        return self.only in {"", task}

    def check(self) -> None:
        """Refuse what can be refused without a model.

        Raises:
            InputError: an unknown strategy or option, or a value that is not accepted.
        """
        if taken := set(self.settings) & set(_OF_THE_CASE):
            raise InputError(f"{self.name}: {min(taken)} is decided by the suite.")
        request = EditRequest.read({"image": "", "mask": "", "prompt": "", **self.settings})
        self.build(**request.options)

    def build(self, **options: Any) -> AnyStrategy:
        """The strategy, without the controls that may be in its name."""
        return create_strategy(split_controls(self.strategy, list_strategies())[0], **options)

    def is_uncorrected(self, other: Variant) -> bool:
        """Whether this is ``other`` without its colour correction."""
        plain = {key: value for key, value in other.settings.items() if key != "colour"}
        return self.strategy == other.strategy and self.settings == {**plain, "colour": "none"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What everybody is asked for, peers too."""

    suite: str = "pocket"
    size: int = 128
    """Side of the pocket world's scenes in px."""
    first_seed: int
    """The pocket world's first scene."""
    steps: int
    guidance: float
    seed: int
    """Case i of a task uses ``seed + i``."""
    scheduler: str | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``InpaintEngine.from_pretrained``."""

    def settings(self) -> dict[str, Any]:
        """What pictures depend on, for :class:`~engine.evaluate.store.Store`."""
        load = {key: str(value) for key, value in self.load.items() if key != "device"}
        versions = {name: version(name) for name in ("softpaint", "diffusers", "torch")}
        return {**asdict(self), "load": load, "purposes": dict(PURPOSES), **versions}


def choose(
    engine: InpaintEngine, variants: Sequence[Variant] | None, *, diffusers: bool
) -> tuple[list[Variant], list[str]]:
    """The variants and the peers whose networks are loaded. Variants None: all strategies that run,
    those that are for one kind of edit in the task of that name.

    Raises:
        InputError: a variant's network is not loaded, or a name is given twice.
    """
    if variants is None:
        infos = [get_strategy(name) for name in list_strategies()]
        able = [each for each in infos if each.runs_on(engine.backbone.networks)]
        variants = [Variant(each.name, each.name, only=each.only) for each in able]
    for variant in variants:
        for stage in variant.build().stages:
            stage.strategy.check_runs_on(engine.backbone.network(stage.strategy.network))
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise InputError("strategies must not be named twice.")
    return list(variants), list_peers(engine.backbone) if diffusers else []
