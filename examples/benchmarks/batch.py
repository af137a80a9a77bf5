"""Measure how soon a batch of many committed items knows that there is nothing to do.

    python examples/benchmarks/batch.py [--items 200000]

Makes a folder of so many photos and masks (of one byte: nothing looks into them) and the lines of a
batch that has edited them all, then begins the batch again. Figures are for a machine with nothing
else to do: say if it is not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.batch.listing import items_of
from engine.batch.run import Survey
from engine.batch.store import Store

if TYPE_CHECKING:
    from engine.batch.items import Item

PROMPT = "a red house"


def resident() -> float:
    """Megabytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def resume(folder: Path, items: int) -> dict[str, float]:
    """Seconds until a batch of so many committed items knows that there is nothing to do."""
    photos = folder / "photos"
    for part in range(-(-items // 1000)):
        (photos / f"{part:05}").mkdir(parents=True)
        for number in range(min(1000, items - part * 1000)):
            (photos / f"{part:05}" / f"{number:03}.png").write_bytes(b"-")
            (photos / f"{part:05}" / f"{number:03}_mask.png").write_bytes(b"-")
    settings = {"edit": {"prompt": PROMPT}, "load": {}}
    with Store(folder / "out") as store:
        store.begin(settings)
    with (folder / "out" / "metadata.jsonl").open("w") as file:
        for item in items_of(photos):
            file.write(json.dumps(committed(item), ensure_ascii=False) + "\n")
    before = resident()
    began = time.perf_counter()
    with Store(folder / "out") as store:
        store.begin(settings)
        reading = time.perf_counter() - began
        survey = Survey(items_of(photos), store)
        left = list(survey.left())
        seconds = time.perf_counter() - began
    if left or survey.total != items:
        raise RuntimeError(f"{len(left)} of {survey.total} are said to be left")
    return {
        "items": float(items),
        "seconds of reading": reading,
        "seconds (asked: 10)": seconds,
        "MB": resident() - before,
    }


def committed(item: Item) -> dict[str, Any]:
    """What a batch says of an item's picture."""
    inputs = {}
    for name, path in item.files.items():
        found = Path(path).stat()
        inputs[name] = {
            "path": path,
            "bytes": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "sha256": "0" * 64,
        }
    return {
        "file_name": item.name,
        "item": item.name,
        "id": f"{'0' * 32}-0",
        "prompt": PROMPT,
        "strategy": "blend",
        "seed": 1,
        "seconds": 1.0,
        "figures": {"untouched": 0.0, "seam": 0.5, "seam_jump": 0.5, "colour_ring": 1.0},
        "own": item.own,
        "inputs": json.dumps(inputs),
        "sha256": "0" * 64,
        "picture": 1,
        "pictures": 1,
    }


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, value in resume(Path(folder), options.items).items():
            print(f"{name:<22} {value:12.3f}")


if __name__ == "__main__":
    main()
