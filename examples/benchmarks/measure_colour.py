"""What ``softpaint tune colour`` gives back of the colours that a 9-channel network loses.

    python examples/benchmarks/measure_colour.py --lora colour.safetensors --vae decoder/ --count 50
    python examples/benchmarks/measure_colour.py --sheet colour.png --lora colour.safetensors

The same held-out edits by the model as it is and as it was taught, ``colour="none"``: nothing
corrects what comes out. Prints a Markdown table, the ratio of what was taught to what was there in
the last row of each task; ``examples/tuning.md`` shows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine import InpaintEngine
from engine.evaluate import Case, open_suite
from engine.picture import metrics
from engine.picture.sheet import labelled_grid
from engine.picture.write import save_image
from engine.pocket.classifier import prompt_score

FIRST_SEED = 1_060_000
"""Held-out scenes: trainings use seeds below a million."""
TASKS = ("removal", "insertion", "recolour", "outpaint")
MEASURES = ("colour_inside", "saturation_loss", "colour_ring", "seam", "prompt")
TOGETHER = 8
"""Edits in shared model calls."""


def painted(
    engine: InpaintEngine, cases: Sequence[Case], asked: Any, name: str
) -> list[np.ndarray]:
    """The cases' pictures, H W 3, nothing corrected; those that are kept are not painted again."""
    kept = asked.keep / f"{name}-{cases[0].task}-{len(cases)}.npy" if asked.keep else None
    if kept is not None and kept.exists():
        return list(np.load(kept))
    made: list[np.ndarray] = []
    for start in range(0, len(cases), TOGETHER):
        edits = [_edit(case, asked) for case in cases[start : start + TOGETHER]]
        made += [np.asarray(each.images[0]) for each in engine.edit_many(edits).unwrap()]
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.stack(made))
    return made


def _edit(case: Case, asked: Any) -> dict[str, Any]:
    where = {"expand": case.expand} if case.expand else {"mask": case.strength_map}
    return {
        "image": case.image,
        "prompt": case.prompt,
        "strategy": asked.strategy,
        "num_inference_steps": asked.steps,
        "colour": asked.colour,
        "seed": int(case.scene),
        **where,
    }


def measured(image: np.ndarray, case: Case) -> list[float]:
    """:data:`MEASURES` of an edit."""
    mask, truth = case.canvas_map > 0, np.asarray(case.truth)
    return [
        metrics.colour_inside(image, truth, mask),
        metrics.saturation_loss(image, truth, mask),
        metrics.colour_ring(image, truth, mask),
        metrics.seam(image, truth, mask),
        prompt_score(image, case.prompt)[0],
    ]


def row(task: str, name: str, values: Iterable[float]) -> str:
    """A line of the table."""
    return f"| {task} | {name} | {' | '.join(f'{each:.3f}' for each in values)} |"


def main() -> None:
    """Parse the command line, measure, print or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=50, help="scenes for each task")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--strategy", default="inpaint9")
    parser.add_argument("--colour", default="none", help="none, or as the engine corrects it")
    parser.add_argument("--lora", help="of the network, what tune colour wrote")
    parser.add_argument("--vae", help="with a taught decoder")
    parser.add_argument("--keep", type=Path, help="where pictures are kept between runs")
    parser.add_argument("--only", help="of the two: 'as it is' or 'taught'")
    parser.add_argument("--sheet", type=Path, help="draw the first scenes in place of measuring")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    engines = {"as it is": InpaintEngine.from_pretrained(device="cpu")}
    engines["taught"] = InpaintEngine.from_pretrained(device="cpu", vae=asked.vae)
    if asked.lora:
        engines["taught"].load_lora(asked.lora)
    if asked.only:
        engines = {asked.only: engines[asked.only]}
    suite = open_suite("pocket", first_seed=FIRST_SEED, size=128)
    drawn: list[list[tuple[Any, str]]] = []
    every: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    print(f"| | | {' | '.join(f'`{each}`' for each in MEASURES)} |")
    print(f"|---|---|{'---:|' * len(MEASURES)}")
    for task in asked.tasks.split(","):
        cases = suite.cases(task, 3 if asked.sheet else asked.count)
        pictures = {name: painted(engine, cases, asked, name) for name, engine in engines.items()}
        if asked.sheet:
            drawn += [
                [
                    (Image.fromarray(case.canvas), f"{task}\n{case.prompt}"),
                    *((Image.fromarray(made[i]), name) for name, made in pictures.items()),
                    (Image.fromarray(np.asarray(case.truth)), "truth"),
                ]
                for i, case in enumerate(cases)
            ]
            continue
        for name, made in pictures.items():
            values = [measured(image, case) for image, case in zip(made, cases, strict=True)]
            every[name].append(np.nanmean(values, axis=0))
            print(row(task, name, every[name][-1]), flush=True)
        if not asked.only:
            print(row(task, "ratio", every["taught"][-1] / every["as it is"][-1]), flush=True)
    if asked.sheet:
        save_image(labelled_grid(drawn), asked.sheet)
        print(asked.sheet)
        return
    means = {name: np.mean(values, axis=0) for name, values in every.items()}
    for name, values in means.items():
        print(row("all", name, values))
    if not asked.only:
        print(row("all", "ratio", means["taught"] / means["as it is"]))


if __name__ == "__main__":
    main()
