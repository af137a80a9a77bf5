"""Measure the pocket model's ControlNets, on held-out scenes with the object's edges given.

    python examples/benchmarks/measure_controls.py edges           # what follows the edges
    python examples/benchmarks/measure_controls.py spill           # what a control's mask holds
    python examples/benchmarks/measure_controls.py sheet -o controls.png
    python examples/benchmarks/measure_controls.py masks -o control-masks.png

Prints Markdown tables; ``examples/controls.md`` shows them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image

from controls import Control, annotate
from engine import InpaintEngine
from engine.picture.metrics import colour_inside
from engine.picture.sheet import labelled_grid, overlay_map
from engine.picture.write import save_image
from engine.pocket import world

if TYPE_CHECKING:
    from engine.request.result import EditResult

FIRST_SEED = 1_400_000
"""Held-out scenes: training used seeds below 1,000,000."""
TOLERANCE = 1
"""px: edges this near count as found (0.75% of the diagonal, as the BSDS boundary benchmark has it,
is 1.4 px here)."""


@dataclass(frozen=True)
class Insertion:
    """A thing is to come into a scene, and what the renderer knows of the answer."""

    image: np.ndarray
    mask: np.ndarray
    """The thing's footprint, grown by 4 px, as a person would draw it around the edges given."""
    prompt: str
    truth: world.Scene
    seed: int

    def control(self, name: str, **changes: Any) -> Control:
        """A control that reads the answer: its canny edges, or its depth as grey."""
        if name == "canny":
            return Control(name, annotate(self.truth.image, "canny"), **changes)
        grey = (self.truth.depth * 255).round().astype(np.uint8)
        return Control(name, np.repeat(grey[:, :, None], 3, axis=2), **changes)


def insertions(first: int, count: int) -> Iterator[Insertion]:
    """The first ``count`` scenes from seed ``first`` that have room for one more thing."""
    seed = first
    while count:
        spec = world.sample_scene(seed)
        thing = world.fitting_object(spec, np.random.default_rng([seed, 1]))
        if thing is not None:
            count -= 1
            after = spec.with_object(thing)
            truth, before = world.render(after), world.render(spec).image
            mask = world.grow(truth.masks[len(spec.objects)], 4)
            yield Insertion(before, mask, after.caption, truth, seed)
        seed += 1


