"""From finished latents to pictures: decode, match colours, fade and paste."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from engine.edit.growth import given, underlay
from engine.picture.colour import COLOURS, match_colours, restore_round_trip
from engine.picture.deep import deepened, shallow
from engine.picture.fade import fade_over
from engine.picture.geometry import Box, crop
from engine.picture.grain import match_grain
from engine.picture.masks import is_hard
from engine.picture.paste import PASTES, stitch
from engine.picture.pixels import as_grey, unit
from engine.picture.transparency import settled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.denoise.job import Job
    from engine.edit.clock import Clock
    from engine.edit.shared import Shared
    from engine.edit.views import View
    from engine.request.request import EditRequest


def own_row(rows: torch.Tensor) -> torch.Tensor:
    """A job's picture (1 ...) among its rows, which its companions come before."""
    return rows[-1:]


class Decoded(NamedTuple):
    """What the model has to say of one view of a picture that is finished: no network is needed
    for the rest.
    """

    view: View
    pixels: NDArray[np.uint8]
    """H W 3, of the view's box."""
    lossy: NDArray[np.uint8] | None
    """Its original there and back through the VAE (H W 3), where that is wanted."""
    strength_map: NDArray[np.float32]
    """H W, how strongly it was repainted."""
    adapted: NDArray[np.float32] | None
    """H W, the paste's opacity that the strategy asks for, if it does."""


def finishing(
    shared: Shared, chains: Sequence[Sequence[Job]], clock: Clock, prefilled: str | None = None
) -> Callable[[], tuple[Any, torch.Tensor | None]]:
    """Decode the last jobs' latents; what comes back pastes each region over its original, in any
    thread.

    Returns:
        What gives pictures, as ``output_type`` says, and latents (b c h w; None where regions
        differ in size).
    """
    latents = latents_of(chains)
    if shared.request.output_type == "latent":
        return lambda: (latents, latents)
    parts = decoded(shared, chains, clock, prefilled)

    def finish() -> tuple[Any, torch.Tensor | None]:
        canvases = painted(shared, parts, clock)
        return delivered(shared, canvases, shared.inputs.map_of), latents

    return finish


def latents_of(chains: Sequence[Sequence[Job]]) -> torch.Tensor | None:
    """The last jobs' latents (b c h w); None where they differ in size."""
    rows = [own_row(chain[-1].latents) for chain in chains]
    return torch.cat(rows) if len({row.shape for row in rows}) == 1 else None


def decoded(
    shared: Shared,
    chains: Sequence[Sequence[Job]],
    clock: Clock,
    prefilled: str | None = None,
    pixels: Mapping[int, NDArray[np.uint8]] = MappingProxyType({}),
) -> list[Decoded]:
    """Every view of every picture, in order: one at a time, for memory's sake, and for the same
    bits whatever else is in the request.

    ``pixels``: what is decoded already (H W 3), by the place of its chain.
    """
    parts = []
    with clock.phase("decode"), torch.no_grad():
        for place, ((_, _, view), chain) in enumerate(zip(places(shared), chains, strict=True)):
            strength_map = _repainted(shared, view, prefilled)
            known = pixels.get(place)
            if known is None:
                known = shared.decoded(own_row(chain[-1].latents), view.region)
            parts.append(
                Decoded(
                    view,
                    known,
                    _round_trip(shared, view, strength_map),
                    strength_map,
                    _adapted_alpha(shared, view, chain),
                )
            )
    return parts


def painted(shared: Shared, parts: Sequence[Decoded], clock: Clock) -> list[NDArray[Any]]:
    """Each picture (H W 3, as deep as the given one) with its regions pasted in."""
    finished: list[NDArray[Any]] = []
    with clock.phase("paste"):
        for (output, number, view), part in zip(places(shared), parts, strict=True):
            if number == 0:
                finished.append(empty_canvas(shared, view.source))
            pixels = _matched(shared, part)
            seed = _grain_seed(shared, output), number
            finished[-1] = _stitched(shared, finished[-1], pixels, part, seed)
    return finished


def places(shared: Shared) -> Iterator[tuple[int, int, View]]:
    """Which of the pictures that are made, which of its regions, and its view, for every job."""
    for output in range(len(shared.seeds)):
        source = output // shared.request.num_images
        for number, view in enumerate(shared.inputs.views_of(source)):
            yield output, number, view


def delivered(
    shared: Shared,
    canvases: Sequence[NDArray[Any]],
    map_of: Callable[[int], NDArray[np.float32]],
) -> Any:
    """What was painted as ``output_type`` says. ``map_of``: a given picture's strengths (H W)."""
    request, inputs = shared.request, shared.inputs
    finished: list[NDArray[Any]] = []
    images: list[Image.Image] = []
    for output, painting in enumerate(canvases):
        canvas, source = painting, output // request.num_images
        if inputs.pictures is None:
            images.append(Image.fromarray(canvas))
        else:
            picture = inputs.pictures[source]
            paste = None if request.paste_mask is None else inputs.alphas[source]
            canvas, opacity = settled(picture, canvas, map_of(source), request.feather, paste)
            images.append(picture.to_pil(canvas, opacity))
        finished.append(canvas)
    if request.output_type == "np":
        return np.stack([unit(canvas) for canvas in finished])
    if request.output_type == "pt":
        return torch.stack([torch.from_numpy(unit(each)).permute(2, 0, 1) for each in finished])
    return images


