"""Strength maps from less than a mask: what a prompt changes, words, points, transparency.

Each gives a map (float32, H W in [0, 1], 1 = repaint) to be looked at and changed before it is
used; none is used in secret. A kind is a :class:`MapSource` in :data:`MAP_SOURCES`; other packages
name theirs as entry points of the group ``softpaint.map_sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch

from engine.edit.memory import Memory
from engine.edit.shared import Shared
from engine.errors import InputError
from engine.models.attended import attended
from engine.models.segmenters import load_segmenter, segmented
from engine.picture.crop import STRETCH
from engine.picture.cutout import check_points, cut_out, cut_out_at
from engine.picture.geometry import Size
from engine.picture.map_files import load_strength_map
from engine.picture.measures import colour_inside
from engine.picture.read import load_image
from engine.registry import Registry
from engine.request.request import EditRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.models import Backbone
    from engine.picture.read import Picture
    from engine.types import Conditioning

    Map = NDArray[np.float32]

SHARE: Final = 0.7
"""Of the noise levels, where predictions are compared: what is there can just be told."""
SAMPLES: Final = 8
"""Noises over which predictions are averaged."""
ROWS: Final = 4
"""In one call."""
SMOOTH: Final = 0.6
"""Sigma, in latent cells, over which differences of predictions are averaged."""
STEPS: Final = 50
PEAK: Final = 0.99
"""Quantile of a change that counts as a whole one: single cells may be more."""


@dataclass(frozen=True, eq=False)
class Redrawn:
    """A picture, and what a model that edits by instruction made of the whole of it."""

    before: torch.Tensor
    """Clean latents, 1 c h w."""
    after: torch.Tensor
    original: NDArray[np.uint8]
    """H W 3."""
    made: NDArray[np.uint8]
    size: Size
    """(height, width) in px of what the latents are of: the picture, scaled and padded."""
    shown: Size
    """The part of it that is not padding."""


@dataclass(frozen=True)
class Wanted:
    """What is known of a map that is to be found."""

    picture: Picture
    prompt: str = ""
    """Of the picture as it is to be (``change``), or as it is (``words``; if
    empty, "a picture of" them)."""
    was: str = ""
    """What the picture shows now."""
    words: tuple[str, ...] = ()
    inside: Sequence[tuple[float, float]] = ()
    """Points (x, y in px) on the thing."""
    outside: Sequence[tuple[float, float]] = ()
    segmenter: Any = None
    """Folder or hub id of a Segment Anything model; None is GrabCut."""
    seed: int = 0
    refine: bool = True
    """Along the picture's own edges; else as soft as it was found."""
    redraw: Callable[[Wanted], Redrawn] | None = None
    """Has a model that edits by instruction draw the whole picture anew."""


@dataclass(frozen=True)
class MapSource:
    """A way to find a map."""

    name: str
    description: str
    find: Callable[[Backbone | None, Wanted], Map]
    needs_model: bool = True


MAP_SOURCES = Registry("map source", MapSource, "softpaint.map_sources")


def find_map(how: str, backbone: Backbone | None, wanted: Mapping[str, Any]) -> Map:
    """The map (H W) that ``how`` finds.

    Args:
        how: a name of :data:`MAP_SOURCES`.
        backbone: the model; None where the source needs none.
        wanted: fields of :class:`Wanted`, the picture in any form under ``image``.

    Raises:
        InputError: an unknown name, or what is needed is missing.
    """
    source = MAP_SOURCES.get(how)
    given = dict(wanted)
    return source.find(backbone, Wanted(load_image(given.pop("image")), **given))


