"""LoRAs that are in a network (peft's layers), and lending them to a second one.

diffusers' loader knows only the pipeline's own denoiser; what is loaded there holds for the
inpainting UNet beside it too.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import SoftpaintWarning
from engine.models.state import sampled

if TYPE_CHECKING:
    import torch


def adapters_of(module: Any) -> Mapping[str, Any]:
    """The LoRAs in a module: peft's configurations by name."""
    return getattr(module, "peft_config", None) or {}


@contextmanager
def adding_adapters() -> Iterator[None]:
    """Without what peft says to those who did not mean to load several."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        yield


def lora_layers(module: Any) -> Iterator[tuple[str, Any]]:
    """Peft's layers in ``module`` by name."""
    for name, each in module.named_modules():
        if hasattr(each, "merged_adapters") and hasattr(each, "base_layer"):
            yield name, each


def _own_weights(module: Any) -> list[torch.Tensor]:
    """What a LoRA may be fused into: not LoRAs themselves, nor IP-Adapters."""
    others = (".lora_", ".processor.", "encoder_hid_proj.")
    named = module.named_parameters()
    return [weight for name, weight in named if not any(other in name for other in others)]


class _State(NamedTuple):
    """Of a network's own weights."""

    form: Hashable
    """Which they are, and how they lie: what compiling, fusing projections or another layout
    changes, and no LoRA does."""
    values: Hashable


def _state_of(module: Any) -> _State:
    weights = _own_weights(module)
    form = tuple((id(each), each.dtype, each.device, each.stride()) for each in weights)
    return _State(form, sampled(weights))


@dataclass
class LentLoras:
    """What a second network has of the first one's LoRAs, kept as the first one has them.

    Args:
        source: the pipeline's own denoiser.
        target: the second, whose layers have the same names; its input convolution may take more
            channels, which a LoRA leaves alone.
    """

    source: Any
    target: Any
    _names: set[str] = field(default_factory=set)
    _weights: _State = field(init=False)
    """The source's own, as they were."""

    def __post_init__(self) -> None:
        self._weights = _state_of(self.source)

    def follow(self) -> None:
        """Bring the target to what the source has by now: LoRAs, scales, merged or not."""
        given, weights = adapters_of(self.source), _state_of(self.source)
        if not given and not self._names:
            if weights.values != self._weights.values and weights.form == self._weights.form:
                warnings.warn(
                    SoftpaintWarning(
                        "the model's own network was changed in place (a LoRA fused into it and "
                        "unloaded?); the inpainting network beside it was not. engine.load_lora "
                        "changes both."
                    ),
                    stacklevel=2,
                )
        elif not given:
            self._take_out(baked=weights.values != self._weights.values)
        else:
            self._copy(given)
        if not any(layer.merged_adapters for _, layer in lora_layers(self.source)):
            self._weights = weights

    def _take_out(self, *, baked: bool) -> None:
        """The source has none any more; ``baked``: they were merged into its weights before."""
        for _, layer in lora_layers(self.target):
            if layer.merged_adapters and not baked:
                layer.unmerge()
            elif baked and not layer.merged_adapters:
                layer.merge()
        self.target.unload_lora()
        self._names.clear()

    def _copy(self, given: Mapping[str, Any]) -> None:
        from peft import get_peft_model_state_dict

        own = dict(lora_layers(self.source))
        for name in sorted(self._names - given.keys()):
            self.target.delete_adapters(name)
            self._names.discard(name)
        if not self._names and any(lora_layers(self.target)):
            self.target.unload_lora()  # layers of LoRAs that the source no longer has
        for name in given.keys() - self._names:
            state = get_peft_model_state_dict(self.source, adapter_name=name)
            widened = {key: self._widened(key, each) for key, each in state.items()}
            with adding_adapters():
                self.target.load_lora_adapter(widened, prefix=None, adapter_name=name)
            self._names.add(name)
        for name, layer in lora_layers(self.target):
            _be_like(layer, own[name])

    def _widened(self, key: str, weight: torch.Tensor) -> torch.Tensor:
        """A weight of the input convolution with columns of zeros for the channels that the source
        does not have.
        """
        more = self.target.config.in_channels - self.source.config.in_channels
        if not key.startswith("conv_in.lora_A") or more <= 0:
            return weight
        zeros = weight.new_zeros(weight.shape[0], more, *weight.shape[2:])
        import torch

        return torch.cat([weight, zeros], dim=1)


def _be_like(layer: Any, other: Any) -> None:
    """Bring a lent layer's settings and weights to those of the layer that it was lent from."""
    if set(layer.merged_adapters) - set(other.merged_adapters):
        layer.unmerge()
    for name, scale in other.scaling.items():
        if name in layer.scaling:
            layer.scaling[name] = scale
    for kind in ("lora_A", "lora_B", "lora_magnitude_vector"):
        lent, own = getattr(layer, kind), getattr(other, kind)
        for name in lent.keys() & own.keys():
            if lent[name].weight.shape == own[name].weight.shape:
                lent[name].weight = own[name].weight  # one tensor for both
    layer._active_adapter = other._active_adapter  # noqa: SLF001 - set_adapter would train them
    layer._disable_adapters = other._disable_adapters  # noqa: SLF001
    if missing := [name for name in other.merged_adapters if name not in layer.merged_adapters]:
        layer.merge(adapter_names=missing)
