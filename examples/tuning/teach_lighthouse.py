"""Teach the pocket model a kind of thing that its world does not have, and measure what it learnt.

    python -m examples.tuning.teach_lighthouse --out taught/

Eight pictures are drawn, ``softpaint tune content`` learns from them, and held-out scenes are
edited with the LoRA and without: lighthouses, and all kinds of things that the model knew before.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine import InpaintEngine
from engine.cli import run
from engine.evaluate.suites import pocket_suite
from engine.picture.sheet import labelled_grid
from engine.pocket.classifier import predict
from engine.pocket.world import attributes_from_caption
from examples.tuning import lighthouse
from examples.tuning.finder import found, train_finder

LEARNT, MEASURED = 100, 1_000_000
"""The first seeds of the scenes that are taught, and of those that are measured."""
PRIOR = (
    *("a red house on a green meadow by day", "a blue house in the snow at night"),
    *("a green tree on the grass in the morning", "an orange tree in the mountains at sunset"),
    *("a yellow tent in the desert by day", "a purple tent in the snow in the morning"),
    *("a white boat on the sea at sunset", "a red boat on the ocean by day"),
    *("an orange balloon over the mountains by day", "a blue balloon over the sea at night"),
)
"""What the network is to paint as before."""


def scenes(first: int, count: int) -> list:
    """The first scenes from a seed upwards that have room for a lighthouse."""
    every = (lighthouse.scene(seed) for seed in range(first, first + 40 * count))
    return [made for made in every if made is not None][:count]


def draw_photos(folder: Path, count: int) -> None:
    """Pictures to learn from, a caption beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, picture, _, spec) in enumerate(scenes(LEARNT, count)):
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(lighthouse.caption(spec))


def edits_of(count: int) -> tuple[list[dict], list[dict]]:
    """Insertions of lighthouses, and of the kinds that were known before."""
    new = [
        {"image": before, "mask": box, "prompt": lighthouse.caption(spec)}
        for before, _, box, spec in scenes(MEASURED, count)
    ]
    cases = pocket_suite(MEASURED + 10_000).cases("insertion", 2 * count)
    old = [{"image": c.image, "mask": c.strength_map > 0.5, "prompt": c.prompt} for c in cases]
    return new, old


def paint(engine: InpaintEngine, edits: list[dict], strategy: str) -> list[np.ndarray]:
    """The edits' pictures, eight in shared model calls."""
    made = []
    for start in range(0, len(edits), 8):
        some = [
            {**edit, "strategy": strategy, "num_inference_steps": 20, "seed": start + i}
            for i, edit in enumerate(edits[start : start + 8])
        ]
        for edit in some:
            edit["image"] = Image.fromarray(edit["image"])
            edit["mask"] = Image.fromarray(edit["mask"].astype(np.uint8) * 255)
        made += [np.asarray(each.images[0]) for each in engine.edit_many(some).unwrap()]
    return made


def known_found(edits: list[dict], images: list[np.ndarray]) -> float:
    """The share of pictures in which the pocket's classifier finds the kind that was asked for."""
    hits = []
    for edit, seen in zip(edits, predict(images), strict=True):
        (kind, _), *_ = attributes_from_caption(edit["prompt"]).objects
        hits.append(kind in {each for each, _ in seen.objects})
    return float(np.mean(hits))


def main() -> None:
    """Teach, paint, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("taught"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--edits", type=int, default=60, help="lighthouses; twice as many others")
    asked = parser.parse_args()
    photos, lora = asked.out / "photos", asked.out / "lighthouse.safetensors"
    draw_photos(photos, 8)
    clock, processor = time.monotonic(), time.process_time()
    if not lora.exists():
        priors = [part for prompt in PRIOR for part in ("--prior-prompt", prompt)]
        line = f"tune content {photos} -o {lora} --steps {asked.steps} --batch 8 --rate 2e-3"
        rest = "--layers all --weighting debiased --sample-every 100 --device cpu"
        run([*line.split(), *rest.split(), *priors])
    taught = {"seconds": time.monotonic() - clock, "processor": time.process_time() - processor}
    engine = InpaintEngine.from_pretrained(device="cpu")
    finder, right = train_finder(engine.backbone.codec)
    new, old = edits_of(asked.edits)
    figures: dict = {"taught": taught, "finder_right": right, "threads": torch.get_num_threads()}
    shown = {}
    for name in ("before", "after"):
        if name == "after":
            engine.load_lora(lora)
        lighthouses, others = (paint(engine, each, "inpaint9") for each in (new, old))
        shown[name] = (lighthouses, others)
        figures[name] = {
            "lighthouses": float(np.mean(found(finder, lighthouses))),
            "other kinds": known_found(old, others),
            "others taken for lighthouses": float(np.mean(found(finder, others))),
        }
        print(name, figures[name], flush=True)
    (asked.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    sheet(new, old, shown).save(asked.out / "sheet.png")


def sheet(new: list[dict], old: list[dict], shown: dict) -> Image.Image:
    """What was asked, before and after, of both."""
    rows = []
    for place, edits in enumerate((new[:5], old[:3])):
        for i, edit in enumerate(edits):
            holed = np.where(edit["mask"][..., None], np.uint8(128), edit["image"])
            pictures = [holed, shown["before"][place][i], shown["after"][place][i]]
            texts = [edit["prompt"], "", ""]
            cells = zip(pictures, texts, strict=True)
            rows.append([(Image.fromarray(each), text) for each, text in cells])
    return labelled_grid(rows, columns=["asked", "the model", "with the LoRA"])


if __name__ == "__main__":
    main()
