"""Measure batches: their rate against edits one by one and diffusers' pipeline in a loop, workers,
Ray, memory, and how soon one that was begun knows what is left.

    python examples/benchmarks/batch.py [--rows edit,diffusers,both,workers,ray,memory,resume]

Prints a Markdown table. All rows use the pocket model (128 x 128 px, 30 steps, float32)
on the processor. Figures are for a machine with nothing else to do: say if it is not.

- ``edit``: the whole command ``softpaint batch`` against ``softpaint edit`` for each photo;
- ``diffusers``: a batch in this process against diffusers' own SDXL inpainting pipeline on the same
  photos and weights, one after the other, both loaded before, both from files to files;
- ``both``: the same by two workers with a thread each, when both have begun;
- ``workers``: two processes against one, each with one thread, when both have begun;
- ``ray``: two actors of a Ray of this machine against two local workers, when both have begun;
- ``memory``: of this process after 500 and after all items of 64 px and one step;
- ``resume``: a batch of many committed items is begun again (their photos have one byte: nothing
  looks into them).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from engine.batch.listing import items_of
from engine.batch.run import Progress, Survey, run_batch
from engine.batch.store import Store
from engine.batch.workers import Plan

if TYPE_CHECKING:
    from engine.batch.items import Item

PROMPT = "a red house"
GUIDANCE = 4.5
STEPS = 30
SETTINGS = {"guidance_scale": GUIDANCE, "num_inference_steps": STEPS}
PHOTOS = 40
PEERS = 12
"""Photos that diffusers' pipeline edits, and three of them ``softpaint edit``."""


class Row(NamedTuple):
    """A line of the table: ``value`` against ``peer``, and what their ratio should be."""

    name: str
    value: float
    peer: float
    ratio: float
    goal: str
    met: bool
    unit: str


def make_photos(folder: Path, count: int, side: int = 128) -> Path:
    """Photos of the pocket's world, masks and captions beside them, no two the same."""
    from engine.pocket.world import demo_scenes

    scenes = demo_scenes()
    folder.mkdir()
    for number in range(count):
        scene = scenes[number % len(scenes)]
        for name, pixels in (("", scene.image), ("_mask", scene.mask)):
            moved = Image.fromarray(np.roll(pixels, 3 * number, axis=1))
            moved.resize((side, side)).save(folder / f"{number:04}{name}.png")
        (folder / f"{number:04}.txt").write_text(scene.prompt)
    return folder


class Clock:
    """The wall's, or with ``--processor`` the time of processors, which other programs hardly
    disturb: on one thread, of this process and of those that it has waited for.
    """

    processor = False

    def __call__(self) -> float:
        if not self.processor:
            return time.perf_counter()
        used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)


clock = Clock()


