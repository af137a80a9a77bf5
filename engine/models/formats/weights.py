"""The tensors of a file: read when they are asked for, under the names that the converters know."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.formats.sources import first_line
from engine.models.header import Header, is_gguf, read_header
from engine.models.layout import UNET, VAE

if TYPE_CHECKING:
    import torch

# Merges of 2022 have the text encoder's parts under the names that transformers gave them then.
_OLD_TEXT = re.compile(r"^(cond_stage_model\.transformer\.)(?=embeddings|encoder|final_layer_norm)")
SCALES = (".scale_weight", ".weight_scale")
"""What ComfyUI's files call the factor of an ``.weight`` in 8 bits."""
_OF_INPUTS = (".scale_input", ".input_scale")
PORTION = 2**30
"""Bytes of a file that are mapped at once."""


def open_weights(path: Path) -> Weights:
    """The weights in a ``.safetensors`` or ``.gguf`` file.

    Raises:
        ModelError: it is no such file, or not whole.
    """
    return GGUFWeights(path) if is_gguf(path) else SafetensorsWeights(path)


class Weights(ABC):
    """Tensors of a file.

    Args:
        stored: the file's own table.
    """

    def __init__(self, stored: Header) -> None:
        prefix = _prefix(stored)
        self._stored = {prefix + _current(name): name for name in stored.shapes}
        self.header = Header(
            stored.path,
            {name: stored.shapes[own] for name, own in self._stored.items()},
            {name: stored.types[own] for name, own in self._stored.items()},
            stored.metadata,
        )

    @property
    def packed(self) -> str:
        """How weights are packed that are given in full: a few words, or empty."""
        kinds = {kind for kind in self.header.types.values() if kind.startswith("F8")}
        return "8 bits a weight (float8)" if kinds else ""

    def read(
        self, wanted: Callable[[str], bool] | None, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """The tensors whose names are ``wanted`` (None: all), as ``dtype``. They stay mapped from
        the file where that is the type that they have there.

        Raises:
            ModelError: the file cannot be read.
        """
        from safetensors import SafetensorError

        names = {name: own for name, own in self._stored.items() if wanted is None or wanted(name)}
        try:
            return {
                name: tensor.to(dtype) if tensor.is_floating_point() else tensor
                for name, tensor in self._tensors(names)
            }
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                f"{self.header.path} could not be read: {first_line(error)}"
            ) from error

    @abstractmethod
    def _tensors(self, names: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors by the ``names`` that they are given, from those that they have in the file."""


class SafetensorsWeights(Weights):
    """Of a ``.safetensors`` file. Weights in float8 are multiplied by their scales."""

    def __init__(self, path: Path) -> None:
        super().__init__(read_header(path))

    def _tensors(self, names: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
        from safetensors import safe_open

        for portion in self._portions(names):
            with safe_open(str(self.header.path), framework="pt") as file:
                for name in portion:
                    yield name, self._tensor(file, name)

    def _portions(self, names: Mapping[str, str]) -> Iterator[list[str]]:
        """The ``names`` of tensors, a gibibyte at a time: what was read stays mapped as long as its
        file is open, and would stand in memory beside all that was made of it.
        """
        portion: list[str] = []
        held = 0
        for name in names:
            if name.endswith((*SCALES, *_OF_INPUTS)):
                continue
            portion.append(name)
            held += 2 * math.prod(self.header.shapes[name])
            if held >= PORTION:
                yield portion
                portion, held = [], 0
        yield portion

    def _tensor(self, file: Any, name: str) -> torch.Tensor:
        tensor: torch.Tensor = file.get_tensor(self._stored[name])
        if self.header.types[name].startswith("F8"):
            tensor = tensor.float()
            stem = name.removesuffix(".weight")
            scale = next((stem + end for end in SCALES if stem + end in self._stored), None)
            if scale is not None:
                tensor = _scaled(tensor, file.get_tensor(self._stored[scale]).float())
        return tensor


class GGUFWeights(Weights):
    """Of a ``.gguf`` file, by diffusers' own arithmetic, unpacked as they are read."""

    packed = "GGUF"

    def __init__(self, path: Path) -> None:
        from diffusers.utils.import_utils import is_gguf_available

        if not is_gguf_available():
            raise ModelError(f"{path} is a GGUF file, which needs a package: pip install gguf")
        from diffusers.models.model_loading_utils import load_gguf_checkpoint

        try:
            self._packed: dict[str, Any] = load_gguf_checkpoint(str(path))
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ModelError(
                f"{path} is no readable GGUF file, or cut short: {first_line(error)}"
            ) from error
        super().__init__(
            Header(
                path,
                {name: _whole_shape(each) for name, each in self._packed.items()},
                dict.fromkeys(self._packed, "GGUF"),
                {},
            )
        )

    def _tensors(self, names: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        for name, own in names.items():
            tensor = self._packed[own]
            yield name, dequantize_gguf_tensor(tensor) if _is_packed(tensor) else tensor


def _is_packed(tensor: Any) -> bool:
    return hasattr(tensor, "quant_type")


def _whole_shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.quant_shape if _is_packed(tensor) else tensor.shape)


def _scaled(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``weight`` times its one scale, or the scales of its rows."""
    if scale.numel() > 1:
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * scale


def _prefix(stored: Header) -> str:
    """What a file leaves out before all of its names, because it holds one part alone."""
    if "input_blocks.0.0.weight" in stored:  # the UNet, as ComfyUI keeps it
        return UNET
    bare = stored.has("decoder.mid.block_1.") and not stored.has(VAE)
    return VAE if bare else ""


def _current(name: str) -> str:
    """The name that diffusers' converters know a tensor by."""
    return _OLD_TEXT.sub(r"\1text_model.", name)
