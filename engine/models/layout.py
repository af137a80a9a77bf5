"""Whole models in one file: whose names they have, and what of a model the file does not tell.

Weights tell widths and depths, and a family's files the same names ever since CompVis' "latent
diffusion" (LDM). Numbers of heads, noise schedules and tokenizers are nowhere in the file: they
stand in a folder of configs as diffusers writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.models.header import Header

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
