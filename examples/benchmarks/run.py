"""Measure the engine against diffusers' own pipeline: same weights, same run, one command.

    python examples/benchmarks/run.py [--rows single-edit,compare] [--json FILE]

Prints a Markdown table. Runs of both are interleaved and their medians compared. Without
``--threads`` torch has as many as it takes for itself, as in anybody's use, and the clock is the
wall's. ``--threads 1`` is for busy machines: there the clock is processor time, which other
programs hardly disturb.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from engine import EditResult, InpaintEngine
from engine.denoise.strategy import Strategy
from engine.picture.geometry import Size
from engine.pocket import world
from engine.request.request import EditRequest
from engine.solvers.names import fresh_scheduler, list_schedulers
from engine.types import Conditioning
from strategies import LatentBlend

if TYPE_CHECKING:
    from engine.runtime.core import Ticket

STEPS = 30
GUIDANCE = 5.0
SYNC_FREE = ("euler", "ddim", "dpmpp-2m", "lcm")
PARTS = {
    "unet": ("unet", "forward"),
    "encode": ("vae", "encode"),
    "decode": ("vae", "decode"),
    "text": ("text_encoder", "forward"),
}


@dataclass
class Row:
    """One line of the table. ``ratio`` is softpaint over peer; ``goal`` is for what ``of`` says."""

    row: str
    softpaint: float
    peer: float
    ratio: float
    goal: float
    max_difference: float | None
    of: str
    unit: str
    met: bool
    details: dict[str, Any] = field(default_factory=dict)


class HostReads(TorchDispatchMode):
    """Counts reads of a tensor's value by the host: what waits for the device on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default  # noqa: SLF001
        return func(*args, **(kwargs or {}))


