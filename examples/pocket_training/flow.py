"""The flow model: SD3's transformer in small, on the family's own latents and text encoders.

The autoencoder and the text encoders are the shipped ones and stay as they are.
"""

from __future__ import annotations

import argparse
import shutil
from typing import Any

import torch

from engine.models.speed.joint_attention import (
    CountedJointAttention,
    count_bias,
    counted_attention,
)
from engine.pocket import model_folder
from examples.pocket_training.data import SIZE, autocast, loaded
from examples.pocket_training.diffusion import CaptionedLatents, report_samples
from examples.pocket_training.run import Run, restore
from examples.pocket_training.text import new_tokenizer

WIDTH = 128
DEPTH = 6
HEAD = 32
PATCH = 2
REACH = 32
"""Patches a side of the largest square that positions are known for: 512 px."""
TOKENS = 32
"""Length of prompts: full captions have at most 26 tokens, and cost grows with it."""
ZEROS = 256
"""Tokens of zeros that SD3's pipelines put in the place of a T5's."""
THINGS = 4.0
"""How much more a cell that things cover counts, as in the UNet's training."""
DROPPED = 0.1
"""Share of captions that are left empty, for classifier-free guidance."""
UNIFORM = 0.2
"""Share of times that are drawn evenly: the logit-normal's leave out both ends."""


def new_transformer() -> Any:
    """SD3's joint transformer with RMS-normed queries and keys; the last layer begins at zero."""
    from diffusers import SD3Transformer2DModel
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    transformer: Any = SD3Transformer2DModel(
        sample_size=SIZE // 8,
        patch_size=PATCH,
        in_channels=4,
        out_channels=4,
        num_layers=DEPTH,
        attention_head_dim=HEAD,
        num_attention_heads=WIDTH // HEAD,
        joint_attention_dim=128,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=128,
        pos_embed_max_size=REACH,
        qk_norm="rms_norm",
    )
    # SD3's own positions are so many to a unit as the table is larger than a training picture:
    # eight patches would hardly differ. These are one to a patch.
    positions = get_2d_sincos_pos_embed(WIDTH, REACH, base_size=REACH, output_type="pt")
    transformer.pos_embed.pos_embed.copy_(positions.float().unsqueeze(0))
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    for block in (*transformer.transformer_blocks, transformer):
        for name in ("norm1", "norm1_context", "norm_out"):
            if (norm := getattr(block, name, None)) is not None:
                torch.nn.init.zeros_(norm.linear.weight)
                torch.nn.init.zeros_(norm.linear.bias)
    return transformer


def new_flow_scheduler() -> Any:
    """SD3's own scheduler; so few tokens need no shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def shipped_text_encoders() -> tuple[Any, Any]:
    """The family's text encoders as SD3's pipelines want them: both with a projection, of which
    the first one's, that SDXL has not, is the identity.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = model_folder()
    shipped = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    first = CLIPTextModelWithProjection(config)
    body = getattr(shipped, "text_model", shipped)  # transformers 4 has one level more
    first.text_model.load_state_dict(body.state_dict())
    torch.nn.init.eye_(first.text_projection.weight)
    second = CLIPTextModelWithProjection.from_pretrained(
        folder / "text_encoder_2", dtype=torch.float32
    )
    return first.eval().requires_grad_(False), second.eval().requires_grad_(False)


class PlainAttention(CountedJointAttention):
    """Attention by plain products, which a compiler fuses: backwards twice as fast on a CPU as
    torch's own kernel.
    """

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """The values that ``query`` finds."""
        weights: torch.Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if bias is not None:
            weights = weights + bias
        found: torch.Tensor = weights.softmax(-1).to(value.dtype) @ value
        return found


