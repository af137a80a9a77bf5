"""A golden record: the pixels of some ninety edits, so that a move of the code can be seen to
change none of them.

    python -m tests.kit.golden record before.json     # before a refactoring, on this machine
    python -m tests.kit.golden check before.json      # after it; exit code 1 where a hash differs

Hashes hold for one machine with one set of versions and threads: no record is committed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from controls import Control
from engine import InpaintEngine
from engine.pocket.world import sample_edits
from engine.solvers.names import list_schedulers
from tests.kit import tiny

Cases = Iterator[tuple[str, Callable[[], str]]]


def hashed(*pictures: Any) -> str:
    """One hash of several pictures (Pillow images, arrays or tensors)."""
    digest = hashlib.sha256()
    for each in pictures:
        values = each.cpu().numpy() if isinstance(each, torch.Tensor) else np.asarray(each)
        digest.update(str((values.shape, values.dtype)).encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:24]


def cases() -> Cases:
    """Every golden edit: its name, and what makes it and gives its hash."""
    engine = InpaintEngine.from_pretrained()
    scene, other = sample_edits()[:2]
    photo = Image.fromarray(np.asarray(scene.image))
    ramp = np.clip(np.linspace(-0.2, 1.2, 128), 0, 1)[None].repeat(128, 0).astype(np.float32)
    hard: dict[str, Any] = {
        "image": photo,
        "mask": scene.mask,
        "prompt": scene.prompt,
        "num_inference_steps": 5,
        "seed": 3,
        "progress": False,
    }
    depth = Control("depth", image=Image.fromarray(np.uint8(ramp * 255)).convert("RGB"))
    soft = {**hard, "mask": None, "strength_map": ramp}

    def edit(**changes: Any) -> str:
        return hashed(*engine.edit(**{**hard, **changes}).images)

    for strategy in tiny.STRATEGIES:
        for scheduler in (None, "ddim", "dpmpp-2m-karras"):
            yield f"{strategy} {scheduler}", partial(edit, strategy=strategy, scheduler=scheduler)
        yield f"{strategy} soft", partial(edit, **{**soft, "strategy": strategy})
    for scheduler in list_schedulers():
        yield f"soft {scheduler}", partial(edit, **{**soft, "scheduler": scheduler})
    for name, changes in {
        "strength": {"strength": 0.6},
        "soft strength": {**soft, "strength": 0.6},
        "weak map": {**soft, "strength_map": ramp * 0.4},
        "weak map, nothing skipped": {**soft, "strength_map": ramp * 0.4, "skip": False},
        "three seeds": {"num_images": 3},
        "unguided": {"guidance_scale": 1.0},
        "guided in part": {"guidance_start": 0.2, "guidance_end": 0.7, "guidance_rescale": 0.5},
        "expand": {"mask": None, "expand": (16, 0, 8, 24)},
        "expand and mask": {"expand": (16, 0, 0, 0)},
        "denoising end": {"denoising_end": 0.6},
        "denoising start": {"denoising_start": 0.4},
        "latents out": {"output_type": "latent"},
        "arrays out": {"output_type": "np"},
        "negative prompt": {"negative_prompt": "night"},
        "invert": {"invert": True},
        "feather 0": {"feather": 0},
        "feather 12": {"feather": 12},
        "canny": {"controls": "canny"},
        "canny scaled": {"controls": Control("canny", scale=0.5, end=0.6)},
        "canny by name": {"strategy": "differential+canny"},
        "two controls": {"controls": ["canny", depth], "strategy": "blend"},
        "control mask": {"controls": Control("canny", mask=np.eye(128) > 0)},
        "loose control mask": {"controls": Control("canny", mask=ramp > 0.5, exact=False)},
        "guess mode": {"controls": depth, "guess_mode": True},
        "inpaint9 canny": {"strategy": "inpaint9", "controls": "canny"},
        "region mask": {"region": "mask", "mask": box(40, 40, 64, 60)},
        "two islands": {"region": "mask", "mask": box(8, 8, 24, 20) | box(96, 96, 118, 120)},
        "zoom": {"region": "mask", "zoom": 2.0, "mask": box(40, 40, 64, 60)},
        "odd size": {"image": photo.resize((123, 101)), "mask": box(40, 40, 64, 60)[:101, :123]},
        "large": {"image": photo.resize((256, 256)), "mask": np.kron(box(40, 40, 64, 60), _ONE)},
        "compat blend": {"compat": "diffusers", "strategy": "blend"},
        "compat inpaint9": {"compat": "diffusers", "strategy": "inpaint9"},
        "dithered": {**soft, "dither": True},
        "absolute": {**soft, "strength_mode": "absolute", "strength": 0.7},
        "staged smaller": {"strategy": "staged", "scales": (0.5, 1.0)},
    }.items():
        yield name, partial(edit, **changes)
    for colour in ("none", "lab", "histogram"):
        yield f"colour {colour}", partial(edit, colour=colour)
    for paste in ("adaptive", "multiband", "poisson"):
        yield f"paste {paste}", partial(edit, paste=paste)
    for prefill in ("telea", "ns", "patch", "neutral", "noise", "original", "gan"):
        yield f"prefill {prefill}", partial(edit, prefill=prefill)

    def compare() -> str:
        compared = engine.compare(**hard, strategies=["blend", "differential", "inpaint9"])
        return hashed(*(each.images[0] for each in compared.results.values()), compared.grid())

    def many() -> str:
        second = {**hard, "image": other.image, "mask": other.mask, "prompt": other.prompt}
        edits = [hard, {**second, "strategy": "blend"}, {**soft, "seed": 9}]
        return hashed(*(each.images[0] for each in engine.edit_many(edits).unwrap()))

    def session() -> str:
        opened = engine.session(**{key: value for key, value in hard.items() if key != "mask"})
        renders = [opened.render(strength_map=ramp * each) for each in (1.0, 0.5, 0.7)]
        renders.append(opened.render(strength_map=ramp, feather=9))
        return hashed(*(each.images[0] for each in renders))

    yield from {"compare": compare, "many": many, "session": session}.items()
    yield from command_line(photo, scene)


_ONE = np.ones((2, 2), bool)


def box(left: int, top: int, right: int, bottom: int) -> Any:
    """A mask (128 128, bool) of one rectangle."""
    mask = np.zeros((128, 128), bool)
    mask[top:bottom, left:right] = True
    return mask


def command_line(photo: Image.Image, scene: Any) -> Cases:
    """What the command writes, in every format, and what repeats it."""
    common = ["-m", "mask.png", "-p", scene.prompt, "--steps", "4", "--seed", "5", "-q"]

    def made(output: str, *commands: list[str]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            photo.save(here / "photo.png")
            photo.save(here / "photo.jpg", quality=90)
            Image.fromarray(np.uint8(scene.mask) * 255).save(here / "mask.png")
            for command in commands:
                run(here, *command, "-o", output if command is commands[-1] else "first.png")
            return hashed(Image.open(here / output))

    for ending in ("png", "jpg", "webp"):
        yield f"written {ending}", partial(made, f"out.{ending}", ["edit", "photo.png", *common])
    grown = ["edit", "photo.jpg", *common, "--expand", "8,0,0,0"]
    yield "command line, expand", partial(made, "grown.png", grown)
    again = ["edit", "--from", "first.png", "-q"]
    yield "repeated", partial(made, "again.png", ["edit", "photo.png", *common], again)
    compare = ["compare", "photo.png", *common, "--strategies", "blend,inpaint9"]
    yield "command line, compare", partial(made, "sheet.png", compare)
    grow = ["map", "mask.png", "--grow", "4", "--feather", "6"]
    yield "map", partial(made, "map.png", grow)


def run(folder: Path, *arguments: str) -> None:
    """The command line in ``folder``."""
    command = [sys.executable, "-m", "engine.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"softpaint {' '.join(arguments)}: {done.stderr}")


def say(*lines: str) -> None:
    """Print, a line each."""
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    """Record, or check and say what differs."""
    if len(sys.argv) < 3 or sys.argv[1] not in {"record", "check"}:
        sys.exit(__doc__)
    path, words, before = Path(sys.argv[2]), sys.argv[3:], time.monotonic()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    hashes = {}
    for name, make in cases():
        if not words or any(word in name for word in words):
            start = time.monotonic()
            hashes[name] = make()
            say(f"{time.monotonic() - start:6.1f} s  {name}")
    seconds = time.monotonic() - before
    if sys.argv[1] == "record":
        path.write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        say(f"{len(hashes)} edits recorded in {seconds:.0f} s")
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    missing = [] if words else sorted(known.keys() - hashes.keys())
    different = missing + [name for name in hashes if hashes[name] != known.get(name)]
    say(f"{len(hashes)} made in {seconds:.0f} s, {len(different)} differ", *different)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
