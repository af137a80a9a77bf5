"""One denoising run: what it asks the network, and what it does with the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from engine.denoise.evaluation import Evaluation, Inner, Refinement
from engine.denoise.guidance import weighed
from engine.denoise.question import (
    Answer,
    Question,
    Rows,
    add_residuals,
)
from engine.errors import CancelledError, InputError
from engine.solvers.noise import draw_like
from engine.types import Conditioning, Snapshot

if TYPE_CHECKING:
    from collections.abc import Hashable

    from engine.denoise.guidance import Combination, Guider
    from engine.denoise.strategy import Strategy
    from engine.models import Network
    from engine.solvers.schedule import Schedule
    from engine.types import Residuals, Step

Observer = Callable[[Snapshot], Any]


class ResidualSource(Protocol):
    """Something that adds residuals to the network's own (a ControlNet, for one)."""

    def residuals(
        self, scaled: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, step: Step
    ) -> Residuals:
        """Residuals by the UNet's argument names for ``scaled`` (B c h w, before widening), or
        nothing where the control is off.
        """


class Recorder(Protocol):
    """Keeps what a job goes through, so that another can go on from there."""

    def record(self, job: Job, stepped: torch.Tensor) -> None:
        """Add a step; ``stepped`` (b c h w) is what the scheduler gave, before ``after_step``."""


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Branches of one step that share a model call."""

    names: tuple[str, ...]
    conditioning: Conditioning
    """The branches' rows, one branch after the other."""


