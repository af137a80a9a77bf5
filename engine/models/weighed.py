"""A network with some of the LoRAs that are loaded, for the calls of who names his own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.models.lora import lora_layers
from engine.models.speed.forwards import turn_of

if TYPE_CHECKING:
    import torch

__all__ = ["AtWeights", "at_weights", "is_merged"]


@contextmanager
def at_weights(module: Any, weights: Mapping[str, float]) -> Iterator[None]:
    """Inside, ``module`` has the LoRAs of ``weights`` and no others; afterwards those that it had.
    One thread at a time, each module for itself.
    """
    with turn_of(module):
        layers = [layer for _, layer in lora_layers(module)]
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


class AtWeights:
    """A network with LoRAs of its own choice of those that are loaded: calls of other choices are
    other calls, of the same weights. In all else it is the network.
    """

    def __init__(self, network: Any, weights: Mapping[str, float]) -> None:
        self.network, self.weights = network, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def predict(self, *asked: Any) -> torch.Tensor:
        """The network's own, see :meth:`engine.models.network.Network.predict`."""
        with at_weights(self.network.module, self.weights):
            said: torch.Tensor = self.network.predict(*asked)
        return said
