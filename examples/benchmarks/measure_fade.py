"""What it gives to fade an edit in more widely where the original goes on.

    python examples/benchmarks/measure_fade.py --count 60
    python examples/benchmarks/measure_fade.py --room 1  # masks that end close to the thing
    python examples/benchmarks/measure_fade.py --sheet fade.png

The same edits, laid over their originals with a fade as wide as ``feather`` everywhere and as the
engine does it. Prints a Markdown table; ``examples/colour.md`` shows it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine import InpaintEngine
from engine.evaluate import Case, open_suite
from engine.picture import metrics
from engine.picture.fade import paste_alpha
from engine.picture.masks import distance_to
from engine.picture.sheet import labelled_grid
from engine.picture.write import save_image
from engine.pocket import world
from engine.pocket.classifier import prompt_score

FIRST_SEED = 1_040_000
"""Held-out scenes: training used seeds below a million."""
FEATHER = 4.0
ROOM = 4
"""px around a thing that the suite's masks leave at 128 px."""
WAYS = ("even", "wide where it goes on")
MEASURES = ("seam", "seam_jump", "colour_ring", "colour_inside", "prompt")


def with_room(case: Case, room: int) -> Case:
    """The case with a mask that leaves ``room`` px around the thing that stands there."""
    thing = world.render(world.sample_scene(int(case.scene)), len(case.image)).masks[0]
    return replace(case, strength_map=(distance_to(thing) <= room).astype(np.float32))


def edits(case: Case, strategy: str, steps: int) -> list[dict[str, Any]]:
    """The arguments of both ways."""
    same = {
        "image": case.image,
        "mask": case.strength_map,
        "prompt": case.prompt,
        "strategy": strategy,
        "num_inference_steps": steps,
        "feather": FEATHER,
        "seed": int(case.scene),
        "progress": False,
    }
    return [{**same, "paste_mask": paste_alpha(case.strength_map, FEATHER)}, same]


def measured(image: np.ndarray, case: Case) -> list[float]:
    """:data:`MEASURES` of an edit."""
    mask, truth = case.strength_map > 0, np.asarray(case.truth)
    return [
        metrics.seam(image, truth, mask),
        metrics.seam_jump(image, case.image, mask),
        metrics.colour_ring(image, truth, mask),
        metrics.colour_inside(image, truth, mask),
        prompt_score(image, case.prompt)[0],
    ]


def main() -> None:
    """Parse the command line, measure, print or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=24, help="scenes for each task")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--strategy", default="differential")
    parser.add_argument("--room", type=int, default=ROOM, help="px around what stands in the mask")
    parser.add_argument("--sheet", type=Path, help="draw the first scenes in place of measuring")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    engine = InpaintEngine.from_pretrained(device="cpu")
    suite = open_suite("pocket", first_seed=FIRST_SEED, size=128)
    # A thing that comes has no outline to be close to.
    tasks = ["removal", "recolour", *(["insertion"] if asked.room == ROOM else [])]
    drawn: list[list[tuple[Any, str]]] = []
    print(f"| | fade | {' | '.join(f'`{each}`' for each in MEASURES)} |")
    print(f"|---|---|{'---:|' * len(MEASURES)}")
    for task in tasks:
        cases = suite.cases(task, 2 if asked.sheet else asked.count)
        if asked.room != ROOM:
            cases = [with_room(each, asked.room) for each in cases]
        sums = np.zeros((len(WAYS), len(MEASURES)))
        for case in cases:
            made = engine.edit_many(edits(case, asked.strategy, asked.steps)).unwrap()
            pictures = [np.asarray(each.images[0]) for each in made]
            sums += np.array([measured(each, case) for each in pictures]) / len(cases)
            if asked.sheet:
                opacity = paste_alpha(case.strength_map, FEATHER, case.image)
                ways = zip(pictures, WAYS, strict=True)
                drawn.append(
                    [
                        (Image.fromarray(case.image), f"{task}\n{case.prompt}"),
                        *((Image.fromarray(each), name) for each, name in ways),
                        (Image.fromarray((opacity * 255).round().astype(np.uint8)), "opacity"),
                        (Image.fromarray(np.asarray(case.truth)), "truth"),
                    ]
                )
        for name, row in zip(WAYS, sums, strict=True):
            print(f"| {task} | {name} | {' | '.join(f'{each:.2f}' for each in row)} |", flush=True)
    if asked.sheet:
        save_image(labelled_grid(drawn), asked.sheet)
        print(asked.sheet)


if __name__ == "__main__":
    main()
