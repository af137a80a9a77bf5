"""Reference pictures: what an IP-Adapter lets the repainted region look like.

diffusers' own loader brings the adapters (``engine.pipe.load_ip_adapter(...)``, Ye et al. 2023);
an edit's ``ip_adapter_image`` says which pictures they read. They act inside the network's
cross-attention, so they compose with every strategy and with ControlNets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image

from engine.canvas import load_image, name_of
from engine.errors import InputError

if TYPE_CHECKING:
    from controls.scene import Scene
    from engine.types import Conditioning


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture for an IP-Adapter.

    Args:
        image: path, Pillow image, array or tensor, of any size.
        scale: its weight, times what ``engine.pipe.set_ip_adapter_scale`` says; 0 is off.
        mask: where it holds: a strength map of the edited picture's size, 1 = fully.
        embeds: in ``image``'s place, its embeddings: a tensor of 1 or 2 rows (``r n ...``; of two
            the first is the negative one, of one it is zeros) as diffusers'
            ``prepare_ip_adapter_image_embeds`` makes them and FaceID adapters need them.

    Raises:
        InputError: a value that is not accepted; the message says what is.
    """

    image: Any = None
    scale: float = 1.0
    mask: Any = None
    embeds: Any = None

    def __post_init__(self) -> None:
        if (self.image is None) == (self.embeds is None):
            raise InputError("a reference needs either an image or embeds.")
        scale: object = self.scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
            raise InputError(f"a reference's scale must be a finite number, not {scale!r}.")
        given = self.embeds
        if given is not None and (
            not isinstance(given, torch.Tensor)
            or given.ndim not in {3, 4}
            or given.shape[0] not in {1, 2}
            or not bool(given.isfinite().all())
        ):
            raise InputError(
                "a reference's embeds must be a finite tensor of 1 or 2 rows: (r, images, width) "
                "or (r, images, tokens, width)."
            )

    def describe(self) -> dict[str, Any]:
        """What a record keeps of it: values that JSON can hold."""
        what = "embeds" if self.image is None else name_of(self.image, "image")
        return {"image": what, "scale": float(self.scale), "mask": self.mask is not None}


def check_references(given: Any) -> tuple[tuple[Reference, ...], ...]:
    """An edit's ``ip_adapter_image`` as the references of each adapter.

    ``given``: None, a picture or :class:`Reference`, or a list with an entry for each loaded
    adapter, which may be a list of several.

    Raises:
        InputError: an empty list, or an entry that is missing.
    """
    if given is None:
        return ()
    entries = given if isinstance(given, list | tuple) else [given]
    asked = []
    for entry in entries:
        several = entry if isinstance(entry, list | tuple) else [entry]
        asked.append(
            tuple(each if isinstance(each, Reference) else Reference(each) for each in several)
        )
    if not all(asked) or not asked:
        raise InputError("ip_adapter_image is an empty list; give a picture for each IP-Adapter.")
    return tuple(asked)


class Model(Protocol):
    """What references need of the loaded model; :class:`engine.models.Backbone` is one."""

    @property
    def ip_adapters(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def encode_references(
        self, images: Sequence[Image.Image], adapter: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative and positive embeddings (1 n ... each) for an IP-Adapter."""


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
        cls, asked: Sequence[Sequence[Reference]], model: Model, scene: Scene
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
                "ip_adapter_image needs an IP-Adapter: engine.pipe.load_ip_adapter(...) loads one."
            )
        if not asked:
            # The network insists on a picture; at scale 0 it adds exactly nothing.
            asked = [[Reference(Image.new("RGB", (64, 64)), 0.0)]] * count
        if len(asked) != count:
            raise InputError(
                f"ip_adapter_image has {len(asked)} entries for {count} IP-Adapters; give one for "
                "each (a list for several pictures of one adapter)."
            )
        masks = [_masks(several, scene) for several in asked]
        everywhere = all(each.mask is None and each.scale == 1 for few in asked for each in few)
        with torch.no_grad():
            embeds = [_embeds(several, model, number) for number, several in enumerate(asked)]
        return cls(
            [tuple(each.to(model.device, model.dtype) for each in pair) for pair in embeds],  # type: ignore[misc]
            [] if everywhere else [mask.to(model.device) for mask in masks],
        )

    def join(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        *,
        size: tuple[int, int],
        rows: int = 1,
    ) -> tuple[Conditioning, Conditioning | None]:
        """The text's conditioning and the references', ``rows`` rows each.

        ``size``: (height, width) in px of the job's canvas.
        """
        masks = {
            f"ip_adapter_masks.{i}": _resized(mask, size).expand(rows, -1, -1, -1)
            for i, mask in enumerate(self.masks)
        }

        def of(which: int) -> dict[str, torch.Tensor]:
            return {
                f"image_embeds.{i}": pair[which].expand(rows, *pair[which].shape[1:])
                for i, pair in enumerate(self.embeds)
            }

        joined = {**cond, **of(1), **masks}
        return joined, None if uncond is None else {**uncond, **of(0), **masks}


def _embeds(
    several: Sequence[Reference], model: Model, adapter: int
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


def _masks(several: Sequence[Reference], scene: Scene) -> torch.Tensor:
    """1 n H W: each reference's mask times its scale."""
    masks = []
    for each in several:
        mask = scene.whole() if each.mask is None else scene.place_mask(each.mask)
        images = 1 if each.embeds is None else each.embeds.shape[1]
        masks.append((mask * float(each.scale)).expand(-1, images, -1, -1))
    return torch.cat(masks, dim=1)


def _resized(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return torch.nn.functional.interpolate(mask, size=size, mode="area")
