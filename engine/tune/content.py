"""A LoRA that learns a subject, a style or a scene from a few pictures, for inpainting.

A picture is noised, the network is asked for what it predicts, and answers for what it misses; an
inpainting network sees a random hole of it (Rombach et al. 2022, section 4.5; RealFill, Tang et al.
2023), or one round the whole subject, where a photo tells it: of a thing that is seen in part only
the rest is learnt. What the network could paint before is kept by pictures of its own (Ruiz et al.
2023, "DreamBooth", section 3.3): there, and at the photos told other captions, it is to answer as
it answered without the LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError, StoppedError
from engine.models.previews import colour_map
from engine.solvers.parameterisation import parameterisation_of
from engine.tune.colours import LatentColours
from engine.tune.layers import Taught, at_rest, checkpointed, taught
from engine.tune.lessons import Lesson, lessons_of
from engine.tune.lora_files import write_lora
from engine.tune.networks import SUFFIX, check_output
from engine.tune.noising import Noising, noising_of
from engine.tune.recipe import LAYERS, Recipe
from engine.tune.runs import RunFolder
from engine.tune.samples import draw_prior, sample_sheet
from engine.tune.trainer import Progress, Trainer, check_optimiser
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch

    from engine.engine import InpaintEngine
    from engine.models.network import Network
    from engine.solvers.parameterisation import Parameterisation
    from engine.tune.noising import Drawn
    from engine.tune.photos import Photo


@dataclass(frozen=True, eq=False)
class Lessons:
    """The loss of a training, step by step.

    Args:
        network: what is taught, with its LoRA.
        layers: that LoRA.
        kind: what the network predicts.
        noising: at which levels.
        photos, own: pictures to learn, and those of the network's own.
        recipe: batch, seed, caption dropout, weight of the network's own.
        colours: counts them too, where colours are taught.
    """

    network: Network
    layers: Taught
    kind: Parameterisation
    noising: Noising
    photos: Sequence[Lesson]
    own: Sequence[Lesson]
    recipe: Recipe
    colours: LatentColours | None = None

    def losses(self, step: int) -> Iterator[torch.Tensor]:
        """The parts of the loss of a step: of the pictures, and of the network's own."""
        yield self._loss(self.photos, step, 0)
        if self.own and self.recipe.prior:
            yield self.recipe.prior * self._loss(self.own, step, 1)

    def _loss(self, lessons: Sequence[Lesson], step: int, stream: int) -> torch.Tensor:
        import torch

        rng = np.random.default_rng([self.recipe.seed, step, stream])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        count = self.recipe.batch if stream == 0 else max(1, self.recipe.batch // 2)
        rows = _drawn(lessons, count, rng)
        if stream:
            rows = [self._mixed(each, rng) for each in rows]
        levels = self.noising.draw(len(rows), generator)
        clean = torch.cat([each.latents for each in rows])
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        told = Conditioning.join(
            [each.untold if rng.random() < self.recipe.dropout else each.told for each in rows]
        )
        shown, holes = _shown(rows, rng)
        noisy = torch.cat(
            [
                drawn.level.noise_to(each.float(), noise[i : i + 1])
                for i, (each, drawn) in enumerate(zip(shown, levels, strict=True))
            ]
        )
        sample = torch.cat([noisy.to(clean), *([] if holes is None else [holes])], dim=1)
        timesteps = torch.tensor([each.timestep for each in levels], device=clean.device)
        answer = self._asked(sample, timesteps, told)
        if rows[0].own:
            with torch.no_grad(), self.layers.absent():
                wanted = self._asked(sample, timesteps, told)
        else:
            wanted = torch.cat(
                [
                    self.kind.prediction(each.latents.float(), noisy[i : i + 1], drawn.level)
                    for i, (each, drawn) in enumerate(zip(rows, levels, strict=True))
                ]
            )
        known = torch.cat([each.known for each in rows]).expand_as(answer)
        weights = torch.tensor(
            [self.noising.weight(each.level, self.kind, self.recipe.weighting) for each in levels]
        )
        if holes is not None and self.recipe.surround < 1:
            inside = holes[:, :1].float()
            known = known * (inside + self.recipe.surround * (1 - inside))
        squared = (answer - wanted).square() * known
        each_row = squared.sum((1, 2, 3)) / known.sum((1, 2, 3)) * weights.to(squared)
        if self.colours is not None and holes is not None and not rows[0].own:
            each_row = each_row + self._colours_off(answer, noisy, levels, clean, holes, known)
        return each_row.mean()

    def _mixed(self, lesson: Lesson, rng: np.random.Generator) -> Lesson:
        """One of the network's own, half of the time told another's caption, and half of the time
        of a photo: what it is to answer is what it would answer, whatever it is asked.
        """
        fitting = [each for each in self.photos if each.latents.shape == lesson.latents.shape]
        shown = lesson
        if fitting and rng.random() < 0.5:
            shown = fitting[int(rng.integers(len(fitting)))]
        if rng.random() < 0.5:
            lesson = self.own[int(rng.integers(len(self.own)))]
        return replace(shown, told=lesson.told, untold=lesson.untold, own=True, moved=None)

    def _colours_off(
        self,
        answer: torch.Tensor,
        noisy: torch.Tensor,
        levels: Sequence[Drawn],
        clean: torch.Tensor,
        holes: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """Of each row's clean latents, as the answer tells them; the noisier, the less it counts:
        there nobody can know more than the mean of what may be there.
        """
        import torch

        assert self.colours is not None  # noqa: S101 - asked before
        denoised = torch.cat(
            [
                self.kind.denoised(answer[i : i + 1], noisy[i : i + 1], drawn.level)
                for i, drawn in enumerate(levels)
            ]
        )
        off = self.colours.loss(denoised, clean, holes[:, :1].float(), known[:, :1])
        return off * torch.tensor([float(each.level.alpha) ** 2 for each in levels]).to(off)

    def _asked(
        self, sample: torch.Tensor, timesteps: torch.Tensor, told: Conditioning
    ) -> torch.Tensor:
        import torch

        mixed = sample.dtype in {torch.float16, torch.bfloat16}
        with torch.autocast(sample.device.type, sample.dtype, enabled=mixed):
            answer = self.network.like_diffusers.predict(sample, timesteps, told, {})
        return answer.float()


def _shown(
    rows: Sequence[Lesson], rng: np.random.Generator
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """What of each row is noised (1 c h w), with other colours in half of those that have them; and
    the rows' holes.
    """
    import torch

    shown, holes = [each.latents for each in rows], []
    for i, each in enumerate(rows):
        if each.holes is None:
            continue
        pick = int(rng.integers(len(each.holes)))
        holes.append(each.holes[pick][None])
        if each.moved is not None and rng.random() < 0.5:
            shown[i] = each.moved[pick][None]
    return shown, torch.cat(holes) if holes else None


def _drawn(lessons: Sequence[Lesson], count: int, rng: np.random.Generator) -> list[Lesson]:
    """``count`` lessons of one size."""
    first = lessons[int(rng.integers(len(lessons)))]
    fitting = [each for each in lessons if each.latents.shape == first.latents.shape]
    order: list[int] = []
    while len(order) < count:  # each once before any comes twice
        order += rng.permutation(len(fitting)).tolist()
    return [fitting[i] for i in order[:count]]


# --- from photos to a file ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What is asked for.

    Raises:
        InputError: there are no photos, or the output cannot be a new file.
    """

    photos: Sequence[Photo]
    output: Path
    recipe: Recipe
    network: str | None = None
    """``"base"`` or ``"inpaint"``; the inpainting network if None and there is one."""
    prior_prompts: Sequence[str] = ()
    """What the network is to paint as before."""
    part: str = "network"
    """``"network"``, of which a LoRA is taught, or the VAE's ``"decoder"``."""
    load: Mapping[str, Any] | None = None
    """The arguments that load the model, which stand in the run's settings."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise InputError("no pictures are given to learn from.")
        check_output(self.output)
        if self.part == "network" and self.output.suffix != SUFFIX:
            raise InputError(f"a LoRA is written to a {SUFFIX} file, not {self.output}.")
        if self.part == "decoder" and self.output.suffix:
            raise InputError(f"a VAE is written to a folder, not {self.output}.")
        check_optimiser(self.recipe)

    def folder(self) -> RunFolder:
        """Where the training's state is.

        Raises:
            InputError: one of other settings is there.
        """
        settings = {
            **self.recipe.described(),
            "part": self.part,
            "network": self.network,
            "prior_prompts": list(self.prior_prompts),
            "photos": [each.digest for each in self.photos],
            "model": dict(self.load or {}),
        }
        return RunFolder(self.output, settings)


def teach(
    engine: InpaintEngine,
    asked: Teaching,
    *,
    told: Callable[[Progress], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> Path:
    """Teach a model and write the LoRA; the model is what it was, afterwards.

    Args:
        engine: the loaded model, without LoRAs.
        asked: photos, recipe, output.
        told: shown the progress after every step.
        say: told in a line what is being done.

    Raises:
        InputError: the model has no such network, or nothing of it can be taught.
        StoppedError: interrupted; the same call goes on.
    """
    if engine.adapters.loras:
        raise InputError("a model is taught without LoRAs over it: take them out first.")
    try:
        return _teach(engine, asked, told, say)
    except KeyboardInterrupt:
        raise StoppedError("stopped before the first step; the same command goes on.") from None


def _teach(
    engine: InpaintEngine,
    asked: Teaching,
    told: Callable[[Progress], object],
    say: Callable[[str], object],
) -> Path:
    backbone, recipe, folder = engine.backbone, asked.recipe, asked.folder()
    if backbone.device.type == "cpu" and "float16" in str(backbone.dtype).split("."):
        raise InputError("float16 is not trained on the CPU; give dtype float32 or bfloat16.")
    kind = asked.network or ("inpaint" if "inpaint" in backbone.networks else "base")
    network = backbone.network(kind)
    noising = noising_of(engine.pipe.scheduler)
    side = recipe.size or backbone.native_size
    photos = [each.fitted(side, backbone.align) for each in asked.photos]
    if recipe.flip:
        photos += [each.mirrored() for each in photos]
    folder.open()
    own = draw_prior(engine, kind, asked.prior_prompts, side, recipe, folder, say)
    say(f"{len(photos)} pictures are encoded ...")
    learnt, kept = (
        lessons_of(each, backbone, inpaint=kind == "inpaint", seed=recipe.seed, drift=recipe.drift)
        for each in (photos, own)
    )
    colours = None
    if recipe.colour:
        fitted = colour_map(backbone).to(backbone.device)
        colours = LatentColours(fitted, recipe.colour)
    with (
        taught(
            network.module, rank=recipe.rank, ends=LAYERS[recipe.layers], seed=recipe.seed
        ) as layers,
        checkpointed(network.module, wanted=recipe.checkpointing),
        at_rest(engine.pipe, backbone.family.denoiser) as awake,
    ):

        def sample(step: int) -> None:
            with awake():
                sheet = sample_sheet(engine, kind, photos, recipe.seed, raw=recipe.colour > 0)
                folder.sheet(step, sheet)

        predicts = parameterisation_of(engine.pipe.scheduler)
        lessons = Lessons(network, layers, predicts, noising, learnt, kept, recipe, colours)
        trainer = Trainer(layers, recipe, folder, backbone.device, backbone.dtype)
        count = sum(each.numel() for each in layers.parameters.values())
        say(f"{count / 1e6:.2f} M parameters of {network.kind} are taught")
        trainer.run(lessons.losses, told=told, sample=sample)
        metadata = {"softpaint": json.dumps(folder.settings), "ss_network_dim": str(recipe.rank)}
        write_lora(asked.output, network.module, layers.pairs(), metadata)
    folder.finish()
    return asked.output
