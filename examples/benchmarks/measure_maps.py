"""Measure maps from less than a mask against the pocket renderer's own masks.

    python examples/benchmarks/measure_maps.py --count 200

Held-out scenes with things; the first is named (``words``), asked for in another colour
(``change``), or clicked at its middle. Prints the mean intersection over union of each, and how
well the shadow of a thing is found by the thing alone.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import numpy as np

from engine import InpaintEngine
from engine.picture.shadows import shadow_of
from engine.pocket import world

FIRST_SEED = 1_070_000
SIZE = 128
LEAST_SHADOW = 15
"""Pixels of a shadow that is looked for."""
LEAST = {"words": 0.6, "change": 0.5}
"""What the mean is to be."""


def says(words: str, caption: str) -> bool:
    """Whether a caption has just these words."""
    return re.search(rf"\b{words}\b", caption) is not None


def shadows(count: int) -> tuple[float, float]:
    """Precision and recall, over all pixels of as many scenes, of the shadow at a thing's foot,
    where the map covers the thing alone.
    """
    right = wrong = missed = seed = 0
    while count:
        spec = world.sample_scene(FIRST_SEED + seed)
        seed += 1
        if not spec.objects:
            continue
        scene = world.render(spec, SIZE)
        without = world.render(replace(spec, objects=spec.objects[:-1]), SIZE).image
        factor = (scene.image.astype(np.float32) + 1) / (without.astype(np.float32) + 1)
        # A shadow takes away what the renderer says (.72 to .74) of what would be there.
        shadow = scene.masks[-1] & (np.abs(factor - 0.73) < 0.05).all(axis=2)
        if shadow.sum() < LEAST_SHADOW:
            continue
        count -= 1
        thing = scene.masks[-1] & ~shadow
        found = shadow_of(scene.image, thing.astype(np.float32)) > 0
        right += int((found & shadow).sum())
        wrong += int((found & ~shadow).sum())
        missed += int((~found & shadow).sum())
    return right / max(1, right + wrong), right / max(1, right + missed)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40, help="scenes")
    count = parser.parse_args().count
    engine = InpaintEngine.from_pretrained(device="cpu")
    found: dict[str, list[float]] = {"words": [], "change": [], "click": []}
    seed = FIRST_SEED
    while len(found["click"]) < count:
        spec = world.sample_scene(seed)
        seed += 1
        if not spec.objects:
            continue
        thing, scene = spec.objects[0], world.render(spec, SIZE)
        truth = np.asarray(scene.masks[0])
        others = [each for each in world.KIND_COLOURS[thing.kind] if each != thing.colour]
        rows, columns = np.nonzero(truth)
        middle = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
        caption, words = spec.caption, f"{thing.colour} {thing.kind}"
        # Some captions have other words for a thing: then these stand alone.
        wanted: dict[str, dict[str, Any]] = {
            "words": {"words": (words,), "prompt": caption if says(words, caption) else ""},
            "change": {"prompt": spec.recoloured(0, others[0]).caption, "was": caption},
            "click": {"inside": [(int(columns[middle]), int(rows[middle]))]},
        }
        for how, own in wanted.items():
            likely = engine.map_from(how, image=scene.image, **own) > 0.5
            found[how].append(float((likely & truth).sum() / (likely | truth).sum()))
    print("| map from | scenes | mean IoU | median |\n|---|---:|---:|---:|")
    for how, values in found.items():
        print(f"| {how} | {len(values)} | {fmean(values):.2f} | {median(values):.2f} |")
    taken = shadows(count)
    print(f"\nshadow, {count} things: precision {taken[0]:.2f}, recall {taken[1]:.2f}\n")
    for how, least in LEAST.items():
        met = fmean(found[how]) >= least
        print(f"{how}: mean IoU at least {least}: {'met' if met else 'not met'}")


if __name__ == "__main__":
    main()
