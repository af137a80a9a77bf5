"""Train the pocket model: a small SDXL-shaped family that draws the world of
``engine.pocket.world``.

One command per stage; each stops after ``--minutes``, resumes from its checkpoint in ``--out`` and
writes a log and a
sample sheet beside it. Learning rates are scheduled against the time budget, not against a number
of steps::

    python examples/train_pocket.py render                       # cache training scenes (uint8)
    python examples/train_pocket.py vae --minutes 35             # autoencoder
    python examples/train_pocket.py latents                      # freeze the encoder: latents of
    scenes, photographs
    python examples/train_pocket.py decoder --minutes 60         # go on with the decoder alone
    python examples/train_pocket.py unet --minutes 60            # UNet and both text encoders
    python examples/train_pocket.py classifier --minutes 6       # reads attributes, scores samples
    python examples/train_pocket.py inpaint9 --minutes 25        # the 9-channel UNet
    python examples/train_pocket.py controlnet --annotator canny --minutes 40   # or depth
    python examples/train_pocket.py gan --minutes 25             # fills holes in one pass
    python examples/train_pocket.py export                       # write engine/pocket/model
    python examples/train_pocket.py evaluate                     # print the figures, write the
    sheet of samples
    python examples/train_pocket.py all                          # the whole chain in that order

Any torch device works (``--device cuda``); the defaults are for two CPU cores and an afternoon.

To add a network to the shipped family, start from the shipped weights instead of from nothing::

    python examples/train_pocket.py unpack                       # checkpoints from --model-dir
    python examples/train_pocket.py render
    python examples/train_pocket.py latents
    python examples/train_pocket.py inpaint9 --minutes 60
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from engine.pocket import world

ImageBatch: TypeAlias = npt.NDArray[np.uint8]

SIZE = 128
"""Side of the training scenes in pixels."""
PHOTOGRAPHS = (
    "astronaut",
    "rocket",
    "chelsea",
    "camera",
    "grass",
    "gravel",
    "brick",
    "moon",
    "hubble_deep_field",
)
"""Freely licensed pictures that come inside scikit-image and are trained on."""
HELD_OUT_PHOTOGRAPHS = ("coffee",)
"""The one that only measures."""


# --------------------------------------------------------------------------------------------------
# The machinery of every stage
# --------------------------------------------------------------------------------------------------


class Run:
    """One stage's budget, learning rate, averaged weights, checkpoint and log.

    The learning rate warms up over 2% of the budget and falls along a cosine to ``final`` times its
    peak. A stage that
    is started again with the same name goes on where its checkpoint stopped, with the time that is
    left.
    """

    def __init__(
        self,
        name: str,
        models: dict[str, nn.Module],
        options: argparse.Namespace,
        *,
        lr: float,
        final: float = 0.02,
        ema: float = 0.999,
        weight_decay: float = 0.01,
    ) -> None:
        self.name, self.models, self.options = name, models, options
        self.budget = float(options.minutes) * 60
        self.peak, self.final, self.decay = lr, final, ema
        self.parameters = [
            p for model in models.values() for p in model.parameters() if p.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay
        )
        self.averaged = [p.detach().clone() for p in self.parameters]
        self.path = options.out / f"{name}.pt"
        self.steps, self.spent, self.losses = 0, 0.0, {}  # type: int, float, dict[str, float]
        if self.path.exists() and not options.fresh:
            self._load()
            if options.again:
                self.spent = 0.0
        self.started = time.monotonic() - self.spent
        self.saved = time.monotonic()
        self.said = 0.0
        self.log(
            f"{name}: {sum(p.numel() for p in self.parameters) / 1e6:.2f} M parameters, "
            f"{options.minutes:g} min, {self.spent / 60:.1f} of them spent"
        )

    def log(self, text: str) -> None:
        """Print a line and append it to the stage's log file."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with (self.options.out / f"{self.name}.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @property
    def progress(self) -> float:
        """The share of the time budget that is spent, 0 to 1."""
        return min((time.monotonic() - self.started) / self.budget, 1.0)

    def __iter__(self) -> Iterator[int]:
        """Step numbers until the time is up; saves as it goes and at the end, Ctrl-C included."""
        bar = _progress_bar(self.name, self.budget)
        try:
            while self.progress < 1.0:
                rate = min(1.0, self.progress / 0.02 + 1e-3)
                cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
                for group in self.optimizer.param_groups:
                    group["lr"] = self.peak * rate * (self.final + (1 - self.final) * cosine)
                yield self.steps
                bar(time.monotonic() - self.started, self.losses)
                if time.monotonic() - self.said > 60:
                    self.said = time.monotonic()
                    values = "  ".join(f"{key} {value:.4f}" for key, value in self.losses.items())
                    rates = f"lr {self.optimizer.param_groups[0]['lr']:.2e}"
                    self.log(f"step {self.steps}  {100 * self.progress:.1f}%  {rates}  {values}")
                if time.monotonic() - self.saved > 150:
                    self.save()
        finally:
            bar(None, self.losses)
            self.save()

    def reporting(self, every: float, report: Callable[[], None]) -> Iterator[int]:
        """The same, and ``report`` is called with the averaged weights every so many seconds, and
        at the end, which leaves them averaged.
        """
        reported = time.monotonic()
        for step in self:
            yield step
            if time.monotonic() - reported > every:
                reported = time.monotonic()
                self.swap()
                report()
                self.swap()
        self.swap()
        report()

    def step(self, loss: torch.Tensor, **figures: torch.Tensor | float) -> None:
        """One optimiser step; ``figures`` are averaged for the log."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            self.log(f"step {self.steps}: gradient is not finite; step skipped")
            return
        self.optimizer.step()
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1 - decay)
        for key, value in {"loss": loss, **figures}.items():
            number = float(value.detach() if isinstance(value, torch.Tensor) else value)
            self.losses[key] = (
                number if key not in self.losses else 0.98 * self.losses[key] + 0.02 * number
            )

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the last one."""
        self.spent = time.monotonic() - self.started
        self.saved = time.monotonic()
        state = {
            "models": {key: model.state_dict() for key, model in self.models.items()},
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "steps": self.steps,
            "spent": self.spent,
        }
        _save(state, self.path)

    def _load(self) -> None:
        state = torch.load(self.path, map_location=self.options.device, weights_only=True)
        for key, model in self.models.items():
            model.load_state_dict(state["models"][key])
        if "optimizer" in state:  # unpacked weights have none
            self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.steps, self.spent = state["steps"], state["spent"]

    def swap(self) -> None:
        """Exchange the weights with their averages (call again to go back)."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averaged, strict=True):
                kept = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(kept)


def _save(state: dict[str, Any], path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        torch.save(state, file)
    Path(file.name).replace(path)


def _progress_bar(name: str, budget: float) -> Callable[[float | None, dict[str, float]], None]:
    """A bar over the seconds of the budget; silent when nobody watches."""
    if not sys.stderr.isatty():
        return lambda _seconds, _figures: None
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(name),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    bar = Progress(*columns)
    task = bar.add_task(name, total=budget, figures="")
    bar.start()

    def update(seconds: float | None, figures: dict[str, float]) -> None:
        if seconds is None:
            bar.stop()
            return
        text = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
        bar.update(task, completed=seconds, figures=text)

    return update


def restore(models: dict[str, nn.Module], path: Path, device: torch.device) -> None:
    """Load a stage's averaged weights into its models (same names, order and frozen parts as in the
    stage).
    """
    state = torch.load(path, map_location=device, weights_only=True)
    for key, model in models.items():
        model.load_state_dict(state["models"][key])
    parameters = [p for model in models.values() for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, average in zip(parameters, state["averaged"], strict=True):
            parameter.copy_(average)


# --------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------


def _render_block(first: int, count: int) -> ImageBatch:
    cv2.setNumThreads(1)
    return np.stack(
        [world.render(world.sample_scene(seed), SIZE).image for seed in range(first, first + count)]
    )


def stage_render(options: argparse.Namespace) -> None:
    """Paint the training scenes once: ``scenes.npy``, uint8, seeds 0 to ``--scenes`` - 1."""
    path, block = options.out / "scenes.npy", 500
    count = math.ceil(options.scenes / block) * block
    started = time.monotonic()
    part = path.with_suffix(".part")
    pictures = np.lib.format.open_memmap(
        part, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3)
    )
    with ProcessPoolExecutor(options.threads) as pool:
        firsts = range(0, count, block)
        for first, images in zip(
            firsts, pool.map(_render_block, firsts, [block] * len(firsts)), strict=True
        ):
            pictures[first : first + block] = images
    pictures.flush()
    part.replace(path)
    print(f"{count} scenes in {time.monotonic() - started:.0f} s -> {path}")


def scenes(options: argparse.Namespace) -> ImageBatch:
    """The cached training scenes, N 128 128 3, memory-mapped; scene i has seed i."""
    path = options.out / "scenes.npy"
    if not path.exists():
        stage_render(options)
    return np.lib.format.open_memmap(path, mode="r")


def held_out_scenes(count: int, first: int = 0) -> list[world.Scene]:
    """Scenes that no stage has trained on."""
    return [
        world.render(world.sample_scene(world.HELD_OUT_SEEDS[first + i]), SIZE)
        for i in range(count)
    ]


def photographs(names: Sequence[str]) -> dict[str, npt.NDArray[np.uint8]]:
    """scikit-image's bundled pictures by name, H W 3."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    pictures = {}
    for name in names:
        path = next(
            path for path in (folder / f"{name}.png", folder / f"{name}.jpg") if path.exists()
        )
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"{path} cannot be read")
        pictures[name] = np.asarray(picture[..., ::-1], np.uint8, order="C")
    return pictures


