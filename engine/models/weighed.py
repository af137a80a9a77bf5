"""A network whose rows each have LoRAs of their own choice, of those that are loaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.models.lora import lora_layers
from engine.models.speed.forwards import is_compiled, replaced_forwards, turn_of
from engine.types import take_residuals

if TYPE_CHECKING:
    import torch

    from engine.models.network import Network
    from engine.types import Conditioning

__all__ = ["CHOICE", "Choices", "OwnLoras", "at_weights", "is_merged"]

CHOICE = "loras"
"""The name in a conditioning of each row's choice (b, whole numbers), see :class:`Choices`."""

Weights: TypeAlias = "Mapping[str, float] | None"
"""LoRAs by name, the others left out; None is what the network has by itself."""


@contextmanager
def at_weights(module: Any, weights: Weights) -> Iterator[None]:
    """Inside, ``module`` has the LoRAs of ``weights`` and no others; afterwards those that it had.
    One thread at a time, each module for itself.
    """
    with turn_of(module), _at([layer for _, layer in lora_layers(module)], weights):
        yield


@contextmanager
def _at(layers: Sequence[Any], weights: Weights) -> Iterator[None]:
    """:func:`at_weights` of peft's ``layers``."""
    if weights is None:
        yield
        return
    before = [
        (layer, dict(layer.scaling), layer._active_adapter, layer._disable_adapters)  # noqa: SLF001
        for layer in layers
    ]
    active = [name for name, weight in weights.items() if weight]
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = active, False  # noqa: SLF001
            for name in active:
                layer.set_scale(name, weights[name])
        yield
    finally:
        for layer, scaling, own, off in before:
            layer.scaling.clear()
            layer.scaling.update(scaling)
            layer._active_adapter, layer._disable_adapters = own, off  # noqa: SLF001


def is_merged(module: Any) -> bool:
    """Whether LoRAs are merged into a module's weights, where they hold for all it is asked."""
    return any(layer.merged_adapters for _, layer in lora_layers(module))


class Choices:
    """The sets of LoRAs that a model's rows have asked for, and the networks that heed them."""

    def __init__(self) -> None:
        self.known: list[Weights] = []
        self._numbers: dict[Hashable, int] = {}
        self._networks: dict[int, OwnLoras] = {}

    def number(self, weights: Weights) -> int:
        """The place of ``weights`` in :attr:`known`: what a conditioning has as :data:`CHOICE`."""
        key = None if weights is None else frozenset(weights.items())
        if key not in self._numbers:
            self._numbers[key] = len(self.known)
            self.known.append(weights)
        return self._numbers[key]

    def network(self, network: Network) -> OwnLoras:
        """``network`` with a choice for each row: the same object each time, so that jobs of all
        choices can share a call.
        """
        return self._networks.setdefault(id(network), OwnLoras(network, self.known))


class OwnLoras:
    """A network whose calls have rows of several choices (:data:`CHOICE`), of the same weights. In
    all else it is the network.

    Args:
        network: itself.
        known: the choices, by their numbers.
    """

    def __init__(self, network: Network, known: Sequence[Weights]) -> None:
        self.network, self.known = network, known
        self._sees_rows = True
        """No layer with LoRAs has yet seen anything but a row for each picture."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        """As :meth:`engine.models.network.Network.predict`: one forward, in which the layers that
        have LoRAs are computed for the rows of each choice; where that cannot be, a forward for
        each.
        """
        import torch

        numbers = conditioning.tensors[CHOICE].tolist()
        starts = [n for n, each in enumerate(numbers) if n == 0 or each != numbers[n - 1]]
        pieces = [slice(*ends) for ends in pairwise([*starts, len(numbers)])]
        choices = [self.known[numbers[start]] for start in starts]
        module, said = self.network.module, self.network.predict
        if len(pieces) > 1 and self._sees_rows and not any(map(is_compiled, module.modules())):
            layers = [layer for _, layer in lora_layers(module)]
            own = ((layer, _by_rows(layer, pieces, choices)) for layer in layers)
            try:
                with replaced_forwards(module, own):
                    return said(sample, timesteps, conditioning, residuals)
            except _OtherRowsError:
                self._sees_rows = False
        made = []
        for piece, weights in zip(pieces, choices, strict=True):
            asked = sample[piece], timesteps[piece], conditioning.take(piece)
            with at_weights(module, weights):
                made.append(said(*asked, take_residuals(residuals, piece)))
        return made[0] if len(made) == 1 else torch.cat(made)


class _OtherRowsError(Exception):
    """A layer was given something else than a row for each picture."""


def _by_rows(
    layer: Any, pieces: Sequence[slice], choices: Sequence[Weights]
) -> Callable[..., torch.Tensor]:
    """The forward of a layer of peft's that computes each of ``pieces`` of its input by its own of
    ``choices``.
    """
    import torch

    forward, rows = layer.forward, pieces[-1].stop

    def each(given: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        if len(given) != rows:
            raise _OtherRowsError
        made = []
        for piece, weights in zip(pieces, choices, strict=True):
            with _at([layer], weights):
                made.append(forward(given[piece], *others, **named))
        return torch.cat(made)

    return each
