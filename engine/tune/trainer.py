"""The loop that teaches: one for all that is taught. What a step is depends on the seed and its
number alone, so that a training that was interrupted ends with the same bits.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import InputError, SoftpaintError, StoppedError

if TYPE_CHECKING:
    import torch

    from engine.tune.recipe import Recipe
    from engine.tune.runs import RunFolder

WARM_UP, END = 0.03, 0.1
"""The share of the steps in which the rate rises, and what of it is left at the end."""
LONGEST = 1.0
"""Of a gradient, over all that is trained."""
LOG_EVERY = 10.0
"""Seconds between lines of the log."""

Losses = Callable[[int], "Iterable[torch.Tensor]"]


class Trained(Protocol):
    """What is trained."""

    parameters: dict[str, torch.nn.Parameter]

    def state(self) -> dict[str, torch.Tensor]: ...

    def restore(self, state: Any) -> None: ...


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    """The mean of late."""
    rate: float
    seconds: float
    """Since it was started (again)."""

    def __str__(self) -> str:
        return f"step {self.step} of {self.steps}  loss {self.loss:.4f}  rate {self.rate:.2e}"


def rate_at(step: int, recipe: Recipe) -> float:
    """The learning rate of a step, from 0: it rises in a line and falls along a cosine."""
    share = step / recipe.steps
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * recipe.steps))
    fall = 0.5 * (1 + math.cos(math.pi * share))
    return recipe.rate * rise * (END + (1 - END) * fall)


def optimiser_of(recipe: Recipe, parameters: Iterable[Any]) -> Any:
    """The optimiser by its name.

    Raises:
        InputError: its package is not installed.
    """
    import torch

    settings: dict[str, Any] = {"lr": recipe.rate, "betas": (0.9, 0.99), "weight_decay": 0.01}
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    check_optimiser(recipe)
    made = importlib.import_module("bitsandbytes.optim").AdamW8bit
    return made(parameters, **settings)


def check_optimiser(recipe: Recipe) -> None:
    """Raise ``InputError`` where an optimiser's package is missing."""
    if recipe.optimiser == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise InputError("adamw8bit needs a package: pip install bitsandbytes")


class Trainer:
    """A training.

    Args:
        trained: what is trained; it is restored where the folder holds a state.
        recipe: how.
        folder: where its state and log are.
        device: where it runs.
        dtype: of the network; in half precision the arithmetic is mixed, and what is trained is
            float32.
    """

    def __init__(
        self, trained: Trained, recipe: Recipe, folder: RunFolder, device: Any, dtype: Any
    ) -> None:
        self.trained, self.recipe, self.folder = trained, recipe, folder
        self.device, self.dtype = device, dtype
        self.step = self._kept = 0
        self._whole = True
        """No step of the optimiser is half done."""

    def run(
        self,
        losses: Losses,
        *,
        told: Callable[[Progress], object] = lambda _: None,
        sample: Callable[[int], object] | None = None,
    ) -> None:
        """Train to the end.

        Args:
            losses: the parts of a step's loss, by its number; each is differentiated by itself.
            told: shown the progress after every step.
            sample: draws what the network paints after so many steps, every ``sample_every`` of
                them and at the end.

        Raises:
            StoppedError: it was interrupted (Ctrl-C); the state is kept.
        """
        with _accelerator(self.device, self.dtype) as accelerator:
            weights = list(self.trained.parameters.values())
            optimiser = accelerator.prepare_optimizer(optimiser_of(self.recipe, weights))
            self._resume(accelerator, optimiser)
            try:
                for progress in self._steps(accelerator, optimiser, weights, losses):
                    told(progress)
                    every, last = self.recipe.sample_every, self.step == self.recipe.steps
                    if sample is not None and every and (last or self.step % every == 0):
                        sample(self.step)
                    if self.step % self.recipe.save_every == 0 or last:
                        self._keep(accelerator, optimiser)
            except KeyboardInterrupt:
                if self._whole and self.step > self._kept:
                    self._keep(accelerator, optimiser)
                raise StoppedError(
                    f"stopped; {self.folder.path} is at step {self._kept} of {self.recipe.steps}, "
                    "and the same command goes on there."
                ) from None

    def _steps(
        self, accelerator: Any, optimiser: Any, weights: list[Any], losses: Losses
    ) -> Iterator[Progress]:
        mean, begun, logged = math.nan, monotonic(), 0.0
        while self.step < self.recipe.steps:
            rate = rate_at(self.step, self.recipe)
            for group in optimiser.param_groups:
                group["lr"] = rate
            total = 0.0
            for loss in losses(self.step):
                accelerator.backward(loss)
                total += float(loss.detach())
            accelerator.clip_grad_norm_(weights, LONGEST)
            self._whole = False
            optimiser.step()
            optimiser.zero_grad()
            if not math.isfinite(total) and self.dtype_is_full:
                raise SoftpaintError(
                    f"the loss is no number any more at step {self.step}: a lower --rate may help."
                )
            self.step += 1
            self._whole = True
            mean = total if math.isnan(mean) else 0.95 * mean + 0.05 * total
            seconds = monotonic() - begun
            progress = Progress(self.step, self.recipe.steps, mean, rate, seconds)
            if seconds - logged > LOG_EVERY or self.step in {1, self.recipe.steps}:
                logged = seconds
                self.folder.log({"step": self.step, "loss": mean, "rate": rate, "seconds": seconds})
            yield progress

    @property
    def dtype_is_full(self) -> bool:
        """No scaling of gradients passes over steps whose numbers overflow."""
        return "16" not in str(self.dtype)

    def _resume(self, accelerator: Any, optimiser: Any) -> None:
        state = self.folder.load()
        if state is None:
            self.folder.open()
            return
        self.trained.restore(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        self.step = self._kept = state["step"]

    def _keep(self, accelerator: Any, optimiser: Any) -> None:
        self.folder.save(
            {
                "step": self.step,
                "weights": self.trained.state(),
                "optimiser": optimiser.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
            }
        )
        self._kept = self.step


@contextmanager
def _accelerator(device: Any, dtype: Any) -> Iterator[Any]:
    """Accelerate's for one device and precision; its state is the process's, so it is put back."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    precision = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "no")
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu:
        torch.set_flush_denormal(True)  # without it small moments slow every step fivefold
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - there is no other way
    try:
        yield Accelerator(mixed_precision=precision, cpu=on_cpu, device_placement=False)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001
        GradientState._reset_state()  # noqa: SLF001
        if on_cpu:
            torch.set_flush_denormal(False)
