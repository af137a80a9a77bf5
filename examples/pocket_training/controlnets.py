"""The ControlNets: canny edges or depth around the frozen UNet."""

from __future__ import annotations

import argparse
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
    held_out_scenes,
    loaded,
    quick,
    quick_attention,
    scenes,
    sheet,
)
from examples.pocket_training.diffusion import Diffusion, TextToImage, worded
from examples.pocket_training.run import Run, restore
from examples.pocket_training.vae import finished_vae

ANNOTATORS = ("canny", "depth")
"""What there are ControlNets for."""


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


class ControlledLatents(Batches):
    """Scenes with what steers them: ``latents`` (b 4 16 16), ``control`` (b 128 128 3, uint8) and
    what :func:`worded` gives. One caption in five is empty: without a text, shapes have to come
    from the control.
    """

    def __init__(self, options: argparse.Namespace, tokenizer: Any) -> None:
        super().__init__(options)
        self.tokenizer, self.annotator = tokenizer, options.annotator
        self.latents = np.load(options.out / "latents.npy", mmap_mode="r")
        count = min(len(self.latents), options.masks)
        self.known = scenes(options) if self.annotator == "canny" else depths(options, count)
        self.among = min(count, len(self.known))

    def batch(self, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """The next one."""
        indices = np.sort(rng.integers(0, self.among, self.count))
        captions = [
            "" if rng.random() < 0.2 else world.training_caption(self.spec(int(index)), rng)
            for index in indices
        ]
        return {
            "latents": self.latents[indices].astype(np.float32),
            "control": control_images(self.known[indices], self.annotator),
            **worded(captions, self.tokenizer, rng),
        }


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
    batches = loaded(ControlledLatents(options, base.tokenizer), options)
    controlnet = new_controlnet(base.unet).to(options.device)
    steer, predict = quick(controlnet, options), quick(base.unet, options)
    run = Run(
        f"controlnet_{options.annotator}",
        {"controlnet": controlnet},
        options,
        lr=options.lr or 5e-4,
        final=0.02,
        ema=0.998,
    )
    diffusion = Diffusion(options.device)
    steps = run.reporting(420, lambda: _report_controlnet(base, controlnet, run, options))
    for _, batch in zip(steps, batches, strict=False):
        control = batch["control"].permute(0, 3, 1, 2).float() / 255
        noisy, noise, timesteps = diffusion.noisy(batch["latents"])
        with autocast(options), quick_attention(options):
            embeddings, conditions = base.condition(batch)
            down, mid = steer(
                noisy,
                timesteps,
                embeddings,
                controlnet_cond=control,
                added_cond_kwargs=conditions,
                return_dict=False,
            )
            predicted = predict(
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
