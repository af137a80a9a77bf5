"""Prompts of any length and with weights through a CLIP (Radford et al. 2021) of 77 tokens.

A text longer than the encoder reads is read in chunks of 75 words' tokens, whose embeddings are
joined end to end. A weight moves a token's embedding away from what the encoder makes of no text
at all, at the same place (ComfyUI's rule): 1 leaves it as it is to the bit, 0 is no word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, setting
from engine.models.syntax import Piece, parse

if TYPE_CHECKING:
    import torch

Tokens = list[tuple[int, float]]
"""Numbers of tokens and their weights."""


@dataclass(frozen=True)
class Reader:
    """One text encoder of a pipeline, and how its hidden states are used.

    Args:
        pipe: the pipeline, which knows the words of textual inversions.
        tokenizer: its tokenizer.
        encoder: transformers' CLIP.
        last: the hidden state that is read without ``clip_skip``, counted from the end; 1 is the
            last, behind the final norm.
    """

    pipe: Any
    tokenizer: Any
    encoder: Any
    last: int

    @property
    def room(self) -> int:
        """Tokens of words in a chunk."""
        return int(self.tokenizer.model_max_length) - 2

    def chunks(self, prompt: str) -> list[Tokens]:
        """The tokens of a prompt, a list for each chunk; one empty chunk for no text."""
        found: list[Tokens] = []
        for part in parse(prompt):
            tokens = [each for piece in part for each in self._tokens(piece)]
            starts = range(0, max(1, len(tokens)), self.room)
            found += [tokens[start : start + self.room] for start in starts]
        return found

    def _tokens(self, piece: Piece) -> Tokens:
        words = piece.text
        added = (each.lower() for each in self.tokenizer.added_tokens_encoder)
        # of a long text it says that indexing will fail, which it does not
        if hasattr(self.pipe, "maybe_convert_prompt") and any(t in words.lower() for t in added):
            words = self.pipe.maybe_convert_prompt(words, self.tokenizer)
        read = self.tokenizer(words, add_special_tokens=False, truncation=False, verbose=False)
        return [(token, piece.weight) for token in read["input_ids"]]

    def embed(
        self, chunks: Sequence[Tokens], clip_skip: int | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings (1 n d, chunks end to end) and the first chunk's pooled ones (1 p), where
        there are such.
        """
        import torch

        hidden, pooled = zip(*(self._read(chunk, clip_skip) for chunk in chunks), strict=True)
        weighted = [any(weight != 1 for _, weight in chunk) for chunk in chunks]
        if any(weighted):
            empty = self._read([], clip_skip)[0]
            hidden = tuple(
                self._weighted(each, empty, chunk) if told else each
                for each, chunk, told in zip(hidden, chunks, weighted, strict=True)
            )
        return torch.cat(hidden, dim=1), pooled[0]

    def _weighted(self, hidden: torch.Tensor, empty: torch.Tensor, chunk: Tokens) -> torch.Tensor:
        weights = hidden.new_ones(hidden.shape[1])
        weights[1 : len(chunk) + 1] = weights.new_tensor([weight for _, weight in chunk])
        weights = weights[None, :, None]
        # The difference is in float32: in half precision it would lose what is told apart.
        moved = empty.float() + weights.float() * (hidden.float() - empty.float())
        return moved.to(hidden.dtype).where(weights != 1, hidden)

    def _read(
        self, chunk: Tokens, clip_skip: int | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states (1 n d) and pooled ones (1 p) of one chunk: chunks are read one by one, so
        that each is to the bit what it is alone.
        """
        import torch

        tokenizer, length = self.tokenizer, int(self.tokenizer.model_max_length)
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (length - len(ids))
        device = self.pipe._execution_device  # noqa: SLF001 - honours accelerate's offload hooks
        known: Any = {}
        if getattr(self.encoder.config, "use_attention_mask", False):
            known["attention_mask"] = torch.tensor(
                [[1] * (len(chunk) + 2) + [0] * (length - len(chunk) - 2)], device=device
            )
        read = self.encoder(torch.tensor([ids], device=device), output_hidden_states=True, **known)
        pooled = read[0] if read[0].dim() == 2 else None
        if self.last == 1 and not clip_skip:
            return read[0], pooled
        depth = self.last + (clip_skip or 0)
        if depth >= len(read.hidden_states):
            most = len(read.hidden_states) - 1 - self.last
            raise InputError(f"{setting('clip_skip')} is at most {most} for this model.")
        hidden = read.hidden_states[-depth]
        if self.last == 1:
            hidden = getattr(self.encoder, "text_model", self.encoder).final_layer_norm(hidden)
        return hidden, pooled


def joined(
    readers: Sequence[Reader], prompts: Sequence[str], clip_skip: int | None
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The embeddings (1 n d) of ``prompts``, all of one length, and pooled ones (1 p): several
    encoders' side by side, short prompts with chunks of no text at their ends.
    """
    import torch

    told = [[reader.chunks(prompt) for reader in readers] for prompt in prompts]
    most = max(len(chunks) for several in told for chunks in several)
    made = []
    for several in told:
        read = [
            reader.embed([*chunks, *([] for _ in range(most - len(chunks)))], clip_skip)
            for reader, chunks in zip(readers, several, strict=True)
        ]
        hidden = torch.cat([each for each, _ in read], dim=-1)
        made.append((hidden, next((p for _, p in reversed(read) if p is not None), None)))
    return made
