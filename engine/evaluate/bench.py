"""Runs strategies and diffusers' own pipelines over a suite, and measures what they make."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from engine.engine import InpaintEngine
from engine.errors import SoftpaintError
from engine.evaluate.peers import PEERS, peer_pipeline, run_peer
from engine.evaluate.store import Row, Store
from engine.evaluate.suites import PURPOSES
from engine.evaluate.workers import in_processes
from engine.picture.masks import is_hard
from engine.picture.metrics import Sample, measure
from engine.solvers.names import fresh_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from engine.evaluate.plan import Plan, Variant
    from engine.evaluate.suites import Case
    from engine.models import Backbone


@dataclass(frozen=True)
class Block:
    """Some cases of a task that are run together."""

    task: str
    start: int
    """Number of the first case in its task."""
    cases: Sequence[Case]
    left: Mapping[str, Sequence[int]]
    """By name, the cases (numbers in this block) that are not done yet."""
    plain: Mapping[tuple[str, int], NDArray[np.uint8]]
    """By name and case: pictures without colour correction that were made before."""


@dataclass(frozen=True)
class Made:
    """What was made of a block with one name."""

    task: str
    name: str
    pictures: Sequence[tuple[Row, NDArray[np.uint8]]]
    """Rows and pictures (H W 3)."""
    failures: Sequence[str]
    """What went wrong, by case."""


class Runner:
    """Makes and measures pictures with one engine."""

    def __init__(self, engine: InpaintEngine, plan: Plan, variants: Sequence[Variant]) -> None:
        self.engine = engine
        self.plan = plan
        self.variants = {variant.name: variant for variant in variants}
        self._peers: dict[str, Any] = {}

    def run(self, block: Block) -> Iterator[Made]:
        """What is left of a block, one name after the other."""
        plain = dict(block.plain)
        for name, left in block.left.items():
            cases = [block.cases[i] for i in left]
            seeds = [self.plan.seed + block.start + i for i in left]
            began = time.perf_counter()
            make = self._by_peer if name in PEERS else self._by_strategy
            made = make(name, cases, seeds)
            seconds = (time.perf_counter() - began) / len(cases)
            errors = {i: e for i, e in zip(left, made, strict=True) if isinstance(e, Exception)}
            done = {i: e for i, e in zip(left, made, strict=True) if not isinstance(e, Exception)}
            plain |= {(name, i): pixels for i, (pixels, _) in done.items()}
            twin = self._uncorrected(name)
            yield Made(
                block.task,
                name,
                [
                    (self._row(name, block.cases[i], *each, seconds, plain.get((twin, i))), each[0])
                    for i, each in done.items()
                ],
                [
                    f"{block.task}, {block.cases[i].scene}, {name}: {error}"
                    for i, error in errors.items()
                ],
            )

    def _uncorrected(self, name: str) -> str:
        """The variant that is ``name`` without colour correction; empty where none is run."""
        mine = self.variants.get(name)
        each = self.variants.values()
        return next((v.name for v in each if mine and v.is_uncorrected(mine)), "")

    def _row(
        self,
        name: str,
        case: Case,
        pixels: NDArray[np.uint8],
        model_calls: int | None,
        seconds: float,
        uncorrected: NDArray[np.uint8] | None,
    ) -> Row:
        sample = Sample(
            result=pixels,
            original=case.canvas,
            strength_map=case.canvas_map,
            truth=case.truth,
            subject=case.subject,
            uncorrected=uncorrected,
            prompt=case.prompt if self.plan.suite == "pocket" else None,
            seconds=seconds,
            model_calls=model_calls,
        )
        return Row(name, name in PEERS, case.task, case.scene, measure(sample))

    def _by_strategy(
        self, name: str, cases: Sequence[Case], seeds: Sequence[int]
    ) -> list[tuple[NDArray[np.uint8], int | None] | Exception]:
        variant = self.variants[name]
        outcomes = self.engine.edit_many(
            [
                {
                    "image": case.image,
                    "prompt": case.prompt,
                    **_region(case),
                    "task": PURPOSES.get(case.task, "auto"),
                    "strategy": variant.strategy,
                    "num_inference_steps": self.plan.steps,
                    "guidance_scale": self.plan.guidance,
                    "scheduler": self.plan.scheduler,
                    "seed": seed,
                    "progress": False,
                    **variant.settings,
                }
                for case, seed in zip(cases, seeds, strict=True)
            ]
        )
        return [
            each if isinstance(each, Exception) else (np.asarray(each.images[0]), each.model_calls)
            for each in outcomes
        ]

    def _by_peer(
        self, name: str, cases: Sequence[Case], seeds: Sequence[int]
    ) -> list[tuple[NDArray[np.uint8], int | None] | Exception]:
        backbone: Backbone = self.engine.backbone
        if name not in self._peers:
            scheduler = fresh_scheduler(self.plan.scheduler, backbone.pipe.scheduler)
            self._peers[name] = peer_pipeline(backbone, name, scheduler)
        made: list[tuple[NDArray[np.uint8], int | None] | None] = [None] * len(cases)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, case in enumerate(cases):
            by_size.setdefault(case.canvas.shape, []).append(i)
        for group in by_size.values():
            images = run_peer(
                self._peers[name],
                multiple=backbone.cell * backbone.family.peer.patch,
                images=[Image.fromarray(cases[i].canvas) for i in group],
                masks=[_as_picture(cases[i].canvas_map) for i in group],
                prompts=[cases[i].prompt for i in group],
                seeds=[seeds[i] for i in group],
                num_inference_steps=self.plan.steps,
                guidance_scale=self.plan.guidance,
            )
            for i, image in zip(group, images, strict=True):
                made[i] = np.asarray(image.convert("RGB")), None
        return [each for each in made if each is not None]


def _region(case: Case) -> dict[str, Any]:
    """The case's mask or map, and the canvas's growth, as arguments of an edit."""
    region: dict[str, Any] = {"expand": case.expand} if case.expand else {}
    if case.strength_map.any():
        kind = "mask" if is_hard(case.strength_map) else "strength_map"
        region[kind] = case.strength_map
    return region


def _as_picture(strength_map: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray((strength_map * 255).round().astype(np.uint8))


# --- all of it -----------------------------------------------------------------------------------


def evaluate(
    engine: InpaintEngine,
    plan: Plan,
    cases: Mapping[str, Sequence[Case]],
    *,
    variants: Sequence[Variant],
    peers: Sequence[str],
    store: Store,
    batch: int = 16,
    workers: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Make and measure what the store does not hold yet.

    Args:
        engine: runs everything, unless there are several ``workers``.
        plan: what everybody is asked for.
        cases: by task.
        variants: strategies, at least one; those without colour correction are run first.
        peers: names of :data:`engine.evaluate.peers.PEERS`.
        store: where pictures and rows go.
        batch: cases in one block; strategies share model calls within it, peers get it whole.
        workers: processes, each with an engine of its own (loaded as ``plan.load`` says) and an
            equal share of the processor's threads.
        say: called with a line about each finished block.

    Returns:
        The rows of these cases, variants and peers, in the order given, old and new.

    Raises:
        SoftpaintError: an edit failed. All others have been made and stored by then.
    """
    ordered = sorted(variants, key=lambda each: each.settings.get("colour") != "none")
    blocks = [
        _block(task, start, each[start : start + batch], _names(task, ordered, peers), store)
        for task, each in cases.items()
        for start in range(0, len(each), batch)
    ]
    blocks = [block for block in blocks if block.left]
    pictures = sum(len(left) for block in blocks for left in block.left.values())
    done, failures = 0, list[str]()
    for made in _run(blocks, Runner(engine, plan, variants), workers):
        for row, pixels in made.pictures:
            store.add(row, pixels)
        done += len(made.pictures)
        failures += made.failures
        seconds = [row.metrics["seconds"] for row, _ in made.pictures]
        each = f"{seconds[-1]:.2f} s each" if seconds else "failed"
        say(f"{done} of {pictures} pictures: {made.task}, {made.name}, {each}")
    if failures:
        raise SoftpaintError(
            f"{len(failures)} of {pictures} pictures failed; the first: {failures[0]}. The others "
            "are kept, and the same evaluation tries these again."
        )
    return [
        store.rows[task, case.scene, name]
        for task, each in cases.items()
        for name in _names(task, variants, peers)
        for case in each
    ]