class PhotoCrops:
    """Endless varied crops of few photographs: scale, flip, tint, contrast."""

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.names = list(names)
        weights = np.array(
            [
                1.0 if name in {"grass", "gravel", "brick", "moon", "hubble_deep_field"} else 3.0
                for name in names
            ]
        )
        self.weights = weights / weights.sum()
        self.pyramids: list[list[npt.NDArray[np.uint8]]] = []
        for picture in photographs(names).values():
            levels = []
            for scale in (1.0, 0.75, 0.55, 0.4):
                size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
                if min(size) >= SIZE:
                    levels.append(
                        np.asarray(
                            cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8
                        )
                    )
            self.pyramids.append(levels)

    def crop(self, side: int, vary: bool = True) -> tuple[npt.NDArray[np.uint8], str]:
        """One crop, ``side`` x ``side`` x 3, and the name of its photograph."""
        index = int(self.rng.choice(len(self.names), p=self.weights))
        levels = self.pyramids[index]
        picture = levels[int(self.rng.integers(len(levels)))]
        y = int(self.rng.integers(picture.shape[0] - side + 1))
        x = int(self.rng.integers(picture.shape[1] - side + 1))
        crop = picture[y : y + side, x : x + side]
        if self.rng.random() < 0.5:
            crop = crop[:, ::-1]
        if vary and self.rng.random() < 0.6:
            values = crop.astype(np.float32) * self.rng.uniform(0.7, 1.2, 3).astype(np.float32)
            values += np.float32(self.rng.uniform(-25, 25))
            if self.rng.random() < 0.25:
                values = values[..., self.rng.permutation(3)]
            crop = np.clip(values, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(crop), self.names[index]


def to_pixels(images: ImageBatch, device: torch.device) -> torch.Tensor:
    """uint8 b H W 3 to float b 3 H W in [-1, 1], channels last in memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
    return tensor.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def to_images(pixels: torch.Tensor) -> ImageBatch:
    """Pixels b 3 H W in [-1, 1] to uint8 b H W 3."""
    scaled = pixels.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def sheet(images: ImageBatch, columns: int, path: Path) -> None:
    """Write pictures of one size as a grid."""
    rows = [
        np.concatenate(list(images[i : i + columns]), 1) for i in range(0, len(images), columns)
    ]
    rows = [row for row in rows if row.shape == rows[0].shape]
    cv2.imwrite(str(path), np.ascontiguousarray(np.concatenate(rows, 0)[..., ::-1]))


def psnr(a: ImageBatch, b: ImageBatch) -> float:
    """Mean over pictures of the peak signal-to-noise ratio, dB, over all pixels and channels."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).reshape(len(a), -1).mean(1)
    return float(np.mean(10 * np.log10(255.0**2 / np.maximum(error, 1e-10))))


def autocast(options: argparse.Namespace) -> torch.autocast:
    """bfloat16 where it pays: on CPUs with AMX or AVX512-bf16 and on GPUs."""
    return torch.autocast(options.device.type, torch.bfloat16, enabled=options.bf16)


def quick_attention(options: argparse.Namespace) -> AbstractContextManager[None]:
    """On a CPU plain matrix products train 1.6 times as fast as the fused kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if options.device.type != "cpu":
        return nullcontext()
    kernel: AbstractContextManager[None] = sdpa_kernel([SDPBackend.MATH])
    return kernel


# --------------------------------------------------------------------------------------------------
# Autoencoder
# --------------------------------------------------------------------------------------------------


def new_vae() -> Any:
    """The autoencoder before training: 8x, 4 channels, no attention, so that any size works."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        force_upcast=False,
        scaling_factor=1.0,  # see standardise
    )
    return vae.to(memory_format=torch.channels_last)


