"""A full-size SDXL of random weights in the forms that people have: built, loaded, edited with.

    python examples/full_size_check.py [FOLDER]           # all of it; the files are deleted
    python examples/full_size_check.py build FOLDER       # or in two parts, on a busy machine
    python examples/full_size_check.py measure FOLDER

Needs 14 GB of disk (in FOLDER, or the place for temporary files). For each form: the time until a
model can edit, by diffusers' own loader and by the engine, in turn, each in a process of its own
behind the imports; the best of ``ROUNDS``, in seconds and in seconds of the processor (user and
system, which another program's load hardly changes), with their ratios. Weights stay as they are
(float16), so that what is compared is the loaders. Then what somebody waits for at a terminal: from
the start of ``softpaint edit`` to the network's first call, beside a script of diffusers' pipeline
for the same edit. Then one edit on the CPU in bfloat16.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, process_time, time
from types import SimpleNamespace
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/kit, which is in no package
STEPS, SIDE, ROUNDS = 2, 512, 2
FILE, LORA, HALF = "sdxl.safetensors", "lora.safetensors", "sdxl-fp16"
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
BLOCK = 2**22
"""Weights that are written at a time."""
CLOCKS = ("load", "processor")
ROOM = 4096
"""Bytes that a header may grow by."""
Form = tuple[str, Path, dict[str, Any], Path, str, Path | None]
"""A file as people have it: what it is, where, how it is made of the one that was built, its
configuration, diffusers' class, and a LoRA over it."""


# --- files ---------------------------------------------------------------------------------------


def modules(channels: int = 4) -> dict[str, Any]:
    """SDXL's parts of full size, on the meta device."""
    import torch
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from engine.models.families.sdxl import BASE
    from engine.models.formats.assemble import read_config

    unet = {**read_config(BASE.configs, "unet"), "in_channels": channels}
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(unet),
            "vae": AutoencoderKL.from_config(read_config(BASE.configs, "vae")),
        }
        for text in BASE.texts:
            config = transformers.CLIPTextConfig(**read_config(BASE.configs, text.part))
            parts[text.part] = getattr(transformers, text.kind)(config)
    return parts


def header_of(shapes: Mapping[str, Any], room: int = 0) -> bytes:
    """A header of fp16 tensors, one after the other, with ``room`` to grow."""
    table, end = {}, 0
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        offsets = [end, end := end + 2 * count]
        table[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(table).encode()
    text += b" " * (room + -(len(text) + room) % 8)
    return len(text).to_bytes(8, "little") + text


def write(path: Path, tensors: Mapping[str, Any], size: float = 0.02, room: int = 0) -> None:
    """A file of random weights of these names and shapes: fp16, a tensor at a time."""
    import numpy as np

    noise = np.random.default_rng(0).standard_normal(BLOCK, np.float32) * size
    # Norms are 1, so that numbers keep their size through the network.
    blocks = {
        kind: values.astype(np.float16).tobytes()
        for kind, values in (("noise", noise), ("ones", np.ones(BLOCK)), ("zeros", np.zeros(BLOCK)))
    }
    with path.open("wb") as file:
        file.write(header_of({name: each.shape for name, each in tensors.items()}, room))
        for name, tensor in tensors.items():
            kind = "noise" if tensor.ndim > 1 else "ones" if "weight" in name else "zeros"
            for start in range(0, tensor.numel(), BLOCK):
                file.write(blocks[kind][: 2 * (tensor.numel() - start)])


def build(folder: Path) -> None:
    """The single file, a folder of half precision alone, and a kohya LoRA of rank 16."""
    import torch

    from engine.models.families.sdxl import BASE
    from tests.kit.ldm import tensors_of
    from tests.kit.tiny_adapters import kohya

    parts = modules()
    tensors = tensors_of(BASE, parts)
    tensors[CONV_IN] = tensors.pop(CONV_IN)  # at the end, where it can grow
    write(folder / FILE, tensors, room=ROOM)
    configs(folder / HALF)
    for name, part in parts.items():
        stem = "diffusion_pytorch_model" if name in {"unet", "vae"} else "model"
        write(folder / HALF / name / f"{stem}.fp16.safetensors", part.state_dict())
    lora = {}
    for name, shape in kohya(SimpleNamespace(**parts)).items():
        lora[f"{name}.lora_down.weight"] = torch.empty(16, *shape[1:], device="meta")
        lora[f"{name}.lora_up.weight"] = torch.empty(shape[0], 16, device="meta")
    write(folder / LORA, lora)


def configs(folder: Path, channels: int = 4) -> None:
    """What diffusers' loaders need beside weights."""
    from engine.models.families.sdxl import BASE
    from engine.models.formats.assemble import tokenizer_for

    shutil.copytree(BASE.configs, folder)
    unet = folder / "unet" / "config.json"
    unet.write_text(json.dumps({**json.loads(unet.read_text()), "in_channels": channels}))
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }
    for text in BASE.texts:
        tokenizer_for(text).save_pretrained(folder / text.tokenizer)
        index[text.part] = ["transformers", text.kind]
        index[text.tokenizer] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))


