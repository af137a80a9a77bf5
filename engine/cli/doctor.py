"""`softpaint doctor`: what there is to say of a machine in a bug report."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.app import EXIT_FAILED, app, say
from engine.cli.command import Command
from engine.cli.options import Device, Dtype  # noqa: TC001 - typer reads them when it runs
from engine.errors import SoftpaintError

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow")
OPTIONAL = {
    "gguf": "checkpoints as .gguf",
    "onnxruntime": "prefill gan:FILE.onnx",
    "peft": "LoRA",
    "pi-heif": "photos as .heic",
    "torchmetrics": "evaluate --lpips",
}
"""Packages that are not needed, and what each is for."""
WEIGHTS = {"SD 1.x": 1.07e9, "SD 2.x": 1.29e9, "SDXL": 3.47e9}
"""Parameters of whole models, all parts together."""
PATIENCE = 3.0
"""Seconds in which the hub has to answer."""


@app.command(cls=Command)
def doctor(
    *,
    device: Device = None,
    dtype: Dtype = None,
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Edit a small picture with the pocket model.")
    ] = True,
) -> None:
    """Say what is here, what would be chosen, and whether it works: the text for a bug report.

    \b
    Example:
      softpaint doctor
    """
    from engine.models.formats.devices import resolve_device, resolve_dtype

    say(f"softpaint     {version('softpaint')}, Python {platform.python_version()}")
    say(f"system        {platform.platform()}, {os.cpu_count()} processors{_total_memory()}")
    say(f"libraries     {', '.join(f'{name} {_version(name)}' for name in LIBRARIES)}")
    say(f"optional      {_optional()}")
    say(f"hub           {_hub()}")
    chosen = resolve_device(device)
    precision = resolve_dtype(dtype, chosen)
    named = str(precision).removeprefix("torch.")
    say(f"devices       {', '.join(_devices())}")
    say(f"chosen        {chosen}, {named}")
    say(f"weights       {_weights(precision)}")
    if test:
        try:
            say(f"self-test     {_self_test(chosen, precision)}")
        except (SoftpaintError, RuntimeError, AssertionError) as error:
            say(f"self-test     FAILED: {type(error).__name__}: {error}")
            raise typer.Exit(EXIT_FAILED) from error


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _optional() -> str:
    found = {name: _version(name) for name in OPTIONAL}
    here = [f"{name} {each}" for name, each in found.items() if each != "missing"]
    away = [f"{name} ({OPTIONAL[name]})" for name, each in found.items() if each == "missing"]
    return "; ".join([*here, f"not here: {', '.join(away)}"] if away else here)


def _total_memory() -> str:
    """The machine's memory, where the system tells."""
    names: Mapping[str, int] = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        return ""
    return f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _devices() -> Iterator[str]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = (each / 2**30 for each in torch.cuda.mem_get_info(index))
            name = torch.cuda.get_device_name(index)
            yield f"cuda:{index} ({name}, {free:.1f} of {total:.1f} GiB free)"
    elif torch.backends.mps.is_available():
        yield "mps"
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    kind = torch.backends.cpu.get_cpu_capability()
    yield f"cpu ({torch.get_num_threads()} threads, {kind}; torch is built {build})"


def _weights(dtype: torch.dtype) -> str:
    sizes = (f"{name} {count * dtype.itemsize / 2**30:.1f}" for name, count in WEIGHTS.items())
    return f"in GiB of that type: {', '.join(sizes)}"


def _hub() -> str:
    """Whether the hub answers within :data:`PATIENCE`, however it does not."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "not asked: HF_HUB_OFFLINE is set"
    place, answer = constants.ENDPOINT, ["no answer"]

    def ask() -> None:
        request = urllib.request.Request(place, method="HEAD")  # noqa: S310 - as the hub's library
        began = perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310
                answer[0] = f"answers in {perf_counter() - began:.1f} s"
        except urllib.error.HTTPError as error:
            answer[0] = f"answers with {error.code}"
        except (OSError, ValueError) as error:
            answer[0] = f"cannot be reached: {error}"

    # A name that is looked up in vain outlasts any timeout, but not this thread's.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return f"{place} {answer[0]}"


def _self_test(device: Any, dtype: Any) -> str:
    """Edit a picture of the pocket's world, and look at what came of it.

    Raises:
        AssertionError: what was to be kept changed, or nothing else did.
    """
    import numpy as np

    from engine.engine import InpaintEngine

    began = perf_counter()
    engine = InpaintEngine.from_pretrained(device=device, dtype=dtype)
    loaded = perf_counter() - began
    side = engine.backbone.native_size
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    began = perf_counter()
    result = engine.edit(
        image=picture,
        mask=mask,
        prompt="a red house",
        num_inference_steps=8,
        seed=0,
        progress=False,
    )
    seconds = perf_counter() - began
    edited = np.asarray(result.images[0])
    if not np.array_equal(edited[mask == 0], picture[mask == 0]):
        raise AssertionError("pixels outside the mask have changed")
    if np.array_equal(edited[mask > 0], picture[mask > 0]):
        raise AssertionError("pixels inside the mask have not changed")
    rate = result.timings.get("denoise", seconds) / 8
    return (
        f"passed: pocket model loaded in {loaded:.1f} s, {side} px in 8 steps in {seconds:.1f} s "
        f"({1000 * rate:.0f} ms a step)"
    )