def picture_loss(
    predicted: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 + squared error + L1 of the gradients (keeps edges sharp); also the squared error
    alone.
    """
    difference = predicted.float() - target
    squared = difference.square().mean()
    edges = (difference[..., 1:] - difference[..., :-1]).abs().mean() + (
        difference[..., 1:, :] - difference[..., :-1, :]
    ).abs().mean()
    return difference.abs().mean() + 2.0 * squared + 0.5 * edges, squared


def stage_vae(options: argparse.Namespace) -> None:
    """Train the autoencoder on crops of scenes (3 of 4) and of photographs."""
    pictures, crops = scenes(options), PhotoCrops(PHOTOGRAPHS, 1)
    vae = new_vae().to(options.device)
    run = Run("vae", {"vae": vae}, options, lr=1.2e-3, final=0.1, ema=0.998, weight_decay=1e-4)
    rng = np.random.default_rng(1000 + run.steps)
    side, photo_count, batch = 64, 4, 16
    for _ in run.reporting(300, lambda: _report_vae(vae, run, options)):
        images = np.empty((batch, side, side, 3), np.uint8)
        for i in range(batch):
            if i < photo_count:
                images[i] = crops.crop(side)[0]
                continue
            y, x = rng.integers(0, SIZE - side + 1, 2)
            scene = pictures[rng.integers(len(pictures)), y : y + side, x : x + side]
            images[i] = scene[:, ::-1] if rng.random() < 0.5 else scene
        pixels = to_pixels(images, options.device)
        with autocast(options):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        loss, squared = picture_loss(decoded, pixels)
        divergence = (
            0.5
            * (
                posterior.mean.float().square()
                + posterior.var.float()
                - 1
                - posterior.logvar.float()
            ).mean()
        )
        run.step(loss + 3e-5 * divergence, mse=squared, kl=divergence)


def _report_vae(vae: Any, run: Run, options: argparse.Namespace) -> None:
    figures = vae_psnr(vae, options, 32)
    run.log(
        f"held-out PSNR: scenes {figures['scenes']:.2f} dB, "
        f"photographs {figures['photographs']:.2f} dB"
    )
    originals = np.stack([scene.image for scene in held_out_scenes(16)])
    decoded = reconstruct(vae, originals, options)
    grid = np.concatenate([originals[:8], decoded[:8], originals[8:], decoded[8:]])
    photos = held_out_crops(8)
    sheet(
        np.concatenate([grid, photos, reconstruct(vae, photos, options)]),
        8,
        options.out / f"{run.name}.png",
    )


def held_out_crops(count: int) -> ImageBatch:
    """Crops, 128 x 128, of photographs that nothing was trained on, on a fixed grid and two
    scales.
    """
    crops = []
    for picture in photographs(HELD_OUT_PHOTOGRAPHS).values():
        half = np.asarray(
            cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8
        )
        for level in (half, picture):
            crops += [
                level[y : y + SIZE, x : x + SIZE]
                for y in range(0, level.shape[0] - SIZE + 1, 72)
                for x in range(0, level.shape[1] - SIZE + 1, 72)
            ]
    step = max(len(crops) // count, 1)
    return np.stack(crops[::step][:count])


@torch.no_grad()
def reconstruct(vae: Any, images: ImageBatch, options: argparse.Namespace) -> ImageBatch:
    """Encode (mode) and decode, in float32."""
    parts = [images[i : i + 16] for i in range(0, len(images), 16)]
    outputs = [
        to_images(vae.decode(vae.encode(to_pixels(part, options.device)).latent_dist.mode()).sample)
        for part in parts
    ]
    return np.concatenate(outputs)


def vae_psnr(vae: Any, options: argparse.Namespace, count: int = 200) -> dict[str, float]:
    """Held-out reconstruction PSNR in dB: of scenes and of crops of the held-out photograph."""
    originals = np.stack([scene.image for scene in held_out_scenes(count)])
    photos = held_out_crops(min(count, 40))
    return {
        "scenes": psnr(originals, reconstruct(vae, originals, options)),
        "photographs": psnr(photos, reconstruct(vae, photos, options)),
    }


def finished_vae(options: argparse.Namespace) -> Any:
    """The autoencoder with its frozen, standardised encoder and the best decoder so far."""
    path = options.out / "autoencoder.pt"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run the stages vae and latents first")
    vae = new_vae().to(options.device)
    vae.load_state_dict(torch.load(path, map_location=options.device, weights_only=True))
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    decoder = options.out / "decoder.pt"
    if decoder.exists():
        restore({"vae": vae}, decoder, options.device)
    return vae


# --------------------------------------------------------------------------------------------------
# Latents
# --------------------------------------------------------------------------------------------------


def standardise(vae: Any, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold latents' mean and deviation (4 each) into the 1x1 convolutions around the latent space.

    The encoder then gives latents of mean 0 and deviation 1 in every channel and the decoder takes
    them, so that
    ``scaling_factor`` is 1 and every diffusers pipeline gets it right. Reconstructions do not
    change.
    """
    with torch.no_grad():
        weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
        weight[:4] /= std[:, None, None, None]
        bias[:4] = (bias[:4] - mean) / std
        bias[4:] -= 2 * std.log()
        weight, bias = vae.post_quant_conv.weight, vae.post_quant_conv.bias
        bias += (weight[:, :, 0, 0] * mean).sum(1)
        weight *= std[None, :, None, None]


@torch.no_grad()
def encode(vae: Any, images: ImageBatch, options: argparse.Namespace) -> torch.Tensor:
    """The latents' mode, b 4 h/8 w/8, float32."""
    with autocast(options):
        moments = vae.encode(to_pixels(images, options.device)).latent_dist
    latents: torch.Tensor = moments.mode()
    return latents.float()


def stage_latents(options: argparse.Namespace) -> None:
    """Freeze the encoder, standardise its latents, and cache those of scenes and of photograph
    crops.

    Started again, it goes on to encode scenes until ``--latents`` of them are done; a UNet in
    training picks them up.
    """
    pictures, path = scenes(options), options.out / "latents.npy"
    vae = new_vae().to(options.device)
    if not (options.out / "autoencoder.pt").exists() or options.fresh:
        restore({"vae": vae}, options.out / "vae.pt", options.device)
        sample = torch.cat([encode(vae, pictures[i : i + 32], options) for i in range(0, 1024, 32)])
        mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
        print(f"before: means {np.round(mean.tolist(), 3)}, deviations {np.round(std.tolist(), 3)}")
        standardise(vae, mean, std)
        _save(vae.state_dict(), options.out / "autoencoder.pt")
        path.unlink(missing_ok=True)
        (options.out / "photo_latents.npy").unlink(missing_ok=True)
    else:
        vae.load_state_dict(
            torch.load(
                options.out / "autoencoder.pt", map_location=options.device, weights_only=True
            )
        )
    if not (options.out / "photo_latents.npy").exists():
        _encode_photographs(vae, options)
    parts = [np.load(path)] if path.exists() else []
    done, started = sum(map(len, parts)), time.monotonic()
    count = min(options.latents, len(pictures))
    while done < count:
        stop = min(done + 3000, count)
        parts += [
            encode(vae, pictures[i : min(i + 32, stop)], options).half().cpu().numpy()
            for i in range(done, stop, 32)
        ]
        done = stop
        with tempfile.NamedTemporaryFile(dir=options.out, suffix=".npy", delete=False) as file:
            np.save(file, np.concatenate(parts))
        Path(file.name).replace(path)
        print(f"{done} of {count} scenes encoded, {time.monotonic() - started:.0f} s", flush=True)


def _encode_photographs(vae: Any, options: argparse.Namespace) -> None:
    crops = PhotoCrops(PHOTOGRAPHS, 2)
    drawn = [crops.crop(SIZE) for _ in range(options.photos)]
    images = np.stack([crop for crop, _ in drawn])
    latents = [
        encode(vae, images[i : i + 32], options).half().cpu().numpy()
        for i in range(0, len(images), 32)
    ]
    np.save(options.out / "photo_images.npy", images)
    (options.out / "photo_names.json").write_text(json.dumps([name for _, name in drawn]))
    np.save(options.out / "photo_latents.npy", np.concatenate(latents))


def stage_decoder(options: argparse.Namespace) -> None:
    """Go on training the decoder alone, on cached latents with a little noise, as a diffusion model
    leaves it.
    """
    vae = finished_vae(options)
    pictures, latents = scenes(options), np.load(options.out / "latents.npy")
    photos, photo_latents = (
        np.load(options.out / "photo_images.npy"),
        np.load(options.out / "photo_latents.npy"),
    )
    run = Run("decoder", {"vae": vae}, options, lr=7e-4, final=0.01, ema=0.998, weight_decay=1e-4)
    rng = np.random.default_rng(2000 + run.steps)
    for step in run.reporting(420, lambda: _report_vae(vae, run, options)):
        cells, batch = (16, 4) if step % 4 == 3 else (8, 16)
        side = cells * 8
        images = np.empty((batch, side, side, 3), np.uint8)
        codes = np.empty((batch, 4, cells, cells), np.float32)
        for i in range(batch):
            y, x = rng.integers(0, 17 - cells, 2)
            source, codebook = (photos, photo_latents) if i < batch // 4 else (pictures, latents)
            index = int(rng.integers(len(codebook)))
            images[i] = source[index, 8 * y : 8 * y + side, 8 * x : 8 * x + side]
            codes[i] = codebook[index, :, y : y + cells, x : x + cells]
        codes += rng.standard_normal(codes.shape, np.float32) * rng.uniform(
            0, 0.08, (batch, 1, 1, 1)
        ).astype(np.float32)
        pixels = to_pixels(images, options.device)
        with autocast(options):
            decoded = vae.decode(torch.from_numpy(codes).to(options.device)).sample
        loss, squared = picture_loss(decoded, pixels)
        run.step(loss, mse=squared)


# --------------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------------

PHOTO_CAPTIONS = {
    "astronaut": "a photograph of a woman",
    "rocket": "a photograph of a rocket",
    "chelsea": "a photograph of a cat, fur",
    "camera": "a black and white photograph of a man",
    "grass": "a photograph of grass, texture",
    "gravel": "a photograph of gravel, stones",
    "brick": "a photograph of a brick wall",
    "moon": "a photograph of stone",
    "hubble_deep_field": "a photograph of the night sky, stars",
}


def bytes_to_unicode() -> dict[int, str]:
    """CLIP's reversible map from bytes to printable characters."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(kept))
    return table


def build_vocabulary(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE in which each of ``words`` is one token and any other text falls into
    smaller pieces.

    Words are taken one after the other; what the merges so far leave in pieces is joined from the
    left by new merges.
    Later merges have lower rank, so they never change how an earlier word is read.
    """
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            ranked = [(merges.get(pair, len(merges)), i) for i, pair in enumerate(pairwise(pieces))]
            rank, i = min(ranked)
            if rank == len(merges):
                i = 0
                merges[(pieces[0], pieces[1])] = rank
                if pieces[0] + pieces[1] not in tokens:
                    tokens.append(pieces[0] + pieces[1])
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


def new_tokenizer() -> Any:
    """A CLIPTokenizer of 77 tokens over the world's words."""
    from transformers import CLIPTokenizer

    vocabulary, merges = build_vocabulary([word for word in world.vocabulary() if len(word) > 1])
    arguments: dict[str, Any] = {"vocab": vocabulary, "merges": merges}
    return CLIPTokenizer(**arguments, model_max_length=77)


def new_text_encoders(tokenizer: Any) -> tuple[Any, Any]:
    """SDXL's two text encoders in small: the pipeline reads the last layer but one of both, and the
    second's pooling.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def encode_prompts(
    captions: Sequence[str],
    tokenizer: Any,
    first: nn.Module,
    second: nn.Module,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As diffusers' SDXL pipelines do: embeddings b 77 128 and the pooled b 64."""
    ids = tokenizer(
        list(captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    a = first(ids.to(device), output_hidden_states=True)
    b = second(ids.to(device), output_hidden_states=True)
    return torch.cat([a.hidden_states[-2], b.hidden_states[-2]], -1), b.text_embeds


_JUNK = (
    "beautiful",
    "nice",
    "very",
    "picture of",
    "photo of",
    "painting of",
    "lovely",
    "4k",
    "art",
    "my",
    "!",
    "style",
)


def with_noise(caption: str, rng: np.random.Generator) -> str:
    """Now and then a word that means nothing here, so that the model learns to shrug at it."""
    if rng.random() > 0.1:
        return caption
    words = caption.split()
    junk = (
        str(rng.choice(_JUNK))
        if rng.random() < 0.6
        else "".join(rng.choice(list("abcdefghiklmnoprstuvwy"), 5))
    )
    words.insert(int(rng.integers(len(words) + 1)), junk)
    return " ".join(words)


# --------------------------------------------------------------------------------------------------
# UNet
# --------------------------------------------------------------------------------------------------


def new_unet(in_channels: int = 4) -> Any:
    """SDXL's UNet in small: text_time conditioning, no attention at the first level, then self- and
    cross-attention.
    """
    from diffusers import UNet2DConditionModel

    channels = (64, 128, 192)
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=tuple(
            c // 32 for c in channels
        ),  # in SDXL's configuration this is the number of heads
        cross_attention_dim=128,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=64 + 6 * 32,
    )


def new_scheduler() -> Any:
    """SDXL's own scheduler and settings."""
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        interpolation_type="linear",
        timestep_spacing="leading",
        steps_offset=1,
    )


class Diffusion:
    """The forward process and the loss.

    The weight of a noise level is that of min-SNR (Hang et al. 2023, gamma 5) at low noise; at
    high noise, where a small error in epsilon is a large one in the picture, it rises as 1 / SNR
    does, up to ``cap``. Without that the time of day, which is decided there, was learnt last.
    """

    def __init__(self, device: torch.device, gamma: float = 5.0, cap: float = 25.0) -> None:
        self.alphas = new_scheduler().alphas_cumprod.to(device)
        snr = self.alphas / (1 - self.alphas)
        self.weights = snr.clamp(max=gamma) / snr * (1 + 1 / snr).clamp(max=cap)

    def noisy(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noisy latents, the noise, and the timesteps (stratified over the batch, so that the loss
        is calm).
        """
        count = len(latents)
        strata = (
            torch.arange(count, device=latents.device) + torch.rand(count, device=latents.device)
        ) / count
        timesteps = (strata * 1000).long().clamp(0, 999)
        noise = torch.randn_like(latents)
        # a little noise of the mean: else the brightness shines through the highest noise level
        # and the model, which starts from pure noise, believes it rather than the text
        noise = noise + 0.07 * torch.randn_like(latents[:, :, :1, :1])
        alpha = self.alphas[timesteps][:, None, None, None]
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, noise, timesteps

    def loss(
        self, predicted: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted loss and the plain one."""
        each = (predicted.float() - noise).square().mean((1, 2, 3))
        return (each * self.weights[timesteps]).mean(), each.mean()


class CaptionedLatents:
    """Batches of cached latents with fresh captions: scenes, and one in ``1 / photo_share`` a
    photograph.
    """

    def __init__(self, options: argparse.Namespace, seed: int, photo_share: float = 0.06) -> None:
        self.path, self.drawn = options.out / "latents.npy", 0
        self.photo_latents = np.load(options.out / "photo_latents.npy")
        self.photo_names: list[str] = json.loads((options.out / "photo_names.json").read_text())
        self.rng, self.photo_share, self.device = (
            np.random.default_rng(seed),
            photo_share,
            options.device,
        )
        self.specs: dict[int, world.SceneSpec] = {}

    def batch(self, count: int) -> tuple[torch.Tensor, list[str]]:
        """Latents b 4 16 16 and captions."""
        if self.drawn % 200 == 0:
            self.latents = np.load(self.path)
        self.drawn += 1
        rows, captions = [], []
        for _ in range(count):
            if self.rng.random() < self.photo_share:
                index = int(self.rng.integers(len(self.photo_latents)))
                rows.append(self.photo_latents[index])
                captions.append(PHOTO_CAPTIONS[self.photo_names[index]])
                continue
            index = int(self.rng.integers(len(self.latents)))
            rows.append(self.latents[index])
            if index not in self.specs:
                self.specs[index] = world.sample_scene(index)
            captions.append(
                with_noise(world.training_caption(self.specs[index], self.rng), self.rng)
            )
        return torch.from_numpy(np.stack(rows)).float().to(self.device), captions


def sizes_for(count: int, rng: np.random.Generator) -> torch.Tensor:
    """SDXL's time ids, b 6: original size, crop, target size.

    Seven of ten samples tell the truth (128 px, no crop), the others anything, so that the model is
    not thrown by
    the sizes that pipelines pass when it is used on larger canvases.
    """
    ids = np.tile(np.array([SIZE, SIZE, 0, 0, SIZE, SIZE]), (count, 1))
    for row in ids:
        if rng.random() < 0.3:
            row[[0, 1, 4, 5]] = rng.integers(8, 129, 4) * 8
            row[[2, 3]] = rng.integers(0, 64, 2) * (rng.random() < 0.3)
    return torch.from_numpy(ids).float()


def drop_text(
    embeddings: torch.Tensor, pooled: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero the text of 6% of the samples: what pipelines with ``force_zeros_for_empty_prompt`` call
    unconditional.
    """
    keep = torch.from_numpy((rng.random(len(pooled)) >= 0.06).astype(np.float32)).to(pooled.device)
    return embeddings * keep[:, None, None], pooled * keep[:, None]


class TextToImage:
    """The trainable parts together."""

    def __init__(self, options: argparse.Namespace, in_channels: int = 4) -> None:
        self.tokenizer = new_tokenizer()
        self.first, self.second = (
            encoder.to(options.device) for encoder in new_text_encoders(self.tokenizer)
        )
        self.unet = new_unet(in_channels=in_channels).to(options.device)
        # parts that no pipeline reads
        body = getattr(self.first, "text_model", self.first)  # transformers 4 has one level more
        body.encoder.layers[-1].requires_grad_(False)
        body.final_layer_norm.requires_grad_(False)

    @property
    def models(self) -> dict[str, nn.Module]:
        """By the names of their folders."""
        return {"unet": self.unet, "text_encoder": self.first, "text_encoder_2": self.second}

    def condition(
        self, captions: Sequence[str], rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Embeddings and added conditions of a training batch: some texts dropped, sizes varied."""
        device = self.unet.device
        embeddings, pooled = encode_prompts(
            captions, self.tokenizer, self.first, self.second, device
        )
        embeddings, pooled = drop_text(embeddings, pooled, rng)
        sizes = sizes_for(len(captions), rng).to(device)
        return embeddings, {"text_embeds": pooled, "time_ids": sizes}

    def pipeline(self, vae: Any) -> Any:
        """A diffusers pipeline around the modules, without copies."""
        from diffusers import StableDiffusionXLPipeline

        pipe: Any = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=self.first,
            text_encoder_2=self.second,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=self.unet,
            scheduler=new_scheduler(),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe


def stage_unet(options: argparse.Namespace) -> None:
    """Train the UNet together with both text encoders on cached latents."""
    model = TextToImage(options)
    data = CaptionedLatents(options, seed=int(time.time()))
    run = Run("unet", model.models, options, lr=1e-3, final=0.01, ema=0.998)
    diffusion, batch = Diffusion(options.device), options.batch
    for _ in run.reporting(900, lambda: _report_samples(model, run, options)):
        latents, captions = data.batch(batch)
        captions = ["" if data.rng.random() < 0.05 else caption for caption in captions]
        noisy, noise, timesteps = diffusion.noisy(latents)
        with autocast(options), quick_attention(options):
            embeddings, conditions = model.condition(captions, data.rng)
            predicted = model.unet(
                noisy, timesteps, embeddings, added_cond_kwargs=conditions
            ).sample
        loss, plain = diffusion.loss(predicted, noise, timesteps)
        run.step(loss, plain=plain)


def held_out_captions(count: int, first: int = 5000) -> list[str]:
    """Full captions of scenes that nothing was trained on."""
    return [world.sample_scene(world.HELD_OUT_SEEDS[first + i]).caption for i in range(count)]


@torch.no_grad()
def draw_samples(pipe: Any, captions: Sequence[str], guidance: float = 4.5) -> ImageBatch:
    """Text to image with diffusers' own pipeline: 25 Euler steps; sample i has seed i. N 128 128
    3.
    """
    images = []
    for i in range(0, len(captions), 16):
        part = list(captions[i : i + 16])
        generators = [torch.Generator("cpu").manual_seed(i + j) for j in range(len(part))]
        output = pipe(
            part,
            num_inference_steps=25,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        )
        images.append(np.round(output.images * 255).astype(np.uint8))
    return np.concatenate(images)


def _report_samples(model: TextToImage, run: Run, options: argparse.Namespace) -> None:
    for module in model.models.values():
        module.eval()
    captions = held_out_captions(16)
    images = draw_samples(model.pipeline(finished_vae(options)), captions)
    truth = np.stack(
        [
            world.render(world.sample_scene(world.HELD_OUT_SEEDS[5000 + i]), SIZE).image
            for i in range(16)
        ]
    )
    sheet(
        np.concatenate([images[:8], truth[:8], images[8:], truth[8:]]),
        8,
        options.out / f"{run.name}.png",
    )
    run.log(f"samples written; captions of the first: {captions[0]!r}")
    for module in model.models.values():
        module.train()


# --------------------------------------------------------------------------------------------------
# Attribute classifier
# --------------------------------------------------------------------------------------------------


def labels_of(specs: Sequence[world.SceneSpec], device: torch.device) -> dict[str, torch.Tensor]:
    """Targets of the classifier's four outputs."""
    colours = list(world.COLOURS)
    objects = torch.zeros(len(specs), len(world.KINDS), len(colours))
    for i, spec in enumerate(specs):
        for thing in spec.objects:
            objects[i, world.KINDS.index(thing.kind), colours.index(thing.colour)] = 1
    return {
        "time": torch.tensor([world.TIMES.index(spec.time) for spec in specs]).to(device),
        "ground": torch.tensor([world.GROUNDS.index(spec.ground) for spec in specs]).to(device),
        "weather": torch.tensor([world.WEATHERS.index(spec.weather) for spec in specs]).to(device),
        "objects": objects.to(device),
    }


def stage_classifier(options: argparse.Namespace) -> None:
    """Train the attribute classifier on renders and on what the autoencoder makes of them."""
    from engine.pocket.classifier import AttributeClassifier

    pictures = scenes(options)
    decoded = decoded_scenes(options)
    model = AttributeClassifier().to(options.device).to(memory_format=torch.channels_last)
    run = Run("classifier", {"classifier": model}, options, lr=2e-3, final=0.01, ema=0.995)
    rng = np.random.default_rng(3000 + run.steps)
    specs: dict[int, world.SceneSpec] = {}
    batch = 64
    for _ in run:
        indices = rng.integers(0, len(pictures), batch)
        soft = rng.random(batch) < (0.3 if len(decoded) else 0)
        indices[soft] = rng.integers(0, max(len(decoded), 1), int(soft.sum()))
        images = np.stack(
            [(decoded if s else pictures)[i] for i, s in zip(indices, soft, strict=True)]
        )
        images = np.stack([_softened(image, rng) for image in images])
        for index in indices:
            if index not in specs:
                specs[int(index)] = world.sample_scene(int(index))
        targets = labels_of([specs[int(i)] for i in indices], options.device)
        with autocast(options):
            logits = model(to_pixels(images, options.device))
        scene = sum(
            F.cross_entropy(logits[key].float(), targets[key])
            for key in ("time", "ground", "weather")
        )
        objects = F.binary_cross_entropy_with_logits(logits["objects"], targets["objects"])
        run.step(scene + 10 * objects, scene=scene, objects=objects)
    run.swap()
    # the averaged weights need their own batch statistics
    _refresh_statistics(model, pictures, options, rng)
    _save({"classifier": model.state_dict()}, options.out / "classifier-final.pt")
    run.log(f"held-out accuracy: {json.dumps(classifier_accuracy(model.eval(), 600))}")


@torch.no_grad()
def decoded_scenes(options: argparse.Namespace, count: int = 2000) -> ImageBatch:
    """The first training scenes as the decoder draws them from slightly wrong latents (none before
    stage latents).
    """
    if not (options.out / "latents.npy").exists():
        return np.empty((0, SIZE, SIZE, 3), np.uint8)
    vae, latents = (
        finished_vae(options),
        torch.from_numpy(np.load(options.out / "latents.npy")[:count]).float(),
    )
    parts = []
    for part in latents.to(options.device).split(32):
        noise = torch.randn_like(part) * torch.rand(len(part), 1, 1, 1, device=part.device) * 0.25
        with autocast(options):
            parts.append(to_images(vae.decode(part + noise).sample))
    return np.concatenate(parts)


def _softened(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """What a diffusion model does to a picture, roughly: softer, noisier, a little shifted in place
    and colour.
    """
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.4:
        zoom, dx, dy = rng.uniform(0.94, 1.08), *rng.uniform(-5, 5, 2)
        matrix = np.array([[zoom, 0, 64 * (1 - zoom) + dx], [0, zoom, 64 * (1 - zoom) + dy]])
        image = np.asarray(
            cv2.warpAffine(
                np.ascontiguousarray(image), matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT
            ),
            np.uint8,
        )
    kind = rng.random()
    if kind < 0.3:
        image = np.asarray(
            cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), rng.uniform(0.4, 2.0)), np.uint8
        )
    elif kind < 0.5:
        side = int(rng.integers(36, 100))
        small = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
        image = np.asarray(
            cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), np.uint8
        )
    if rng.random() < 0.5:
        values = image.astype(np.float32) * np.float32(rng.uniform(0.9, 1.1)) + rng.uniform(
            -8, 8, 3
        ).astype(np.float32)
        if rng.random() < 0.5:
            values += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 10))
        image = np.clip(values, 0, 255).astype(np.uint8)
    return image