class Meter:
    """Seconds and calls of a pipeline's modules."""

    def __init__(self, pipe: Any, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.reset()
        for part, (module, method) in PARTS.items():
            owner = getattr(pipe, module)
            setattr(owner, method, self._timed(part, getattr(owner, method)))

    def reset(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.clock()
            result = function(*args, **kwargs)
            self.seconds[part] += self.clock() - began
            self.calls[part] += 1
            return result

        return timed

    def run(self, act: Callable[[], Any]) -> dict[str, float]:
        """Seconds in all and outside the UNet, and calls of each part."""
        self.reset()
        began = self.clock()
        act()
        total = self.clock() - began
        return {"total": total, "outside": total - self.seconds["unet"], **self.calls}


class Bench:
    """The model, the engine around it and diffusers' pipeline around the same modules."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.engine = InpaintEngine.from_pretrained(device="cpu")
        pipeline: Any = StableDiffusionXLInpaintPipeline
        self.peer = pipeline(**self.engine.pipe.components, add_watermarker=False)
        self.peer.set_progress_bar_config(disable=True)
        self.own_scheduler = self.engine.pipe.scheduler
        single = torch.get_num_threads() == 1
        self.clock: Callable[[], float] = time.process_time if single else time.perf_counter
        self.meter = Meter(self.engine.pipe, self.clock)

        scene = world.sample_edits()[0]
        self.prompt = scene.prompt
        self.image, self.mask = (Image.fromarray(each) for each in (scene.image, scene.mask))

    def edit(self, **changes: Any) -> EditResult:
        settings: dict[str, Any] = {
            "image": self.image,
            "prompt": self.prompt,
            "strategy": "blend",
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "seed": 1,
            "prefill": "original",  # as diffusers; a fill is one more picture to encode
            "colour": "none",  # which diffusers does not correct either
            "progress": False,
            **changes,
        }
        if "strength_map" not in settings:
            settings["mask"] = self.mask
        return self.engine.edit(**settings)

    def diffusers(self, *, steps: int = STEPS, seed: int = 1, output_type: str = "pil") -> Any:
        return self.peer(
            prompt=self.prompt,
            image=self.image,
            mask_image=self.mask,
            height=self.image.height,
            width=self.image.width,
            strength=1.0,
            guidance_scale=GUIDANCE,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            output_type=output_type,
        ).images

    @contextmanager
    def scheduler(self, name: str) -> Iterator[None]:
        """Diffusers' pipeline with a scheduler by the engine's name for it."""
        self.peer.scheduler = fresh_scheduler(name, self.own_scheduler)
        try:
            yield
        finally:
            self.peer.scheduler = self.own_scheduler

    def parity(self, *, steps: int, scheduler: str | None = None) -> float:
        """Largest difference of compat="diffusers" to diffusers, in pixels of 0 to 1."""
        ours = self.edit(
            num_inference_steps=steps,
            scheduler=scheduler,
            compat="diffusers",
            output_type="np",
        )
        return float(np.abs(ours.images - self.diffusers(steps=steps, output_type="np")).max())

    def decoded(self, several: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Pictures in 0 to 1, before they are rounded to 8 bits, of several edits' latents."""
        with torch.no_grad():
            return [(self.engine.backbone.decode(each) / 2 + 0.5).clamp(0, 1) for each in several]

    def row_seconds(self) -> dict[int, float]:
        """What a row of the UNet's calls takes, by their rows."""
        network = self.engine.backbone.network("base")
        cond, _ = self.engine.backbone.encode_prompt(
            self.prompt, None, guided=False, size=Size(*self.image.size)
        )
        seconds = {}
        for rows in (2, 4, 8, 12, 16, 24, 32):
            given = Conditioning.join([cond] * rows)
            sample, timesteps = torch.zeros(rows, 4, 16, 16), torch.full((rows,), 500.0)
            call = partial(network.predict, sample, timesteps, given, {})
            with torch.no_grad():
                runs = [self.meter.run(call)["total"] for _ in range(self.repeats + 1)]
            seconds[rows] = median(runs[1:]) / rows
        return seconds

    def medians(self, **acts: Callable[[int], Any]) -> dict[str, dict[str, float]]:
        """Interleaved runs of each, after one that warms up; each is told its number."""
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in acts}
        for number in range(self.repeats + 1):
            for name, act in acts.items():
                runs[name].append(self.meter.run(partial(act, number)))
        return {
            name: {key: median(run[key] for run in several[1:]) for key in several[0]}
            for name, several in runs.items()
        }

    def against(self, *, steps: int, scheduler: str | None = None) -> dict[str, dict[str, float]]:
        """A first edit (nothing remembered), a later one of the same picture, and diffusers'."""

        def first(number: int) -> None:
            self.engine.clear_cache()
            again(number)

        def again(number: int) -> None:
            self.edit(num_inference_steps=steps, scheduler=scheduler, seed=number)

        return self.medians(
            first=first, again=again, peer=lambda n: self.diffusers(steps=steps, seed=n)
        )


def row(name: str, ours: float, peer: float, goal: float, *, of: str = "ratio", **rest: Any) -> Row:
    """A row whose goal is for its ratio, or for softpaint's own value."""
    ratio = ours / peer if peer else 0.0
    met = {"ratio": ratio, "softpaint": ours}[of] <= goal
    return Row(name, ours, peer, ratio, goal, of=of, met=met, **rest)


def single_edit(bench: Bench) -> Row:
    """Time of a first edit; what is outside the UNet, FLOPs and calls in the details."""
    got = bench.against(steps=STEPS)
    outside = {key: got[key]["outside"] / got["peer"]["outside"] for key in ("first", "again")}
    flops = {}
    for name, act in (("softpaint", bench.edit), ("peer", bench.diffusers)):
        with FlopCounterMode(display=False) as counter:
            act()
        flops[name] = counter.get_total_flops()
    return row(
        "single-edit",
        got["first"]["total"],
        got["peer"]["total"],
        1.0,
        unit=f"s, {STEPS} steps",
        max_difference=bench.parity(steps=STEPS),
        details={
            "outside_unet_s": {key: each["outside"] for key, each in got.items()},
            "outside_unet_ratio": {**outside, "goal": 0.5},
            "calls": {key: {part: each[part] for part in PARTS} for key, each in got.items()},
            "flops": flops,
        },
    )


def host_reads(bench: Bench) -> Row:
    """Reads of tensors by the host in a step: a longer run's less a shorter one's."""

    def per_step(act: Callable[[int], Any]) -> float:
        counts: list[int] = []
        act(1)  # what is met for the first time is looked up and encoded
        for steps in (3, 6):
            with HostReads() as reads:
                act(steps)
            counts.append(reads.count)
        return (counts[1] - counts[0]) / 3

    ours, peer, apart = {}, {}, 0.0
    for name in SYNC_FREE:
        mine = partial(bench.edit, scheduler=name, strategy="differential")
        ours[name] = per_step(lambda n: mine(num_inference_steps=n))  # noqa: B023 - called here
        with bench.scheduler(name):
            peer[name] = per_step(lambda n: bench.diffusers(steps=n))
            apart = max(apart, bench.parity(steps=3, scheduler=name))
    return row(
        "host-reads",
        max(ours.values()),
        max(peer.values()),
        0.0,
        of="softpaint",
        unit="reads a step, worst of " + ", ".join(SYNC_FREE),
        max_difference=apart,
        details={"softpaint": ours, "peer": peer},
    )


def difference(one: EditResult, two: EditResult) -> float:
    """Largest difference of the latents."""
    if one.latents is None or two.latents is None:
        raise ValueError("the results have no latents")
    return float((one.latents - two.latents).abs().max())


def cells(values: np.ndarray) -> np.ndarray:
    """A map with one value for each column of latent cells."""
    rows = np.repeat(np.asarray(values, np.float32), 8)
    return np.tile(rows, (len(rows), 1))


def every_scheduler(
    bench: Bench, again: Callable[[dict[str, Any]], tuple[EditResult, EditResult]]
) -> tuple[dict[str, list[int]], float]:
    """Model calls (less work, full) by scheduler, and the largest difference of the latents."""
    calls, apart = {}, 0.0
    for name in list_schedulers():
        settings = {
            "image": bench.image,
            "prompt": bench.prompt,
            "guidance_scale": 1.0,
            "seed": 1,
            "scheduler": name,
            "output_type": "latent",
            "progress": False,
        }
        quick, full = again(settings)
        calls[name] = [quick.model_calls, full.model_calls]
        apart = max(apart, difference(quick, full))
    return calls, apart


def retune(bench: Bench) -> Row:
    """Model calls after a map changed where it was at most 0.4."""
    before = np.linspace(0, 1, 16)
    after = np.where(before <= 0.4, 0.4 - before, before)

    def again(settings: dict[str, Any]) -> tuple[EditResult, EditResult]:
        settings["num_inference_steps"] = 10
        session = bench.engine.session(**settings)
        session.render(strength_map=cells(before))
        full = bench.engine.edit(**settings, strength_map=cells(after))
        return session.render(strength_map=cells(after)), full

    calls, apart = every_scheduler(bench, again)
    quick, full = max(calls.values(), key=lambda each: each[0] / each[1])
    return row(
        "retune",
        quick,
        full,
        0.62,
        unit=f"model calls, worst of {len(calls)} schedulers",
        max_difference=apart,
        details={"calls": calls},
    )


def leading_skip(bench: Bench) -> Row:
    """Model calls under a map of at most 0.5."""
    strengths = np.linspace(0, 0.5, 16)

    def again(settings: dict[str, Any]) -> tuple[EditResult, EditResult]:
        settings |= {"num_inference_steps": STEPS, "strength_map": cells(strengths)}
        return bench.engine.edit(**settings), bench.engine.edit(**settings, skip=False)

    calls, apart = every_scheduler(bench, again)
    return row(
        "leading-skip",
        calls["euler"][0],
        calls["euler"][1],
        0.5,
        unit=f"model calls of {STEPS}, Euler",
        max_difference=apart,
        details={"calls": calls},
    )


def compare(bench: Bench) -> Row:
    """Four strategies on one picture, nothing remembered, against four diffusers calls."""
    steps = 20
    names = ["blend", "differential", "soft-blend"]
    hard = Strategy("blend-hard", (LatentBlend(hard_mask=True),))
    settings: dict[str, Any] = {
        "image": bench.image,
        "mask": bench.mask,
        "prompt": bench.prompt,
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "prefill": "original",
        "colour": "none",
        "progress": False,
    }

    def ours(number: int) -> None:
        bench.engine.clear_cache()
        bench.engine.compare(strategies=[*names, hard], seed=number, **settings)

    def theirs(number: int) -> None:
        for _ in range(4):
            bench.diffusers(steps=steps, seed=number)

    got = bench.medians(softpaint=ours, peer=theirs)
    together = bench.engine.compare(strategies=[*names, hard], seed=1, **settings).results
    apart = max(difference(together[name], bench.edit(**settings, strategy=name)) for name in names)
    return row(
        "compare",
        got["softpaint"]["total"],
        got["peer"]["total"],
        0.7,
        unit=f"s, 4 strategies, {steps} steps, 16 x 16 latents",
        max_difference=apart,
        details={
            "vae_encodes": {key: each["encode"] for key, each in got.items()},
            "text_encodes": {key: each["text"] for key, each in got.items()},
        },
    )


@dataclass
class Arrival:
    """An edit and when it is asked for, in seconds."""

    at: float
    request: EditRequest


def arriving(bench: Bench, count: int = 16) -> list[Arrival]:
    """Random edits, at four times the rate at which they could be done one after another."""
    rng = np.random.default_rng(0)
    bench.edit(num_inference_steps=14)
    pace = bench.meter.run(lambda: bench.edit(num_inference_steps=14))["total"]
    scenes, at, arrivals = world.sample_edits(), 0.0, []
    for number in range(count):
        scene = scenes[int(rng.integers(len(scenes)))]
        request = EditRequest(
            image=scene.image,
            mask=scene.mask,
            prompt=scene.prompt,
            num_inference_steps=int(rng.integers(8, 21)),
            guidance_scale=GUIDANCE,
            seed=number,
        )
        strategy = ("blend", "differential", "soft-blend")[int(rng.integers(3))]
        arrivals.append(Arrival(at, replace(request, strategy=strategy)))
        at += float(rng.exponential(0.25 * pace))
    return arrivals


def serve(
    engine: InpaintEngine,
    clock: Callable[[], float],
    arrivals: Sequence[Arrival],
    *,
    together: bool,
) -> tuple[list[float], list[torch.Tensor]]:
    """Latency and latents of each edit, through one loop or one after another, nothing remembered
    from before. Time is the work's own, and jumps to the next arrival where there is nothing to do.
    """
    engine.clear_cache()
    now, waiting = 0.0, list(enumerate(arrivals))
    running: dict[Ticket, int] = {}
    latency = [0.0] * len(arrivals)
    latents: list[Any] = [None] * len(arrivals)
    runtime = engine.runtime()
    while waiting or running:
        began = clock()
        while waiting and waiting[0][1].at <= now and (together or not running):
            number, each = waiting.pop(0)
            running[runtime.add(each.request)] = number
        if not running:
            now = waiting[0][1].at
            continue
        for ticket in runtime.step():
            number = running.pop(ticket)
            latency[number] = now + clock() - began - arrivals[number].at
            latents[number] = ticket.outcome().latents
        now += clock() - began
    return latency, latents


def arrivals(bench: Bench) -> Row:
    """Latency of 16 edits that arrive at random: one loop against one after another."""
    edits = arriving(bench)
    runs = {True: [], False: []}  # type: dict[bool, list[tuple[list[float], list[torch.Tensor]]]]
    for _ in range(max(1, bench.repeats // 2)):
        for together, several in runs.items():
            several.append(serve(bench.engine, bench.clock, edits, together=together))

    def spent(together: bool, measure: Callable[[list[float]], Any]) -> float:
        return median(float(measure(latency)) for latency, _ in runs[together])

    def late(latency: list[float]) -> Any:
        return np.percentile(latency, 95)

    pairs = list(zip(runs[True][0][1], runs[False][0][1], strict=True))
    return row(
        "arrivals",
        spent(True, late),
        spent(False, late),
        0.5,
        unit="s, 95th percentile of 16 latencies",
        max_difference=max(
            float((one - two).abs().max()) for one, two in map(bench.decoded, pairs)
        ),
        details={
            "mean_s": {"softpaint": spent(True, np.mean), "peer": spent(False, np.mean)},
            "latents_difference": max(float((one - two).abs().max()) for one, two in pairs),
            "row_s": bench.row_seconds(),
        },
    )


def few_step(bench: Bench) -> Row:
    """What four steps of LCM cost beside the UNet."""
    with bench.scheduler("lcm"):
        got = bench.against(steps=4, scheduler="lcm")
        apart = bench.parity(steps=4, scheduler="lcm")
    first = got["first"]["outside"] / got["peer"]["outside"]
    return row(
        "few-step",
        got["again"]["outside"],
        got["peer"]["outside"],
        0.5,
        unit="s outside the UNet, a picture's later edits, 4 steps",
        max_difference=apart,
        details={"first_edit_ratio": first, "total_s": {k: v["total"] for k, v in got.items()}},
    )


def seconds_of(command: Sequence[str], repeats: int) -> float:
    """Processor seconds of a child process, median."""
    spent = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)  # noqa: S603
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return median(spent)


def started(name: str, goal: float, ours: Sequence[str], peer: Sequence[str], unit: str) -> Row:
    """Processor time of starting Python with a command."""
    return row(
        name,
        seconds_of(ours, 5),
        seconds_of(peer, 1),
        goal,
        of="softpaint",
        unit=unit,
        max_difference=None,
    )


def importing(_: Any) -> Row:
    """``import engine``, Python's own start included."""
    peer = "from diffusers import StableDiffusionXLInpaintPipeline"
    unit = "s, against the pipeline's import"
    return started("import", 0.3, ["-c", "import engine"], ["-c", peer], unit)


def helping(_: Any) -> Row:
    """``softpaint --help``, Python's own start included."""
    peer = ["-m", "diffusers.commands.diffusers_cli", "--help"]
    unit = "s, against diffusers-cli --help"
    return started("help", 0.5, ["-m", "engine.cli", "--help"], peer, unit)


ROWS: Mapping[str, Callable[[Any], Row]] = {
    "single-edit": single_edit,
    "host-reads": host_reads,
    "retune": retune,
    "leading-skip": leading_skip,
    "compare": compare,
    "arrivals": arrivals,
    "few-step": few_step,
    "import": importing,
    "help": helping,
}


def show(each: Row) -> str:
    """The row as a line of the table."""
    apart = "" if each.max_difference is None else f"{each.max_difference:.1e}"
    goal = f"{'' if each.of == 'ratio' else 'softpaint '}<= {each.goal:g}"
    verdict = "met" if each.met else "missed"
    return (
        f"| `{each.row}` | {each.softpaint:.4g} | {each.peer:.4g} | {each.ratio:.3f} | {goal} "
        f"| {verdict} | {apart} | {each.unit} |"
    )


def machine() -> str:
    """What the figures depend on beside the code."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load "
        f"{load}; Python {platform.python_version()}, {versions}"
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", default=",".join(ROWS), help="names with commas between")
    parser.add_argument("--json", type=Path, help="also write the table with its details")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side [default: 5]")
    parser.add_argument("--threads", type=int, help="torch's threads [default: its own choice]")
    options = parser.parse_args()
    wanted = options.rows.split(",")
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"unknown row {min(unknown)!r}; known: {', '.join(ROWS)}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    bench = Bench(options.repeats) if set(wanted) - {"import", "help"} else None
    print(machine() + "\n")
    print("| row | softpaint | peer | ratio | goal | | max. difference | unit |")
    print("|---|---:|---:|---:|---|---|---:|---|", flush=True)
    rows = []
    for name in wanted:
        rows.append(ROWS[name](bench))
        print(show(rows[-1]), flush=True)
    if options.json is not None:
        table = {"machine": machine(), "rows": [asdict(each) for each in rows]}
        options.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