def edge_f1(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """F1 of the result's canny edges against the truth's inside the mask; an edge pixel counts as
    found where the other picture has one within :data:`TOLERANCE` px. NaN without edges in both.
    """
    ours, theirs = (annotate(each, "canny")[..., 0] > 0 for each in (result, truth))
    near = np.ones((2 * TOLERANCE + 1, 2 * TOLERANCE + 1), np.uint8)
    hits = [
        cv2.dilate(b.astype(np.uint8), near)[a & mask] > 0
        for a, b in ((ours, theirs), (theirs, ours))
    ]
    if not any(each.size for each in hits):
        return float("nan")
    precision, recall = (float(each.mean()) if each.size else 0.0 for each in hits)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def edit(engine: InpaintEngine, cases: Sequence[Insertion], **settings: Any) -> list[EditResult]:
    """The cases' results; ``settings`` that are functions are asked for each case's own."""
    edits = [
        {
            "image": case.image,
            "mask": case.mask,
            "prompt": case.prompt,
            "seed": case.seed,
            **{key: each(case) if callable(each) else each for key, each in settings.items()},
        }
        for case in cases
    ]
    return engine.edit_many(edits).unwrap()


def pixels(results: Sequence[EditResult]) -> list[np.ndarray]:
    """The results' pictures: H W 3, 0 to 255."""
    return [np.asarray(result.images[0]) for result in results]


def latents(results: Sequence[EditResult]) -> torch.Tensor:
    """The results' latents: b c h w."""
    return torch.cat([each.latents for each in results if each.latents is not None])


def edges(
    engine: InpaintEngine, names: Sequence[str], *, first: int, count: int, steps: int
) -> None:
    """Edge F1 and colour error inside the mask for ``names`` (``"differential+canny"``)."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    cases = list(insertions(first, count))
    for start in range(0, count, 10):
        block = cases[start : start + 10]
        for name in names:
            strategy, _, control = name.partition("+")
            controls = (lambda case, c=control: case.control(c)) if control else None
            results = pixels(
                edit(engine, block, strategy=strategy, controls=controls, num_inference_steps=steps)
            )
            figures[name] += [
                (
                    edge_f1(result, case.truth.image, case.mask),
                    colour_inside(result, case.truth.image, case.mask),
                )
                for result, case in zip(results, block, strict=True)
            ]
        print(f"{start + len(block)} of {count}", file=sys.stderr, flush=True)
    print(
        f"Insertion with the thing's edges (or depth) given, {count} held-out scenes from seed "
        f"{first}, {steps} steps, inside the mask; in brackets the standard error\n"
    )
    print("| strategy | edge F1 | Delta-E 2000 |\n|---|---:|---:|")
    for name, pairs in figures.items():
        cells = []
        for values in np.array(pairs).T:
            known = values[np.isfinite(values)]
            cells.append(f"{known.mean():.3f} ({known.std(ddof=1) / len(known) ** 0.5:.3f})")
        print(f"| `{name}` | {' | '.join(cells)} |")


def half(size: int) -> np.ndarray:
    """A control's mask over the left half of a picture."""
    mask = np.zeros((size, size), np.float32)
    mask[:, : size // 2] = 1
    return mask


WAYS: Mapping[str, Callable[[Insertion], Control]] = {
    "everywhere": lambda case: case.control("canny"),
    "the left half, `exact=False`": lambda case: case.control(
        "canny", mask=half(len(case.image)), exact=False
    ),
    "the left half": lambda case: case.control("canny", mask=half(len(case.image))),
}
"""The ways in which a control's mask may hold, with all of the picture repainted."""


def everything(case: Insertion) -> np.ndarray:
    """A strength map that repaints the whole picture."""
    return np.ones(case.image.shape[:2], np.float32)


def spill(engine: InpaintEngine, *, first: int, count: int, steps: int) -> None:
    """How far a control reaches beyond its mask, where all of the picture is repainted."""
    cases = list(insertions(first, count))
    edge, cell = len(cases[0].image) // 2, engine.backbone.cell
    run = {"mask": None, "strength_map": everything, "num_inference_steps": steps}
    bands = {"its half": (0, edge)} | {
        f"{near} to {far} px beyond": (edge + near, edge + far)
        for near, far in ((0, 8), (8, 16), (16, 32), (32, 64))
    }
    moved: dict[str, list[list[float]]] = {label: [] for label in WAYS}
    beyond, calls = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0)
    for start in range(0, count, 10):
        block = cases[start : start + 10]
        plain = edit(engine, block, **run)
        for label, control in WAYS.items():
            steered = edit(engine, block, **run, controls=control)
            for a, b in zip(pixels(plain), pixels(steered), strict=True):
                change = np.abs(a.astype(float) - b).mean(axis=2)
                moved[label].append([change[:, x:y].mean() for x, y in bands.values()])
            apart = (latents(plain) - latents(steered))[..., edge // cell :].abs()
            beyond[label] = max(beyond[label], float(apart.max()))
            calls[label] += sum(each.model_calls for each in steered)
        print(f"{start + len(block)} of {count}", file=sys.stderr, flush=True)
    print(
        "Mean change, in grey levels of 255, that `canny` makes to `differential` over the whole "
        "picture, by its mask; beside it the largest change of a latent value beyond the left half "
        f"and the model calls of an edit; {count} scenes from seed {first}, {steps} steps\n"
    )
    print(f"| mask | {' | '.join(bands)} | latents beyond | model calls |")
    print(f"|---|{'---:|' * (len(bands) + 2)}")
    for label, rows in moved.items():
        cells = [f"{each:.2f}" for each in np.mean(rows, axis=0)]
        cells += [f"{beyond[label]:.2g}", f"{calls[label] / count:g}"]
        print(f"| {label} | {' | '.join(cells)} |")


def sheet(engine: InpaintEngine, path: Path, *, first: int, steps: int) -> None:
    """Five scenes: without a control, with canny at two scales, with depth, the truth."""
    columns: Mapping[str, Any] = {
        "differential": None,
        "canny 0.5": lambda case: case.control("canny", scale=0.5),
        "canny 1": lambda case: case.control("canny"),
        "depth 1": lambda case: case.control("depth"),
    }
    cases = list(insertions(first, 5))
    maps = [case.mask.astype(np.float32) for case in cases]
    draw(engine, path, columns, cases, maps, num_inference_steps=steps)


def masks(engine: InpaintEngine, path: Path, *, first: int, steps: int) -> None:
    """Three scenes, all repainted: without a control, and with canny by its mask. Not the first
    one, whose left half is empty.
    """
    named = {f"canny, {label.replace('`', '')}": way for label, way in WAYS.items()}
    run = {"mask": None, "strength_map": everything, "num_inference_steps": steps}
    cases = list(insertions(first, 4))[1:]
    maps = [half(len(case.image)) for case in cases]
    draw(engine, path, {"differential": None, **named}, cases, maps, **run)


def draw(
    engine: InpaintEngine,
    path: Path,
    columns: Mapping[str, Any],
    cases: Sequence[Insertion],
    maps: Sequence[np.ndarray],
    **run: Any,
) -> None:
    """A sheet of the cases: what is given, a column for each of the controls, the truth.

    ``maps``: what is laid over each picture.
    """
    pictures = [pixels(edit(engine, cases, controls=each, **run)) for each in columns.values()]
    rows: list[list[tuple[Any, str]]] = []
    for i, case in enumerate(cases):
        given = [overlay_map(case.image, maps[i])]
        given.append(Image.fromarray(annotate(case.truth.image, "canny")))
        made = [Image.fromarray(each[i]) for each in pictures]
        rows.append([(each, "") for each in (*given, *made, Image.fromarray(case.truth.image))])
    heads = ["picture and mask", "edges given", *columns, "as the renderer draws it"]
    save_image(labelled_grid(rows, columns=heads, row_labels=[c.prompt for c in cases]), path)
    print(path)


def main() -> None:
    """Parse the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=["edges", "spill", "sheet", "masks"])
    parser.add_argument("--count", type=int, help="scenes [default: 200, and 20 for spill]")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument(
        "--strategies", default="differential,differential+canny,differential+depth"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("controls.png"))
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    engine = InpaintEngine.from_pretrained(device="cpu")
    first, steps = options.first_seed, options.steps
    if options.part == "edges":
        names = options.strategies.split(",")
        edges(engine, names, first=first, count=options.count or 200, steps=steps)
    elif options.part == "spill":
        spill(engine, first=first, count=options.count or 20, steps=steps)
    else:
        part = sheet if options.part == "sheet" else masks
        part(engine, options.output, first=first, steps=steps)


if __name__ == "__main__":
    main()