@torch.no_grad()
def _refresh_statistics(
    model: nn.Module, pictures: ImageBatch, options: argparse.Namespace, rng: np.random.Generator
) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches that follow
    model.train()
    for _ in range(20):
        images = np.stack([_softened(pictures[i], rng) for i in rng.integers(0, len(pictures), 64)])
        model(to_pixels(images, options.device))


def classifier_accuracy(model: Any, count: int = 1000) -> dict[str, float]:
    """Accuracy on held-out renders: scene attributes; objects found; scenes whose set of objects is
    exactly right.
    """
    from engine.pocket.classifier import predict

    rendered = held_out_scenes(count, first=20_000)
    found = predict(np.stack([scene.image for scene in rendered]), model)
    truth = [scene.spec.attributes for scene in rendered]
    pairs = list(zip(truth, found, strict=True))
    things = [(thing, f) for t, f in pairs for thing in t.objects]
    return {
        "time": float(np.mean([t.time == f.time for t, f in pairs])),
        "ground": float(np.mean([t.ground == f.ground for t, f in pairs])),
        "weather": float(np.mean([t.weather == f.weather for t, f in pairs])),
        "objects found": float(
            np.mean([thing[0] in {kind for kind, _ in f.objects} for thing, f in things])
        ),
        "objects found in their colour": float(
            np.mean([thing in f.objects for thing, f in things])
        ),
        "exact set of objects": float(np.mean([t.objects == f.objects for t, f in pairs])),
    }


