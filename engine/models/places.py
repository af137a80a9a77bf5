"""What a UNet's call is told of places: tensors of its conditioning on the latent grid, a row for
each picture, which attentions read at their own size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Grid", "attentions_of", "shrunk_to"]


def attentions_of(unet: Any, *, cross: bool, under: str = "") -> list[Any]:
    """A UNet's attentions: those that look at the text (``cross``), or at the picture itself; of
    the modules whose names begin with ``under``.
    """
    from diffusers.models.attention_processor import Attention

    return [
        each
        for name, each in unet.named_modules()
        if name.startswith(under)
        and isinstance(each, Attention)
        and bool(each.is_cross_attention) == cross
    ]


def shrunk_to(size: tuple[int, int], positions: int) -> tuple[int, int]:
    """The latent grid's ``size`` (height, width) at a level of ``positions``: each halves, rounding
    up.
    """
    height, width = size
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


class Grid:
    """Values (b r h w) on the latent grid at the sizes of a call's attentions."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self._at: dict[tuple[int, Any], torch.Tensor] = {}

    def at(self, hidden: torch.Tensor) -> torch.Tensor:
        """The mean (b r n) over what each position of an attention's input (b n c) covers."""
        import torch

        key = (hidden.shape[1], hidden.dtype)
        if key not in self._at:
            size = shrunk_to((self.values.shape[-2], self.values.shape[-1]), hidden.shape[1])
            shrunk = torch.nn.functional.interpolate(self.values, size=size, mode="area")
            self._at[key] = shrunk.flatten(2).to(hidden.dtype)
        return self._at[key]
