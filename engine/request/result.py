"""What an edit and a comparison give back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from engine.request.request import EditRequest


@dataclass(frozen=True)
class Judged:
    """What a candidate was worth at some point of its run."""

    share: float
    """Of its run, 0 to 1; 1 is the finished picture."""
    scores: Mapping[str, float]
    """``total`` (0 to 1, higher is better) and its terms, see
    :class:`engine.picture.judging.Scores`."""
    preview: Image.Image = field(repr=False)
    """What it was heading for, at most 512 px a side."""


@dataclass(frozen=True)
class Candidate:
    """One of several starts of an edit."""

    number: int
    seed: int | None
    strategy: str
    judged: tuple[Judged, ...]
    """In the order of the run."""
    left_at: float | None
    """The share of its run after which it was thrown out; None for one that was finished."""
    model_calls: int
    error: Exception | None = None
    """What ended it, if it failed."""
    regions: tuple[int, ...] = ()
    """The regions that it is of, by their numbers (0 is the edit's own map); none: of the whole."""

    @property
    def score(self) -> float:
        """The last total; NaN for one that failed before it was judged."""
        return self.judged[-1].scores["total"] if self.judged else float("nan")


@dataclass(frozen=True, repr=False)
class EditResult:
    """The pictures of one edit and everything that was used to make them.

    Example:
        >>> result = engine.edit(
        ...     image="photo.png",
        ...     mask="mask.png",
        ...     prompt="a red house",
        ...     num_inference_steps=4,
        ...     seed=7,
        ... )
        >>> result.settings["strategy"], result.model_calls
        ('differential', 4)
        >>> result.save("out.png")  # with its record, as `softpaint edit` writes it
        [PosixPath('out.png')]
    """

    images: Any
    """A list of Pillow images; for ``output_type="np"`` a float32 array b h w 3 in [0, 1]; for
    ``"pt"`` a tensor b 3 h w in [0, 1]; for ``"latent"`` the latents."""
    latents: torch.Tensor | None
    """b c h/cell w/cell, of the padded picture; where regions were cut out, theirs, one after the
    other (None if they differ in size)."""
    seeds: list[int | None]
    """One for each picture; None where the caller's own generator drew."""
    settings: dict[str, Any]
    """Every setting that was used, defaults included; JSON-able."""
    timings: dict[str, float]
    """Seconds by phase: text, encode, denoise, decode, paste, total."""
    model_calls: int
    """Network evaluations, counted for each picture (guided ones count once) and for each companion
    that a control's mask asks for."""
    skipped_calls: int = 0
    """Those left out because all pixels were still held."""
    reused_calls: int = 0
    """Those whose results a session had."""

    request: EditRequest | None = None
    """What was asked for; None where the result was made of parts."""
    load: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``InpaintEngine.from_pretrained``, where that made the engine."""
    candidates: tuple[Candidate, ...] = ()
    """Everybody who was tried, thrown-out ones too, where ``candidates`` were asked for."""
    parts: tuple[EditResult, ...] = ()
    """Then each picture as the result of its own edit, which is what its record repeats."""

    def ranking(self) -> str:
        """The candidates as a table, the best first."""
        from engine.picture.sheet import text_table

        terms = list(dict.fromkeys(k for c in self.candidates for j in c.judged for k in j.scores))
        of = ["regions"] if any(each.regions for each in self.candidates) else []
        lines = [["candidate", *of, "seed", "strategy", "judged at", *terms]]
        best_first = sorted(self.candidates, key=lambda c: (c.left_at or 1.0, c.score))[::-1]
        for each in sorted(best_first, key=lambda c: c.regions):
            share = f"{each.judged[-1].share:.0%}" if each.judged else "failed"
            scores = each.judged[-1].scores if each.judged else {}
            told = [f"{scores[name]:.3f}" if name in scores else "" for name in terms]
            own = [", ".join(map(str, each.regions))] if of else []
            lines.append([str(each.number), *own, str(each.seed), each.strategy, share, *told])
        return text_table(lines)

    def __repr__(self) -> str:
        strategy, seconds = self.settings.get("strategy"), self.timings.get("total", 0.0)
        count = len(self.seeds)
        what = f"{count} picture{'s' * (count != 1)}"
        return f"EditResult({what}, {strategy!r}, seeds {self.seeds}, {seconds:.1f} s)"

    def picture(self, index: int = 0) -> Image.Image:
        """Picture ``index`` as a Pillow image.

        Raises:
            InputError: the result holds latents, not pictures.
        """
        if self._holds_latents():
            raise InputError("the result holds latents (output_type='latent'), no picture.")
        return as_picture(self.images[index])

    def save(self, path: str | os.PathLike[str], *, metadata: str | None = None) -> list[Path]:
        """Write the pictures with their records, as ``softpaint edit`` does: all of them or none.

        What ``softpaint show`` prints and ``--from`` repeats is in the files; a picture or mask
        that was no file is not, and has to be given to ``--from``.

        Args:
            path: ``out.png``; of several pictures ``out-0.png``, ``out-1.png`` and so on.
            metadata: ``"a1111"`` for stable-diffusion-webui's ``parameters`` beside the record,
                ``"invokeai"`` for InvokeAI's (in a PNG), ``"softpaint"`` for the record alone; None
                writes stable-diffusion-webui's into a PNG whose photo came without such.

        Returns:
            The files.

        Raises:
            InputError: the result holds latents, or ``path`` is one of the edit's own files, has
                an unknown suffix or no folder.
            OutputError: a file could not be written; nothing has changed.
        """
        from engine.request.save import save_result

        place: object = path
        if not isinstance(place, str | os.PathLike):
            raise InputError(f"save takes a file's name, not {type(place).__name__}.")
        return save_result(self, Path(path), metadata=metadata)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        if self._holds_latents():
            return None
        return png_of([self.picture(index) for index in range(len(self.seeds))])

    def _holds_latents(self) -> bool:
        """Tensors of pictures have more cells than their latents."""
        shape = getattr(self.latents, "shape", None)
        return hasattr(self.images, "detach") and self.images.shape == shape

    @classmethod
    def joined(cls, results: Sequence[EditResult]) -> EditResult:
        """The results of a request's prompts as one, their pictures one after the other."""
        first = results[0]
        if len(results) == 1:
            return first
        texts = {
            name: [result.settings[name] for result in results]
            for name in ("prompt", "negative_prompt")
        }
        if len(set(texts["negative_prompt"])) == 1:
            texts["negative_prompt"] = first.settings["negative_prompt"]
        return cls(
            images=_joined([result.images for result in results]),
            latents=_joined([result.latents for result in results]),
            seeds=[seed for result in results for seed in result.seeds],
            settings={
                **first.settings,
                **texts,
                "seeds": [seed for result in results for seed in result.seeds],
            },
            timings=first.timings,
            model_calls=sum(result.model_calls for result in results),
            skipped_calls=sum(result.skipped_calls for result in results),
            reused_calls=sum(result.reused_calls for result in results),
            candidates=tuple(each for result in results for each in result.candidates),
            parts=tuple(part for result in results for part in result.parts),
        )


class Outcomes(list["EditResult | Exception"]):
    """For each of several edits, in their order, its result or the error that ended it."""

    @property
    def errors(self) -> dict[int, Exception]:
        """The errors, by the edit's place."""
        return {i: each for i, each in enumerate(self) if isinstance(each, Exception)}

    def unwrap(self) -> list[EditResult]:
        """The results, where every edit has one.

        Raises:
            Exception: the first error, which says at which place it was.
        """
        for place, error in self.errors.items():
            error.add_note(f"in edit {place} of {len(self)}")
            raise error
        return [each for each in self if isinstance(each, EditResult)]


@dataclass(frozen=True, repr=False)
class Comparison:
    """The same picture, prompt and seed through several strategies.

    Example:
        >>> comparison = engine.compare(
        ...     image="photo.png",
        ...     mask="mask.png",
        ...     prompt="a red house",
        ...     num_inference_steps=3,
        ...     strategies=["blend", "remove"],
        ... )
        >>> list(comparison.results)
        ['blend', 'remove']
        >>> comparison.grid().save("sheet.png")
    """

    outcomes: Mapping[str, EditResult | Exception]
    """By strategy, its result or the error that ended it; at least one result."""
    original: Image.Image
    strength_map: NDArray[np.float32]
    """H W in [0, 1], 1 = repaint."""
    seconds: float
    """For all of them together: they share model calls."""
    per_row: int | None = None
    """How many results stand in a row of the sheet; None is all."""

    @property
    def results(self) -> dict[str, EditResult]:
        """Those that have one, by strategy."""
        return {k: each for k, each in self.outcomes.items() if isinstance(each, EditResult)}

    @property
    def errors(self) -> dict[str, Exception]:
        """What ended the others, by strategy."""
        return {k: each for k, each in self.outcomes.items() if isinstance(each, Exception)}

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.results)}, {self.seconds:.1f} s)"

    def _repr_png_(self) -> bytes:
        """What a viewer of pictures shows."""
        return png_of([self.grid()])

    def _repr_html_(self) -> str:
        """What a notebook shows: the sheet and the table."""
        from base64 import b64encode
        from html import escape

        sheet = b64encode(self._repr_png_()).decode("ascii")
        picture = f'<img alt="{escape(repr(self))}" src="data:image/png;base64,{sheet}">'
        return f"{picture}\n<pre>{escape(self.table())}</pre>"

    def picture(self, name: str, index: int = 0) -> Image.Image:
        """Picture ``index`` of the result called ``name``."""
        return self.results[name].picture(index)

    def overlay(self) -> Image.Image:
        """The original with the strength map laid over."""
        import numpy as np

        from engine.picture.sheet import overlay_map

        return overlay_map(np.asarray(self.original.convert("RGB")), self.strength_map)

    def measure(self) -> dict[str, list[dict[str, float]]]:
        """By strategy and picture: metrics of :mod:`engine.picture.metrics` without a truth."""
        import numpy as np

        from engine.picture.metrics import WITHOUT_TRUTH, Sample, measure

        original = np.asarray(self.original.convert("RGB"))
        return {
            name: [
                measure(
                    Sample(
                        result=np.asarray(self.picture(name, i).convert("RGB")),
                        original=original,
                        strength_map=self.strength_map,
                        model_calls=result.model_calls // len(result.seeds),
                    ),
                    WITHOUT_TRUTH,
                )
                for i in range(len(result.seeds))
            ]
            for name, result in self.results.items()
        }

    def grid(self) -> Image.Image:
        """A labelled sheet: the original with its map laid over, then each strategy's picture
        with its metrics.
        """
        from engine.picture.metrics import METRICS
        from engine.picture.sheet import labelled_grid

        measured = self.measure()
        rows = []
        count = max(len(result.seeds) for result in self.results.values())
        named = list(self.outcomes.items())
        per_row = self.per_row or len(named)
        for i in range(count):
            for start in range(0, len(named), per_row):
                row: list[tuple[Image.Image | None, str]] = [
                    (self.original.convert("RGB"), "original"),
                    (self.overlay(), "strength map"),
                ]
                for name, outcome in named[start : start + per_row]:
                    if isinstance(outcome, Exception):
                        row.append((None, f"{name}\nfailed: {outcome}"))
                        continue
                    label = name if count == 1 else f"{name}, seed {outcome.seeds[i]}"
                    told = [
                        f"{key} {METRICS.get(key).show(v)}" for key, v in measured[name][i].items()
                    ]
                    row.append((self.picture(name, i).convert("RGB"), "\n".join([label, *told])))
                rows.append(row)
        return labelled_grid(rows)

    def table(self) -> str:
        """One line a strategy: its metrics, means over its pictures, and its seeds."""
        from statistics import fmean

        from engine.picture.metrics import METRICS
        from engine.picture.sheet import text_table

        measured = self.measure()
        shown = list(
            dict.fromkeys(key for each in measured.values() for one in each for key in one)
        )
        lines = [["strategy", *shown, "seeds"]]
        for name, result in self.results.items():
            values = {key: [one[key] for one in measured[name] if key in one] for key in shown}
            means = [
                METRICS.get(key).show(fmean(each)) if each else "" for key, each in values.items()
            ]
            lines.append([name, *means, ", ".join(map(str, result.seeds))])
        failed = [f"{name} failed: {error}\n" for name, error in self.errors.items()]
        note = f"{self.seconds:.1f} s for all, in shared model calls"
        return f"{text_table(lines)}\n{''.join(failed)}{note}"


def _joined(several: Sequence[Any]) -> Any:
    """Lists, arrays or tensors one after the other; None where tensors differ in size."""
    if isinstance(several[0], list):
        return [each for one in several for each in one]
    shapes = {None if one is None else tuple(one.shape[1:]) for one in several}
    if len(shapes) > 1 or None in shapes:
        return None
    if hasattr(several[0], "detach"):
        import torch

        return torch.cat(list(several))
    import numpy as np

    return np.concatenate(several)


def as_picture(image: Any) -> Image.Image:
    """A Pillow image of one, or of an array (H W 3) or tensor (3 H W) in [0, 1]."""
    import numpy as np
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if hasattr(image, "detach"):
        image = image.permute(1, 2, 0).float().cpu()
    return Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8))


def png_of(pictures: Sequence[Image.Image]) -> bytes:
    """A PNG file's bytes: the pictures in a row."""
    from PIL import Image

    shown = pictures[0]
    if len(pictures) > 1:
        width, height = (sum(each.width for each in pictures), max(p.height for p in pictures))
        shown = Image.new(pictures[0].mode, (width, height))
        left = 0
        for picture in pictures:
            shown.paste(picture, (left, 0))
            left += picture.width
    buffer = BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()
