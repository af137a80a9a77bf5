"""The attribute classifier: what a picture shows, and how well it is read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from engine.pocket import world
from examples.pocket_training.data import (
    SIZE,
    ImageBatch,
    autocast,
    held_out_scenes,
    scenes,
    to_images,
    to_pixels,
)
from examples.pocket_training.run import Run, save_checkpoint
from examples.pocket_training.vae import finished_vae


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
    save_checkpoint({"classifier": model.state_dict()}, options.out / "classifier-final.pt")
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