def softpaint(*arguments: object) -> float:
    """Seconds that a command takes."""
    began = clock()
    command = [sys.executable, "-m", "engine.cli", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return clock() - began


# --- rows ----------------------------------------------------------------------------------------


def row_edit(folder: Path) -> Row:
    """Whole commands."""
    photos = make_photos(folder / "photos", PHOTOS)
    alone = [
        softpaint(
            *("edit", photos / f"{number:04}.png", "--mask", photos / f"{number:04}_mask.png"),
            *("-p", (photos / f"{number:04}.txt").read_text()),
            *("-o", folder / f"{number}.png"),
        )
        for number in range(3)
    ]
    together = softpaint("batch", photos, "-o", folder / "out") / PHOTOS
    peer = sum(alone) / len(alone)
    ratio = peer / together
    return Row("edit", together, peer, ratio, ">= 10", ratio >= 10, "s a photo, whole commands")


def plain_loop(folder: Path, photos: Path) -> float:
    """Seconds a photo of diffusers' own pipeline, one photo after the other."""
    from diffusers import StableDiffusionXLInpaintPipeline

    from engine.pocket import model_path

    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(model_path())
    pipe.set_progress_bar_config(disable=True)

    def plain(number: int) -> None:
        image = Image.open(photos / f"{number:04}.png")
        made = pipe(
            prompt=(photos / f"{number:04}.txt").read_text(),
            image=image,
            mask_image=Image.open(photos / f"{number:04}_mask.png"),
            width=image.width,
            height=image.height,
            strength=1.0,
            guidance_scale=GUIDANCE,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(number),
        )
        made.images[0].save(folder / f"{number}.png")

    plain(0)  # what a first call costs beside is neither's
    began = clock()
    for number in range(PEERS):
        plain(number)
    return (clock() - began) / PEERS


def row_diffusers(folder: Path) -> Row:
    """The same work in this process."""
    from engine import InpaintEngine

    photos = make_photos(folder / "photos", PHOTOS)
    engine = InpaintEngine.from_pretrained()
    peer = plain_loop(folder, photos)
    began = clock()
    run_batch(items_of(photos), Plan(str(folder / "out"), SETTINGS, {}, 8), engine=lambda: engine)
    value = (clock() - began) / PHOTOS
    ratio = peer / value
    unit = f"s a photo, {STEPS} steps, {torch.get_num_threads()} threads"
    return Row("diffusers", value, peer, ratio, ">= 1.8", ratio >= 1.8, unit)


def row_both(folder: Path) -> Row:
    """The same work by two workers of one thread, against diffusers' pipeline with both cores."""
    photos = make_photos(folder / "photos", 3 * PHOTOS)
    peer = plain_loop(folder, photos)
    value = 1 / by_workers(folder, photos, 2)
    ratio = peer / value
    unit = f"s a photo, {STEPS} steps, 2 workers; {torch.get_num_threads()} threads"
    return Row("both", value, peer, ratio, ">= 1.8", ratio >= 1.8, unit)


def rate(out: Path) -> float:
    """Pictures a second of a batch, from a fifth of them until nine tenths."""
    times = sorted(path.stat().st_mtime for path in out.glob("*.png"))
    first, last = len(times) // 5, len(times) * 9 // 10
    return (last - first) / (times[last] - times[first])


def by_workers(folder: Path, photos: Path, count: int) -> float:
    """Pictures a second of so many processes with one thread each."""
    from engine import InpaintEngine

    plan = Plan(str(folder / f"out-{count}"), SETTINGS, {}, 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(count)  # workers have their share
    try:
        run_batch(items_of(photos), plan, engine=InpaintEngine.from_pretrained, workers=count)
    finally:
        torch.set_num_threads(threads)
    return rate(folder / f"out-{count}")


def row_workers(folder: Path) -> Row:
    """Two local workers against one."""
    # Each edits eight at once: of a few photos, the last ones would have a worker for themselves.
    photos = make_photos(folder / "photos", 3 * PHOTOS)
    one, two = by_workers(folder, photos, 1), by_workers(folder, photos, 2)
    ratio = two / one
    return Row("workers", two, one, ratio, ">= 1.8", ratio >= 1.8, "photos a second, 2 against 1")


def row_ray(folder: Path) -> Row:
    """Two actors against two local workers."""
    import ray

    from engine.batch.cluster import PART, Cluster, run_on_cluster

    photos = make_photos(folder / "photos", 4 * PART)  # two parts for each actor
    local = by_workers(folder, photos, 2)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        plan = Plan(str(folder / "out-ray"), SETTINGS, {}, 8)
        run_on_cluster(items_of(photos), plan, Cluster(workers=2, least=2))
    finally:
        ray.shutdown()
    remote = rate(folder / "out-ray")
    ratio = remote / local
    return Row("ray", remote, local, ratio, ">= 0.9", ratio >= 0.9, "photos a second, 2 actors")


def row_memory(folder: Path, items: int) -> Row:
    """Resident memory while many small items are edited."""
    from engine import InpaintEngine

    manifest = make_photos(folder / "photos", 50, side=64) / "edits.jsonl"
    with manifest.open("w") as file:
        for number in range(items):
            name = f"{number % 50:04}"
            row = {"image": f"{name}.png", "mask": f"{name}_mask.png", "prompt": PROMPT}
            file.write(json.dumps({**row, "seed": number}) + "\n")
    seen: dict[int, float] = {}

    def look(progress: Progress) -> None:
        if progress.done % 500 == 0:
            seen[progress.done] = resident()
            print(f"  {progress.done} items: {seen[progress.done]:.0f} MB", flush=True)

    # What a step computes does not matter: the less, the sooner 5,000 items are through.
    quick = {"num_inference_steps": 1, "guidance_scale": 1.0, "colour": "none"}
    plan = Plan(str(folder / "out"), {**quick, "prefill": "original"}, {}, 8)
    engine = InpaintEngine.from_pretrained()
    run_batch(items_of(manifest), plan, engine=lambda: engine, progress=look)
    first, last = seen[500], seen[max(seen)]
    ratio = last / first
    return Row("memory", last, first, ratio, "<= 1.03", ratio <= 1.03, f"MB after {max(seen)}, 500")


def row_resume(folder: Path, items: int) -> Row:
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
    before, began = resident(), clock()
    with Store(folder / "out") as store:
        store.begin(settings)
        survey = Survey(items_of(photos), store)
        left = list(survey.left())
        seconds = clock() - began
    if left or survey.total != items:
        raise RuntimeError(f"{len(left)} of {survey.total} are said to be left")
    unit = f"s, {items} items, {resident() - before:.0f} MB"
    return Row("resume", seconds, 10.0, seconds / 10, "<= 1", seconds <= 10, unit)


def resident() -> float:
    """Megabytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


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


def rows(names: list[str], items: int, committed_items: int) -> Iterator[Row]:
    """Measure those that are asked for."""
    known: dict[str, Callable[[Path], Row]] = {
        "edit": row_edit,
        "diffusers": row_diffusers,
        "both": row_both,
        "workers": row_workers,
        "ray": row_ray,
        "memory": lambda folder: row_memory(folder, items),
        "resume": lambda folder: row_resume(folder, committed_items),
    }
    for name in names:
        if name == "ray" and importlib.util.find_spec("ray") is None:
            print("ray: left out, it is not installed")
            continue
        with tempfile.TemporaryDirectory() as place:
            yield known[name](Path(place))


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="edit,diffusers,both,workers,ray,memory,resume")
    parser.add_argument("--items", type=int, default=5_000, help="Of the row memory.")
    parser.add_argument("--committed", type=int, default=200_000, help="Of the row resume.")
    parser.add_argument(
        "--processor", action="store_true", help="On one thread, in processor time."
    )
    options = parser.parse_args()
    if options.processor:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        clock.processor = True
    print("| row | batch | peer | ratio | goal | | unit |\n|---|---:|---:|---:|---|---|---|")
    for row in rows(options.rows.split(","), options.items, options.committed):
        met = "met" if row.met else "missed"
        print(
            f"| `{row.name}` | {row.value:.4g} | {row.peer:.4g} | {row.ratio:.3f} | {row.goal} | "
            f"{met} | {row.unit} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