class Probe:
    """A picture at a noise level, as the network sees it."""

    def __init__(self, backbone: Backbone | None, wanted: Wanted) -> None:
        if backbone is None:
            raise InputError("this map needs a model.")
        self.backbone = backbone
        self.rgb = wanted.picture.rgb
        self.network = backbone.network("base")
        small = _drawable(self.rgb, backbone.native_size)
        request = EditRequest(
            image=small,
            prompt="",
            strength_map=np.ones(small.shape[:2], np.float32),
            region="full",
            num_inference_steps=STEPS,
            guidance_scale=1.0,
        )
        self.shared = Shared(backbone, request, Memory())
        (self.view,) = self.shared.inputs.views
        self.size = self.shared.size_at(self.view, 1.0)
        self.given = small.shape[:2]
        self.seed = wanted.seed

    def text(self, prompt: str) -> Conditioning:
        """One row."""
        return self.shared.conditioning(self.network, 1.0, self.size, (prompt, None))[0]

    def noised(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The network's input (:data:`ROWS` c h w) and timesteps, until there were all samples."""
        x0 = self.shared.original(self.view)
        schedule = self.shared.schedules(1.0, self.size)
        step = schedule.steps[round((1 - SHARE) * len(schedule))]
        draws = torch.Generator("cpu").manual_seed(self.seed)
        for _ in range(SAMPLES // ROWS):
            noise = torch.randn((ROWS, *x0.shape[1:]), generator=draws).to(x0)
            sample = schedule.scale(step.level.noise_to(x0, noise), step)
            yield sample, schedule.device_timesteps[step.index].expand(ROWS)

    def grown(self, found: torch.Tensor) -> Map:
        """What was found (h w) from 0 to 1, at the picture's size."""
        values = found.float().cpu().numpy()
        values = (values - values.min()) / max(float(values.max() - values.min()), 1e-9)
        return _enlarged(values, self.size, Size.of(self.given), Size.of(self.rgb.shape[:2]))


def _enlarged(values: Map, size: Size, shown: Size, whole: Size) -> Map:
    """``values`` (h w) of a padded picture of ``size``, of which ``shown`` is no padding, for the
    ``whole`` picture (H W).
    """
    resized = cv2.resize(values, tuple(size), interpolation=cv2.INTER_CUBIC)
    cut = np.ascontiguousarray(resized[: shown.height, : shown.width]).clip(0, 1)
    return np.asarray(cv2.resize(cut, tuple(whole), interpolation=cv2.INTER_LINEAR), np.float32)


def _drawable(rgb: NDArray[np.uint8], native: int) -> NDArray[np.uint8]:
    """A picture (H W 3) no larger than the model can draw."""
    height, width = rgb.shape[:2]
    scale = STRETCH * native / (height * width) ** 0.5
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _from_change(backbone: Backbone | None, wanted: Wanted) -> Map:
    """Where the predictions for two texts differ (DiffEdit: Couairon et al. 2022, "DiffEdit:
    Diffusion-based Semantic Image Editing with Mask Guidance", section 3.2, step 1); or what the
    one text, an instruction, has changed when all of the picture is drawn by it.
    """
    edits = backbone is not None and backbone.main.takes_reference
    if edits and wanted.redraw is not None and not wanted.was:
        return map_of_change(wanted.redraw(wanted), refine=wanted.refine)
    if wanted.prompt == wanted.was:
        raise InputError("a map from a change needs two texts: what is to be seen, and what was.")
    probe = Probe(backbone, wanted)
    texts = [probe.text(each) for each in (wanted.prompt, wanted.was)]
    total: torch.Tensor | None = None
    with torch.no_grad():
        for sample, timesteps in probe.noised():
            one, two = (
                probe.network.predict(sample, timesteps, text.repeat(ROWS), {}) for text in texts
            )
            apart = (one - two).abs().mean(dim=(0, 1))
            total = apart if total is None else total + apart
    assert total is not None  # noqa: S101 - there are samples
    # One cell's noise is not yet a thing.
    sigma = SMOOTH * probe.backbone.cell
    found = np.asarray(cv2.GaussianBlur(probe.grown(total), (0, 0), sigma), np.float32)
    return _refined(probe, found / found.max(), wanted)


def map_of_change(redrawn: Redrawn, *, refine: bool = True) -> Map:
    """Where a picture was changed (H W in [0, 1]), and how much, by its latents.

    Most of it, which is the drift of a network that draws all of the frame anew, counts as nothing.

    Args:
        redrawn: the picture, before and after.
        refine: along the edges of what was there and of what is there now.
    """
    apart = (redrawn.after - redrawn.before).float().pow(2).mean(dim=1)[0].sqrt().cpu().numpy()
    apart = np.asarray(cv2.GaussianBlur(apart, (0, 0), SMOOTH), np.float32)
    drift = float(np.median(apart))
    peak = float(np.quantile(apart, PEAK))
    found = ((apart - drift) / max(peak - drift, 1e-9)).clip(0, 1)
    whole = Size.of(redrawn.original.shape[:2])
    likely = _enlarged(found, redrawn.size, redrawn.shown, whole)
    if not refine:
        return likely
    return np.maximum(cut_out(redrawn.original, likely), cut_out(redrawn.made, likely))


def drift_of(redrawn: Redrawn, strength_map: Map) -> float:
    """How far the colours of a picture that was drawn anew are off where nothing was to change
    (``strength_map``, H W, is 0): mean Delta-E 2000; NaN where all was.
    """
    return colour_inside(redrawn.made, redrawn.original, np.asarray(strength_map) == 0)


def _from_words(backbone: Backbone | None, wanted: Wanted) -> Map:
    """Where the network looks for words of the prompt."""
    if not wanted.words:
        raise InputError("a map from words needs the words, such as 'red house'.")
    probe = Probe(backbone, wanted)
    if not probe.network.couples:
        raise InputError(
            "this model's network does not tell where it looks for words; 'change' does."
        )
    prompt = wanted.prompt
    if not prompt or prompt in wanted.words:  # else there is nothing to compare the words with
        prompt = f"a picture of {', '.join(wanted.words)}"
    text, total = probe.text(prompt), None
    tokens = [_tokens_of(probe.backbone, prompt, words) for words in wanted.words]
    with torch.no_grad():
        for sample, timesteps in probe.noised():
            for own in tokens:
                seen = attended(probe.network, sample, timesteps, text.repeat(ROWS), own)
                seen = seen / seen.max()
                total = seen if total is None else total + seen
    assert total is not None  # noqa: S101 - there are samples
    return _refined(probe, probe.grown(total), wanted)


def _tokens_of(backbone: Backbone, prompt: str, words: str) -> tuple[list[int], int]:
    """Where ``words`` stand among a prompt's tokens, and where the prompt ends.

    Raises:
        InputError: they are not in it.
    """
    tokenizer = backbone.pipe.tokenizer
    whole = list(tokenizer(prompt, truncation=True).input_ids)
    own = list(tokenizer(words, add_special_tokens=False).input_ids)
    for start in range(1, len(whole) - len(own)):
        if own and whole[start : start + len(own)] == own:
            return list(range(start, start + len(own))), len(whole) - 1
    raise InputError(f"{words!r} does not stand in the prompt {prompt!r}, as the model reads it.")


def _from_click(_: Backbone | None, wanted: Wanted) -> Map:
    """The thing under a point: GrabCut's, or that of the segmenter that is named."""
    rgb = wanted.picture.rgb
    if wanted.segmenter is None:
        return cut_out_at(rgb, wanted.inside, wanted.outside)
    check_points(rgb, wanted.inside, wanted.outside)
    return segmented(load_segmenter(wanted.segmenter), rgb, wanted.inside, wanted.outside)


def _from_alpha(_: Backbone | None, wanted: Wanted) -> Map:
    """Where the picture is transparent, and as strongly."""
    return load_strength_map("alpha", wanted.picture.size, picture=wanted.picture)


def _refined(probe: Probe, found: Map, wanted: Wanted) -> Map:
    return cut_out(probe.rgb, found) if wanted.refine else found


for _info in (
    MapSource("change", "where the predictions for two texts differ (DiffEdit)", _from_change),
    MapSource("words", "where the network looks for words of the prompt", _from_words),
    MapSource("click", "the thing under a point", _from_click, needs_model=False),
    MapSource("alpha", "where the picture is transparent", _from_alpha, needs_model=False),
):
    MAP_SOURCES.register(_info)
