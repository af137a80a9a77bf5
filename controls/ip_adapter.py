"""IP-Adapters in the loop: an edit's references as conditioning of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from PIL import Image

from controls.canvas import cut
from controls.place import Bound, Place
from controls.reference import Reference
from engine.denoise.guidance import COND, UNCOND
from engine.errors import InputError, told
from engine.picture.read import load_image

if TYPE_CHECKING:
    from controls.canvas import Canvas
    from controls.place import SteeredModel
    from engine.picture.geometry import Box, Size
    from engine.solvers.schedule import Schedule


@dataclass(frozen=True)
class ReferenceStack:
    """The references of one edit, encoded."""

    embeds: Sequence[tuple[torch.Tensor, torch.Tensor]]
    """For each adapter, negative and positive: 1 n ... each."""
    masks: Sequence[torch.Tensor]
    """For each adapter 1 n H W: where its pictures hold, times their scales. Empty where all hold
    everywhere."""

    @classmethod
    def of(
        cls, asked: Sequence[Sequence[Reference]], model: SteeredModel, canvas: Canvas
    ) -> ReferenceStack | None:
        """Read the pictures; None where the model has no IP-Adapter and none is asked for.

        Raises:
            InputError: no adapter is loaded, or not as many as there are entries; a picture or a
                mask that cannot be read.
        """
        count = model.ip_adapters
        if not count and not asked:
            return None
        if not count:
            raise InputError(
                "a reference picture needs an IP-Adapter: "
                + told(
                    python="engine.pipe.load_ip_adapter(...) or from_pretrained(ip_adapter=FILE)",
                    command="--ip-adapter FILE=PICTURE",
                )
                + " loads one."
            )
        if not asked:
            # The network insists on a picture; at scale 0 it adds exactly nothing.
            asked = [[Reference(Image.new("RGB", (64, 64)), 0.0)]] * count
        if len(asked) != count:
            raise InputError(
                f"ip_adapter_image has {len(asked)} entries for {count} IP-Adapters; give one for "
                "each (a list for several pictures of one adapter)."
            )
        masks = [_masks(several, canvas) for several in asked]
        everywhere = all(each.mask is None and each.scale == 1 for few in asked for each in few)
        with torch.no_grad():
            embeds = [_embeds(several, model, number) for number, several in enumerate(asked)]
        return cls(
            [tuple(each.to(model.device, model.dtype) for each in pair) for pair in embeds],  # type: ignore[misc]
            [] if everywhere else [mask.to(model.device) for mask in masks],
        )

    def cut(
        self, box: Box, repainted: torch.Tensor, schedules: Sequence[Schedule]
    ) -> ReferenceStack:
        """The same: a picture's references are the whole edit's."""
        return self

    def bind(self, place: Place, schedule: Schedule) -> Bound:
        """The embeddings of one job's references, and where they hold."""
        rows = place.rows
        masks = {
            f"ip_adapter_masks.{i}": _resized(cut(mask, place.box), place.size).expand(
                rows, -1, -1, -1
            )
            for i, mask in enumerate(self.masks)
        }

        def of(which: int) -> dict[str, torch.Tensor]:
            return {
                f"image_embeds.{i}": pair[which].expand(rows, *pair[which].shape[1:])
                for i, pair in enumerate(self.embeds)
            }

        return Bound(conditioning={UNCOND: {**of(0), **masks}, COND: {**of(1), **masks}})


def _embeds(
    several: Sequence[Reference], model: SteeredModel, adapter: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative and positive embeddings (1 n ...) of one adapter's references."""
    pairs = []
    for pictures, group in groupby(several, key=lambda each: each.embeds is None):
        if pictures:
            opened = [Image.fromarray(load_image(each.image).rgb) for each in group]
            pairs.append(model.encode_references(opened, adapter))
            continue
        for each in group:
            positive = each.embeds[-1:]
            negative = each.embeds[:1] if len(each.embeds) == 2 else torch.zeros_like(positive)
            pairs.append((negative, positive))
    negatives, positives = zip(*pairs, strict=True)
    return torch.cat(negatives, dim=1), torch.cat(positives, dim=1)


def _masks(several: Sequence[Reference], canvas: Canvas) -> torch.Tensor:
    """1 n H W: each reference's mask times its scale."""
    masks = []
    for each in several:
        mask = canvas.whole() if each.mask is None else canvas.place_mask(each.mask)
        images = 1 if each.embeds is None else each.embeds.shape[1]
        masks.append((mask * float(each.scale)).expand(-1, images, -1, -1))
    return torch.cat(masks, dim=1)


def _resized(mask: torch.Tensor, size: Size | None) -> torch.Tensor:
    if size is None or tuple(mask.shape[-2:]) == size.shape:
        return mask
    return torch.nn.functional.interpolate(mask, size=size.shape, mode="area")
