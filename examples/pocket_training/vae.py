"""The autoencoder: encoder and decoder, the cached latents, and the decoder alone."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from examples.pocket_training.data import (
    HELD_OUT_PHOTOGRAPHS,
    PHOTOGRAPHS,
    SIZE,
    Batches,
    ImageBatch,
    PhotoCrops,
    autocast,
    held_out_scenes,
    loaded,
    photographs,
    psnr,
    scenes,
    sheet,
    to_images,
    to_pixels,
)
from examples.pocket_training.run import Run, restore, save_checkpoint


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
        shift_factor=0.0,  # flow pipelines need a number
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
        save_checkpoint(vae.state_dict(), options.out / "autoencoder.pt")
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
        stop = min(done + 30_000, count)
        parts += [
            encode(vae, pictures[i : min(i + 64, stop)], options).half().cpu().numpy()
            for i in range(done, stop, 64)
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
    run = Run("decoder", {"vae": vae}, options, lr=7e-4, final=0.01, ema=0.998, weight_decay=1e-4)
    steps = run.reporting(420, lambda: _report_vae(vae, run, options))
    for _, batch in zip(steps, loaded(NoisyLatents(options), options), strict=False):
        with autocast(options):
            decoded = vae.decode(batch["latents"]).sample
        loss, squared = picture_loss(decoded, to_pixels(batch["images"], options.device))
        run.step(loss, mse=squared)


class NoisyLatents(Batches):
    """What the decoder learns from: ``latents`` with a little noise and their ``images`` (b h w 3,
    uint8), one in four of photographs: a third of ``--batch`` crops of 64 px, and every fourth time
    a quarter as many whole scenes.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.drawn = 0
        self.scenes = scenes(options), np.load(options.out / "latents.npy", mmap_mode="r")
        self.photos = tuple(
            np.load(options.out / f"photo_{name}.npy") for name in ("images", "latents")
        )

    def batch(self, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """The next one."""
        self.drawn += 1
        cells, batch = (16, self.count // 12) if self.drawn % 4 == 0 else (8, self.count // 3)
        side = cells * 8
        images = np.empty((batch, side, side, 3), np.uint8)
        codes = np.empty((batch, 4, cells, cells), np.float32)
        for i in range(batch):
            y, x = rng.integers(0, 17 - cells, 2)
            source, codebook = self.photos if i < batch // 4 else self.scenes
            index = int(rng.integers(len(codebook)))
            images[i] = source[index, 8 * y : 8 * y + side, 8 * x : 8 * x + side]
            codes[i] = codebook[index, :, y : y + cells, x : x + cells]
        codes += rng.standard_normal(codes.shape, np.float32) * rng.uniform(
            0, 0.08, (batch, 1, 1, 1)
        ).astype(np.float32)
        return {"latents": codes, "images": images}