# --------------------------------------------------------------------------------------------------
# Starting from the shipped weights
# --------------------------------------------------------------------------------------------------


def stage_unpack(options: argparse.Namespace) -> None:
    """Write the exported weights as the checkpoints ``autoencoder.pt`` and ``unet.pt``, from which
    the later stages start, and ``gan.pt``.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from engine.pocket.gan import load_gan

    folder = options.model_dir / "model"
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    _save(vae.state_dict(), options.out / "autoencoder.pt")
    model = TextToImage(options)
    for part, kind, name in (
        (model.unet, UNet2DConditionModel, "unet"),
        (model.first, CLIPTextModel, "text_encoder"),
        (model.second, CLIPTextModelWithProjection, "text_encoder_2"),
    ):
        shipped = kind.from_pretrained(folder / name, torch_dtype=torch.float32)
        part.load_state_dict(shipped.state_dict())
    parameters = [p for m in model.models.values() for p in m.parameters() if p.requires_grad]
    state = {
        "models": {key: module.state_dict() for key, module in model.models.items()},
        "averaged": [p.detach().clone() for p in parameters],
        "steps": 0,
        "spent": 0.0,
    }
    _save(state, options.out / "unet.pt")
    gan = load_gan().requires_grad_(True)
    state = {
        "models": {"gan": gan.state_dict()},
        "averaged": [p.detach().clone() for p in gan.parameters()],
        "steps": 0,
        "spent": 0.0,
    }
    _save(state, options.out / "gan.pt")
    print(f"{options.model_dir} unpacked to {options.out}")


# --------------------------------------------------------------------------------------------------
# The 9-channel UNet
# --------------------------------------------------------------------------------------------------


def random_mask(
    scene: world.Scene, rng: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], int | None]:
    """A mask as people paint them, H W, 1 = repaint, and the object that it is about (or None)."""
    height, width = scene.image.shape[:2]
    kind = rng.random()
    mask: npt.NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    if kind < 0.45 and scene.masks:
        index = int(rng.integers(len(scene.masks)))
        thing = scene.masks[index]
        if rng.random() < 0.5:
            return world.grow(thing, int(rng.integers(1, 8))), index
        rows, columns = np.flatnonzero(thing.any(1)), np.flatnonzero(thing.any(0))
        pad = rng.integers(0, 12, 4)
        mask[
            max(rows[0] - pad[0], 0) : rows[-1] + pad[1] + 1,
            max(columns[0] - pad[2], 0) : columns[-1] + pad[3] + 1,
        ] = 1
        return mask.astype(bool), index
    if kind < 0.62:  # strokes of a brush
        for _ in range(int(rng.integers(1, 4))):
            points = np.cumsum(rng.normal(0, 18, (6, 2)), axis=0) + rng.uniform(20, 108, 2)
            cv2.polylines(mask, [points.astype(np.int32)], False, 1, int(rng.integers(8, 26)))
    elif kind < 0.8:  # a box or an ellipse
        size, centre = rng.integers(16, 48, 2), rng.integers(16, 112, 2)
        if rng.random() < 0.5:
            corner = centre - size
            cv2.rectangle(mask, corner.tolist(), (centre + size).tolist(), 1, -1)
        else:
            cv2.ellipse(
                mask, centre.tolist(), size.tolist(), float(rng.uniform(0, 180)), 0, 360, 1, -1
            )
    elif kind < 0.92:  # the border: outpainting
        first, last = rng.integers(8, 56), rng.integers(72, 120)
        part = mask if rng.random() < 0.5 else mask.T
        side = rng.random()
        if side < 0.66:
            part[:first] = 1
        if side > 0.33:
            part[last:] = 1
    else:
        mask[:] = 1
    return mask.astype(bool), None


def masked_pixels(images: ImageBatch, masks: npt.NDArray[np.bool_]) -> ImageBatch:
    """Pictures whose holes are mid grey, as diffusers' pipelines give them to the VAE (0 in [-1,
    1]).
    """
    holed = images.copy()
    holed[masks] = 128
    return holed


def make_masks(options: argparse.Namespace) -> dict[str, npt.NDArray[Any]]:
    """Cache masks and the latents of masked scenes: ``inpaint.npz``."""
    path = options.out / "inpaint.npz"
    if not path.exists():
        vae, pictures, rng = finished_vae(options), scenes(options), np.random.default_rng(4)
        count = min(options.masks, len(np.load(options.out / "latents.npy")))
        masks = np.zeros((count, SIZE, SIZE), bool)
        abouts = np.full(count, -1)
        codes = []
        for i in range(0, count, 32):
            for j in range(i, min(i + 32, count)):
                masks[j], about = random_mask(world.render(world.sample_scene(j), SIZE), rng)
                abouts[j] = -1 if about is None else about
            codes.append(
                encode(
                    vae,
                    masked_pixels(pictures[i : i + 32][: count - i], masks[i : i + 32]),
                    options,
                )
                .half()
                .cpu()
            )
            if i % 3200 == 0:
                print(f"{i} of {count} masked scenes", flush=True)
        with tempfile.NamedTemporaryFile(dir=options.out, suffix=".npz", delete=False) as file:
            np.savez(
                file,
                masks=np.packbits(masks, axis=-1),
                abouts=abouts,
                codes=torch.cat(codes).numpy(),
            )
        Path(file.name).replace(path)
    return dict(np.load(path))


def widen(unet: Any, wide: Any) -> None:
    """Copy a 4-channel UNet into a 9-channel one whose new input channels start at zero."""
    state = unet.state_dict()
    weight = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat(
        [weight, torch.zeros(len(weight), 5, 3, 3, device=weight.device)], 1
    )
    wide.load_state_dict(state)


def stage_inpaint9(options: argparse.Namespace) -> None:
    """Train a UNet that sees the mask and the masked picture: latents 4, mask 1 (1 = repaint),
    masked latents 4.
    """
    base = TextToImage(options)
    restore(base.models, options.out / "unet.pt", options.device)
    data = make_masks(options)
    latents = np.load(options.out / "latents.npy")[: len(data["codes"])]
    unet = new_unet(9).to(options.device)
    widen(base.unet, unet)
    run = Run("inpaint9", {"unet": unet}, options, lr=6e-4, final=0.01, ema=0.998)
    rng, diffusion, batch = (
        np.random.default_rng(5000 + run.steps),
        Diffusion(options.device),
        options.batch,
    )
    for _ in run.reporting(420, lambda: _report_inpainting(base, unet, run, options)):
        indices = rng.integers(0, len(latents), batch)
        pixel_masks = torch.from_numpy(
            np.unpackbits(data["masks"][indices], axis=-1)[:, None]
        ).float()
        nearest = pixel_masks[:, :, ::8, ::8]
        mask = torch.where(
            torch.rand(batch, 1, 1, 1) < 0.7, nearest, F.max_pool2d(pixel_masks, 8)
        ).to(options.device)
        captions = []
        for index in indices:
            spec, about = world.sample_scene(int(index)), int(data["abouts"][index])
            caption = world.training_caption(spec, rng)
            if about >= 0 and rng.random() < 0.6:
                caption = spec.objects[about].phrase
                if rng.random() < 0.4:
                    rest = dataclasses.replace(spec, objects=(spec.objects[about],))
                    caption = world.training_caption(rest, rng)
            captions.append("" if rng.random() < 0.05 else with_noise(caption, rng))
        clean = torch.from_numpy(latents[indices]).float().to(options.device)
        codes = torch.from_numpy(data["codes"][indices]).float().to(options.device)
        noisy, noise, timesteps = diffusion.noisy(clean)
        with autocast(options), quick_attention(options):
            with torch.no_grad():
                embeddings, conditions = base.condition(captions, rng)
            predicted = unet(
                torch.cat([noisy, mask, codes], 1),
                timesteps,
                embeddings,
                added_cond_kwargs=conditions,
            ).sample
        loss, plain = diffusion.loss(predicted, noise, timesteps)
        run.step(loss, plain=plain)


@torch.no_grad()
def _report_inpainting(base: TextToImage, unet: Any, run: Run, options: argparse.Namespace) -> None:
    """A sheet of the demo scenes: picture, hole, result, truth."""
    from diffusers import StableDiffusionXLInpaintPipeline
    from PIL import Image

    unet.eval()
    pipe: Any = StableDiffusionXLInpaintPipeline(
        **{**base.pipeline(finished_vae(options)).components, "unet": unet}
    )
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for demo in world.demo_scenes():
        output = pipe(
            demo.prompt,
            image=Image.fromarray(demo.image),
            mask_image=Image.fromarray(demo.mask.astype(np.uint8) * 255),
            strength=1.0,
            num_inference_steps=25,
            guidance_scale=4.0,
            generator=torch.Generator("cpu").manual_seed(0),
            height=SIZE,
            width=SIZE,
            output_type="np",
        )
        result = np.round(output.images[0] * 255).astype(np.uint8)
        truth = demo.truth if demo.truth is not None else demo.image
        rows += [demo.image, masked_pixels(demo.image[None], demo.mask[None])[0], result, truth]
    sheet(np.stack(rows), 4, options.out / f"{run.name}.png")
    run.log("samples written")
    unet.train()


# --------------------------------------------------------------------------------------------------
# ControlNets
# --------------------------------------------------------------------------------------------------


def new_controlnet(unet: Any) -> Any:
    """A ControlNet (Zhang et al. 2023): a copy of the UNet's first half with zero convolutions, and
    a small stack of convolutions that brings the control image to the size of the latents.
    """
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 96))


def control_images(known: npt.NDArray[Any], annotator: str) -> ImageBatch:
    """Control images N H W 3: canny edges of pictures, or depths (255 is nearest) as grey."""
    if annotator == "canny":
        from controls.annotators import canny

        return np.stack([canny(np.asarray(image)) for image in known])
    return np.repeat(known[..., None], 3, axis=-1)


def _depth_block(first: int, count: int) -> npt.NDArray[np.uint8]:
    cv2.setNumThreads(1)
    depths = [
        world.render(world.sample_scene(seed), SIZE).depth for seed in range(first, first + count)
    ]
    return np.round(np.stack(depths) * 255).astype(np.uint8)


def depths(options: argparse.Namespace, count: int) -> npt.NDArray[np.uint8]:
    """The depth maps of the first ``count`` training scenes, N 128 128, cached."""
    path = options.out / "depths.npy"
    if not path.exists():
        blocks = range(0, count, 200)
        with ProcessPoolExecutor(options.threads) as pool:
            parts = list(
                pool.map(_depth_block, blocks, [min(200, count - first) for first in blocks])
            )
        with tempfile.NamedTemporaryFile(dir=options.out, suffix=".npy", delete=False) as file:
            np.save(file, np.concatenate(parts))
        Path(file.name).replace(path)
    cached: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return cached


def stage_controlnet(options: argparse.Namespace) -> None:
    """Train the ControlNet of ``--annotator``, or one after the other."""
    for annotator in [options.annotator] if options.annotator else ANNOTATORS:
        _train_controlnet(argparse.Namespace(**{**vars(options), "annotator": annotator}))


def _train_controlnet(options: argparse.Namespace) -> None:
    """On the edges or the depths of the training scenes, around the frozen UNet."""
    base = TextToImage(options)
    restore(base.models, options.out / "unet.pt", options.device)
    for module in base.models.values():
        module.requires_grad_(False)
    latents = np.load(options.out / "latents.npy")
    known = scenes(options) if options.annotator == "canny" else depths(options, len(latents))
    controlnet = new_controlnet(base.unet).to(options.device)
    run = Run(
        f"controlnet_{options.annotator}",
        {"controlnet": controlnet},
        options,
        lr=5e-4,
        final=0.02,
        ema=0.998,
    )
    rng, diffusion = np.random.default_rng(6000 + run.steps), Diffusion(options.device)
    specs: dict[int, world.SceneSpec] = {}
    for _ in run.reporting(420, lambda: _report_controlnet(base, controlnet, run, options)):
        indices = rng.integers(0, len(latents), options.batch)
        for index in map(int, indices):
            specs.setdefault(index, world.sample_scene(index))
        # without a text, shapes have to come from the control
        captions = [
            "" if rng.random() < 0.2 else world.training_caption(specs[int(index)], rng)
            for index in indices
        ]
        images = control_images(known[indices], options.annotator)
        clean = torch.from_numpy(latents[indices]).float().to(options.device)
        control = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(options.device) / 255
        noisy, noise, timesteps = diffusion.noisy(clean)
        with autocast(options), quick_attention(options):
            embeddings, conditions = base.condition(captions, rng)
            down, mid = controlnet(
                noisy,
                timesteps,
                embeddings,
                controlnet_cond=control,
                added_cond_kwargs=conditions,
                return_dict=False,
            )
            predicted = base.unet(
                noisy,
                timesteps,
                embeddings,
                added_cond_kwargs=conditions,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
        loss, plain = diffusion.loss(predicted, noise, timesteps)
        run.step(loss, plain=plain)


@torch.no_grad()
def _report_controlnet(
    base: TextToImage, controlnet: Any, run: Run, options: argparse.Namespace
) -> None:
    """A sheet of eight held-out scenes: control image, result, truth."""
    from diffusers import StableDiffusionXLControlNetPipeline
    from PIL import Image

    controlnet.eval()
    truth = held_out_scenes(8, 5000)
    known = (
        np.stack([scene.image for scene in truth])
        if options.annotator == "canny"
        else np.round(np.stack([scene.depth for scene in truth]) * 255).astype(np.uint8)
    )
    images = control_images(known, options.annotator)
    components = {**base.pipeline(finished_vae(options)).components, "controlnet": controlnet}
    components.pop("image_encoder")
    components.pop("feature_extractor")
    pipe: Any = StableDiffusionXLControlNetPipeline(
        **components, force_zeros_for_empty_prompt=True, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    output = pipe(
        [scene.caption for scene in truth],
        image=[Image.fromarray(image) for image in images],
        num_inference_steps=20,
        guidance_scale=4.0,
        generator=[torch.Generator("cpu").manual_seed(i) for i in range(len(truth))],
        height=SIZE,
        width=SIZE,
        output_type="np",
    )
    results = np.round(output.images * 255).astype(np.uint8)
    pictures = np.stack([scene.image for scene in truth])
    sheet(np.concatenate([images, results, pictures]), 8, options.out / f"{run.name}.png")
    run.log("samples written")
    controlnet.train()


# --------------------------------------------------------------------------------------------------
# The inpainting GAN
# --------------------------------------------------------------------------------------------------


class PatchDiscriminator(nn.Module):
    """Says of every patch whether it is painted or real (Isola et al. 2017), spectrally normalised.
    Returns the features of each layer and, last, the logits.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [4, width, 2 * width, 4 * width]
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.ModuleList(
            [norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in pairwise(sizes)]
            + [norm(nn.Conv2d(sizes[-1], 1, 3, 1, 1))]
        )

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """``image`` b 3 h w in [0, 1], ``mask`` b 1 h w."""
        x = torch.cat([image * 2 - 1, mask], 1)
        features: list[torch.Tensor] = []
        for layer in self.layers:
            x = layer(x if not features else F.leaky_relu(x, 0.2))
            features.append(x)
        return features


