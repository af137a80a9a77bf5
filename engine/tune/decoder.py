"""A decoder that gives back colours which are known: those of the encoder's latents, and inside a
hole those that go on from its border.

The encoder is frozen, so that latents mean what they did and every network of the model serves. The
decoder is shown pictures whose colours drift inside a hole, and answers for the picture as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import InputError
from engine.models.codec import codec_of
from engine.tune.colours import border_weights, colour_error
from engine.tune.drift import drifted
from engine.tune.layers import at_rest, cast, trained_itself
from engine.tune.lessons import encoded, masks_each, masks_of, on_grid
from engine.tune.networks import new_folder
from engine.tune.samples import sample_sheet
from engine.tune.trainer import Progress, Trainer

if TYPE_CHECKING:
    import torch

    from engine.engine import InpaintEngine
    from engine.models.backbone import Backbone
    from engine.models.codec import KLCodec
    from engine.tune.content import Teaching
    from engine.tune.photos import Photo
    from engine.tune.recipe import Recipe

ROUGH = 0.05
"""Noise on the latents, which networks paint less clean than encoders make them."""
KIND = "AutoencoderKL"


@dataclass(frozen=True, eq=False)
class Plate:
    """A picture that a decoder learns."""

    pixels: torch.Tensor
    """1 3 H W, 0 to 255."""
    known: torch.Tensor
    """1 1 H W, 0 where it is unknown."""
    holes: torch.Tensor
    """n 1 h w on the latents' grid, 1 where the hole is."""
    latents: torch.Tensor
    """1 + n c h w: as it is, and with other colours in each hole."""


def plates_of(photos: Sequence[Photo], backbone: Backbone, recipe: Recipe) -> list[Plate]:
    """What ``photos`` are to a decoder: latents, made once."""
    import torch

    plates, count = [], masks_each(len(photos))
    for number, photo in enumerate(photos):
        rng = np.random.default_rng([recipe.seed, number, 77])
        masks = masks_of(photo, rng, count)
        moved = [drifted(photo.pixels, each, rng, recipe.drift) for each in masks]
        with torch.no_grad():
            latents = encoded([photo.pixels, *moved], backbone).float()
        known = torch.from_numpy(~photo.unknown)[None, None].float()
        grid = on_grid(masks, backbone)
        pixels = torch.from_numpy(photo.pixels.copy()).permute(2, 0, 1)[None]
        plates.append(Plate(pixels, known.to(latents), grid.to(latents), latents))
    return plates


@dataclass(frozen=True, eq=False)
class DecoderLessons:
    """The loss of a decoder's training, step by step.

    Args:
        backbone: whose decoder it is.
        codec: its codec, of a kind that can be taught.
        plates: what is learnt.
        recipe: batch, seed, weight of the colours.
        mixed: the half precision of its arithmetic; None: it has none.
    """

    backbone: Backbone
    codec: KLCodec
    plates: Sequence[Plate]
    recipe: Recipe
    mixed: torch.dtype | None = None

    def losses(self, step: int) -> Iterator[torch.Tensor]:
        """The parts of the loss of a step: a picture each."""
        rng = np.random.default_rng([self.recipe.seed, step, 2])
        for _ in range(self.recipe.batch):
            yield self._loss(self.plates[int(rng.integers(len(self.plates)))], rng)

    def _loss(self, plate: Plate, rng: np.random.Generator) -> torch.Tensor:
        import torch
        from torch.nn import functional

        number = int(rng.integers(1, len(plate.latents)))
        shown = 0 if rng.random() < 0.5 else number  # in half of them nothing has drifted
        latents = plate.latents[shown : shown + 1]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rough = torch.randn(latents.shape, generator=generator).to(latents)
        with torch.autocast(latents.device.type, self.mixed, enabled=self.mixed is not None):
            seen: torch.Tensor = self.codec.learning(latents + ROUGH * rough).float()
        wanted = plate.pixels.to(seen.device).float() / 127.5 - 1
        off = (seen - wanted) * plate.known
        loss = off.abs().mean() + 2 * off.square().mean() + 0.5 * _edges(off)
        if self.recipe.colour:
            cell = self.backbone.cell
            small = [functional.avg_pool2d(each * plate.known, cell) for each in (seen, wanted)]
            weights = 0.25 + border_weights(plate.holes[number - 1][None])
            loss = loss + self.recipe.colour * colour_error(small[0], small[1], weights).mean()
        return loss / self.recipe.batch


def _edges(off: torch.Tensor) -> torch.Tensor:
    """The mean difference of neighbours."""
    return off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()


def teach_decoder(
    engine: InpaintEngine,
    asked: Teaching,
    *,
    told: Callable[[Progress], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> Path:
    """Teach a model's decoder and write the VAE as a folder; the model is what it was, afterwards.

    Args:
        engine: the loaded model.
        asked: photos, recipe, output.
        told: shown the progress after every step.
        say: told in a line what is being done.

    Raises:
        InputError: its VAE is of another kind than can be taught.
        StoppedError: interrupted; the same call goes on.
    """
    import torch

    backbone, recipe, folder = engine.backbone, asked.recipe, asked.folder()
    vae = engine.pipe.vae
    if type(vae).__name__ != KIND:
        raise InputError(f"the model's VAE is a {type(vae).__name__}; {KIND}'s decoder is taught.")
    side = recipe.size or backbone.native_size
    photos = [each.fitted(side, backbone.align) for each in asked.photos]
    if recipe.flip:
        photos += [each.mirrored() for each in photos]
    folder.open()
    say(f"{len(photos)} pictures are encoded ...")
    plates = plates_of(photos, backbone, recipe)
    kind = "inpaint" if "inpaint" in backbone.networks else "base"
    dtype = next(vae.parameters()).dtype
    mixed = None if dtype == torch.float32 or vae.config.force_upcast else dtype
    with at_rest(engine.pipe, "vae") as awake, trained_itself(vae, "decoder") as decoder:

        def sample(step: int) -> None:
            with awake():
                folder.sheet(step, sample_sheet(engine, kind, photos, recipe.seed, raw=True))

        lessons = DecoderLessons(backbone, codec_of(engine.pipe), plates, recipe, mixed)
        trainer = Trainer(decoder, recipe, folder, backbone.device, mixed or torch.float32)
        count = sum(each.numel() for each in decoder.parameters.values())
        say(f"{count / 1e6:.2f} M parameters of the decoder are taught")
        trainer.run(lessons.losses, told=told, sample=sample)
        cast(vae, dtype)
        with new_folder(asked.output) as made:
            vae.save_pretrained(made)
    folder.finish()
    return asked.output
