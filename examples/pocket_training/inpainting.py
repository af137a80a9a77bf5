"""Masks as people paint them, and the 9-channel UNet that sees them."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from engine.pocket import world
from examples.pocket_training.data import (
    SIZE,
    Batches,
    ImageBatch,
    autocast,
    loaded,
    quick,
    quick_attention,
    scenes,
    sheet,
)
from examples.pocket_training.diffusion import Diffusion, TextToImage, new_unet, worded
from examples.pocket_training.run import Run, restore
from examples.pocket_training.text import with_noise
from examples.pocket_training.vae import encode, finished_vae


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


def _masked_block(
    pictures: ImageBatch, first: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], ImageBatch]:
    """Masks of the training scenes from ``first`` on, their bits packed; which thing each is about
    (-1 = none); the scenes with holes.
    """
    cv2.setNumThreads(1)
    masks, abouts = np.zeros((len(pictures), SIZE, SIZE), bool), np.full(len(pictures), -1)
    for i in range(len(pictures)):
        scene = world.render(world.sample_scene(first + i), SIZE)
        masks[i], about = random_mask(scene, np.random.default_rng([4, first + i]))
        abouts[i] = -1 if about is None else about
    return np.packbits(masks, axis=-1), abouts, masked_pixels(pictures, masks)


def make_masks(options: argparse.Namespace) -> dict[str, npt.NDArray[Any]]:
    """Cache masks and the latents of masked scenes: ``inpaint.npz``."""
    path, block = options.out / "inpaint.npz", 256
    if not path.exists():
        vae, pictures = finished_vae(options), scenes(options)
        count = min(options.masks, len(np.load(options.out / "latents.npy", mmap_mode="r")))
        firsts = range(0, count, block)
        parts = (np.asarray(pictures[first : min(first + block, count)]) for first in firsts)
        masks, abouts, codes = [], [], []
        with ProcessPoolExecutor(options.threads) as pool:
            for mask, about, holed in pool.map(_masked_block, parts, firsts):
                masks.append(mask)
                abouts.append(about)
                codes += [
                    encode(vae, holed[i : i + 64], options).half().cpu()
                    for i in range(0, len(holed), 64)
                ]
        with tempfile.NamedTemporaryFile(dir=options.out, suffix=".npz", delete=False) as file:
            np.savez(
                file,
                masks=np.concatenate(masks),
                abouts=np.concatenate(abouts),
                codes=torch.cat(codes).numpy(),
            )
        Path(file.name).replace(path)
        print(f"{count} masked scenes -> {path}", flush=True)
    return dict(np.load(path))


class MaskedLatents(Batches):
    """Scenes with holes: ``latents`` (b 4 16 16), ``mask`` (b 1 16 16, 1 = repaint), ``codes`` (the
    latents of the scene with grey in the hole) and what :func:`worded` gives.
    """

    def __init__(self, options: argparse.Namespace, tokenizer: Any) -> None:
        super().__init__(options)
        self.tokenizer, self.data = tokenizer, make_masks(options)
        self.latents = np.load(options.out / "latents.npy", mmap_mode="r")

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Of the scene, or, where the hole is about one thing, more often of that."""
        spec, about = self.spec(index), int(self.data["abouts"][index])
        if about >= 0 and rng.random() < 0.6:
            if rng.random() >= 0.4:
                return spec.objects[about].phrase
            spec = dataclasses.replace(spec, objects=(spec.objects[about],))
        return world.training_caption(spec, rng)

    def batch(self, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """The next one."""
        indices = np.sort(rng.integers(0, len(self.data["codes"]), self.count))
        pixels = np.unpackbits(self.data["masks"][indices], axis=-1)[:, None]
        cells = pixels.reshape(self.count, 1, SIZE // 8, 8, SIZE // 8, 8)
        # what pipelines do, or every cell that the hole touches
        nearest = rng.random((self.count, 1, 1, 1)) < 0.7
        mask = np.where(nearest, pixels[:, :, ::8, ::8], cells.max((3, 5)))
        captions = [
            "" if rng.random() < 0.05 else with_noise(self.caption(int(index), rng), rng)
            for index in indices
        ]
        return {
            "latents": self.latents[indices].astype(np.float32),
            "mask": mask.astype(np.float32),
            "codes": self.data["codes"][indices].astype(np.float32),
            **worded(captions, self.tokenizer, rng),
        }


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
    batches = loaded(MaskedLatents(options, base.tokenizer), options)
    unet = new_unet(9).to(options.device)
    widen(base.unet, unet)
    predict, diffusion = quick(unet, options), Diffusion(options.device)
    run = Run("inpaint9", {"unet": unet}, options, lr=options.lr or 6e-4, final=0.01, ema=0.998)
    steps = run.reporting(420, lambda: _report_inpainting(base, unet, run, options))
    for _, batch in zip(steps, batches, strict=False):
        noisy, noise, timesteps = diffusion.noisy(batch["latents"])
        with autocast(options), quick_attention(options):
            with torch.no_grad():
                embeddings, conditions = base.condition(batch)
            inputs = torch.cat([noisy, batch["mask"], batch["codes"]], 1)
            predicted = predict(inputs, timesteps, embeddings, added_cond_kwargs=conditions).sample
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
    for demo in world.sample_edits():
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
        masked = masked_pixels(demo.image[None], demo.mask[None])[0]
        rows += [demo.image, masked, result, demo.truth]
    sheet(np.stack(rows), 4, options.out / f"{run.name}.png")
    run.log("samples written")
    unet.train()