def _holed_block(first: int, count: int) -> tuple[ImageBatch, ImageBatch, npt.NDArray[np.bool_]]:
    """Scenes, the same without their things, and holes."""
    cv2.setNumThreads(1)
    pictures, empty, holes = [], [], []
    for seed in range(first, first + count):
        spec = world.sample_scene(seed)
        scene = world.render(spec, SIZE)
        mask = np.ones((SIZE, SIZE), bool)
        for turn in range(100):  # of a wholly hidden picture there is nothing to go on from
            mask, _ = random_mask(scene, np.random.default_rng([seed, turn]))
            if not mask.all():
                break
        bare = dataclasses.replace(spec, objects=())
        pictures.append(scene.image)
        empty.append(world.render(bare, SIZE).image)
        holes.append(mask)
    return np.stack(pictures), np.stack(empty), np.stack(holes)


def holed_scenes(options: argparse.Namespace) -> dict[str, npt.NDArray[Any]]:
    """``--masks`` training scenes, their backgrounds and holes (N 128 128 ...), cached."""
    path, block = options.out / "holes.npz", 250
    if not path.exists():
        firsts = range(0, options.masks, block)
        with ProcessPoolExecutor(options.threads) as pool:
            parts = list(pool.map(_holed_block, firsts, [block] * len(firsts)))
        pictures, empty, holes = map(np.concatenate, zip(*parts, strict=True))
        with tempfile.NamedTemporaryFile(dir=options.out, suffix=".npz", delete=False) as file:
            np.savez(file, pictures=pictures, empty=empty, holes=holes)
        Path(file.name).replace(path)
    return dict(np.load(path))


