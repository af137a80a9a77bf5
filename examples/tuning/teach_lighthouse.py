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
from examples.tuning.finder import Finder, found, train_finder

STAGES = ("teach", "before", "after", "compare")
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
    """Pictures to learn from; beside each a caption, and a box that says where the thing is."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, picture, box, spec) in enumerate(scenes(LEARNT, count)):
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(lighthouse.caption(spec))
        Image.fromarray(box.astype(np.uint8) * 255).save(folder / f"{number}.mask.png")


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
            {**edit, "strategy": strategy, "num_inference_steps": 16, "seed": start + i}
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


def teach(out: Path, steps: int) -> None:
    """Eight pictures, and the command that learns from them."""
    photos, lora = out / "photos", out / "lighthouse.safetensors"
    draw_photos(photos, 8)
    clock, processor = time.monotonic(), time.process_time()
    priors = [part for prompt in PRIOR for part in ("--prior-prompt", prompt)]
    line = f"tune content {photos} -o {lora} --steps {steps} --batch 8 --rate 1.5e-3 --layers all"
    rest = "--weighting clean --flip --prior 6 --prior-pictures 3 --sample-every 0 --device cpu"
    if code := run([*line.split(), *rest.split(), *priors]):
        raise SystemExit(code)
    spent = {"seconds": time.monotonic() - clock, "processor": time.process_time() - processor}
    (out / "taught.json").write_text(json.dumps({**spent, "threads": torch.get_num_threads()}))


def measure(out: Path, name: str, count: int, weight: float) -> None:
    """Paint with the LoRA (``after``) or without (``before``); the pictures, for the figures."""
    engine = InpaintEngine.from_pretrained(device="cpu")
    if name == "after":
        engine.load_lora(out / "lighthouse.safetensors", weight)
    new, old = (paint(engine, each, "inpaint9") for each in edits_of(count))
    np.savez(out / f"{name}.npz", new=new, old=old)


def kept_finder(out: Path) -> tuple[Finder, float]:
    """Who finds lighthouses, trained once, and the share of its right answers."""
    place = out / "finder.pt"
    if not place.exists():
        codec = InpaintEngine.from_pretrained(device="cpu").backbone.codec
        finder, right = train_finder(codec)
        torch.save({"weights": finder.state_dict(), "right": right}, place)
    kept = torch.load(place, weights_only=True)
    finder = Finder()
    finder.load_state_dict(kept["weights"])
    return finder.eval().requires_grad_(requires_grad=False), kept["right"]


def compare(out: Path, count: int) -> None:
    """Figures and a sheet of what was painted before and after."""
    finder, right = kept_finder(out)
    new, old = edits_of(count)
    figures: dict = {"taught": json.loads((out / "taught.json").read_text())}
    figures["finder right on held-out scenes"] = right
    shown = {name: dict(np.load(out / f"{name}.npz")) for name in ("before", "after")}
    for name, made in shown.items():
        figures[name] = {
            "lighthouses": float(np.mean(found(finder, list(made["new"])))),
            "other kinds": known_found(old, list(made["old"])),
            "others taken for lighthouses": float(np.mean(found(finder, list(made["old"])))),
        }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sheet(new, old, shown).save(out / "sheet.png")


def main() -> None:
    """Teach, paint, count; or one stage of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("taught"))
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument(
        "--weight", type=float, default=1.0, help="of the LoRA, where it is measured"
    )
    parser.add_argument("--edits", type=int, default=64, help="lighthouses; twice as many others")
    parser.add_argument("--stage", choices=[*STAGES, "finder"])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for stage in [asked.stage] if asked.stage else STAGES:
        if stage == "teach":
            teach(asked.out, asked.steps)
        elif stage == "finder":
            kept_finder(asked.out)
        elif stage == "compare":
            compare(asked.out, asked.edits)
        else:
            measure(asked.out, stage, asked.edits, asked.weight)


def sheet(new: list[dict], old: list[dict], shown: dict) -> Image.Image:
    """What was asked, before and after: the new thing, and beside it what was known."""
    rows = []
    for i in range(5):
        row: list[tuple[Image.Image | None, str]] = []
        for place, edits, at in (("new", new, i), ("old", old, 2 * i)):
            edit = edits[at]
            holed = np.where(edit["mask"][..., None], np.uint8(128), edit["image"])
            pictures = [holed, *(shown[name][place][at] for name in ("before", "after"))]
            texts = [edit["prompt"], "", ""]
            row += [
                (Image.fromarray(each), text) for each, text in zip(pictures, texts, strict=True)
            ]
        rows.append(row)
    return labelled_grid(rows, columns=["asked", "the model", "with the LoRA"] * 2)


if __name__ == "__main__":
    main()