class FlowModel:
    """The transformer, which is trained, and what stands around it, which is not."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tokenizer = new_tokenizer()
        self.tokenizer.model_max_length = TOKENS
        self.first, self.second = (each.to(device) for each in shipped_text_encoders())
        self.transformer = new_transformer().to(device)
        self.forward: Any = self.transformer
        """What :meth:`predict` calls: :meth:`compile` puts faster code in its place."""

    def compile(self) -> None:
        """Compile the transformer where there is a C++ compiler or a GPU: half the time a step."""
        if self.device.type != "cpu" or shutil.which("g++") or shutil.which("clang++"):
            self.forward = torch.compile(self.transformer.forward)

    @torch.no_grad()
    def condition(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As diffusers' SD3 pipelines do without a T5, embeddings (b 33 128) and pooled ones (b
        128) of tokens (b 32); the last one stands for the :data:`ZEROS` of the pipelines.
        """
        a, b = (each(ids, output_hidden_states=True) for each in (self.first, self.second))
        words = torch.cat([a.hidden_states[-2], b.hidden_states[-2]], -1)
        return (
            torch.cat([words, torch.zeros_like(words[:, :1])], 1),
            torch.cat([a.text_embeds, b.text_embeds], -1),
        )

    def predict(
        self, inputs: torch.Tensor, times: torch.Tensor, words: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """The velocity (b 4 h w) of ``inputs`` (b 4 h w) at ``times`` (b, in [0, 1])."""
        counts = torch.ones(words.shape[:2], device=words.device)
        counts[:, -1] = ZEROS
        tokens = inputs.shape[-2] * inputs.shape[-1] // PATCH**2
        with counted_attention(self.transformer, PlainAttention):
            predicted: torch.Tensor = self.forward(
                inputs,
                encoder_hidden_states=words,
                pooled_projections=pooled,
                timestep=1000 * times,
                joint_attention_kwargs={"attention_mask": count_bias(counts, tokens, words.dtype)},
            ).sample
        return predicted

    def pipeline(self, vae: Any) -> Any:
        """A diffusers pipeline around the modules, without copies."""
        from diffusers import StableDiffusion3Pipeline

        pipe: Any = StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=new_flow_scheduler(),
            vae=vae,
            text_encoder=self.first,
            tokenizer=self.tokenizer,
            text_encoder_2=self.second,
            tokenizer_2=self.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe


def noisy(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents on the straight line to noise, the velocity there, and the times (b, in (0, 1)):
    logit-normal (Esser et al. 2024, section 3.1) but for :data:`UNIFORM` of them, and stratified,
    so that the loss is calm.
    """
    count = len(latents)
    strata = (torch.arange(count) + torch.rand(count)) / count
    normal = torch.special.ndtri(strata.double().clamp(1e-6, 1 - 1e-6)).float().sigmoid()
    even = torch.rand(count)
    times = torch.where(torch.rand(count) < UNIFORM, even, normal).to(latents.device)
    noise = torch.randn_like(latents)
    at = times[:, None, None, None]
    return (1 - at) * latents + at * noise, noise - latents, times


def shipped_vae() -> Any:
    """The family's autoencoder."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(model_folder() / "vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def stage_flow(options: argparse.Namespace) -> None:
    """Train the transformer on cached latents."""
    model = FlowModel(options.device)
    model.compile()
    data = CaptionedLatents(options, model.tokenizer, photo_share=0.03, empty=DROPPED)
    lr = options.lr or 1.5e-3
    run = Run("flow", {"transformer": model.transformer}, options, lr=lr, final=0.01, ema=0.999)
    pipe = model.pipeline(shipped_vae().to(options.device))
    steps = run.reporting(1200, lambda: report_samples(pipe, run, options))
    for _, batch in zip(steps, loaded(data, options), strict=False):
        words, pooled = model.condition(batch["ids"])
        inputs, wanted, times = noisy(batch["latents"])
        with autocast(options):
            predicted = model.predict(inputs, times, words, pooled)
        squared = (predicted.float() - wanted).square()
        run.step((squared * (1 + THINGS * batch["things"])).mean(), plain=squared.mean())


def finished_flow(options: argparse.Namespace) -> FlowModel:
    """The model with the averaged weights of its checkpoint."""
    model = FlowModel(torch.device("cpu"))
    path = options.out / "flow.pt"
    restore({"transformer": model.transformer}, path, torch.device("cpu"))
    return model