def _names(task: str, variants: Sequence[Variant], peers: Sequence[str]) -> list[str]:
    """Who runs in ``task``."""
    return [*(each.name for each in variants if each.runs_in(task)), *peers]


def _block(
    task: str, start: int, cases: Sequence[Case], names: Sequence[str], store: Store
) -> Block:
    """A block of work: what of it is not in the store."""
    left: dict[str, list[int]] = {}
    plain: dict[tuple[str, int], NDArray[np.uint8]] = {}
    for name in names:
        for i, case in enumerate(cases):
            if (task, case.scene, name) not in store:
                left.setdefault(name, []).append(i)
            elif "colour=none" in name:
                plain[name, i] = store.pixels(task, case.scene, name)
    return Block(task, start, cases, left, plain)


def _run(blocks: Sequence[Block], runner: Runner, workers: int) -> Iterator[Made]:
    """What is made, as it is finished."""
    if workers == 1:
        for block in blocks:
            yield from runner.run(block)
        return
    yield from in_processes(partial(_worker, runner.plan, runner.variants), blocks, workers)


def _worker(plan: Plan, variants: Mapping[str, Variant]) -> Callable[[Block], list[Made]]:
    """What a process does with a block, with an engine of its own."""
    runner = Runner(InpaintEngine.from_pretrained(**plan.load), plan, list(variants.values()))
    return lambda block: list(runner.run(block))
