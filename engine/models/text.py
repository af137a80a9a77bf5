"""How a family reads prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.models.state import weights_state
from engine.models.unheard import unheard

if TYPE_CHECKING:
    import torch

    from engine.picture.geometry import Size
    from engine.types import Conditioning

NUMBERS = ("", "_2", "_3")
"""What a pipeline puts behind the names of its tokenizers and text encoders."""


@dataclass(frozen=True)
class Prompt:
    """What is to be encoded."""

    positive: str
    negative: str | None
    guided: bool
    """An unconditional conditioning is wanted too."""
    size: Size
    """(height, width) in px of the padded picture, for families that are told."""
    images: int = 1
    """Rows of each conditioning."""


class TextEncoder(ABC):
    """A family's way from a prompt to a conditioning.

    Args:
        pipe: the loaded pipeline. Its parts are looked up at every call: they may be exchanged.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @abstractmethod
    def encode(
        self, prompt: Prompt, device: torch.device
    ) -> tuple[Conditioning, Conditioning | None]:
        """Conditional and (if guided) unconditional conditioning, ``prompt.images`` rows each."""

    def unheard(self, texts: Mapping[str, str | None]) -> dict[str, dict[str, list[str]]]:
        """What of the ``texts``, by their settings' names, the model does not read, or reads as
        plain words: see :func:`engine.models.unheard.unheard`.
        """
        return {}

    @abstractmethod
    def state(self) -> Hashable:
        """A value that changes when equal prompts would be encoded otherwise."""


class PipelineText(TextEncoder):
    """Text by a pipeline's own ``encode_prompt``; its state is that of all encoders and tokenizers
    among the pipeline's parts.
    """

    def unheard(self, texts: Mapping[str, str | None]) -> dict[str, dict[str, list[str]]]:
        return unheard(texts, (getattr(self.pipe, f"tokenizer{n}", None) for n in NUMBERS))

    def state(self) -> Hashable:
        tokens, encoders = (
            [part for each in NUMBERS if (part := getattr(self.pipe, name + each, None))]
            for name in ("tokenizer", "text_encoder")
        )
        settings = sorted((k, repr(v)) for k, v in self.pipe.config.items() if k[0] != "_")
        return *map(len, tokens), *settings, *map(weights_state, encoders)
