"""What the loop asks of a strategy.

A strategy is a composition of parts. Each part may do one or more of five things to a job, and
keeps what it needs in a state that it builds once, before the loop starts; the loop never looks
into it. States are not changed afterwards, so a run can be resumed from any step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from engine.errors import InputError

if TYPE_CHECKING:
    import torch

    from engine.denoise.evaluation import Refinement
    from engine.denoise.guidance import Guider
    from engine.models.network import Network as DenoisingNetwork
    from engine.solvers.schedule import Schedule
    from engine.types import Conditioning, Step

Branches: TypeAlias = "Mapping[str, Conditioning]"
Network = Literal["base", "inpaint", "fill"]
Start = Literal["original", "noise"]


@dataclass(frozen=True)
class StrategyContext:
    """What is known about an edit before its first step."""

    schedule: Schedule
    init_latents: torch.Tensor
    """b c h w, the clean latents of the input image; a row for each companion
    (:mod:`engine.denoise.companions`), whose earlier stages differ, and the picture's own last."""
    noise: torch.Tensor
    """b c h w, the one noise tensor of this edit: the known region is always noised with it."""
    strength_map: torch.Tensor
    """b 1 h w or 1 1 h w, float32 in [0, 1], 1 = repaint, on the latent grid."""
    network: Network
    masked_image_latents: Callable[[], torch.Tensor]
    """Latents (b c h w or 1 c h w) of the image with mid grey where it is repainted, encoded on
    call."""
    map_pixels: Callable[[], torch.Tensor]
    """The map (1 1 H W, as ``strength_map``) at the size of the pixels, for networks that see it as
    it is."""
    held: Holders | None = None
    """The strategy's other parts that hold something, prepared; None where no other does."""
    map_levels: Callable[[], int] | None = None
    """Counts the distinct strengths of the map as it was given, before it was brought to the latent
    grid, whose edges have all strengths between; None where that is not known."""