def stage_gan(options: argparse.Namespace) -> None:
    """Train a GAN that fills holes with background: on scenes where what is hidden is what was
    behind the objects, and on photographs. For the first six tenths of the time the loss is L1
    alone, which finds the colours at half the price of a step; then LaMa's: L1, non-saturating GAN
    with R1, feature matching, which find the grain.
    """
    from engine.pocket.gan import InpaintingGan

    data, crops = holed_scenes(options), PhotoCrops(PHOTOGRAPHS, 2)
    gan = InpaintingGan().to(options.device).to(memory_format=torch.channels_last)
    critic = PatchDiscriminator().to(options.device).to(memory_format=torch.channels_last)
    judge = torch.optim.AdamW(critic.parameters(), lr=4e-4, betas=(0.5, 0.99))
    run = Run("gan", {"gan": gan}, options, lr=1e-3, final=0.02, ema=0.998)
    rng, batch = np.random.default_rng(7000 + run.steps), 16
    for _ in run.reporting(240, lambda: _report_gan(gan, run, options)):
        images, holes = [], []
        for _ in range(batch):
            index = int(rng.integers(len(data["holes"])))
            hole = data["holes"][index if rng.random() < 0.5 else rng.integers(len(data["holes"]))]
            if rng.random() < 0.12:
                image, _ = crops.crop(SIZE)
            else:  # objects stay where they are seen, and are not painted where they are not
                image = np.where(hole[..., None], data["empty"][index], data["pictures"][index])
            flip = slice(None, None, int(rng.choice([-1, 1])))
            images.append(image[:, flip])
            holes.append(hole[:, flip])
        real = (to_pixels(np.stack(images), options.device) + 1) / 2
        mask = torch.from_numpy(np.stack(holes)[:, None]).float().to(options.device)
        with autocast(options):
            drawn = gan(real, mask).float()
        # each picture counts alike, however small its hole
        error = ((drawn - real).abs() * mask).mean(1, keepdim=True).sum((1, 2, 3))
        plain = (error / mask.sum((1, 2, 3)).clamp(min=1)).mean()
        if run.progress < 0.6:
            run.step(10 * plain, plain=plain)
            continue
        fooled, matched = _against(critic, judge, real, drawn, mask, run.steps % 8 == 0, options)
        run.step(10 * plain + 0.05 * fooled + matched, plain=plain, fooled=fooled)


