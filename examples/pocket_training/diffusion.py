"""The UNet and its scheduler, trained on captioned latents together with the text encoders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.pocket import world
from examples.pocket_training.data import (
    SIZE,
    Batches,
    ImageBatch,
    autocast,
    loaded,
    quick,
    quick_attention,
    sheet,
)
from examples.pocket_training.run import Run
from examples.pocket_training.text import (
    PHOTO_CAPTIONS,
    encode_prompts,
    new_text_encoders,
    new_tokenizer,
    token_ids,
    with_noise,
)
from examples.pocket_training.vae import finished_vae

THINGS = 4.0
"""How much more a cell that things cover counts: they fill a tenth of a scene, and most of what its
caption asks."""


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
        self,
        predicted: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        cells: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted loss and the plain one. ``cells`` (b 1 16 16) weighs the latents' cells too:
        where each cell's best answer stands alone, that changes what is learnt first, not what is
        right.
        """
        squared = (predicted.float() - noise).square()
        each = squared.mean((1, 2, 3))
        counted = each if cells is None else (squared * cells).mean((1, 2, 3))
        return (counted * self.weights[timesteps]).mean(), each.mean()


class CaptionedLatents(Batches):
    """Cached latents with fresh captions: scenes, and one in ``1 / photo_share`` a photograph.

    A batch is ``latents`` (b 4 16 16), ``things`` (how much of each cell things cover, b 1 16 16,
    0 to 1) and what :func:`worded` gives.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        tokenizer: Any,
        *,
        photo_share: float = 0.06,
        empty: float = 0.05,
    ) -> None:
        super().__init__(options)
        self.path, self.drawn = options.out / "latents.npy", 0
        self.things = np.load(options.out / "things.npy")
        self.photo_latents = np.load(options.out / "photo_latents.npy")
        self.photo_names: list[str] = json.loads((options.out / "photo_names.json").read_text())
        self.tokenizer, self.photo_share, self.empty = tokenizer, photo_share, empty

    def batch(self, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """The next one."""
        if self.drawn % 200 == 0:  # the stage that encodes scenes may have gone on
            self.latents = np.load(self.path, mmap_mode="r")
        self.drawn += 1
        rows = np.empty((self.count, *self.latents.shape[1:]), np.float32)
        things = np.zeros((self.count, 1, *self.things.shape[1:]), np.float32)
        captions = []
        for i in range(self.count):
            if rng.random() < self.photo_share:
                index = int(rng.integers(len(self.photo_latents)))
                rows[i] = self.photo_latents[index]
                caption = PHOTO_CAPTIONS[self.photo_names[index]]
            else:
                index = int(rng.integers(len(self.latents)))
                rows[i], things[i, 0] = self.latents[index], self.things[index] / 255
                caption = with_noise(world.training_caption(self.spec(index), rng), rng)
            captions.append("" if rng.random() < self.empty else caption)
        return {"latents": rows, "things": things, **worded(captions, self.tokenizer, rng)}


def worded(
    captions: Sequence[str], tokenizer: Any, rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """What the UNet is told of a batch: ``ids``, the captions' tokens; ``kept``, 0 for the 6% whose
    text is zeros (what pipelines with ``force_zeros_for_empty_prompt`` call unconditional), else 1;
    and ``sizes``, SDXL's time ids, b 6: original size, crop, target size.

    Seven of ten samples tell the true size (128 px, no crop), the others anything, so that the
    model is not thrown by the sizes that pipelines pass when it is used on larger canvases.
    """
    count = len(captions)
    kept = (rng.random(count) >= 0.06).astype(np.float32)
    sizes = np.tile(np.array([SIZE, SIZE, 0, 0, SIZE, SIZE], np.float32), (count, 1))
    for row in sizes:
        if rng.random() < 0.3:
            row[[0, 1, 4, 5]] = rng.integers(8, 129, 4) * 8
            row[[2, 3]] = rng.integers(0, 64, 2) * (rng.random() < 0.3)
    return {"ids": token_ids(captions, tokenizer), "kept": kept, "sizes": sizes}


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
        self, told: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Embeddings and added conditions of what :func:`worded` gave."""
        embeddings, pooled = encode_prompts(told["ids"], self.first, self.second)
        kept = told["kept"]
        return embeddings * kept[:, None, None], {
            "text_embeds": pooled * kept[:, None],
            "time_ids": told["sizes"],
        }

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
    """Train the UNet together with both text encoders on cached latents, or the UNet alone where
    ``--keep-text`` leaves the encoders to the networks that share them.
    """
    model = TextToImage(options)
    if options.keep_text:
        for encoder in (model.first, model.second):
            encoder.requires_grad_(False)
    batches = loaded(CaptionedLatents(options, model.tokenizer), options)
    diffusion, unet = Diffusion(options.device), quick(model.unet, options)
    run = Run("unet", model.models, options, lr=options.lr or 1e-3, final=0.01, ema=0.998)
    steps = run.reporting(900, lambda: _report(model, run, options))
    for _, batch in zip(steps, batches, strict=False):
        noisy, noise, timesteps = diffusion.noisy(batch["latents"])
        with autocast(options), quick_attention(options):
            embeddings, conditions = model.condition(batch)
            predicted = unet(noisy, timesteps, embeddings, added_cond_kwargs=conditions).sample
        loss, plain = diffusion.loss(predicted, noise, timesteps, 1 + THINGS * batch["things"])
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


def report_samples(pipe: Any, run: Run, options: argparse.Namespace) -> None:
    """Write ``NAME.png``: samples of held-out captions above what the renderer makes of their
    scenes.
    """
    captions = held_out_captions(16)
    images = draw_samples(pipe, captions)
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


def _report(model: TextToImage, run: Run, options: argparse.Namespace) -> None:
    for module in model.models.values():
        module.eval()
    report_samples(model.pipeline(finished_vae(options)), run, options)
    for module in model.models.values():
        module.train()
