"""How a family reads prompts."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, ModelError
from engine.models.clip import Reader, joined
from engine.models.state import contents, weights_state
from engine.models.syntax import has_marks
from engine.models.unheard import cut_off, unheard

if TYPE_CHECKING:
    import torch

    from engine.picture.geometry import Size
    from engine.types import Conditioning

NUMBERS = ("", "_2", "_3")
"""What a pipeline puts behind the names of its tokenizers and text encoders."""


@dataclass(frozen=True, eq=False)
class Embeds:
    """Embedded prompts by diffusers' names (1 n d, pooled 1 p), given in a text's place."""

    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Shown:
    """A picture that is read with the texts."""

    pixels: torch.Tensor = field(compare=False)
    """1 3 H W in [-1, 1]."""
    key: Hashable

    @classmethod
    def of(cls, pixels: torch.Tensor) -> Shown:
        return cls(pixels, contents(pixels))


@dataclass(frozen=True)
class Reading:
    """How texts are read."""

    syntax: str = "plain"
    """``"weights"``: :mod:`engine.models.syntax`'s marks are read, and all of a long text;
    ``"plain"``: words only, as diffusers' pipelines read them."""
    clip_skip: int | None = None
    """Layers of the text encoder that are left out at its end."""
    embeds: Embeds | None = None
    """In the texts' place."""
    like_diffusers: bool = False
    """As many tokens as diffusers' pipelines read."""
    shown: Shown | None = None
    """For a text encoder that :attr:`TextEncoder.reads_pictures`."""

    @property
    def given(self) -> dict[str, torch.Tensor]:
        """The embedded prompts, by diffusers' names."""
        return dict(self.embeds.tensors) if self.embeds else {}


PLAIN = Reading()


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
    reading: Reading = PLAIN


class TextEncoder(ABC):
    """A family's way from a prompt to a conditioning.

    Args:
        pipe: the loaded pipeline. Its parts are looked up at every call: they may be exchanged.
    """

    reads_pictures = False
    """It reads the edited picture with an instruction."""
    skips = False
    """It can leave out its last layers (``clip_skip``)."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @abstractmethod
    def encode(
        self, prompt: Prompt, device: torch.device
    ) -> tuple[Conditioning, Conditioning | None]:
        """Conditional and (if guided) unconditional conditioning, ``prompt.images`` rows each."""

    def unheard(
        self, texts: Mapping[str, str | None], syntax: str
    ) -> dict[str, dict[str, list[str]]]:
        """What of the ``texts``, by their settings' names, the model does not read, or reads as
        plain words: see :func:`engine.models.unheard.unheard`.
        """
        return {}

    def check(self, given: Collection[str], *, guided: bool) -> None:  # noqa: B027 - most can read
        """Raise ``InputError`` if what is needed to read the texts is not loaded.

        ``given``: diffusers' names of the embeddings in their place; ``guided``: both are read.
        """

    @abstractmethod
    def state(self) -> Hashable:
        """A value that changes when equal prompts would be encoded otherwise."""


class PipelineText(TextEncoder):
    """Text by a pipeline's own ``encode_prompt``; its state is that of all encoders and tokenizers
    among the pipeline's parts.
    """

    needed: tuple[str, ...] = ("text_encoder",)
    """The pipeline's names for the parts without which it reads no text."""
    pooled = False
    """The network reads pooled embeddings too."""

    def check(self, given: Collection[str], *, guided: bool) -> None:
        signs = ("", "negative_") if guided else ("",)
        missing = [part for part in self.needed if getattr(self.pipe, part, None) is None]
        tokenizers = [part.replace("text_encoder", "tokenizer") for part in self.needed]
        missing += [each for each in tokenizers if getattr(self.pipe, each, self) is None]
        if missing and not all(f"{sign}prompt_embeds" in given for sign in signs):
            names = " and ".join(
                f"{sign}{kind}prompt_embeds"
                for sign in signs
                for kind in (("", "pooled_") if self.pooled else ("",))
            )
            raise InputError(
                f"this model's {missing[0]} is not loaded, so that it reads no texts: give {names}."
            )

    def texts_or_embeds(self, prompt: Prompt, width: int) -> dict[str, Any]:
        """``encode_prompt``'s arguments for the texts of ``prompt``, or for the embeddings in their
        place, which the network takes ``width`` wide.

        Raises:
            InputError: embeddings of other sizes than the model's, or without their pooled ones.
        """
        given = prompt.reading.given
        self.check_embeds(given, width)
        known = "prompt_embeds" in given
        negative = None if "negative_prompt_embeds" in given else prompt.negative
        text = None if known else prompt.positive
        return {"prompt": text, "negative_prompt": negative, **given}

    def check_embeds(self, given: Mapping[str, Any], width: int) -> None:
        """Raise ``InputError`` unless the embeddings ``given`` fit a network that takes them
        ``width`` wide.
        """
        for name, each in given.items():
            shape: tuple[int, ...] = tuple(getattr(each, "shape", ()))
            flat = name.endswith("pooled_prompt_embeds")
            fits = len(shape) == 2 if flat else len(shape) == 3 and shape[-1] == width
            if not fits or shape[0] != 1:
                wanted = "1 p" if flat else f"1 n {width}"
                raise InputError(
                    f"{name} must be a tensor of {wanted}, not {shape}; several prompts are "
                    "several edits."
                )
        for sign in ("", "negative_"):
            has = f"{sign}pooled_prompt_embeds" in given
            if self.pooled and has != (f"{sign}prompt_embeds" in given):
                raise InputError(
                    f"this model reads {sign}prompt_embeds with {sign}pooled_prompt_embeds: give "
                    "both."
                )
            if has and not self.pooled:
                raise InputError(f"this model reads no {sign}pooled_prompt_embeds.")

    def unheard(
        self, texts: Mapping[str, str | None], syntax: str
    ) -> dict[str, dict[str, list[str]]]:
        return unheard(texts, (getattr(self.pipe, f"tokenizer{n}", None) for n in NUMBERS))

    def state(self) -> Hashable:
        tokens, encoders = (
            [part for each in NUMBERS if (part := getattr(self.pipe, name + each, None))]
            for name in ("tokenizer", "text_encoder")
        )
        settings = sorted((k, repr(v)) for k, v in self.pipe.config.items() if k[0] != "_")
        return *map(len, tokens), *settings, *map(weights_state, encoders)


