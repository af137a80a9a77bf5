"""Measure what a flow model's edits look like against diffusers' own pipeline on the same weights.

    python examples/benchmarks/measure_flow.py [seams|gradient] [--count 200] [-o sheet.png]

On held-out scenes of the pocket world: seams and untouched pixels in the four tasks, and how much
is changed where a soft map asks for more or less, of which diffusers' pipeline makes a mask. Prints
Markdown tables; 200 scenes a task take hours of a core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

sys.path.append(str(Path(__file__).resolve().parents[2]))

from engine import InpaintEngine
from engine.evaluate import Plan, Store, Variant, evaluate, open_suite
from engine.evaluate.peers import peer_pipeline, run_peer
from engine.picture.sheet import labelled_grid, overlay_map
from engine.picture.write import save_image
from engine.pocket import world
from engine.solvers.names import fresh_scheduler

MODEL = "pocket-flow"
FIRST_SEED = 1_000_000
"""Held-out scenes: training used seeds below this one."""
TASKS = ("removal", "insertion", "recolour", "outpaint")
OURS, PEER = "differential", "diffusers-4ch"
SIDE = 128
"""Of the scenes, in px."""
BINS = 8
"""Bands of the gradient, from where a little is asked for to where all is."""
GUIDANCE = 4.0


def seams(engine: InpaintEngine, *, count: int, steps: int) -> None:
    """Of each task: seam and untouched pixels, of both."""
    suite = open_suite("pocket", first_seed=FIRST_SEED, size=SIDE)
    plan = Plan(
        first_seed=FIRST_SEED, steps=steps, guidance=GUIDANCE, seed=0, load={"model": MODEL}
    )
    cases = {task: suite.cases(task, count) for task in TASKS}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "pictures", plan.settings())
        variants = [Variant(OURS, OURS)]
        rows = evaluate(engine, plan, cases, variants=variants, peers=[PEER], store=store)
    print(f"\n{count} scenes a task, {steps} steps, guidance {GUIDANCE:g}\n")
    print("| task | seam | diffusers' | ratio | untouched | diffusers' |")
    print("|---|---:|---:|---:|---:|---:|")
    for task in TASKS:
        of = {
            (name, metric): np.mean(
                [r.metrics[metric] for r in rows if (r.task, r.name) == (task, name)]
            )
            for name in (OURS, PEER)
            for metric in ("seam", "untouched")
        }
        ours, theirs = of[OURS, "seam"], of[PEER, "seam"]
        kept = " | ".join(f"{of[name, 'untouched']:.2f}" for name in (OURS, PEER))
        print(f"| {task} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {kept} |")


def gradient(engine: InpaintEngine, *, count: int, steps: int, sheet: Path | None) -> None:
    """How much the bands of a gradient change, another time of day being asked for."""
    backbone = engine.backbone
    peer = peer_pipeline(backbone, PEER, fresh_scheduler(None, backbone.pipe.scheduler))
    made: dict[str, list[list[float]]] = {OURS: [], PEER: []}
    rows = []
    for number in range(count):
        spec = world.sample_scene(FIRST_SEED + number)
        other = next(time for time in world.TIMES if time != spec.time)
        prompt = replace(spec, time=other).caption
        image = world.render(spec, SIDE).image
        ramp = np.tile(np.linspace(0, 1, SIDE, dtype=np.float32), (SIDE, 1))
        result = engine.edit(
            image=image,
            strength_map=ramp,
            prompt=prompt,
            strategy=OURS,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            seed=number,
            progress=False,
        )
        pictures = {
            OURS: result.images[0],
            PEER: run_peer(
                peer,
                images=[Image.fromarray(image)],
                masks=[Image.fromarray((ramp * 255).round().astype(np.uint8))],
                prompts=[prompt],
                seeds=[number],
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                multiple=backbone.align,
            )[0],
        }
        for name, picture in pictures.items():
            change = np.abs(np.asarray(picture, np.float64) - image).mean(axis=(0, 2))
            made[name].append([float(each.mean()) for each in np.array_split(change, BINS)])
        row = [(Image.fromarray(image), spec.caption), (overlay_map(image, ramp), prompt)]
        rows.append([*row, *((pictures[name], name) for name in (OURS, PEER))])
    asked = [(band + 0.5) / BINS for band in range(BINS)]
    print(f"\nMean change in grey levels by strength, {count} scenes, {steps} steps\n")
    print("| | " + " | ".join(f"{each:.2f}" for each in asked) + " | Spearman |")
    print("|---|" + "---:|" * (BINS + 1))
    for name, each in made.items():
        means = np.mean(each, axis=0)
        rank = spearmanr(asked, means).statistic
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in means) + f" | {rank:.3f} |")
    if sheet is not None:
        save_image(labelled_grid(rows[:4]), sheet)
        print(f"\n{sheet}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", nargs="?", choices=["all", "seams", "gradient"], default="all")
    parser.add_argument("--count", type=int, default=200, help="scenes a task [default: 200]")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("-o", "--output", type=Path, help="also draw the gradient's pictures")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    engine = InpaintEngine.from_pretrained(MODEL, device="cpu")
    if options.part in {"all", "seams"}:
        seams(engine, count=options.count, steps=options.steps)
    if options.part in {"all", "gradient"}:
        gradient(engine, count=options.count, steps=options.steps, sheet=options.output)


if __name__ == "__main__":
    main()
