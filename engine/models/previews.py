"""Pictures of latents while an edit runs, for a small part of a decode or none of it.

A projection from latent channels to colours needs no model beside the one at hand: it is fitted to
that model's own VAE, once (four charts of 128 px to encode). On the pocket's scenes it is off by
25 of 255 where the best linear map is by 21. A tiny VAE (diffusers' ``AutoencoderTiny``) draws the
shapes too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from engine.models.backbone import Backbone

SIDE = 512
"""Longest side of a preview in px: to write a larger one takes longer than a step."""
_CHART = 16  # latent cells, side of a chart
_CHARTS = 4


class Previewer:
    """Makes previews for a backbone, with ``vae`` (an ``AutoencoderTiny``) or without."""

    def __init__(self, backbone: Backbone, vae: Any = None) -> None:
        self.backbone = backbone
        self.vae = vae
        self._weights: torch.Tensor | None = None

    def picture(self, latents: torch.Tensor) -> Image.Image:
        """What the last row of clean or nearly clean ``latents`` (b c h w) shows."""
        import torch
        from PIL import Image

        from engine.picture.pixels import to_pixels

        cell, (height, width) = self.backbone.cell, latents.shape[-2:]
        with torch.no_grad():
            pixels = to_pixels(self._pixels(latents[-1:]).float())[0]
        scale = min(1.0, SIDE / (cell * max(height, width)))
        size = max(1, round(scale * cell * width)), max(1, round(scale * cell * height))
        return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)

    def _pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (b 3 H W in [-1, 1]) of ``latents``, one or more for each latent."""
        if self.vae is not None:
            scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
            decoded: torch.Tensor = self.vae.decode(scaled, return_dict=False)[0]
            return decoded
        if self._weights is None:
            self._weights = colour_map(self.backbone)
        return mean_colours(latents.float().cpu(), self._weights)

    def forget(self) -> None:
        """Fit the projection anew when it is needed."""
        self._weights = None


def colour_map(backbone: Backbone) -> torch.Tensor:
    """The affine map (c+1 3) from a latent to its cell's mean colour in [-1, 1], by least squares
    over charts of random colours in patches of one to eight cells.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    cell = backbone.cell
    sides = [_CHART >> number for number in range(_CHARTS)]
    noise = [torch.rand(1, 3, side, side, generator=generator) * 2 - 1 for side in sides]
    size = (_CHART * cell, _CHART * cell)
    charts = [
        functional.interpolate(each, size=size, mode="bicubic").clamp(-1, 1) for each in noise
    ]
    with torch.no_grad():
        latents = torch.cat([backbone.encode(each).double().cpu() for each in charts])
    colours = functional.avg_pool2d(torch.cat(charts).double(), cell)
    given, wanted = (each.movedim(1, -1).flatten(0, 2) for each in (_with_ones(latents), colours))
    solution: torch.Tensor = torch.linalg.lstsq(given, wanted).solution
    return solution.float()


def mean_colours(latents: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean colours (b 3 h w in about [-1, 1]) of the cells of ``latents`` (b c h w), by a
    :func:`colour_map`.
    """
    return (_with_ones(latents).movedim(1, -1) @ weights).movedim(-1, 1)


def _with_ones(latents: torch.Tensor) -> torch.Tensor:
    """``latents`` (b c h w) with a channel of ones, for the constant of an affine map."""
    import torch

    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
