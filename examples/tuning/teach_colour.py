"""Teach the pocket model to keep colours, on scenes of its own world: network, then decoder.

    python -m examples.tuning.teach_colour --out taught/

``examples/benchmarks/measure_colour.py`` measures what they paint.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image

from engine.cli import run
from engine.pocket import world

COMMANDS = {
    "network": "-o {out}/colour.safetensors --batch 8 --rate 5e-4 --steps 300",
    "decoder": "--part decoder -o {out}/decoder --batch 4 --rate 2e-4 --steps 300",
}


def draw_scenes(folder: Path, count: int) -> None:
    """The first scenes that trainings use, a caption beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        spec = world.sample_scene(seed)
        Image.fromarray(world.render(spec, 128).image).save(folder / f"{seed:04d}.png")
        (folder / f"{seed:04d}.txt").write_text(spec.caption)


def main() -> None:
    """Draw, teach, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("taught"))
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--part", choices=COMMANDS, action="append")
    asked = parser.parse_args()
    scenes = asked.out / "scenes"
    draw_scenes(scenes, asked.scenes)
    for part in asked.part or COMMANDS:
        clock, processor = time.monotonic(), time.process_time()
        options = COMMANDS[part].format(out=asked.out).split()
        if code := run(["tune", "colour", str(scenes), "--device", "cpu", *options]):
            raise SystemExit(code)
        spent = {"seconds": time.monotonic() - clock, "processor": time.process_time() - processor}
        line = json.dumps({**spent, "threads": torch.get_num_threads()})
        (asked.out / f"{part}.json").write_text(line)
        print(part, line)


if __name__ == "__main__":
    main()
