"""Whole models in one file: whose names they have, and what of a model the file does not tell.

Weights tell widths and depths, and a family's files the same names ever since CompVis' "latent
diffusion" (LDM). Numbers of heads, noise schedules and tokenizers are nowhere in the file: they
stand in a folder of configs as diffusers writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models.header import Header

Shapes = Mapping[str, tuple[int, ...]]
"""Of a file's tensors, by their names."""

CONFIGS = Path(__file__).parent / "formats" / "configs"
UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
VAE = "first_stage_model."


@dataclass(frozen=True)
class Text:
    """A text encoder in such a file."""

    part: str
    """The pipeline's name for it."""
    prefix: str
    """What its tensors' names begin with."""
    kind: str
    """Its class in transformers."""
    pad: str = "<|endoftext|>"
    """What its prompts are filled up with."""
    open_clip: bool = False
    """Its names are open_clip's, not transformers'."""
    unused: int = 0
    """How many of its last layers the model does not use."""

    @property
    def tokenizer(self) -> str:
        """The pipeline's name for what reads its prompts."""
        return self.part.replace("text_encoder", "tokenizer")


@dataclass(frozen=True)
class Layout:
    """What a family's whole models look like in one file."""

    name: str
    description: str
    """As messages name it."""
    pipeline: str
    """The class of diffusers' pipeline."""
    texts: tuple[Text, ...]
    configs: Path
    """A folder with a folder of configs for each part, as diffusers has them."""
    settings: tuple[tuple[str, bool | None], ...] = ()
    """The pipeline's own settings, and None for parts that it has and no file holds."""
    measured: bool = False
    """Its checkpoints predict noise or velocity and no file says which: it is measured."""

    def marks(self, header: Header) -> bool:
        """Whether a file is of this layout: its text encoders are there, and a UNet that takes
        latents alone or with a mask and the masked picture.
        """
        channels = header.shapes.get(CONV_IN, (0, 0))[1:2]
        if channels not in {(4,), (9,)} or header.has("noise_augmentor."):  # unCLIP's
            return False
        return all(header.has(text.prefix) for text in self.texts)


PREFIXES = (UNET, "diffusion_model.", "transformer.")
"""What may stand before the names of a transformer's tensors."""


@dataclass(frozen=True)
class TransformerFile:
    """What a family's denoiser looks like in a file of its own, as most people have flow models:
    text encoders and VAE are shared by many of them and lie elsewhere.
    """

    name: str
    description: str
    """As messages name it."""
    module: str
    """The class of the transformer in diffusers."""
    marks: tuple[tuple[str, ...], ...]
    """Beginnings of names: a file is of this layout where all of one of these groups are there, in
    the original's names or in diffusers'."""
    fit: Callable[[Shapes], Mapping[str, Any]]
    """What of its config the shapes tell."""
    base: str
    """A model on the hub that has everything else."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """What neither shapes nor the class's own defaults tell of its config."""

    def prefix(self, header: Header) -> str | None:
        """What stands before the names of its tensors in a file; None if the file is not of it."""
        for prefix in ("", *PREFIXES):
            if any(all(header.has(prefix + each) for each in group) for group in self.marks):
                return prefix
        return None


def count(shapes: Shapes, prefix: str) -> int:
    """How many numbers follow ``prefix`` in the names."""
    ends = (name.removeprefix(prefix) for name in shapes if name.startswith(prefix))
    return len({end.split(".", 1)[0] for end in ends})
