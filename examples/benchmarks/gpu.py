"""Measure SDXL-sized networks of random weights on a GPU, against diffusers' own pipeline.

    python examples/benchmarks/gpu.py [--rows step,edit] [--json FILE] [--markdown FILE]
    python examples/benchmarks/gpu.py --tiny --device cpu      # whether the script still works

Nothing is downloaded: the networks are built on the device from the configs that the package has.
What a device cannot do is a row that says why. ``--rows`` are: {rows}.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from engine import InpaintEngine, Region
from engine.models.families.sdxl import BASE
from engine.models.formats.assemble import read_config, tokenizer_for
from engine.request.request import EditRequest

FOLDER = BASE.configs
GUIDANCE = 5.0
PROMPT = "a red brick house by the river, photograph"


@dataclass
class Row:
    """One line of the table."""

    row: str
    size: int
    """Side of the pictures in px."""
    value: float | None
    """None where the device cannot do it."""
    peer: float | None = None
    unit: str = "s"
    peak_gib: float | None = None
    """Of the device's memory, weights included."""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times as long the peer takes."""
        if self.value is None or not self.peer:
            return None
        return self.peer / self.value


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    sizes: tuple[int, ...]
    steps: int
    repeats: int
    tiny: bool

    def unet(self) -> dict[str, Any]:
        """SDXL's, or one of its shape and a hundredth of its width."""
        config = read_config(FOLDER, "unet")
        if self.tiny:
            config |= {
                "sample_size": 8,
                "block_out_channels": [32, 64, 64],
                "transformer_layers_per_block": [1, 1, 1],
                "attention_head_dim": [2, 4, 4],
                "cross_attention_dim": 64,
                "projection_class_embeddings_input_dim": 32 + 6 * 256,
            }
        return config

    def vae(self) -> dict[str, Any]:
        """Likewise."""
        config = read_config(FOLDER, "vae")
        if self.tiny:
            config |= {"block_out_channels": [32] * 4, "sample_size": 64, "layers_per_block": 1}
        return config

    def text(self, part: str) -> CLIPTextConfig:
        """Likewise, of either text encoder."""
        config = read_config(FOLDER, part)
        if self.tiny:
            config |= {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "projection_dim": 32,
            }
        return CLIPTextConfig(**config)


FULL = Scale(sizes=(1024, 512), steps=30, repeats=3, tiny=False)
TINY = Scale(sizes=(64,), steps=9, repeats=1, tiny=True)


