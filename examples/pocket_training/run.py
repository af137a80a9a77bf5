"""What every stage shares: budget, learning rate, averaged weights, checkpoint and log."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn


def trained(models: dict[str, nn.Module]) -> tuple[list[str], list[nn.Parameter]]:
    """The parameters that learn, and what each is called, ``unet.conv_in.weight`` for one."""
    named = {
        f"{key}.{name}": parameter
        for key, model in models.items()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return list(named), list(named.values())


class Run:
    """One stage's budget, learning rate, averaged weights, checkpoint and log.

    The learning rate warms up over 2% of the budget and falls along a cosine to ``final`` times its
    peak. A stage that
    is started again with the same name goes on where its checkpoint stopped, with the time that is
    left.
    """

    def __init__(
        self,
        name: str,
        models: dict[str, nn.Module],
        options: argparse.Namespace,
        *,
        lr: float,
        final: float = 0.02,
        ema: float = 0.999,
        weight_decay: float = 0.01,
    ) -> None:
        self.name, self.models, self.options = name, models, options
        self.budget = float(options.minutes) * 60
        self.peak, self.final, self.decay = lr, final, ema
        self.names, self.parameters = trained(models)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
        )
        self.averaged = [p.detach().clone() for p in self.parameters]
        self.path = options.out / f"{name}.pt"
        self.steps, self.spent, self.losses = 0, 0.0, {}  # type: int, float, dict[str, float]
        if self.path.exists() and not options.fresh:
            self._load()
            if options.again:
                self.spent = 0.0
        self.started = time.monotonic() - self.spent
        self.saved = time.monotonic()
        self.said = 0.0
        self.log(
            f"{name}: {sum(p.numel() for p in self.parameters) / 1e6:.2f} M parameters, "
            f"{options.minutes:g} min, {self.spent / 60:.1f} of them spent"
        )

    def log(self, text: str) -> None:
        """Print a line and append it to the stage's log file."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with (self.options.out / f"{self.name}.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @property
    def progress(self) -> float:
        """The share of the time budget that is spent, 0 to 1."""
        return min((time.monotonic() - self.started) / self.budget, 1.0)

    def __iter__(self) -> Iterator[int]:
        """Step numbers until the time is up; saves as it goes and at the end, Ctrl-C included."""
        bar = _progress_bar(self.name, self.budget)
        try:
            while self.progress < 1.0:
                rate = min(1.0, self.progress / 0.02 + 1e-3)
                cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
                for group in self.optimizer.param_groups:
                    group["lr"] = self.peak * rate * (self.final + (1 - self.final) * cosine)
                yield self.steps
                bar(time.monotonic() - self.started, self.losses)
                if time.monotonic() - self.said > 60:
                    self.said = time.monotonic()
                    values = "  ".join(f"{key} {value:.4f}" for key, value in self.losses.items())
                    rates = f"lr {self.optimizer.param_groups[0]['lr']:.2e}"
                    self.log(f"step {self.steps}  {100 * self.progress:.1f}%  {rates}  {values}")
                if time.monotonic() - self.saved > 150:
                    self.save()
        finally:
            bar(None, self.losses)
            self.save()

    def reporting(self, every: float, report: Callable[[], None]) -> Iterator[int]:
        """The same, and ``report`` is called with the averaged weights every so many seconds, and
        at the end, which leaves them averaged.
        """
        reported = time.monotonic()
        for step in self:
            yield step
            if time.monotonic() - reported > every:
                reported = time.monotonic()
                self.swap()
                report()
                self.swap()
        self.swap()
        report()

    def step(self, loss: torch.Tensor, **figures: torch.Tensor | float) -> None:
        """One optimiser step; ``figures`` are averaged for the log."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            self.log(f"step {self.steps}: gradient is not finite; step skipped")
            return
        self.optimizer.step()
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1 - decay)
        for key, value in {"loss": loss, **figures}.items():
            number = float(value.detach() if isinstance(value, torch.Tensor) else value)
            self.losses[key] = (
                number if key not in self.losses else 0.98 * self.losses[key] + 0.02 * number
            )

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the last one."""
        self.spent = time.monotonic() - self.started
        self.saved = time.monotonic()
        state = {
            "models": {key: model.state_dict() for key, model in self.models.items()},
            "optimizer": self.optimizer.state_dict(),
            "averaged": dict(zip(self.names, self.averaged, strict=True)),
            "steps": self.steps,
            "spent": self.spent,
        }
        save_checkpoint(state, self.path)

    def _load(self) -> None:
        state = torch.load(self.path, map_location=self.options.device, weights_only=True)
        for key, model in self.models.items():
            model.load_state_dict(state["models"][key])
        if "optimizer" in state:  # unpacked weights have none
            self.optimizer.load_state_dict(state["optimizer"])
        for average, name in zip(self.averaged, self.names, strict=True):
            average.copy_(state["averaged"][name])
        self.steps, self.spent = state["steps"], state["spent"]

    def swap(self) -> None:
        """Exchange the weights with their averages (call again to go back)."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averaged, strict=True):
                kept = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(kept)


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write beside the file and rename, so that readers never see half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        torch.save(state, file)
    Path(file.name).replace(path)


def _progress_bar(name: str, budget: float) -> Callable[[float | None, dict[str, float]], None]:
    """A bar over the seconds of the budget; silent when nobody watches."""
    if not sys.stderr.isatty():
        return lambda _seconds, _figures: None
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(name),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    bar = Progress(*columns)
    task = bar.add_task(name, total=budget, figures="")
    bar.start()

    def update(seconds: float | None, figures: dict[str, float]) -> None:
        if seconds is None:
            bar.stop()
            return
        text = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
        bar.update(task, completed=seconds, figures=text)

    return update


def restore(models: dict[str, nn.Module], path: Path, device: torch.device) -> None:
    """Load a stage's weights into its models, the averaged ones where the stage trained them."""
    state = torch.load(path, map_location=device, weights_only=True)
    for key, model in models.items():
        model.load_state_dict(state["models"][key])
    learnt = {
        f"{key}.{name}": parameter
        for key, model in models.items()
        for name, parameter in model.named_parameters()
    }
    with torch.no_grad():
        for name, average in state["averaged"].items():
            learnt[name].copy_(average)
