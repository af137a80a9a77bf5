"""From finished latents to pictures: decode, match colours, fade and paste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image

from engine.edit.inputs import underlay
from engine.picture.colour import COLOURS, match_colours, restore_round_trip
from engine.picture.geometry import Box, crop
from engine.picture.masks import is_hard
from engine.picture.paste import stitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.denoise.job import Job
    from engine.edit.clock import Clock
    from engine.edit.inputs import View
    from engine.edit.shared import Shared


def own_row(rows: torch.Tensor) -> torch.Tensor:
    """A job's picture (1 ...) among its rows, which its companions come before."""
    return rows[-1:]


def finish(
    shared: Shared, chains: Sequence[Sequence[Job]], clock: Clock
) -> tuple[Any, torch.Tensor | None]:
    """Decode the last jobs' latents and paste each region over its original.

    Returns:
        Pictures, as ``output_type`` says, and latents (b c h w; None where regions differ in size).
    """
    rows = [own_row(chain[-1].latents) for chain in chains]
    of_one_size = len({row.shape for row in rows}) == 1
    latents = torch.cat(rows) if of_one_size else None
    request, inputs = shared.request, shared.inputs
    if request.output_type == "latent":
        return latents, latents
    finished: list[NDArray[np.uint8]] = []
    images: list[Image.Image] = []
    queue = iter(chains)
    for output in range(len(shared.seeds)):
        source = output // request.num_images
        canvas = _empty_canvas(shared, source)
        for view in inputs.views_of(source):
            canvas = _with_region(shared, canvas, view, next(queue), clock)
        finished.append(canvas)
        picture = inputs.pictures[source] if inputs.pictures is not None else None
        images.append(picture.to_pil(canvas) if picture else Image.fromarray(canvas))
    if request.output_type == "np":
        return np.stack(finished).astype(np.float32) / 255.0, latents
    return images, latents


def _empty_canvas(shared: Shared, source: int) -> NDArray[np.uint8]:
    """What the regions of a picture are pasted over: H W 3."""
    if shared.inputs.pictures is None:
        width, height = shared.inputs.size
        return np.zeros((height, width, 3), np.uint8)
    return underlay(shared.inputs.pictures[source].rgb, shared.request.expand)


def _with_region(
    shared: Shared, canvas: NDArray[np.uint8], view: View, chain: Sequence[Job], clock: Clock
) -> NDArray[np.uint8]:
    """``canvas`` (H W 3) with what a view's jobs have made of it."""
    with clock.phase("decode"), torch.no_grad():
        # One at a time: memory, and the same bits whatever else is in the request.
        pixels = shared.decoded(own_row(chain[-1].latents), view.region)
        lossy = _round_trip(shared, view)
    with clock.phase("paste"):
        pixels = _matched(shared, pixels, lossy, view)
        return _stitched(shared, canvas, pixels, view, chain)


def _round_trip(shared: Shared, view: View) -> NDArray[np.uint8] | None:
    """The original there and back through the VAE, where the map is soft: under a hard one what is
    kept is pasted anyway, and a decode would be spent for nothing.
    """
    inputs = shared.inputs
    strength_map = crop(inputs.map_of(view.source), view.region.box)
    restored = COLOURS.get(shared.request.colour).round_trip
    if not restored or inputs.pictures is None or is_hard(strength_map):
        return None
    return shared.round_trip(view)


def _matched(
    shared: Shared, pixels: NDArray[np.uint8], lossy: NDArray[np.uint8] | None, view: View
) -> NDArray[np.uint8]:
    """A region's ``pixels`` (H W 3) with their colour error taken out. ``lossy``: its original
    there and back through the VAE.
    """
    request, inputs, region = shared.request, shared.inputs, view.region
    if inputs.pictures is None:
        return pixels
    rgb, box = inputs.pictures[view.source].rgb, region.box
    strength_map = crop(inputs.map_of(view.source), box)
    if lossy is not None:
        pixels = restore_round_trip(pixels, crop(rgb, box), lossy, strength_map)
    return match_colours(
        pixels,
        crop(underlay(rgb, request.expand), box),
        strength_map,
        alpha=crop(inputs.alphas[view.source], box),
        method=request.colour,
        cell=shared.backbone.cell * box.width / region.size[0],
    )


def _stitched(
    shared: Shared,
    canvas: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    view: View,
    chain: Sequence[Job],
) -> NDArray[np.uint8]:
    """``canvas`` (H W 3) with a region's ``pixels`` pasted into its box."""
    region, box = view.region, view.region.box
    under = crop(canvas, box)
    if shared.inputs.pictures is not None:
        alpha = crop(shared.inputs.alphas[view.source], box)
        if region.own is not None:
            alpha *= region.own
        if (adapted := _adapted_alpha(shared, view, chain)) is not None:
            alpha *= adapted
        pixels = stitch(shared.request.paste, under, pixels, alpha)
    stitched = canvas.copy()
    stitched[box.top : box.bottom, box.left : box.right] = pixels
    return stitched


def _adapted_alpha(shared: Shared, view: View, chain: Sequence[Job]) -> NDArray[np.float32] | None:
    """The paste's opacity (H W, of the box) that the strategy asks for, if it does. Not after
    several stages: the last one knows only its own change, not the first one's.
    """
    job, region = chain[-1], view.region
    alpha = job.strategy.paste_alpha(job.state, job.latents) if len(chain) == 1 else None
    if alpha is None:
        return None
    cell, box = shared.backbone.cell, region.box
    size = (alpha.shape[-1] * cell, alpha.shape[-2] * cell)
    smooth = cv2.resize(
        own_row(alpha)[0, 0].float().cpu().numpy(),
        (box.width, box.height) if region.scaled else size,
        interpolation=cv2.INTER_LINEAR,
    )
    return crop(np.asarray(smooth, np.float32).clip(0, 1), Box(0, 0, box.width, box.height))