def become(path: Path, *, marked: bool = False, channels: int = 4) -> None:
    """Make the single file one of velocities, or of inpainting: its header, and its last tensor."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(length))
        shapes = {name: each["shape"] for name, each in table.items() if name != "v_pred"}
        shapes[CONV_IN][1] = channels
        header = header_of({**({"v_pred": [0]} if marked else {}), **shapes})
        file.seek(0)
        file.write(length.to_bytes(8, "little") + header[8:].ljust(length))
        start = table[CONV_IN]["data_offsets"][0]
        wanted = 8 + length + start + 2 * 320 * channels * 9
        file.seek(0, os.SEEK_END)
        file.write(b"\x00\x20" * max(0, (wanted - file.tell()) // 2))
        file.truncate(wanted)


# --- commands, from their start to the network's first call ---------------------------------------

FIRST_CALL = """
import time
from diffusers import UNet2DConditionModel

def forward(*args, **kwargs):
    import os, resource
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(time.time(), used.ru_utime + used.ru_stime, flush=True)
    os._exit(0)

UNet2DConditionModel.forward = forward
"""
"""Ends the process at the network's first call: when that was, and the processor's seconds."""
OUR_COMMAND = """
import sys
from engine.cli import main

sys.argv = ["softpaint", "edit", "{picture}", "-m", "{mask}", "-p", "a house", "-o", "{out}"]
sys.argv += ["--model", "{place}", "--device", "cpu", "--dtype", "bfloat16"]
sys.argv += ["--steps", "2", "--seed", "0", "--region", "full"] + {more}
main()
"""
THEIR_SCRIPT = """
import torch
from PIL import Image
from diffusers import {kind} as Pipeline

if {folder}:
    pipe = Pipeline.from_pretrained("{place}", variant="fp16", dtype=torch.bfloat16)
else:
    pipe = Pipeline.from_single_file(
        "{place}", config="{config}", local_files_only=True, dtype=torch.bfloat16)
if {lora}:
    pipe.load_lora_weights("{lora_file}")
pipe("a house", image=Image.open("{picture}"), mask_image=Image.open("{mask}"),
     num_inference_steps=2, strength=1.0, height={side}, width={side},
     generator=torch.Generator("cpu").manual_seed(0))
"""


def command(script: str) -> tuple[float, float]:
    """Seconds from a new process to its network's first call, and the processor's."""
    began = time()
    run = [sys.executable, "-c", FIRST_CALL + script]
    root = str(Path(__file__).parents[1])
    ended = subprocess.run(  # noqa: S603
        run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=False
    )
    try:
        called, busy = (float(each) for each in ended.stdout.split()[-2:])
    except ValueError:
        raise SystemExit(f"no call of the network: {ended.stderr[-2000:]}") from None
    return called - began, busy


def first_calls(folder: Path, forms: list[Form]) -> None:
    """The table of commands: ``softpaint edit`` beside a script of diffusers'."""
    import numpy as np
    from PIL import Image

    picture, mask = folder / "picture.png", folder / "mask.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(picture)
    shown = np.zeros((SIDE, SIDE), np.uint8)
    shown[128:-128, 128:-128] = 255
    Image.fromarray(shown).save(mask)
    print("\n| first step of a command, from | diffusers, s (processor) | ours | ratio |")
    print("|---|---:|---:|---:|", flush=True)
    for name, place, form, config, _, adapter in forms:
        if place.is_file():
            become(place, **form)
        nine = form.get("channels") == 9
        given = {"picture": picture, "mask": mask, "place": place, "out": folder / "out.png"}
        more = ["--lora", str(adapter)] if adapter else []
        ours_now = OUR_COMMAND.format(**given, more=more)
        peer = THEIR_SCRIPT.format(
            **given,
            # the 4-channel road of inpainting is the same class over a network of 4 channels
            kind="StableDiffusionXLInpaintPipeline",
            folder=place.is_dir(),
            config=config,
            lora=adapter is not None,
            lora_file=adapter,
            side=SIDE,
        )
        rounds = [(command(peer), command(ours_now)) for _ in range(ROUNDS)]
        best = [
            tuple(min(each) for each in zip(*side, strict=True))
            for side in zip(*rounds, strict=True)
        ]
        cells = [f"{seconds:.2f} ({busy:.2f})" for seconds, busy in best]
        ratios = [own / other for other, own in zip(*best, strict=True)]
        cells.append(f"{ratios[0]:.2f} ({ratios[1]:.2f})")
        label = f"{name}, inpaint9" if nine else name
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


# --- what is measured ----------------------------------------------------------------------------


def ours(place: Path, *, lora: Path | None = None) -> Any:
    """The engine, ready to edit."""
    from engine import InpaintEngine

    return InpaintEngine.from_pretrained(place, device="cpu", dtype="float16", lora=lora)