@dataclass(eq=False)
class Job:
    """One denoising run. ``latents`` are b c h w; every conditioning has b rows.

    Raises:
        InputError: there are controls, but branches whose conditionings cannot share a call.
    """

    name: str
    network: Network
    schedule: Schedule
    strategy: Strategy
    state: Sequence[Any]
    latents: torch.Tensor
    branches: Mapping[str, Conditioning]
    """By the names that ``guidance`` knows them by."""
    guidance: Guider
    generator: Any = None
    controls: Sequence[ResidualSource] = ()
    observer: Observer | None = None
    output: int = 0
    """Which of the pictures that its request makes it is for."""
    follow: Callable[[Job], Job | None] | None = None
    """Makes the job that enters the loop when this one has finished: the next stage."""
    owner: Any = None
    """Whose job this is: of no meaning to the loop, and the same for those that follow it."""

    successor: Job | None = field(default=None, init=False)
    index: int = field(default=0, init=False)
    """The solver's step that comes next."""
    begin: int = field(default=0, init=False)
    """The first one that is computed; those before it are known not to matter."""
    error: Exception | None = field(default=None, init=False)
    resumed: bool = field(default=False, init=False)
    """What lies before ``begin`` was computed by another job."""
    trace: Recorder | None = field(default=None, init=False)
    calls: int = field(default=0, init=False)
    """Network evaluations so far, one for each row of its latents."""
    spared: int = field(default=0, init=False)
    """Network evaluations that a full run would have had before ``begin``."""
    waits: bool = field(default=False, init=False)
    """The loop passes it by until somebody lets it go on."""
    judged: bool = field(default=False, init=False)
    """Somebody looks at ``denoised`` while it runs."""
    denoised: torch.Tensor | None = field(default=None, init=False)
    """b c h w, the clean latents that the last step's prediction implied, where it is judged."""

    _started: bool = field(default=False, init=False)
    """The step of ``index`` has begun: its ``before_step`` is done."""
    _refinement: Refinement | None = field(default=None, init=False)
    """The inner iterations of this step that are still going on."""
    _weight: float | None = field(default=None, init=False)
    """Of the guidance that the inner iteration asks for; None is the step's own."""
    _blocks: dict[tuple[str, ...], tuple[Block, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.controls and len({each.text.shape for each in self.branches.values()}) > 1:
            raise InputError(
                "controls need branches whose conditionings have equal shapes; these differ in "
                "the length of their prompts."
            )

    # What the loop asks ------------------------------------------------------------------------

    @property
    def step(self) -> Step:
        """The step that comes next."""
        return self.schedule.steps[self.index]

    @property
    def done(self) -> bool:
        return self.error is not None or self.index >= len(self.schedule)

    @property
    def rows(self) -> int:
        """Rows of the next question, at most."""
        return len(self.guidance_at(self.step).branches) * self.latents.shape[0]

    @property
    def batch_key(self) -> Hashable:
        """Jobs with equal keys can share a model call."""
        blocks = self._blocks_of(self.guidance_at(self.step))
        keys = frozenset(block.conditioning.key() for block in blocks)
        return id(self.network), tuple(self.latents.shape[1:]), self.latents.dtype, keys

    def question(self) -> Question:
        """What the network is asked next: of the latents that an inner iteration wants evaluated,
        or of those that the solver steps from.
        """
        step = self.step
        if not self._started:
            self._start(step)
        scaled = self.schedule.scale(self.latents, step)
        widened = self.strategy.model_input(self.state, scaled, step)
        timestep = self.schedule.device_timesteps[self.index]
        parts = []
        for block in self._blocks_of(self._asked_at(step)):
            copies = len(block.names)
            timesteps = timestep.expand(copies * self.latents.shape[0])
            residuals: Residuals = {}
            if self.controls:
                rows = torch.cat([scaled] * copies)
                residuals = add_residuals(
                    control.residuals(rows, timesteps, block.conditioning, step)
                    for control in self.controls
                )
            sample = torch.cat([widened] * copies)
            parts.append(Rows(sample, timesteps, block.conditioning, residuals))
        return Question(self.network, tuple(parts))

    def take(self, answer: Answer) -> None:
        """Go on with what the network said: to the next inner iteration, or by a solver's step.

        Raises:
            CancelledError: the observer wants no more.
            Exception: the answer is the network's failure.
        """
        if isinstance(answer, Exception):
            raise answer
        evaluation = self._evaluation(answer)
        self.calls += self.latents.shape[0]
        if self._refinement is not None:
            self._refine(self._refinement, evaluation)
        else:
            self._advance(evaluation)

    def _evaluation(self, outputs: Sequence[torch.Tensor]) -> Evaluation:
        step = self.step
        guidance = self._asked_at(step)
        predictions: dict[str, torch.Tensor] = {}
        for block, output in zip(self._blocks_of(guidance), outputs, strict=True):
            predictions |= zip(block.names, output.chunk(len(block.names)), strict=True)
        return Evaluation(self.schedule, step, self.latents, predictions, guidance)

    # A step ------------------------------------------------------------------------------------

    def _start(self, step: Step) -> None:
        self.latents = self.strategy.before_step(self.state, self.latents, step)
        refinement = self.strategy.refine(self.state, self.latents, step, self._draw)
        if refinement is not None:
            self._refine(refinement, None)
        self._started = True

    def _refine(self, refinement: Refinement, evaluation: Evaluation | None) -> None:
        """Let the inner iterations go on until they want another evaluation, or are over."""
        try:
            # Until its first evaluation a generator takes nothing but None.
            asked = next(refinement) if evaluation is None else refinement.send(evaluation)
        except StopIteration as end:
            self.latents, self._weight, self._refinement = end.value, None, None
        else:
            inner = asked if isinstance(asked, Inner) else Inner(asked)
            self.latents, self._weight = inner
            self._refinement = refinement

    def _draw(self) -> torch.Tensor:
        return draw_like(self.latents, self.generator)

    def _advance(self, evaluation: Evaluation) -> None:
        """Take the solver's step."""
        step, strategy = evaluation.step, self.strategy
        prediction = evaluation.prediction()
        denoised = None
        if strategy.rewrites_denoised or self.observer is not None or self.judged:
            denoised = self.schedule.to_denoised(prediction, self.latents, step)
            if strategy.rewrites_denoised:
                denoised = strategy.denoised(self.state, denoised, self.latents, step)
                prediction = self.schedule.from_denoised(denoised, self.latents, step)
        stepped = self.schedule.step(prediction, self.latents, step, self.generator)
        self.latents = strategy.after_step(self.state, stepped, step)
        self.index += 1
        self._started = False
        self.denoised = denoised if self.judged else None
        if self.trace is not None:
            self.trace.record(self, stepped)
        if self.observer is not None:
            self._show(step, denoised)

    def _show(self, step: Step, denoised: torch.Tensor | None) -> None:
        shot = Snapshot(
            self.name,
            step.index,
            len(self.schedule),
            float(step.timestep),
            self.latents.clone(),
            self.output,
            denoised,
        )
        if self.observer is not None and self.observer(shot) is False:
            raise CancelledError(f"{self.name} was cancelled after step {self.index}.")

    # Guidance ----------------------------------------------------------------------------------

    def guidance_at(self, step: Step) -> Combination:
        """How ``step`` is guided."""
        return self.guidance.at(step.position / self.schedule.num_steps)

    def _asked_at(self, step: Step) -> Combination:
        """How what is evaluated next is guided."""
        return weighed(self.guidance_at(step), self._weight)

    def _blocks_of(self, guidance: Combination) -> tuple[Block, ...]:
        """Its branches, those that can share a call joined; the same objects every time."""
        names = guidance.branches
        if names not in self._blocks:
            alike: dict[Hashable, list[str]] = {}
            for name in names:
                alike.setdefault(self.branches[name].key(), []).append(name)
            self._blocks[names] = tuple(
                Block(tuple(group), Conditioning.join([self.branches[name] for name in group]))
                for group in alike.values()
            )
        return self._blocks[names]

    # Where a run begins and what it leaves out -------------------------------------------------

    def resume(
        self, index: int, latents: torch.Tensor, solver: Mapping[str, Any], spared: int
    ) -> None:
        """Go on before step ``index`` from where an equal job was, after ``spared`` evaluations."""
        self.begin = self.index = index
        self.latents = latents
        self.schedule.restore(solver, latents.device)
        self.spared = spared
        self.resumed = True

    def first_needed(self) -> int:
        """The first step that can matter: none does while the strategy replaces all that was
        computed.
        """
        return self.schedule.first_needed(self._resets())

    @property
    def last_reset(self) -> int | None:
        """The last step before which the strategy replaces all latents, if there is one."""
        return max((index for index, each in enumerate(self._resets()) if each), default=None)

    def _resets(self) -> list[bool]:
        return [self.strategy.resets(self.state, step) for step in self.schedule.steps]

    def skip_to(self, index: int) -> None:
        """Go to step ``index``, on which none before it has any influence. Scheduler and inner
        iterations count and draw as if nothing had been left out: the result is the same to the
        bit.
        """
        self.begin = self.index = index
        for step in self.schedule.steps[:index]:
            self.spared += self.latents.shape[0] * (1 + self._pass_refinement(step))
            self.schedule.pass_over(self.latents, step, self.generator)

    def _pass_refinement(self, step: Step) -> int:
        """Let a step's inner iterations draw their noise; the number of their evaluations."""
        refinement = self.strategy.refine(self.state, self.latents, step, self._draw)
        if refinement is None:
            return 0
        guidance, count = self.guidance_at(step), 0
        nothing = dict.fromkeys(guidance.branches, torch.zeros_like(self.latents))
        evaluation = Evaluation(self.schedule, step, self.latents, nothing, guidance)
        try:
            next(refinement)
            while True:
                count += 1
                refinement.send(evaluation)
        except StopIteration:
            return count

    # Its end -----------------------------------------------------------------------------------

    @property
    def chain(self) -> list[Job]:
        """This job and those that followed it, in order."""
        return [self, *(self.successor.chain if self.successor else ())]

    def make_successor(self) -> None:
        if self.follow is not None:
            self.successor = self.follow(self)
        if self.successor is not None:
            self.successor.owner = self.owner

    def fail(self, error: Exception) -> None:
        """End with ``error`` and let go of everything that takes memory."""
        self.error = error
        if self._refinement is not None:
            self._refinement.close()
        self._refinement = self.trace = self.follow = self.observer = self.generator = None
        self.state = self.controls = ()
        self.branches, self._blocks = {}, {}
        self.latents, self.denoised = self.latents.new_empty(0), None