@contextmanager
def building(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside are of ``dtype`` and on ``device`` from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def modules(scale: Scale, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """An SDXL of random weights, the same for the same seed."""
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel
    vae: Any = AutoencoderKL
    scheduler: Any = EulerDiscreteScheduler
    with building(device, dtype):
        parts = {
            "unet": unet.from_config(scale.unet()),
            "vae": vae.from_config(scale.vae()),
            "text_encoder": CLIPTextModel(scale.text("text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(scale.text("text_encoder_2")),
        }
    first, second = BASE.texts
    return {
        **{name: module.eval() for name, module in parts.items()},
        "tokenizer": tokenizer_for(first),
        "tokenizer_2": tokenizer_for(second),
        "scheduler": scheduler.from_config(
            read_config(FOLDER, "scheduler", "scheduler_config.json")
        ),
    }


class Bench:
    """The networks, the engine around them and diffusers' pipeline around the same modules."""

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self.scale, self.device, self.dtype = scale, device, dtype
        began = perf_counter()
        self.modules = modules(scale, device, dtype)
        self.synchronise()
        self.built = perf_counter() - began
        self.make()

    @property
    def cuda(self) -> bool:
        """Whether the device is an NVIDIA or AMD GPU."""
        return self.device.type == "cuda"

    def make(self) -> None:
        """An engine and a pipeline around the modules as they are now."""
        own: Any = StableDiffusionXLPipeline
        peer: Any = StableDiffusionXLInpaintPipeline
        self.engine = InpaintEngine.from_pipe(own(**self.modules, add_watermarker=False))
        self.peer = peer(**self.modules, add_watermarker=False)
        self.peer.set_progress_bar_config(disable=True)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def picture(self, size: int) -> Image.Image:
        """Smooth noise, the same each time."""
        rng = np.random.default_rng(size)
        small = rng.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)

    def mask(self, size: int) -> Image.Image:
        """A quarter of the picture."""
        mask = np.zeros((size, size), np.uint8)
        mask[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 255
        return Image.fromarray(mask)

    def arguments(self, size: int, **changes: Any) -> dict[str, Any]:
        """Those of an edit of the whole picture, as diffusers does it."""
        return {
            "image": self.picture(size),
            "mask": self.mask(size),
            "prompt": PROMPT,
            "strategy": "blend",
            "num_inference_steps": self.scale.steps,
            "guidance_scale": GUIDANCE,
            "seed": 1,
            "prefill": "original",
            "colour": "none",
            "region": "full",
            "progress": False,
            **changes,
        }

    def diffusers(self, size: int, *, output_type: str = "pil", seed: int = 1) -> Any:
        """The peer's edit with the same settings."""
        return self.peer(
            prompt=PROMPT,
            image=self.picture(size),
            mask_image=self.mask(size),
            height=size,
            width=size,
            strength=1.0,
            guidance_scale=GUIDANCE,
            num_inference_steps=self.scale.steps,
            generator=torch.Generator(self.device).manual_seed(seed),
            output_type=output_type,
        ).images

    def forward(self, size: int, rows: int = 2) -> Callable[[], torch.Tensor]:
        """One call of the UNet as a guided step makes it."""
        unet, side = self.modules["unet"], size // 8
        make = partial(torch.randn, device=self.device, dtype=self.dtype)
        width = unet.config.projection_class_embeddings_input_dim - 6 * 256
        arguments = {
            "sample": make(rows, 4, side, side),
            "timestep": torch.full((rows,), 500.0, device=self.device),
            "encoder_hidden_states": make(rows, 77, unet.config.cross_attention_dim),
            "added_cond_kwargs": {
                "text_embeds": make(rows, width),
                "time_ids": torch.full((rows, 6), float(size), device=self.device),
            },
            "return_dict": False,
        }

        def call() -> torch.Tensor:
            with torch.no_grad():
                output: torch.Tensor = unet(**arguments)[0]
            return output

        return call

    def seconds(self, act: Callable[[], Any], repeats: int | None = None) -> float:
        """Median wall time of ``act``, the device's work included, after one run that warms up."""
        spent = []
        for _ in range(1 + (repeats or self.scale.repeats)):
            self.synchronise()
            began = perf_counter()
            act()
            self.synchronise()
            spent.append(perf_counter() - began)
        return median(spent[1:])

    def peak(self, act: Callable[[], Any]) -> float | None:
        """The device's largest memory while ``act`` runs, in GiB."""
        if not self.cuda:
            return None
        torch.cuda.reset_peak_memory_stats()
        act()
        return torch.cuda.max_memory_allocated() / 2**30

    @cached_property
    def matrix_peak(self) -> float:
        """FLOP/s of a large product of matrices: what the device can be expected to reach."""
        side = 8192 if self.cuda else 512
        one = torch.randn(side, side, device=self.device, dtype=self.dtype)

        def product() -> None:
            for _ in range(10):
                torch.mm(one, one)

        return 10 * 2 * side**3 / self.seconds(product, 5)


# --- rows --------------------------------------------------------------------------------------


def step(bench: Bench, size: int) -> Iterator[Row]:
    """A guided step's UNet call, eager and by each means."""
    call = bench.forward(size)
    with FlopCounterMode(display=False) as counter:
        call()
    flops = counter.get_total_flops()

    def told(name: str, seconds: float, note: str = "") -> Row:
        share = flops / seconds / bench.matrix_peak
        details = {"tflop": flops / 1e12, "share_of_matrix_peak": share}
        return Row(
            f"step, {name}",
            size,
            1e3 * seconds,
            unit="ms",
            note=note or f"{100 * share:.0f}% of the matrix peak",
            details=details,
        )

    yield told("eager", bench.seconds(call, 10))
    unet = bench.modules["unet"]
    unet.to(memory_format=torch.channels_last)
    yield told("channels-last", bench.seconds(call, 10))
    if not bench.cuda:
        yield Row("step, compiled", size, None, unit="ms", note="measured on a GPU only")
        return
    unet.compile_repeated_blocks()
    yield told("channels-last and compiled blocks", bench.seconds(call, 10))
    whole = torch.compile(unet.forward, mode="reduce-overhead")
    eager, unet.forward = unet.forward, whole
    try:
        yield told("compiled whole, CUDA graphs", bench.seconds(call, 10))
    except RuntimeError as error:
        yield Row("step, CUDA graphs", size, None, unit="ms", note=str(error).splitlines()[0])
    finally:
        unet.forward = eager
        torch.compiler.reset()


def edit(bench: Bench, size: int) -> Iterator[Row]:
    """A single edit against the pipeline, eager; then as optimised as it gets."""
    arguments = bench.arguments(size)
    compat = bench.engine.edit(**{**arguments, "compat": "diffusers", "output_type": "np"})
    apart = float(np.abs(compat.images - bench.diffusers(size, output_type="np")).max())
    peer = bench.seconds(lambda: bench.diffusers(size))

    def ours() -> None:
        bench.engine.clear_cache()
        bench.engine.edit(**arguments)

    note = f"largest difference of compat to diffusers {apart:.1e} of 1"
    details = {"compat_difference": apart}
    yield Row(
        "edit, eager", size, bench.seconds(ours), peer, peak_gib=bench.peak(ours), note=note,
        details=details,
    )  # fmt: skip
    level = "max-speed" if bench.cuda else "speed"
    bench.engine.optimise(level)
    yield Row(
        f"edit, optimise({level!r})", size, bench.seconds(ours), peer, peak_gib=bench.peak(ours),
        note="against diffusers' eager pipeline",
    )  # fmt: skip


def shared(bench: Bench, size: int) -> Iterator[Row]:
    """Several edits in shared calls against as many one after another."""
    solo = bench.seconds(lambda: bench.engine.edit(**bench.arguments(size)))
    for count in (4, 8):
        requests = [EditRequest(**bench.arguments(size, seed=seed)) for seed in range(count)]

        def together(requests: Sequence[EditRequest] = requests) -> None:
            bench.engine.edit_many(requests).unwrap()

        yield Row(
            f"{count} edits, shared calls", size, bench.seconds(together, 1), count * solo,
            peak_gib=bench.peak(together), note="against one after another",
        )  # fmt: skip


def regions(bench: Bench, size: int) -> Iterator[Row]:
    """Three edits of one picture at once, apart and touching, against as many runs of their own."""
    third = size // 3
    for name, gap in (("apart", third // 2), ("touching", 0)):
        maps = []
        for index in range(3):
            each = np.zeros((size, size), np.float32)
            each[third : 2 * third, index * third : (index + 1) * third - gap] = 1
            maps.append(each)
        arguments = bench.arguments(size, prompt="a valley")
        del arguments["mask"]
        parts = [Region(each, PROMPT) for each in maps]

        def together(parts: Sequence[Region] = parts, settings: Any = arguments) -> None:
            bench.engine.clear_cache()
            bench.engine.edit(**settings, regions=parts)

        def alone(maps: Sequence[Any] = maps, settings: Any = arguments) -> None:
            bench.engine.clear_cache()
            for each in maps:
                bench.engine.edit(**{**settings, "prompt": PROMPT}, strength_map=each)

        yield Row(
            f"3 regions, {name}", size, bench.seconds(together, 1), bench.seconds(alone, 1),
            peak_gib=bench.peak(together), note="against runs of their own",
        )  # fmt: skip


def retune(bench: Bench, size: int) -> Iterator[Row]:
    """A session's render after the map changed where it was weak, against a full edit."""
    ramp = np.tile(np.linspace(0, 1, size, dtype=np.float32), (size, 1))
    changed = np.where(ramp <= 0.4, 0.4 - ramp, ramp).astype(np.float32)
    arguments = bench.arguments(size, strategy="differential")
    del arguments["mask"]
    session = bench.engine.session(**arguments)
    maps = [ramp, changed]
    session.render(strength_map=ramp)

    def again() -> None:
        maps.reverse()
        session.render(strength_map=maps[0])

    full = bench.seconds(lambda: bench.engine.edit(**arguments, strength_map=changed))
    yield Row("retune", size, bench.seconds(again), full, note="against the full edit")


def few_step(bench: Bench, size: int) -> Iterator[Row]:
    """Four steps, unguided, as few-step checkpoints run."""
    arguments = bench.arguments(
        size, num_inference_steps=4, guidance_scale=1.0, scheduler="euler-trailing"
    )
    yield Row("4 steps, unguided", size, bench.seconds(lambda: bench.engine.edit(**arguments)))


def tiling(bench: Bench, size: int) -> Iterator[Row]:
    """Decoding a picture of twice the side, whole and in tiles."""
    vae, side = bench.modules["vae"], 2 * size // 8
    latents = torch.randn(1, 4, side, side, device=bench.device, dtype=bench.dtype)

    def decode() -> None:
        with torch.no_grad():
            vae.decode(latents, return_dict=False)

    whole, peak = bench.seconds(decode), bench.peak(decode)
    vae.enable_tiling()
    try:
        seconds = bench.seconds(decode)
        saved = bench.peak(decode)
    finally:
        vae.disable_tiling()
    note = "" if peak is None else f"against the whole, which takes {peak:.1f} GiB"
    yield Row("decode in tiles", 2 * size, seconds, whole, peak_gib=saved, note=note)


def offload(bench: Bench, size: int) -> Iterator[Row]:
    """Diffusers' offloading under the engine."""
    kept = bench.seconds(lambda: bench.engine.edit(**bench.arguments(size)), 1)
    for name in ("model", "sequential"):
        if not bench.cuda:
            yield Row(f"{name} offload", size, None, note="needs a GPU")
            continue
        pipe = bench.engine.pipe
        getattr(pipe, f"enable_{name}_cpu_offload")()
        try:
            edit = partial(bench.engine.edit, **bench.arguments(size))
            seconds, peak = bench.seconds(edit, 1), bench.peak(edit)
            yield Row(f"{name} offload", size, seconds, kept, peak_gib=peak, note="against none")
        finally:
            pipe.remove_all_hooks()
            for module in bench.modules.values():
                if isinstance(module, torch.nn.Module):
                    module.to(bench.device)


def split(bench: Bench, size: int) -> Iterator[Row]:
    """Eight edits where memory suffices for fewer rows: the batch is split and all are done."""
    if not bench.cuda:
        yield Row("out of memory", size, None, note="needs a GPU")
        return
    requests = [EditRequest(**bench.arguments(size, seed=seed)) for seed in range(8)]
    many = partial(bench.engine.edit_many, requests)
    free = bench.engine.edit(**bench.arguments(size, seed=0))
    alone = bench.peak(lambda: bench.engine.edit(**bench.arguments(size)))
    assert alone is not None  # noqa: S101 - the device has memory to count
    total = torch.cuda.get_device_properties(bench.device).total_memory / 2**30
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.15 * alone / total))
    try:
        seconds = bench.seconds(many, 1)
        results = many().unwrap()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert results[0].latents is not None  # noqa: S101 - one region
    assert free.latents is not None  # noqa: S101 - likewise
    apart = float((results[0].latents - free.latents).abs().max())
    yield Row(
        "8 edits in the memory of one", size, seconds, peak_gib=1.15 * alone,
        note=f"all done; latents within {apart:.1e} of the edit alone",
        details={"latents_difference": apart},
    )  # fmt: skip


def syncs(bench: Bench, size: int) -> Iterator[Row]:
    """The steps between the first and the last, with every read by the host an error."""
    runtime = bench.engine.runtime()
    arguments = bench.arguments(size, strategy="differential")
    tickets = [runtime.add(EditRequest(**{**arguments, "seed": seed})) for seed in range(2)]
    runtime.step()  # encodes prompts and pictures
    taken = 0
    with forbidden_syncs() if bench.cuda else nullcontext():
        while taken < bench.scale.steps - 2:
            runtime.step()
            taken += 1
    while not all(ticket.left for ticket in tickets):
        runtime.step()
    for ticket in tickets:
        ticket.outcome()
    note = f"{taken} steps of two edits" + ("" if bench.cuda else "; only a GPU can tell")
    yield Row("syncs in the loop", size, 0.0, unit="reads", note=note)


@contextmanager
def forbidden_syncs() -> Iterator[None]:
    """Whatever waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


ROWS: Mapping[str, Callable[[Bench, int], Iterator[Row]]] = {
    "edit": edit,
    "shared": shared,
    "regions": regions,
    "retune": retune,
    "few-step": few_step,
    "syncs": syncs,
    "tiling": tiling,
    "offload": offload,
    "split": split,
    "step": step,
}
"""Those that change the modules for good (compiled, laid out anew) at both ends: ``edit`` leaves
them as fast as the rows after it should find them, ``step`` is last."""


def attempted(name: str, bench: Bench, size: int) -> Iterator[Row]:
    """The rows of ``name``; where they end in an error, the last one tells it."""
    try:
        yield from ROWS[name](bench, size)
    except Exception as error:  # noqa: BLE001 - the other rows are still worth having
        traceback.print_exc()
        told = next(iter(str(error).splitlines()), "")
        yield Row(name, size, None, note=f"{type(error).__name__}: {told[:200]}")


def machine(bench: Bench) -> str:
    """What the figures depend on beside the code."""
    name = torch.cuda.get_device_name(bench.device) if bench.cuda else platform.machine()
    versions = ", ".join(f"{each} {version(each)}" for each in ("torch", "diffusers"))
    kind = str(bench.dtype).removeprefix("torch.")
    return f"{name}, {kind}, {versions}, Python {platform.python_version()}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""

    def shown(value: float | None, form: str = ".3g") -> str:
        return "" if value is None else f"{value:{form}}"

    lines = [
        "| row | px | softpaint | peer | peer / softpaint | peak GiB | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.3g} {row.unit}"
        lines.append(
            f"| {row.row} | {row.size} | {value} | {shown(row.peer)} | {shown(row.ratio, '.2f')} "
            f"| {shown(row.peak_gib, '.1f')} | {row.note} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print."""
    described = (__doc__ or "").format(rows=", ".join(ROWS))
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="names with commas between")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", help="[default: float16 on a GPU, float32 on a CPU]")
    parser.add_argument("--sizes", help="sides in px, commas between [default: 1024,512]")
    parser.add_argument("--steps", type=int, help="of each edit [default: 30]")
    parser.add_argument("--repeats", type=int, help="of each timing [default: 3]")
    parser.add_argument("--tiny", action="store_true", help="small networks, one small picture")
    parser.add_argument("--json", type=Path, help="write the rows with their details")
    parser.add_argument("--markdown", type=Path, help="write the table")
    asked = parser.parse_args(arguments)
    diffusers_logging.set_verbosity_error()  # it tells of every cast
    wanted = asked.rows.split(",")
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"unknown row {min(unknown)!r}; known: {', '.join(ROWS)}")
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny --device cpu only shows that the script works")
    dtype = getattr(torch, asked.dtype or ("float16" if device.type == "cuda" else "float32"))
    scale = TINY if asked.tiny else FULL
    sizes = tuple(int(each) for each in asked.sizes.split(",")) if asked.sizes else scale.sizes
    steps, repeats = asked.steps or scale.steps, asked.repeats or scale.repeats
    bench = Bench(replace(scale, sizes=sizes, steps=steps, repeats=repeats), device, dtype)
    print(f"{machine(bench)}; networks built in {bench.built:.1f} s", file=sys.stderr)
    rows: list[Row] = []
    for name in wanted:
        for size in bench.scale.sizes:
            for row in attempted(name, bench, size):
                rows.append(row)
                print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    text = f"{machine(bench)}\n\n{table(rows)}\n"
    print(text)
    if asked.markdown is not None:
        asked.markdown.write_text(text, encoding="utf-8")
    if asked.json is not None:
        found = {"machine": machine(bench), "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