class ReadsApart(PipelineText):
    """The prompt and the negative one, read one after the other by :meth:`told`."""

    empty = ""
    """What is read where there is no negative prompt."""

    @property
    def width(self) -> int:
        """Of a token's embedding, as the denoiser takes it."""
        return int(self.pipe.transformer.config.joint_attention_dim)

    def encode(
        self, prompt: Prompt, device: torch.device
    ) -> tuple[Conditioning, Conditioning | None]:
        self.check_embeds(prompt.reading.given, self.width)
        cond = self.told(prompt, prompt.positive, "", device)
        if not prompt.guided:
            return cond, None
        return cond, self.told(prompt, prompt.negative or self.empty, "negative_", device)

    @abstractmethod
    def told(self, prompt: Prompt, text: str, sign: str, device: torch.device) -> Conditioning:
        """What ``text`` says, ``prompt.images`` rows; ``sign`` stands before the names of
        embeddings that are given in its place: ``""`` or ``"negative_"``.
        """


class ClipText(PipelineText):
    """CLIP's embeddings, of one encoder or of several side by side.

    Texts that diffusers reads as they are meant go through the pipeline's own ``encode_prompt``;
    long and weighted ones through :mod:`engine.models.clip`.
    """

    skips = True
    last = 1
    """The hidden state that is read, counted from the end: see :class:`engine.models.clip.Reader`.
    """

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if "clip_skip" not in inspect.signature(pipe.encode_prompt).parameters:
            kind = type(pipe).__name__
            raise ModelError(f"{kind} is not supported: it reads texts in a way of its own.")

    def unheard(
        self, texts: Mapping[str, str | None], syntax: str
    ) -> dict[str, dict[str, list[str]]]:
        return unheard(texts, self._tokenizers(), weighted=syntax == "weights")

    def arguments(self, prompt: Prompt) -> dict[str, Any]:
        """What ``encode_prompt`` of the pipeline is given for ``prompt``.

        Raises:
            InputError: embeddings of other sizes than the model's, or without their pooled ones; a
                ``clip_skip`` beyond the encoder's layers.
        """
        if prompt.reading.embeds is None and self._as_diffusers(prompt):
            return {
                "prompt": prompt.positive,
                "negative_prompt": prompt.negative,
                "clip_skip": prompt.reading.clip_skip,
            }
        given: dict[str, Any] = prompt.reading.given
        self.check_embeds(given, self.pipe.unet.config.cross_attention_dim)
        texts: dict[str, str] = {}
        if "prompt_embeds" not in given:
            texts[""] = prompt.positive
        zeros = prompt.negative is None and self.pipe.config.get("force_zeros_for_empty_prompt")
        if prompt.guided and "negative_prompt_embeds" not in given and not zeros:
            texts["negative_"] = prompt.negative or ""
        if texts:
            made = joined(self._readers(), list(texts.values()), prompt.reading.clip_skip)
            for name, (hidden, pooled) in zip(texts, made, strict=True):
                given[f"{name}prompt_embeds"] = hidden
                if self.pooled:
                    given[f"{name}pooled_prompt_embeds"] = pooled
        return {"prompt": None, **given}

    def _as_diffusers(self, prompt: Prompt) -> bool:
        if prompt.reading.syntax == "plain":
            return True
        texts = [text for text in (prompt.positive, prompt.negative) if text]
        return (
            not prompt.reading.clip_skip
            and not any(has_marks(text) for text in texts)
            and not any(cut_off(each, text) for each in self._tokenizers() for text in texts)
        )

    def _tokenizers(self) -> list[Any]:
        every = (getattr(self.pipe, f"tokenizer{n}", None) for n in NUMBERS)
        return [each for each in every if each is not None]

    def _readers(self) -> list[Reader]:
        parts = [
            (
                getattr(self.pipe, f"tokenizer{n}", None),
                getattr(self.pipe, f"text_encoder{n}", None),
            )
            for n in NUMBERS
        ]
        return [Reader(self.pipe, t, e, self.last) for t, e in parts if t is not None and e]
