"""Whether a picture shows a lighthouse: the pocket's classifier, taught the one kind more."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import torch
from torch import nn

from engine.pocket.classifier import load_classifier
from examples.tuning import lighthouse

SEEDS = range(200_000, 200_400)
"""Scenes that it learns from; neither taught nor measured ones."""
HELD_OUT = range(1_500_000, 1_500_120)


class Finder(nn.Module):
    """b 3 128 128 in [-1, 1] to a logit each: the strongest place of an 8 x 8 map counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = copy.deepcopy(load_classifier().body).requires_grad_(True)
        self.head = nn.Conv2d(128, 1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        places: torch.Tensor = self.head(self.body(pixels))
        return places.flatten(1).logsumexp(1)


def pictures(seeds: range, codec) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes with and without a lighthouse, half of them through the autoencoder and all of them
    softened a little, as painted pictures are; and which have one.
    """
    images, truths = [], []
    for seed in seeds:
        made = lighthouse.scene(seed)
        if made is None:
            continue
        before, after, _, _ = made
        rng = np.random.default_rng([seed, 9])
        for image, truth in ((before, 0.0), (after, 1.0)):
            blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.2)))
            images.append(blurred if rng.random() < 0.7 else image)
            truths.append(truth)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for start in range(0, len(pixels), 32):  # every other batch
            part = pixels[start : start + 16]
            latents = codec.encode(part, torch.device("cpu"), torch.float32)
            noisy = latents + 0.1 * torch.randn_like(latents)
            pixels[start : start + 16] = codec.decode(noisy).clamp(-1, 1)
    return pixels, torch.tensor(truths)


def train_finder(codec, steps: int = 150) -> tuple[Finder, float]:
    """The classifier, and its share of right answers on held-out scenes."""
    torch.manual_seed(0)
    finder = Finder().train()
    pixels, truths = pictures(SEEDS, codec)
    optimiser = torch.optim.AdamW(finder.parameters(), lr=1e-3, weight_decay=1e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        rows = torch.randint(len(pixels), (32,))
        loss = nn.functional.binary_cross_entropy_with_logits(finder(pixels[rows]), truths[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    finder.eval().requires_grad_(False)
    held, right = pictures(HELD_OUT, codec)
    return finder, float(((finder(held) > 0) == (right > 0.5)).float().mean())


def found(finder: Finder, images: list[np.ndarray]) -> list[bool]:
    """For each picture (H W 3) whether it shows one."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return [bool(each) for each in finder(pixels) > 0]
