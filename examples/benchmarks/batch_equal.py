"""Is a batch's every picture what a single edit makes, and is what is broken named?

    python examples/benchmarks/batch_equal.py [--items 400] [--sample 40]

Makes photos of mixed sizes, formats and kinds with masks, twelve of which cannot be edited, each
for another reason, and a manifest that edits them by all strategies in turn. Runs one command, then
the same once more, then compares pictures with those of single edits. Ends with 1 if anything is
not as it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine import InpaintEngine
from engine.batch.items import output_name
from engine.batch.store import LINES, Store
from engine.cli import run
from engine.pocket.world import demo_scenes

STEPS = 6
EXACT = 1
"""Levels (of 255) by which a picture may differ: shared calls add in another order."""
LOSSY = 12
"""The same after JPEG, which makes more of one level."""
STRATEGIES = ("differential", "blend", "soft-blend", "inpaint9", "remove")
SIZES = ((128, 128), (160, 96), (96, 144), (120, 88), (64, 64), (201, 133))
SUFFIXES = ("png", "jpg", "webp", "tiff", "bmp", "jpeg")
MODES = ("RGB", "L", "RGBA", "P")


def make_photos(folder: Path, count: int) -> list[dict[str, Any]]:
    """Photos and masks, and the rows of a manifest."""
    scenes, rows = demo_scenes(), []
    for number in range(count):
        scene = scenes[number % len(scenes)]
        suffix, size = SUFFIXES[number % len(SUFFIXES)], SIZES[number // 2 % len(SIZES)]
        name = f"{('', 'a/', 'a/b/')[number % 3]}{number:03}.{suffix}"
        mask = f"masks/{number:03}.png"
        for each in (name, mask):
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.roll(scene.image, 5 * number, axis=1)).resize(size)
        if suffix in {"png", "tiff"}:
            picture = picture.convert(MODES[number // 6 % len(MODES)])
        picture.save(folder / name)
        Image.fromarray(np.roll(scene.mask, 5 * number, axis=1)).resize(size).save(folder / mask)
        row = {"image": name, "mask": mask, "prompt": scene.prompt}
        row["strategy"] = STRATEGIES[number // 5 % len(STRATEGIES)]
        rows.append(row)
    return rows


def break_some(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Let twelve of the rows be impossible, each in its own way; their photos' names."""
    places = [int(each) for each in np.linspace(3, len(rows) - 4, 12)]
    wrong: list[Mapping[str, Any]] = [
        {"strategy": "nonsense"},
        {"num_inference_steps": 0},
        {"strength": 3.0},
        {"scheduler": "nobody"},
        {"mask": "masks/missing.png"},
        {"mask": None},
    ]
    for place, changes in zip(places, wrong, strict=False):
        rows[place] |= changes
    files = [folder / rows[place]["image"] for place in places[len(wrong) :]]
    files[0].write_bytes(b"")
    files[1].write_text("no picture")
    files[2].write_bytes(files[2].read_bytes()[:60])
    files[3].unlink()
    files[4].unlink()
    files[4].mkdir()
    # Of another size than its photo's: no one can know where it lies.
    Image.new("L", (33, 17), 255).save(folder / rows[places[-1]]["mask"])
    return [rows[place]["image"] for place in places]


def main() -> int:
    """Read the options and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--sample", type=int, default=40)
    options = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "photos", Path(place) / "out"
        rows = make_photos(folder, options.items)
        broken = break_some(folder, rows)
        manifest = folder / "edits.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["batch", str(manifest), "-o", str(out), "--steps", str(STEPS)]
        began = time.monotonic()
        codes = [run(command)]
        print(f"{len(rows)} edits in {time.monotonic() - began:.0f} s", flush=True)
        lines = (out / LINES).read_bytes()
        codes.append(run(command))
        if codes != [1, 1] or (out / LINES).read_bytes() != lines:
            wrong.append(f"exit codes {codes}, or the second start did something")
        store = Store.existing(out)
        wrong += store.verify().broken
        names = {output_name(each) for each in broken}  # their results' names
        if names != set(store.failures):
            wrong.append(f"failures differ: {sorted(names ^ set(store.failures))}")
        for failure in store.failures.values():
            print(f"  {failure['item']}: {failure['error']} ({failure['tries']} tries)")
        done = {line["file_name"]: line for line in store.lines()}
        if len(done) != len(rows) - len(broken):
            wrong.append(f"{len(done)} pictures")
        good = [row for row in rows if row["image"] not in broken]
        step = max(1, len(good) // options.sample)
        wrong += compared(folder, out, good[::step], done)
    for each in wrong:
        print(f"WRONG {each}")
    print("as it should be" if not wrong else "FAILED")
    return bool(wrong)


def compared(
    folder: Path, out: Path, rows: list[dict[str, Any]], done: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What differs between the batch's pictures and single edits'."""
    engine = InpaintEngine.from_pretrained()
    wrong, found = [], Counter[int]()
    for row in rows:
        name = output_name(row["image"])
        settings = {**row, "image": folder / row["image"], "mask": folder / row["mask"]}
        result = engine.edit(**settings, num_inference_steps=STEPS, seed=done[name]["seed"])
        alone = folder / f"alone{Path(name).suffix}"
        alone.unlink(missing_ok=True)
        result.save(alone)
        with Image.open(alone) as one, Image.open(out / name) as other:
            if (one.mode, one.size, one.format) != (other.mode, other.size, other.format):
                wrong.append(f"{name}: {other.mode} {other.size} {other.format}")
                continue
            pixels = [np.asarray(each.convert("RGBA"), np.int16) for each in (one, other)]
        difference = int(np.abs(pixels[0] - pixels[1]).max())
        found[difference] += 1
        if difference > (LOSSY if name.endswith(("jpg", "jpeg")) else EXACT):
            wrong.append(f"{name} ({row['strategy']}): differs by {difference}")
    print(
        f"{len(rows)} compared with single edits; largest difference: pictures "
        f"{dict(sorted(found.items()))}"
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
