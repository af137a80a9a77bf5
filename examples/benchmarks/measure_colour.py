"""Measure the ways to match an edit's colours, on held-out scenes of the pocket world.

    python examples/benchmarks/measure_colour.py --count 200 --json colour.json

Each edit is denoised once and finished in every way. Prints Markdown tables; ``examples/colour.md``
shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from engine import InpaintEngine
from engine.colour import COLOURS
from engine.evaluate.suites import Case, pocket_suite
from engine.metrics import Sample, measure

FIRST_SEED = 1_150_000
TASKS = ("removal", "insertion", "recolour")
METRICS = ("colour_ring", "colour_inside", "seam", "saturation", "colour_moved")


def edit_and_measure(
    engine: InpaintEngine, case: Case, *, strategy: str, steps: int, seed: int
) -> dict[str, dict[str, float]]:
    """The metrics of one edit, by the way its colours were matched."""
    session = engine.session(
        image=case.image,
        strength_map=case.strength_map,
        prompt=case.prompt,
        strategy=strategy,
        num_inference_steps=steps,
        seed=seed,
        progress=False,
    )
    results = {name: np.asarray(session.render(colour=name).images[0]) for name in COLOURS}
    return {
        name: measure(
            Sample(
                result=result,
                original=case.image,
                strength_map=case.strength_map,
                truth=case.truth,
                subject=case.subject,
                uncorrected=results["none"],
            ),
            METRICS,
        )
        for name, result in results.items()
    }


def rows_of(
    engine: InpaintEngine, task: str, strategy: str, *, count: int, steps: int, first: int
) -> list[dict[str, Any]]:
    """Mean, median and largest of each metric over ``count`` scenes, for each way."""
    values: dict[tuple[str, str], list[float]] = {}
    for i, case in enumerate(pocket_suite(first).cases(task, count)):
        found = edit_and_measure(engine, case, strategy=strategy, steps=steps, seed=i)
        for name, metrics in found.items():
            for metric, value in metrics.items():
                if not isnan(value):
                    values.setdefault((name, metric), []).append(value)
    return [
        {
            "task": task,
            "strategy": strategy,
            "colour": name,
            "metric": metric,
            "mean": fmean(each),
            "median": median(each),
            "max": max(each),
            "n": len(each),
        }
        for (name, metric), each in values.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One task and strategy as Markdown: means, medians in brackets."""
    first = rows[0]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells = {(row["colour"], row["metric"]): row for row in rows}
    lines = [
        f"{first['task']}, `{first['strategy']}`, {first['n']} scenes\n",
        "| colour | " + " | ".join(metrics) + " |",
        "|---|" + "---:|" * len(metrics),
    ]
    for name in COLOURS:
        each = (cells[name, metric] for metric in metrics)
        texts = (f"{row['mean']:.2f} ({row['median']:.2f})" for row in each)
        lines.append(f"| `{name}` | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--strategies", help="names with commas between [default: those below]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    engine = InpaintEngine.from_pretrained(device="cpu")
    wanted = ("blend", "differential", "inpaint9")
    names = [name for name in wanted if name in engine.strategies()]
    if options.strategies:
        names = options.strategies.split(",")
    rows = []
    for task in options.tasks.split(","):
        for name in names:
            found = rows_of(
                engine,
                task,
                name,
                count=options.count,
                steps=options.steps,
                first=options.first_seed,
            )
            print(table(found), flush=True)
            rows += found
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