def theirs(place: Path, config: Path, *, kind: str, lora: Path | None = None) -> Any:
    """Diffusers' pipeline from the same files, with the same configs, without a hub."""
    import diffusers
    import torch

    pipeline = getattr(diffusers, kind)
    if place.is_dir():
        pipe = pipeline.from_pretrained(str(place), variant="fp16", dtype=torch.float16)
    else:
        pipe = pipeline.from_single_file(
            str(place), config=str(config), local_files_only=True, dtype=torch.float16
        )
    if lora is not None:
        pipe.load_lora_weights(str(lora))
    return pipe


def edit(path: Path) -> dict[str, float]:
    """One edit in bfloat16: seconds a step, and all of it."""
    import numpy as np

    from engine import InpaintEngine

    began, spent = perf_counter(), process_time()
    engine = InpaintEngine.from_pretrained(path, device="cpu", dtype="bfloat16")
    loaded = perf_counter() - began
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[128:-128, 128:-128] = 255
    after: list[tuple[float, float]] = []
    result = engine.edit(
        image=picture,
        mask=mask,
        prompt="a house",
        region="full",
        num_inference_steps=STEPS,
        seed=0,
        progress=False,
        callback=lambda _: after.append((perf_counter(), process_time())),
    )
    kept = mask == 0
    if not np.array_equal(np.asarray(result.images[0])[kept], picture[kept]):
        raise SystemExit("pixels outside the mask have changed")
    whole, busy = perf_counter() - began, process_time() - spent
    step, own = (last - before for before, last in zip(*after[-2:], strict=True))
    return {
        "load": loaded,
        "a step": step,
        "a step's processor": own,
        "all": whole,
        "all of the processor": busy,
    }


def apart(work: Callable[[], Any]) -> dict[str, float]:
    """``work`` in a process of its own, which has the libraries loaded: its seconds and its peak,
    or the figures that it gives.
    """
    context = multiprocessing.get_context("fork")
    end, other = context.Pipe()

    def run() -> None:
        began, spent = perf_counter(), process_time()
        made = work()
        own = {"load": perf_counter() - began, "processor": process_time() - spent}
        told = made if isinstance(made, dict) else own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        other.send({**told, "peak GiB": peak})

    process = context.Process(target=run)
    process.start()
    other.close()
    try:
        told: dict[str, float] = end.recv()
    except EOFError:
        raise SystemExit("a measurement failed; see above") from None
    process.join()
    return told


def preload() -> None:
    """Import what either side uses, before any clock; no thread is started."""
    import diffusers
    import peft  # noqa: F401
    import transformers
    from diffusers.loaders import single_file  # noqa: F401

    import controls  # noqa: F401
    import engine.engine
    import engine.models.opening  # noqa: F401
    import strategies  # noqa: F401

    for name in ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"):
        getattr(diffusers, name)
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"):
        getattr(transformers, name)


def measure(folder: Path) -> None:
    """All forms, one after the other; the table."""
    preload()
    path, half, lora = folder / FILE, folder / HALF, folder / LORA
    plain, nine = folder / "config", folder / "config9"
    for place, channels in ((plain, 4), (nine, 9)):
        if not place.exists():
            configs(place, channels)
    base, inpaint = "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"
    forms: list[Form] = [
        ("a folder in fp16 alone", half, {}, plain, base, None),
        ("a single file", path, {}, plain, base, None),
        ("a single file, a kohya LoRA", path, {}, plain, base, lora),
        ("a single file with v_pred", path, {"marked": True}, plain, base, None),
        ("a single file of 9 channels", path, {"channels": 9}, nine, inpaint, None),
    ]
    print("| start-up from | diffusers, s (processor) | engine, s (processor) | ratio | GiB |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for name, place, form, config, kind, adapter in forms:
        become(path, **form)
        rounds = [
            (
                apart(lambda: theirs(place, config, kind=kind, lora=adapter)),  # noqa: B023 - runs now
                apart(lambda: ours(place, lora=adapter)),  # noqa: B023
            )
            for _ in range(ROUNDS)
        ]
        cells, best = [], []
        for side in (0, 1):
            seconds, busy = (min(each[side][key] for each in rounds) for key in CLOCKS)
            cells.append(f"{seconds:.2f} ({busy:.2f})")
            best.append((seconds, busy))
        ratios = [own / other for other, own in zip(*best, strict=True)]
        cells.append(f"{ratios[0]:.2f} ({ratios[1]:.2f})")
        cells.append(f"{rounds[-1][1]['peak GiB']:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    first_calls(folder, forms)
    become(path)
    figures = apart(lambda: edit(path))
    told = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    print(f"\nAn edit of {SIDE} px in bfloat16, {STEPS} steps, seconds: {told}", flush=True)


def main() -> None:
    """Build, measure and delete, or one of the first two in a folder that is kept."""
    given = sys.argv[1:]
    if given[:1] in (["build"], ["measure"]):
        {"build": build, "measure": measure}[given[0]](Path(given[1]))
        return
    with tempfile.TemporaryDirectory(dir=given[0] if given else None) as folder:
        began = perf_counter()
        build(Path(folder))
        size = sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())
        print(f"{size / 2**30:.1f} GiB of weights built in {perf_counter() - began:.0f} s\n")
        measure(Path(folder))


if __name__ == "__main__":
    main()
