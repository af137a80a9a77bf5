"""Rendered scenes, photographs, and what stands between pictures and tensors."""

from __future__ import annotations

import argparse
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

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


def _render_block(first: int, count: int) -> tuple[ImageBatch, ImageBatch]:
    cv2.setNumThreads(1)
    painted = [world.render(world.sample_scene(seed), SIZE) for seed in range(first, first + count)]
    return np.stack([scene.image for scene in painted]), np.stack(list(map(_covered, painted)))


def _covered(scene: world.Scene) -> npt.NDArray[np.uint8]:
    """How much of each of the latents' cells things cover, 16 16, 255 is all of it."""
    union = np.zeros((SIZE, SIZE), np.float32)
    for mask in scene.masks:
        union[mask.astype(bool)] = 255
    cells = cv2.resize(union, (SIZE // 8, SIZE // 8), interpolation=cv2.INTER_AREA)
    return cells.round().astype(np.uint8)


def stage_render(options: argparse.Namespace) -> None:
    """Paint the training scenes once: ``scenes.npy``, uint8, seeds 0 to ``--scenes`` - 1, and
    ``things.npy``, uint8 N 16 16: how much of each of the latents' cells things cover.
    """
    path, block = options.out / "scenes.npy", min(500, options.scenes)
    count = math.ceil(options.scenes / block) * block
    started = time.monotonic()
    part = path.with_suffix(".part")
    pictures = np.lib.format.open_memmap(
        part, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3)
    )
    things = np.empty((count, SIZE // 8, SIZE // 8), np.uint8)
    with ProcessPoolExecutor(options.threads) as pool:
        firsts = range(0, count, block)
        for first, (images, covered) in zip(
            firsts, pool.map(_render_block, firsts, [block] * len(firsts)), strict=True
        ):
            pictures[first : first + block] = images
            things[first : first + block] = covered
    pictures.flush()
    np.save(options.out / "things.npy", things)
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


def to_pixels(images: ImageBatch | torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 b H W 3 to float b 3 H W in [-1, 1], channels last in memory."""
    if not isinstance(images, torch.Tensor):
        images = torch.from_numpy(np.ascontiguousarray(images))
    tensor = images.to(device).permute(0, 3, 1, 2)
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


class Batches(IterableDataset[dict[str, npt.NDArray[Any]]], ABC):
    """Endless batches of ``--batch`` samples of a training, other ones each time it is started."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.count, self.seed = options.batch, int(time.time())
        self.specs: dict[int, world.SceneSpec] = {}

    def spec(self, index: int) -> world.SceneSpec:
        """What training scene ``index`` shows."""
        if index not in self.specs:
            self.specs[index] = world.sample_scene(index)
        return self.specs[index]

    @abstractmethod
    def batch(self, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """The next one, arrays by name."""

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        while True:
            yield self.batch(rng)


def loaded(batches: Batches, options: argparse.Namespace) -> Iterator[dict[str, torch.Tensor]]:
    """The batches on the device, made ahead by ``--workers`` processes: a GPU is quicker than one
    that words captions.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=options.workers,
        pin_memory=options.device.type == "cuda",
        collate_fn=torch.utils.data.default_convert,
    )
    for batch in loader:
        yield {name: each.to(options.device, non_blocking=True) for name, each in batch.items()}


def quick(module: nn.Module, options: argparse.Namespace) -> Any:
    """What calls ``module``: compiled on a GPU, which waits for Python otherwise."""
    if options.device.type != "cuda":
        return module
    module.to(memory_format=torch.channels_last)
    return torch.compile(module)


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