def _against(
    critic: PatchDiscriminator,
    judge: torch.optim.Optimizer,
    real: torch.Tensor,
    drawn: torch.Tensor,
    mask: torch.Tensor,
    penalised: bool,
    options: argparse.Namespace,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the critic; then what it makes the generator pay, and how far apart its features
    of ``drawn`` and ``real`` are.
    """
    with autocast(options):
        scores = critic(drawn.detach(), mask)[-1].float()
    # R1 needs second derivatives, which are exact only in float32
    given = real.detach().requires_grad_(penalised)
    with nullcontext() if penalised else autocast(options):
        known = critic(given, mask)[-1].float()
    weight = F.interpolate(mask, known.shape[-2:], mode="area")
    verdict = (F.softplus(scores) * weight).mean() + F.softplus(-known).mean()
    if penalised:
        (slope,) = torch.autograd.grad(known.sum(), given, create_graph=True)
        verdict = verdict + 8 * 0.5 * 1e-2 * slope.square().sum((1, 2, 3)).mean()
    judge.zero_grad(set_to_none=True)
    verdict.backward()
    judge.step()
    critic.requires_grad_(False)
    with autocast(options):
        fake, truth = critic(drawn, mask), critic(real, mask)
    critic.requires_grad_(True)
    matched = torch.stack(
        [F.l1_loss(a.float(), b.float()) for a, b in zip(fake[:-1], truth[:-1], strict=True)]
    ).sum()
    fooled = (F.softplus(-fake[-1].float()) * weight).sum() / weight.sum().clamp(min=1)
    return fooled, matched


@torch.no_grad()
def _report_gan(gan: nn.Module, run: Run, options: argparse.Namespace) -> None:
    """A sheet of held-out scenes without their first object: picture, hole, result, truth."""
    rows = []
    for scene in [scene for scene in held_out_scenes(14, 6000) if scene.masks][:8]:
        hole = world.grow(scene.masks[0], 4)
        image = torch.from_numpy(scene.image.copy()).permute(2, 0, 1)[None].float() / 255
        filled = gan(image.to(options.device), torch.from_numpy(hole)[None, None].to(image))
        result = np.round(filled[0].permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8)
        truth = world.render(scene.spec.without(0), SIZE).image
        rows += [scene.image, masked_pixels(scene.image[None], hole[None])[0], result, truth]
    sheet(np.stack(rows), 8, options.out / "gan.png")
    run.log("samples written")


# --------------------------------------------------------------------------------------------------
# Export and figures
# --------------------------------------------------------------------------------------------------


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place and rename it in, so that readers never see half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write(fresh)
        fresh.chmod(0o755)
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
            folder.rename(old / "gone")
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


def stage_export(options: argparse.Namespace) -> None:
    """Write what is trained so far to ``--model-dir`` as fp16 safetensors: the model, the
    classifier, the 9 channels.
    """
    root = options.model_dir
    model = TextToImage(options)
    if (options.out / "unet.pt").exists():
        restore(model.models, options.out / "unet.pt", options.device)
        vae = finished_vae(options)
        pipe = model.pipeline(vae)
        for part in (pipe.vae, pipe.unet):
            part.to("cpu").half().to(memory_format=torch.contiguous_format)
        # transformers loads what was saved in halves as halves while diffusers makes it float32,
        # so a plain from_pretrained would mix the two: the small text encoders stay in float32
        for part in (pipe.text_encoder, pipe.text_encoder_2):
            part.to("cpu").float()
        replace_folder(root / "model", lambda folder: _write_model(pipe, folder))
        print(f"{root / 'model'}: {_megabytes(root / 'model'):.1f} MB")
    classifier = options.out / "classifier-final.pt"
    if classifier.exists():
        state = torch.load(classifier, map_location="cpu", weights_only=True)["classifier"]
        _write_weights(state, root / "classifier.safetensors")
    if (options.out / "inpaint9.pt").exists():
        unet = new_unet(9)
        restore({"unet": unet}, options.out / "inpaint9.pt", torch.device("cpu"))
        unet.half()
        replace_folder(root / "unet_inpaint", unet.save_pretrained)
        print(f"{root / 'unet_inpaint'}: {_megabytes(root / 'unet_inpaint'):.1f} MB")
    if (options.out / "gan.pt").exists():
        from engine.pocket.gan import InpaintingGan

        gan = InpaintingGan()
        restore({"gan": gan}, options.out / "gan.pt", torch.device("cpu"))
        _write_weights(gan.state_dict(), root / "gan.safetensors")
    for annotator in ANNOTATORS:
        name = f"controlnet_{annotator}"
        if (options.out / f"{name}.pt").exists():
            controlnet = new_controlnet(model.unet)
            checkpoint = options.out / f"{name}.pt"
            restore({"controlnet": controlnet}, checkpoint, torch.device("cpu"))
            controlnet.half()
            replace_folder(root / name, controlnet.save_pretrained)
            print(f"{root / name}: {_megabytes(root / name):.1f} MB")


def _write_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """As fp16 safetensors."""
    from safetensors.torch import save_file

    halves = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in state.items()
    }
    part = path.with_suffix(".part")
    save_file(halves, part)
    part.chmod(0o644)
    part.replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _write_model(pipe: Any, folder: Path) -> None:
    pipe.save_pretrained(folder)
    vocabulary, merges = build_vocabulary([word for word in world.vocabulary() if len(word) > 1])
    for name in ("tokenizer", "tokenizer_2"):  # for readers older than tokenizer.json
        (folder / name / "vocab.json").write_text(
            json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8"
        )
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / name / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def adherence(images: ImageBatch, captions: Sequence[str], model: Any = None) -> dict[str, float]:
    """For each category the fraction of what the captions ask for that the classifier finds."""
    from engine.pocket.classifier import asked_and_found, predict

    hits: dict[str, list[bool]] = {}
    perfect = []
    for caption, found in zip(captions, predict(images, model), strict=True):
        points = asked_and_found(world.attributes_from_caption(caption), found)
        for name, hit in points:
            hits.setdefault(name, []).append(hit)
        perfect.append(all(hit for _, hit in points))
    figures = {name: float(np.mean(values)) for name, values in sorted(hits.items())}
    figures["everything asked"] = float(np.mean(perfect))
    figures["mean of all"] = float(np.mean([hit for values in hits.values() for hit in values]))
    return figures


def labelled_sheet(images: ImageBatch, captions: Sequence[str], columns: int, path: Path) -> None:
    """Pictures with their captions underneath."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    side, text = images.shape[1], 44
    rows = math.ceil(len(images) / columns)
    page = Image.new("RGB", (columns * (side + 8) + 8, rows * (side + text + 8) + 8), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 8 + i % columns * (side + 8), 8 + i // columns * (side + text + 8)
        page.paste(Image.fromarray(image), (x, y))
        for line, words in enumerate(textwrap.wrap(caption, 27)[:4]):
            pen.text((x, y + side + 1 + 10 * line), words, fill="black", font=font)
    page.save(path, optimize=True)


def stage_evaluate(options: argparse.Namespace) -> None:
    """Print the exported model's figures and write a sheet of 32 samples with their captions."""
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline

    folder = options.model_dir / "model"
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(options.device)
    report: dict[str, Any] = {"vae psnr, dB": vae_psnr(vae, options, 200)}
    print(json.dumps(report), flush=True)
    report["classifier accuracy"] = classifier_accuracy(None, 1000)
    print(json.dumps(report["classifier accuracy"]), flush=True)
    captions = held_out_captions(options.samples)
    started = time.monotonic()
    images = draw_samples(pipe, captions)
    report["seconds a sample, in batches of 16"] = (time.monotonic() - started) / len(images)
    report["adherence"] = adherence(images, captions)
    truth = [
        world.render(world.sample_scene(world.HELD_OUT_SEEDS[5000 + i]), SIZE).image
        for i in range(len(captions))
    ]
    report["adherence of the renderer's own pictures"] = adherence(np.stack(truth), captions)
    print(json.dumps(report, indent=2), flush=True)
    (options.out / "figures.json").write_text(json.dumps(report, indent=2) + "\n")
    labelled_sheet(images[:32], captions[:32], 8, options.sheet)
    print(f"samples: {options.sheet}")


# --------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------

STAGES: dict[str, tuple[Callable[[argparse.Namespace], None], float]] = {
    "render": (stage_render, 0),
    "vae": (stage_vae, 35),
    "latents": (stage_latents, 0),
    "decoder": (stage_decoder, 60),
    "unet": (stage_unet, 60),
    "classifier": (stage_classifier, 6),
    "inpaint9": (stage_inpaint9, 60),
    "controlnet": (stage_controlnet, 40),
    "gan": (stage_gan, 25),
    "export": (stage_export, 0),
    "evaluate": (stage_evaluate, 0),
}
"""Each stage of the chain with its default minutes."""
ANNOTATORS = ("canny", "depth")
"""What there are ControlNets for."""
ON_REQUEST = {"unpack": (stage_unpack, 0.0)}
"""Stages that are no link of the chain."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[*STAGES, *ON_REQUEST, "all"])
    parser.add_argument(
        "--out", type=Path, default=Path("pocket-training"), help="folder of caches and checkpoints"
    )
    parser.add_argument("--minutes", type=float, help="time budget of the stage")
    parser.add_argument("--scenes", type=int, default=30_000, help="training scenes to cache")
    parser.add_argument(
        "--latents", type=int, default=30_000, help="scenes whose latents are cached"
    )
    parser.add_argument("--photos", type=int, default=2_000, help="crops of photographs to encode")
    parser.add_argument(
        "--masks", type=int, default=20_000, help="masked scenes for the 9-channel UNet"
    )
    parser.add_argument(
        "--annotator",
        choices=ANNOTATORS,
        help="what controlnet trains on; both in turn if not given",
    )
    parser.add_argument("--samples", type=int, default=256, help="samples that evaluate draws")
    parser.add_argument(
        "--model-dir", type=Path, default=Path(world.__file__).parent, help="where export writes"
    )
    parser.add_argument(
        "--sheet", type=Path, default=Path(__file__).with_name("pocket_samples.png")
    )
    parser.add_argument("--batch", type=int, default=48, help="samples in one step of the UNet")
    parser.add_argument(
        "--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train under bfloat16 autocast",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="keep the weights and start a new learning rate schedule",
    )
    parser.add_argument("--fresh", action="store_true", help="ignore the stage's checkpoint")
    options = parser.parse_args(arguments)
    options.device = torch.device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    for stop in (signal.SIGINT, signal.SIGTERM):  # both save the checkpoint, in the background too
        signal.signal(stop, signal.default_int_handler)
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    minutes = options.minutes
    for name in STAGES if options.stage == "all" else (options.stage,):
        stage, default = (STAGES | ON_REQUEST)[name]
        options.minutes = default if minutes is None else minutes
        stage(options)


if __name__ == "__main__":
    main()
