"""Prompts that a language model reads: what the families with a Qwen before them have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.models.state import dtype_of
from engine.models.text import ReadsApart
from engine.models.unheard import unheard
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch

    from engine.models.text import Prompt, Shown

TEXT = "encoder_hidden_states"
MASK = "encoder_hidden_states_mask"
LENGTHS = "text_lengths"
"""Tokens of each row's text: on the CPU, so that nobody waits for them."""
LONGEST = 512
"""Tokens of a text that diffusers' pipelines read."""


class LanguageText(ReadsApart):
    """Hidden states of a language model, as many as the prompt has tokens."""

    @property
    @abstractmethod
    def template(self) -> int:
        """Tokens that the pipeline puts around every prompt and counts."""

    @abstractmethod
    def read(self, text: str, device: torch.device, shown: Shown | None) -> torch.Tensor:
        """The hidden states (1 n d) of a text, and of the picture that it is read with."""

    def told(self, prompt: Prompt, text: str, sign: str, device: torch.device) -> Conditioning:
        import torch

        states = prompt.reading.given.get(f"{sign}prompt_embeds")
        if states is None:
            states = self.read(text, device, prompt.reading.shown)
        states = states.to(device, dtype_of(self.pipe.transformer))
        tensors = {TEXT: states, LENGTHS: torch.tensor([states.shape[1]])}
        return Conditioning(tensors, {TEXT: MASK}).repeat(prompt.images)

    def unheard(
        self, texts: Mapping[str, str | None], syntax: str
    ) -> dict[str, dict[str, list[str]]]:
        tokenizer = getattr(self.pipe, "tokenizer", None)
        if tokenizer is None:
            return {}
        return unheard(texts, [tokenizer], room=LONGEST - self.template)
