"""The law that rows do not influence rows: what a call says of one does not depend on the others.

In exact arithmetic every network keeps it. In floating point a library may choose its kernel by the
number of rows, so it holds up to the last bits of a product, which differ by processor. Two means:
:class:`Fours` takes away the largest cause at hardly any cost, :class:`OneByOne` all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from engine.models.network import Network
from engine.types import take_residuals

if TYPE_CHECKING:
    from collections.abc import Hashable

    import torch

    from engine.types import Conditioning

__all__ = ["Fours", "OneByOne", "in_fours"]


class Fours:
    """The layers of a UNet that see a row for each picture and nothing of its pixels, computed four
    rows at a time whatever the call holds: matrix libraries choose a product's kernel by its number
    of rows. The other layers see rows times pixels, so many that their kernels do not change.
    """

    def __init__(self, unet: Any) -> None:
        self._unet = unet

    @cached_property
    def _layers(self) -> list[Any]:
        return [
            module
            for name, module in self._unet.named_modules()
            if name in {"time_embedding", "add_embedding"} or name.endswith("time_emb_proj")
        ]

    def changes(self, sample: torch.Tensor) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """Layers, and forwards for them, for a call of ``sample`` (B c h w)."""
        if len(sample) != FOUR and sample.device.type == "cpu":
            for layer in self._layers:
                yield layer, in_fours(layer.forward)


FOUR: Final = 4
"""Rows that are computed together: of fewer, matrix libraries choose other kernels."""


def in_fours(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``forward`` (of tensors with a row for each picture), four rows at a time; the last ones are
    filled up.
    """
    import torch

    def piece(rows: Any, first: int) -> Any:
        if not isinstance(rows, torch.Tensor):
            return rows
        taken = rows[first : first + FOUR]
        return torch.cat([taken, taken[:1].expand(FOUR - len(taken), *rows.shape[1:])])

    def padded(rows: torch.Tensor, *others: Any) -> torch.Tensor:
        firsts = range(0, len(rows), FOUR)
        made = [forward(*(piece(each, first) for each in (rows, *others))) for first in firsts]
        return torch.cat(made)[: len(rows)]

    return padded


class OneByOne(Network):
    """A network that is called once for each row, so that a row's bits cannot depend on what shares
    the call, whatever the libraries do.

    It costs what sharing saves. To the bits of diffusers (``like_diffusers``) it calls as they do.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.network = network

    # What is asked of the network is asked of the one inside.

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.network.kind

    @property
    def embeds_guidance(self) -> bool:  # type: ignore[override]
        return self.network.embeds_guidance

    @property
    def couples(self) -> bool:  # type: ignore[override]
        return self.network.couples

    @property
    def redirects(self) -> bool:  # type: ignore[override]
        return self.network.redirects

    @property
    def down_factor(self) -> int:  # type: ignore[override]
        return self.network.down_factor

    @property
    def adapters(self) -> int:  # type: ignore[override]
        return self.network.adapters

    @property
    def sample_size(self) -> int:
        return self.network.sample_size

    @property
    def like_diffusers(self) -> Network:
        return self.network.like_diffusers

    def with_guidance(self, conditioning: Conditioning, scale: float) -> Conditioning:
        return self.network.with_guidance(conditioning, scale)

    def cells_at_hand(self) -> int:
        return self.network.cells_at_hand()

    def borrow(self, other: Network) -> None:
        self.network.borrow(other)

    def check_fits(self, other: Network) -> None:
        self.network.check_fits(other)

    def state(self) -> Hashable:
        return self.network.state()

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        import torch

        rows = [slice(row, row + 1) for row in range(len(sample))]
        return torch.cat(
            [
                # Copies: a kernel may depend on how its input lies in memory.
                self.network.predict(
                    sample[row].clone(),
                    timesteps[row].clone(),
                    _own(conditioning.take(row)),
                    {n: _copied(each) for n, each in take_residuals(residuals, row).items()},
                )
                for row in rows
            ]
        )


def _own(conditioning: Conditioning) -> Conditioning:
    return conditioning.adding({n: tensor.clone() for n, tensor in conditioning.tensors.items()})


def _copied(residual: Any) -> Any:
    if isinstance(residual, tuple):
        return tuple(level.clone() for level in residual)
    return residual.clone()
