"""Build a full-size SDXL checkpoint of random weights, load it, edit with it, and delete it.

    python examples/full_size_check.py [FOLDER]

Needs 7 GB of disk for the file (in FOLDER, or the place for temporary files). Every step runs in a
process of its own, so that its peak memory is its own; diffusers' loader reads the same file in the
same run. Figures depend on the disk's cache: the file is read once before either.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/kit, which is in no package
STEPS, SIDE = 2, 512
BLOCK = 2**22
"""Weights that are written at a time."""


def build(path: Path) -> None:
    """A single file of SDXL's names and shapes: fp16, a tensor at a time."""
    import numpy as np
    import torch
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from engine.models.families.sdxl import BASE
    from engine.models.formats.assemble import read_config
    from tests.kit.ldm import tensors_of

    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(read_config(BASE.configs, "unet")),
            "vae": AutoencoderKL.from_config(read_config(BASE.configs, "vae")),
        }
        for text in BASE.texts:
            config = transformers.CLIPTextConfig(**read_config(BASE.configs, text.part))
            parts[text.part] = getattr(transformers, text.kind)(config)
    table: dict[str, Any] = {}
    end = 0
    tensors = tensors_of(BASE, parts)
    for name, tensor in tensors.items():
        offsets = [end, end := end + 2 * tensor.numel()]
        table[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    noise = np.random.default_rng(0).standard_normal(BLOCK, np.float32) / 50
    # Norms are 1, so that numbers keep their size through the network.
    blocks = {
        kind: values.astype(np.float16).tobytes()
        for kind, values in (("noise", noise), ("ones", np.ones(BLOCK)), ("zeros", np.zeros(BLOCK)))
    }
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, tensor in tensors.items():
            kind = "noise" if tensor.ndim > 1 else "ones" if "weight" in name else "zeros"
            for start in range(0, tensor.numel(), BLOCK):
                file.write(blocks[kind][: 2 * (tensor.numel() - start)])


def ours(path: Path) -> dict[str, float]:
    """Load and edit with the engine."""
    import numpy as np
    import torch
    from diffusers import StableDiffusionXLPipeline  # noqa: F401 - before the clock, as for theirs

    from engine import InpaintEngine

    torch.zeros(1)
    began = perf_counter()
    engine = InpaintEngine.from_pretrained(path, device="cpu", dtype="bfloat16")
    loaded = perf_counter() - began
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[128:-128, 128:-128] = 255
    request: dict[str, Any] = {
        "image": picture,
        "mask": mask,
        "prompt": "a house",
        "region": "full",
    }
    result = engine.edit(**request, num_inference_steps=STEPS, seed=0, progress=False)
    kept = mask == 0
    if not np.array_equal(np.asarray(result.images[0])[kept], picture[kept]):
        raise SystemExit("pixels outside the mask have changed")
    return {"load": loaded, "step": result.timings["denoise"] / STEPS, **result.timings}


def theirs(path: Path) -> dict[str, float]:
    """Load with diffusers' ``from_single_file`` and the same configs, without a hub."""
    import shutil

    import torch
    from diffusers import StableDiffusionXLPipeline

    from engine.models.families.sdxl import BASE
    from engine.models.formats.assemble import tokenizer_for

    folder = path.with_suffix("")
    shutil.copytree(BASE.configs, folder)
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
    began = perf_counter()
    StableDiffusionXLPipeline.from_single_file(
        str(path), config=str(folder), local_files_only=True, dtype=torch.bfloat16
    )
    return {"load": perf_counter() - began}


def main() -> None:
    """Run each step in a process of its own, and print its figures."""
    if len(sys.argv) == 3 and sys.argv[1] in globals():
        figures = globals()[sys.argv[1]](Path(sys.argv[2])) or {}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**figures, "peak GiB": peak}))
        return
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = Path(folder, "sdxl-random.safetensors")
        for what in ("build", "theirs", "ours"):
            began = perf_counter()
            done = subprocess.run(  # noqa: S603 - this script
                [sys.executable, __file__, what, path],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "TQDM_DISABLE": "1", "DIFFUSERS_VERBOSITY": "error"},
            )
            figures = json.loads(done.stdout.splitlines()[-1])
            told = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"{what:<7} {perf_counter() - began:6.1f} s in all: {told}", flush=True)
        print(f"{path.stat().st_size / 2**30:.2f} GiB of weights, deleted")


if __name__ == "__main__":
    main()
