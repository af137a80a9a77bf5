"""Measure the engine on a flow model against diffusers' own pipeline: same weights, same run.

    python examples/benchmarks/flow.py [--threads 1] [--json FILE]

As ``run.py``, on ``pocket-flow`` and ``StableDiffusion3InpaintPipeline``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from transformers import T5Config, T5EncoderModel

sys.path.append(str(Path(__file__).resolve().parents[2]))

from engine import InpaintEngine
from engine.evaluate.peers import peer_pipeline, run_peer
from engine.pocket import world
from engine.solvers.names import fresh_scheduler
from examples.benchmarks.run import HostReads, Row, machine, row, show

STEPS = 25
GUIDANCE = 4.0


def beside_a_t5(engine: InpaintEngine) -> InpaintEngine:
    """The same model with a small T5 of random weights, whose 256 tokens are all told apart."""
    width = engine.pipe.transformer.config.joint_attention_dim
    config = T5Config(
        vocab_size=len(engine.pipe.tokenizer), d_model=width, d_ff=width, num_layers=1, num_heads=2
    )
    torch.manual_seed(0)
    own = {"text_encoder_3": T5EncoderModel(config).eval(), "tokenizer_3": engine.pipe.tokenizer}
    return InpaintEngine.from_pipe(type(engine.pipe)(**{**engine.pipe.components, **own}))


class Bench:
    """A flow model, and diffusers' pipeline around the same modules."""

    def __init__(self, repeats: int, engine: InpaintEngine) -> None:
        self.repeats = repeats
        self.engine = engine
        backbone = self.engine.backbone
        self.peer = peer_pipeline(
            backbone, "diffusers-4ch", fresh_scheduler(None, backbone.pipe.scheduler)
        )
        scene = world.sample_edits()[0]
        self.prompt = scene.prompt
        self.image, self.mask = (Image.fromarray(each) for each in (scene.image, scene.mask))
        alone = torch.get_num_threads() == 1
        self.clock: Callable[[], float] = time.process_time if alone else time.perf_counter

    def settings(self, seed: int, steps: int = STEPS) -> dict[str, Any]:
        return {
            "image": self.image,
            "mask": self.mask,
            "prompt": self.prompt,
            "strategy": "blend",
            "num_inference_steps": steps,
            "guidance_scale": GUIDANCE,
            "seed": seed,
            "prefill": "original",  # as diffusers; a fill is one more picture to encode
            "colour": "none",  # which diffusers does not correct either
            "progress": False,
        }

    def first(self, seed: int, steps: int = STEPS) -> None:
        """An edit with nothing remembered."""
        self.engine.clear_cache()
        self.engine.edit(**self.settings(seed, steps))

    def diffusers(self, seed: int, steps: int = STEPS) -> None:
        run_peer(
            self.peer,
            images=[self.image],
            masks=[self.mask],
            prompts=[self.prompt],
            seeds=[seed],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            multiple=16,
        )

    def shared(self, seed: int, count: int = 4) -> None:
        """Edits in shared calls, with nothing remembered."""
        self.engine.clear_cache()
        self.engine.edit_many([self.settings(seed + i) for i in range(count)]).unwrap()

    def apart(self, seed: int, count: int = 4) -> None:
        for i in range(count):
            self.first(seed + i)

    def medians(self, *acts: Callable[[int], None]) -> list[float]:
        """Seconds of each, interleaved, after a run that warms up."""
        runs: list[list[float]] = [[] for _ in acts]
        for number in range(self.repeats + 1):
            for act, own in zip(acts, runs, strict=True):
                began = self.clock()
                act(number)
                own.append(self.clock() - began)
        return [median(own[1:]) for own in runs]


def reads_a_step(act: Callable[[int, int], None]) -> float:
    """Reads of tensors by the host in a step: a longer run's less a shorter one's."""
    counts: list[int] = []
    for steps in (2, 3, 6):
        with HostReads() as reads:
            act(1, steps)
        counts.append(reads.count)
    return (counts[2] - counts[1]) / 3


def measured(bench: Bench) -> list[Row]:
    """All rows."""
    ours, theirs = bench.medians(bench.first, bench.diffusers)
    four, each = bench.medians(bench.shared, bench.apart)
    first, peer = (reads_a_step(partial(act)) for act in (bench.first, bench.diffusers))
    none: dict[str, Any] = {"max_difference": None}
    words = Bench(bench.repeats, beside_a_t5(bench.engine))
    with_words, theirs_too = words.medians(words.first, words.diffusers)
    unit = f"s, {STEPS} steps, with a T5's tokens"
    return [
        row("flow-single-edit", ours, theirs, 1.0, unit=f"s, {STEPS} steps", **none),
        row("flow-single-edit-t5", with_words, theirs_too, 1.0, unit=unit, **none),
        row("flow-shared-4", four, each, 0.7, unit="s, against four edits of our own", **none),
        row("flow-host-reads", first, peer, 0.0, of="softpaint", unit="reads a step", **none),
    ]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the table")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side [default: 5]")
    parser.add_argument("--threads", type=int, help="torch's threads [default: its own choice]")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    engine = InpaintEngine.from_pretrained("pocket-flow", device="cpu")
    rows = measured(Bench(options.repeats, engine))
    print(machine() + "\n")
    print("| row | softpaint | peer | ratio | goal | | max. difference | unit |")
    print("|---|---:|---:|---:|---|---|---:|---|")
    for each in rows:
        print(show(each))
    if options.json is not None:
        table = {"machine": machine(), "rows": [asdict(each) for each in rows]}
        options.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
