"""A family of models from outside, in one file: linear, of flow parameterisation, of 3 channels.

Its denoiser knows the clean picture of a prompt, a colour, and says the flow that leads there:
``v = (x - x0) / sigma`` with ``x0`` = .7 colour + .3 of what a 1 x 1 convolution makes of ``x``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.nn import functional

from engine.models import Family, Network
from engine.models.codec import Codec
from engine.models.text import TextEncoder
from engine.types import Conditioning

CELL = 4


class ToyDenoiser(torch.nn.Module):
    """What a third party's model would be: it wants packed tokens (b hw c) and times in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.eye_(self.mix.weight)

    def forward(self, tokens: torch.Tensor, times: torch.Tensor, colours: Any) -> torch.Tensor:
        denoised = 0.7 * colours[:, None] + 0.3 * self.mix(tokens)
        flow: torch.Tensor = (tokens - denoised) / times[:, None, None].clamp(min=0.02)
        return flow


class ToyNetwork(Network):
    sample_size = 16

    def predict(self, sample, timesteps, conditioning, residuals):
        assert not residuals
        tokens = sample.flatten(2).movedim(1, 2)
        words, mask = conditioning.text, conditioning.tensors.get("mask")
        counts = words.new_ones(words.shape[:2]) if mask is None else mask.to(words.dtype)
        colours = (words * counts[..., None]).sum(1) / counts.sum(1, keepdim=True)
        flow = self.module(tokens, timesteps.to(sample.dtype) / 1000, colours)
        return flow.movedim(2, 1).unflatten(2, sample.shape[-2:])


class ToyText(TextEncoder):
    """A token a word, its letters' codes as a colour: prompts of unequal lengths."""

    def encode(self, prompt, device):
        def told(words: list[str]) -> Conditioning:
            rows = [[(ord(word[i % len(word)]) % 16) / 8 - 1 for i in range(3)] for word in words]
            text = torch.tensor([rows], device=device).expand(prompt.images, -1, -1)
            return Conditioning({"words": text}, {"words": "mask"})

        uncond = told((prompt.negative or "grey").split()) if prompt.guided else None
        return told(prompt.positive.split() or ["grey"]), uncond

    def state(self):
        return ()


class ToyCodec(Codec):
    """Mean colours of cells, halved and shifted."""

    cell = CELL
    channels = 3

    def encode(self, pixels, device, dtype, *, generator=None, sample=False):
        return functional.avg_pool2d(pixels.to(device, dtype), CELL) / 2 + 0.25

    def decode(self, latents, *, parity=False):
        return functional.interpolate((latents - 0.25) * 2, scale_factor=CELL, mode="nearest")

    def state(self):
        return ()


class ToyPipeline:
    """Nothing of diffusers' but what the engine asks a pipeline for."""

    def __init__(self) -> None:
        self.transformer = ToyDenoiser()
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.5)
        self.config = SimpleNamespace()


TOY = Family(
    name="toy",
    description="toy",
    pipelines=("ToyPipeline",),
    denoiser="transformer",
    network=ToyNetwork,
    text=ToyText,
    codec=ToyCodec,
)