class Part:
    """One part of a strategy. Every hook has a default that changes nothing.

    ``latents`` are b c h w in the scheduler's own scale. Hooks are pure: they return new latents
    and change neither their arguments nor ``state``.

    Example:
        >>> class Anchor(Part):
        ...     def prepare(self, context):
        ...         return context.init_latents, 1 - context.strength_map
        ...
        ...     def denoised(self, state, denoised, latents, step):
        ...         original, weight = state
        ...         return denoised + weight * (original - denoised)
        >>> result = engine.edit(
        ...     image="photo.png",
        ...     strength_map="map.png",
        ...     prompt="a red house",
        ...     num_inference_steps=3,
        ...     strategy=Anchor(),
        ... )
        >>> result.settings["strategy"]
        'Anchor'
    """

    network: ClassVar[Network | None] = None
    """The network that this part needs, or None if it works with any."""
    exclusive: ClassVar[str] = ""
    """Parts with the same non-empty value cannot be composed (they would undo each other)."""
    start: ClassVar[Start | None] = None
    """What the latents start from, where the part insists."""
    redirects: ClassVar[bool] = False
    """It keeps the network's self-attention from some places
    (:attr:`engine.models.network.Network.redirects`)."""

    def prepare(self, context: StrategyContext) -> Any:
        """Build the state. Called once for each job."""
        return None

    def told(self, state: Any, branches: Branches, guidance: Guider) -> tuple[Branches, Guider]:
        """What the network is told, and how its predictions become one, asked once for each job: to
        add rows of the part's own, each with what only it is told. ``branches`` have one row each,
        by the names that ``guidance`` knows them by.
        """
        return branches, guidance

    def effort(self, *, guided: bool) -> float:
        """What a run with this part costs beside one without, about: 1 but for those that
        :meth:`refine`. ``guided``: a step of the run has an unconditional row too.
        """
        return 1.0

    def before_step(self, state: Any, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """Rewrite the latents before the model sees them, at ``step.level``."""
        return latents

    def holds(self, state: Any, step: Step) -> torch.Tensor:
        """How strongly each position is held on the original's trajectory at this step (b 1 h w or
        1 1 h w, in [0, 1]), for parts that go by it. Asked only where it is overridden.
        """
        raise NotImplementedError

    def resets(self, state: Any, step: Step) -> bool:
        """Whether :meth:`before_step` replaces all latents at this step, whatever they are: what
        was computed before it need not have been.
        """
        return False

    def refine(
        self, state: Any, latents: torch.Tensor, step: Step, draw: Callable[[], torch.Tensor]
    ) -> Refinement | None:
        """Inner iterations at ``step.level``, between :meth:`before_step` and the solver's own
        evaluation: a generator that yields latents to be evaluated (or an
        :class:`~engine.denoise.evaluation.Inner`, with a guidance of their own), is sent their
        :class:`~engine.denoise.evaluation.Evaluation`, and returns the latents to go on from. None
        is no iteration. Each costs as much as a solver's step, half of it where it is unguided.

        ``draw`` gives noise like ``latents`` from the job's generator. How often it is called must
        not depend on values of latents: steps that are left out draw as much.
        """
        return None

    def model_input(self, state: Any, scaled: torch.Tensor, step: Step) -> torch.Tensor:
        """Widen the scaled model input along its channels."""
        return scaled

    def denoised(
        self, state: Any, denoised: torch.Tensor, latents: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """Rewrite the prediction of the clean latents. Only called where it is overridden."""
        return denoised

    def after_step(self, state: Any, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """Rewrite the latents after the scheduler's step, at ``step.next_level``."""
        return latents

    def paste_alpha(self, state: Any, latents: torch.Tensor) -> torch.Tensor | None:
        """Opacity (b 1 h w in [0, 1]) of the result over the original, from the finished latents;
        None leaves it to the strength map. It only ever makes the paste more transparent.
        """
        return None


def rewrites_denoised(part: Part) -> bool:
    """Whether the part overrides :meth:`Part.denoised`."""
    return type(part).denoised is not Part.denoised


def is_holder(part: Part) -> bool:
    """Whether the part overrides :meth:`Part.holds`."""
    return type(part).holds is not Part.holds


class Holders(NamedTuple):
    """Parts that hold something, with their states: a value, as states are."""

    parts: tuple[Part, ...]
    states: tuple[Any, ...]

    def at(self, step: Step) -> torch.Tensor:
        """How strongly each position is held at ``step`` (b 1 h w or 1 1 h w, in [0, 1])."""
        held = [p.holds(own, step) for p, own in zip(self.parts, self.states, strict=True)]
        strongest = held[0]
        for other in held[1:]:
            strongest = strongest.maximum(other)
        return strongest


def refines(part: Part) -> bool:
    """Whether the part overrides :meth:`Part.refine`."""
    return type(part).refine is not Part.refine


@dataclass(frozen=True)
class Strategy:
    """Parts that act one after the other, in the given order.

    Raises ``InputError`` if two parts cannot be composed.

    Example:
        >>> from strategies.differential import DifferentialDiffusion
        >>> Strategy("held", (DifferentialDiffusion(),)).name
        'held'
    """

    name: str
    parts: tuple[Part, ...]
    prefill: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        networks = {part.network for part in self.parts} - {None}
        if len(networks) > 1:
            raise InputError(
                f"strategy {self.name!r} mixes parts for different networks; a job has one."
            )
        seen: dict[str, str] = {}
        for part in self.parts:
            what = type(part).__name__
            if part.exclusive and part.exclusive in seen:
                raise InputError(
                    f"strategy {self.name!r}: {seen[part.exclusive]} and {what} cannot be "
                    f"composed; both decide {part.exclusive}."
                )
            seen[part.exclusive] = what

    @property
    def stages(self) -> tuple[Stage, ...]:
        """A strategy of parts is its own only stage."""
        return (Stage(self),)

    @property
    def options(self) -> dict[str, Any]:
        """The parts' options, by name."""
        return {key: value for part in self.parts for key, value in vars(part).items()}

    @property
    def network(self) -> Network:
        return next((part.network for part in self.parts if part.network), "base")

    @property
    def start(self) -> Start:
        return next((part.start for part in self.parts if part.start), "original")

    @property
    def redirects(self) -> bool:
        return any(part.redirects for part in self.parts)

    def check_runs_on(self, network: DenoisingNetwork) -> None:
        """Raise ``InputError`` if a part wants what ``network``, which is of its kind, has not."""
        if self.redirects and not network.redirects:
            raise InputError(
                f"strategy {self.name!r} keeps a UNet's self-attention from what is to go, and "
                "this model's network cannot be told so; 'remove' with stage=differential takes "
                "things away with any model."
            )

    @property
    def rewrites_denoised(self) -> bool:
        return any(rewrites_denoised(part) for part in self.parts)

    @property
    def refines(self) -> bool:
        return any(refines(part) for part in self.parts)

    def effort(self, *, guided: bool) -> float:
        """What a run costs beside one without inner iterations, about."""
        return 1 + sum(part.effort(guided=guided) - 1 for part in self.parts)

    def prepare(self, context: StrategyContext) -> Sequence[Any]:
        """Each part's state; those that hold something come first, as the others may go by it."""
        holders = [part for part in self.parts if is_holder(part)]
        ready = {id(part): part.prepare(context) for part in holders}
        if holders:
            held = Holders(tuple(holders), tuple(ready[id(part)] for part in holders))
            context = replace(context, held=held)
        return tuple(
            ready[id(part)] if id(part) in ready else part.prepare(context) for part in self.parts
        )

    def told(
        self, state: Sequence[Any], branches: Branches, guidance: Guider
    ) -> tuple[Branches, Guider]:
        for part, own in zip(self.parts, state, strict=True):
            branches, guidance = part.told(own, branches, guidance)
        return branches, guidance

    def before_step(self, state: Sequence[Any], latents: torch.Tensor, step: Step) -> torch.Tensor:
        for part, own in zip(self.parts, state, strict=True):
            latents = part.before_step(own, latents, step)
        return latents

    def resets(self, state: Sequence[Any], step: Step) -> bool:
        return any(part.resets(own, step) for part, own in zip(self.parts, state, strict=True))

    def refine(
        self,
        state: Sequence[Any],
        latents: torch.Tensor,
        step: Step,
        draw: Callable[[], torch.Tensor],
    ) -> Refinement | None:
        """The parts' inner iterations, one part's after the other's."""
        return self._refine_all(state, latents, step, draw) if self.refines else None

    def _refine_all(
        self,
        state: Sequence[Any],
        latents: torch.Tensor,
        step: Step,
        draw: Callable[[], torch.Tensor],
    ) -> Refinement:
        for part, own in zip(self.parts, state, strict=True):
            refinement = part.refine(own, latents, step, draw)
            if refinement is not None:
                latents = yield from refinement
        return latents

    def model_input(self, state: Sequence[Any], scaled: torch.Tensor, step: Step) -> torch.Tensor:
        for part, own in zip(self.parts, state, strict=True):
            scaled = part.model_input(own, scaled, step)
        return scaled

    def denoised(
        self, state: Sequence[Any], denoised: torch.Tensor, latents: torch.Tensor, step: Step
    ) -> torch.Tensor:
        for part, own in zip(self.parts, state, strict=True):
            if rewrites_denoised(part):
                denoised = part.denoised(own, denoised, latents, step)
        return denoised

    def after_step(self, state: Sequence[Any], latents: torch.Tensor, step: Step) -> torch.Tensor:
        for part, own in zip(self.parts, state, strict=True):
            latents = part.after_step(own, latents, step)
        return latents

    def paste_alpha(self, state: Sequence[Any], latents: torch.Tensor) -> torch.Tensor | None:
        for part, own in zip(self.parts, state, strict=True):
            alpha = part.paste_alpha(own, latents)
            if alpha is not None:
                return alpha
        return None


@dataclass(frozen=True)
class Stage:
    """One run of several that follow one another."""

    strategy: Strategy
    strength: float = 1.0
    """In (0, 1]; multiplied with the edit's own strength."""
    scale: float = 1.0
    """Side of the picture in this stage over its full side, in (0, 1]."""
    guidance: float = 1.0
    """In [0, 1]: how much of the edit's guidance above 1 this stage takes; 0 is unguided."""
    model: str = ""
    """Name of the model that runs it, of those beside the edit's own; empty for that one."""

    def __post_init__(self) -> None:
        for name in ("strength", "scale"):
            value: object = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value <= 1:
                raise InputError(f"a stage's {name} must be above 0 and at most 1, not {value!r}.")
        share: object = self.guidance
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(f"a stage's guidance must be from 0 to 1, not {share!r}.")


@dataclass(frozen=True)
class StagedStrategy:
    """Stages that run one after the other, each on the result of the one before."""

    name: str
    stages: tuple[Stage, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """What it was built with, for the record."""
    prefill: str = "auto"
    """What the hole is filled with before the first stage, where the edit does not say: a name that
    ``prefill=`` takes, or ``"background"``, the model's best guess of what stands behind things.
    """

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("a staged strategy needs at least one stage.")
        if self.stages[-1].scale != 1.0:
            raise InputError("the last stage must run at scale 1, the picture's own size.")


AnyStrategy = Strategy | StagedStrategy
