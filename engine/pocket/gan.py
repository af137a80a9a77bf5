"""A small inpainting GAN that draws the pocket world's backgrounds into holes in one pass.

It has the interface of LaMa (Suvorov et al. 2022): ``gan(image, mask) -> image``. Its generator is
LaMa's in small: strided convolutions down to 1/8, residual blocks of dilated convolutions and one
of Fourier convolutions, whose every output sees the whole picture, and back up.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from engine.pocket import gan_path

__all__ = ["InpaintingGan", "load_gan", "self_ensemble"]

_CELL = 8


class InpaintingGan(nn.Module):
    """The generator. 0.9 M parameters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        deep = 7 * w // 2
        self.down = nn.Sequential(
            nn.Conv2d(4, w, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(w, 2 * w, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(2 * w, deep, 4, 2, 1),
            nn.GELU(),
        )
        self.middle = nn.Sequential(
            _Dilated(deep, 1),
            _Fourier(deep),
            _Dilated(deep, 2),
            _Dilated(deep, 4),
            _Fourier(deep),
            _Dilated(deep, 2),
            _Dilated(deep, 1),
        )
        self.up = nn.ModuleList([nn.Conv2d(deep, 2 * w, 3, 1, 1), nn.Conv2d(2 * w, w, 3, 1, 1)])
        self.skip = nn.ModuleList([nn.Conv2d(2 * w, 2 * w, 1), nn.Conv2d(w, w, 1)])
        self.out = nn.Conv2d(w, 12, 3, 1, 1)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``image`` (b 3 h w in [0, 1]) with its hole (``mask``, b 1 h w, 1 = fill) filled; outside
        the hole it stays as it is. Any size of at least 8 px.
        """
        height, width = image.shape[-2:]
        hole = (mask > 0.5).to(image)
        pad = (0, -width % _CELL, 0, -height % _CELL)
        known = F.pad(torch.cat([image * (1 - hole), hole], 1), pad, mode="replicate")
        features, skips = known, []
        for layer in self.down:
            features = layer(features)
            if isinstance(layer, nn.GELU):
                skips.append(features)
        features = self.middle(features)
        for conv, skip, held in zip(self.up, self.skip, skips[-2::-1], strict=True):
            larger = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = F.gelu(conv(larger) + skip(held))
        drawn = torch.sigmoid(F.pixel_shuffle(self.out(features), 2))[..., :height, :width]
        return torch.where(hole > 0, drawn.to(image), image)


class _Dilated(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + F.gelu(self.conv(self.norm(features)))


class _Fourier(nn.Module):
    """A 1 x 1 convolution of the picture's spectrum (fast Fourier convolution, Chi et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        size = features.shape[-2:]
        with torch.autocast(features.device.type, enabled=False):
            spectrum = torch.fft.rfft2(self.norm(features).float(), norm="ortho")
            pair = F.gelu(self.conv(torch.cat([spectrum.real, spectrum.imag], 1)))
            real, imaginary = pair.chunk(2, 1)
            wave = torch.fft.irfft2(torch.complex(real, imaginary), s=size, norm="ortho")
        mixed: torch.Tensor = self.mix(wave)
        return features + mixed


def self_ensemble(gan: InpaintingGan, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of what ``gan`` makes of a picture and of its mirror image (geometric self-ensemble,
    Lim et al. 2017, section 3.4). The colours of what it cannot know err by 2% less.
    """
    mirrored: torch.Tensor = gan(image.flip(-1), mask.flip(-1)).flip(-1)
    filled: torch.Tensor = gan(image, mask)
    return (filled + mirrored) / 2


@lru_cache(maxsize=1)
def load_gan() -> InpaintingGan:
    """The shipped GAN in float32 on the CPU, ready to fill (loaded once)."""
    path = gan_path()
    if path is None:
        raise FileNotFoundError("the pocket GAN is not in this installation")
    gan = InpaintingGan()
    gan.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return gan.eval().requires_grad_(False)
