"""How evenly a gradient of strengths changes a picture, by where guidance ends.

    python examples/benchmarks/measure_gradients.py --count 40

Held-out scenes by day are to be at sunset, from left to right more and more. The change at a
column is how far its colours went from the scene's day to the renderer's sunset: their projection
onto that line, 0 to 1. An even gradient ends in a straight line. Prints a Markdown table, which
``examples/strategies.md`` shows.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from engine import InpaintEngine
from engine.pocket import world

FIRST_SEED = 1_070_000
"""Held-out scenes: training used seeds below a million."""
SIZE = 128
BAND = 8
"""px, a cell of the latents: strengths differ between them and not within."""


def scenes(count: int) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Pictures by day without things, the same at sunset, and the prompt for that."""
    made = []
    for seed in range(FIRST_SEED, FIRST_SEED + 20 * count):
        spec = replace(world.sample_scene(seed), objects=(), time="day")
        if spec.ground == "sea":
            continue  # its light has no direction to go
        after = replace(spec, time="sunset")
        day, dusk = (world.render(each, SIZE).image for each in (spec, after))
        made.append((day, dusk, after.caption))
        if len(made) == count:
            break
    return made


def changes(result: np.ndarray, day: np.ndarray, dusk: np.ndarray) -> np.ndarray:
    """How far each band of columns went from day to dusk, by least squares over its pixels."""
    towards = dusk.astype(np.float64) - day
    done = result.astype(np.float64) - day
    shape = (SIZE, SIZE // BAND, BAND, 3)
    towards, done = towards.reshape(shape), done.reshape(shape)
    gone: np.ndarray = (towards * done).sum(axis=(0, 2, 3)) / (towards**2).sum(axis=(0, 2, 3))
    return gone


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40, help="scenes")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--strategy", default="differential")
    parser.add_argument(
        "--scheduler", help="a name of `softpaint edit --help`; the model's if not given"
    )
    parser.add_argument("--strengths", default="0.6,0.8,1", help="at the right edge, with commas")
    parser.add_argument("--ends", default="1,0.85,0.7,0.5", help="where guidance ends, with commas")
    asked = parser.parse_args()
    engine = InpaintEngine.from_pretrained("pocket")
    line = (np.arange(SIZE // BAND) + 0.5) * BAND / SIZE
    ramp = np.tile((np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE, (SIZE, 1))
    print("| strengths to | guidance ends | steepest rise | off a straight line | at the right |")
    print("|---:|---:|---:|---:|---:|")
    for highest in map(float, asked.strengths.split(",")):
        for end in map(float, asked.ends.split(",")):
            given: dict[str, Any] = {
                "strength_map": np.float32(highest) * ramp,
                "strategy": asked.strategy,
                "num_inference_steps": asked.steps,
                "scheduler": asked.scheduler,
                "guidance_end": end,
                "progress": False,
            }
            rises, errors, right = [], [], []
            for seed, (day, dusk, prompt) in enumerate(scenes(asked.count)):
                result = engine.edit(image=day, prompt=prompt, seed=seed, **given)
                gone = changes(np.asarray(result.images[0]), day, dusk)
                smooth = np.convolve(np.r_[0.0, gone], np.ones(2) / 2, "valid")
                rises.append(np.diff(smooth).max())
                errors.append(np.sqrt(np.mean((gone - line * gone[-2:].mean()) ** 2)))
                right.append(gone[-2:].mean())
            told = [np.mean(each) for each in (rises, errors, right)]
            print(f"| {highest:g} | {end:g} | " + " | ".join(f"{each:.2f}" for each in told) + " |")


if __name__ == "__main__":
    main()
