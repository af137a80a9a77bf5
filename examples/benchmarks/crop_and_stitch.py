"""Time and seam of a small mask on a large canvas: the full frame against cut-outs.

    python examples/benchmarks/crop_and_stitch.py
    python examples/benchmarks/crop_and_stitch.py --count 20 -o pictures/

Removes an object from pocket scenes painted at 512 px; a square mask of 10% of the canvas. The two
ways take turns, scene by scene, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine import InpaintEngine
from engine.picture import metrics
from engine.picture.sheet import labelled_grid
from engine.picture.write import save_image
from engine.pocket import world

FIRST_SEED = 1_600_000
"""Held-out scenes: training used seeds below a million."""
WAYS = {"full frame": {"region": "full"}, "cut-out": {"region": "auto"}}


def square(around: np.ndarray, share: float) -> np.ndarray:
    """A square of ``share`` of the canvas around the middle of a mask."""
    height, width = around.shape
    side = round((share * height * width) ** 0.5)
    rows, columns = np.nonzero(around)
    top = int(np.clip(rows.mean() - side / 2, 0, height - side))
    left = int(np.clip(columns.mean() - side / 2, 0, width - side))
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6, help="scenes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=512, help="side of the canvas in px")
    parser.add_argument("--share", type=float, default=0.1, help="of the canvas that is masked")
    parser.add_argument("--context", type=float, default=2.0)
    parser.add_argument("-o", "--output", type=Path, help="folder for the pictures")
    asked = parser.parse_args()
    engine = InpaintEngine.from_pretrained()
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    seed = FIRST_SEED
    while len(rows["cut-out"]) < asked.count:
        spec = world.sample_scene(seed)
        seed += 1
        if not spec.objects:
            continue
        scene = world.render(spec, asked.size)
        truth = world.render(spec.without(0), asked.size).image
        mask = square(scene.masks[0], asked.share)
        cells: list[tuple[Image.Image | None, str]] = [(Image.fromarray(scene.image), "original")]
        for way, changes in WAYS.items():
            settings: dict[str, Any] = {"context": asked.context, **changes}
            began = time.perf_counter()
            result = engine.edit(
                image=scene.image,
                mask=mask,
                prompt=spec.without(0).caption,
                num_inference_steps=asked.steps,
                seed=seed,
                progress=False,
                **settings,
            )
            seconds = time.perf_counter() - began
            pixels, inside = np.asarray(result.images[0]), mask > 0
            row = {
                "seconds": seconds,
                "seam": metrics.seam(pixels, truth, inside),
                "seam_jump": metrics.seam_jump(pixels, scene.image, inside),
                "colour_inside": metrics.colour_inside(pixels, truth, inside),
                "untouched": metrics.untouched(
                    pixels, scene.image, (inside * 1).astype(np.float32)
                ),
            }
            rows[way].append(row)
            cells.append((result.images[0], f"{way}, {seconds:.1f} s, seam {row['seam']:.1f}"))
        if asked.output:
            asked.output.mkdir(parents=True, exist_ok=True)
            save_image(labelled_grid([cells], cell=512), asked.output / f"{seed - 1}.png")
    means = {
        way: {key: float(np.mean([row[key] for row in each])) for key in each[0]}
        for way, each in rows.items()
    }
    print(f"{asked.count} scenes, {asked.size} px, {asked.share:.0%} masked, {asked.steps} steps\n")
    print("| | " + " | ".join(means["cut-out"]) + " |")
    print("|---|" + "---:|" * len(means["cut-out"]))
    for way, values in means.items():
        print(f"| {way} | " + " | ".join(f"{value:.2f}" for value in values.values()) + " |")
    ratio = means["cut-out"]["seconds"] / means["full frame"]["seconds"]
    print(f"\nThe cut-out takes {ratio:.0%} of the full frame's time.")


if __name__ == "__main__":
    main()