def empty_canvas(shared: Shared, source: int) -> NDArray[Any]:
    """What the regions of a picture are pasted over: H W 3, as deep as the picture is."""
    if shared.inputs.pictures is None:
        width, height = shared.inputs.size
        return np.zeros((height, width, 3), np.uint8)
    return underlay(shared.inputs.pictures[source].deepest, shared.request.expand)


def _grain_seed(shared: Shared, output: int) -> int:
    """What the grain of a picture is drawn from: the picture's own seed."""
    seed, given = shared.seeds[output], shared.request.generator
    if seed is None:
        own = given[output] if isinstance(given, list | tuple) else given
        seed = int(own.initial_seed())
    return seed


def _repainted(shared: Shared, view: View, prefilled: str | None) -> NDArray[np.float32]:
    """How strongly a region (H W, of its box) is repainted: what the map says, less a strength
    below 1, as far as the run started from the original.
    """
    strength_map = crop(shared.inputs.map_of(view.source), view.region.box)
    kept = np.float32(1 - shared.request.strength)
    if prefilled == "original" or kept == 0:
        return strength_map * (1 - kept)
    maps = shared.inputs.prefill_maps
    filled = crop(maps[view.source % len(maps)], view.region.box)
    return strength_map * (1 - kept * (1 - filled))


def _round_trip(
    shared: Shared, view: View, strength_map: NDArray[np.float32]
) -> NDArray[np.uint8] | None:
    """The original there and back through the VAE, where some of it is kept in what is repainted:
    under a soft map, or at a strength below 1. Else what is kept is pasted anyway, and a decode
    would be spent for nothing.
    """
    inputs = shared.inputs
    restored = COLOURS.get(shared.request.colour).round_trip
    if not restored or inputs.pictures is None or is_hard(strength_map):
        return None
    return shared.round_trip(view)


def _matched(shared: Shared, part: Decoded) -> NDArray[np.uint8]:
    """A region's pixels (H W 3) with their colour error taken out."""
    view, pixels, lossy, strength_map, _ = part
    request, inputs, region = shared.request, shared.inputs, view.region
    if inputs.pictures is None:
        return pixels
    rgb, box = inputs.pictures[view.source].rgb, region.box
    if lossy is not None:
        pixels = restore_round_trip(pixels, crop(rgb, box), lossy, strength_map)
    matched = match_colours(
        pixels,
        crop(underlay(rgb, request.expand), box),
        strength_map,
        alpha=crop(inputs.alphas[view.source], box),
        method=request.colour,
        cell=shared.backbone.cell * box.width / region.size.width,
    )
    keeps_grey = inputs.pictures[view.source].grey and request.keep_grey
    return as_grey(matched) if keeps_grey else matched


def _stitched(
    shared: Shared,
    canvas: NDArray[Any],
    pixels: NDArray[np.uint8],
    part: Decoded,
    seed: tuple[int, int],
) -> NDArray[Any]:
    """``canvas`` (H W 3) with a region's ``pixels`` pasted into its box."""
    view = part.view
    region, box = view.region, view.region.box
    under, pasted = crop(canvas, box), pixels
    if shared.inputs.pictures is not None:
        alpha = crop(shared.inputs.alphas[view.source], box)
        if region.own is not None:
            alpha *= region.own
        if part.adapted is not None:
            alpha *= part.adapted
        pasted = _pasted(shared.request, under, pixels, alpha, seed, _new_canvas(shared, box))
    stitched = canvas.copy()
    stitched[box.top : box.bottom, box.left : box.right] = pasted
    return stitched


def _new_canvas(shared: Shared, box: Box) -> NDArray[np.bool_] | None:
    """Where (H W, of ``box``) the canvas grew beyond its picture; None if it did not."""
    expand = shared.request.expand
    if expand is None:
        return None
    width, height = shared.inputs.size
    new = np.ones((height, width), np.bool_)
    new[given(expand, new.shape)] = False
    return crop(new, box)


def _pasted(
    request: EditRequest,
    under: NDArray[Any],
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.float32],
    seed: tuple[int, int],
    new: NDArray[np.bool_] | None,
) -> NDArray[Any]:
    """An edit (uint8, H W 3) with the grain of what is ``under`` it (uint8 or uint16, H W 3), laid
    over what of that is not on its way out: on ``new`` canvas (H W) nothing stood.
    """
    eight = under if under.dtype == np.uint8 else shallow(under)
    if request.grain == "match":
        pixels = match_grain(pixels, eight, alpha, seed)
    covered = PASTES.get(request.paste).covered
    base = fade_over(eight, pixels, alpha, request.feather, deep=covered)
    if new is not None:
        base = np.where(new[..., None], eight, base)
    if under is not eight:
        changed = (base != eight).any(axis=2, keepdims=True)
        base = np.where(changed, deepened(base), under)
    return stitch(request.paste, base, pixels, alpha)


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
