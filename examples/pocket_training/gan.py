"""The inpainting GAN: its critic, scenes with holes, and the stage."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from engine.pocket import world
from examples.pocket_training.data import (
    PHOTOGRAPHS,
    SIZE,
    ImageBatch,
    PhotoCrops,
    autocast,
    held_out_scenes,
    sheet,
    to_pixels,
)
from examples.pocket_training.inpainting import masked_pixels, random_mask
from examples.pocket_training.run import Run


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
