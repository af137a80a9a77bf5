"""Measure edits of several regions on the pocket model and held-out scenes.

    python examples/benchmarks/measure_regions.py figures --count 200 --json rows.json
    python examples/benchmarks/measure_regions.py figures --count 200 --guidance-end 0.4
    python examples/benchmarks/measure_regions.py figures --count 40 --candidates 4
    python examples/benchmarks/measure_regions.py figures --count 40 --things 4 --apart --loras
    python examples/benchmarks/measure_regions.py mixed --count 60 --strategy auto,inpaint9
    python examples/benchmarks/measure_regions.py sheet --things 5 -o sheet.png

Each scene gets two to five things in one call. A region's prompt counts as found where the pocket
classifier sees its thing in its colour in a picture that has this region's pixels alone from the
edit; it leaks where that is seen in a picture that has another region's alone. The same regions
are edited in runs of their own, one after another, to compare with. Time is the processor's, or
the clock's where a GPU does the work.

A mixed edit has three regions: a thing goes (an empty prompt), another takes a new colour, a third
comes. It is made with each strategy, and compared with what the renderer draws.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

import numpy as np

from engine import InpaintEngine, Region
from engine.picture.measures import colour_inside
from engine.picture.sheet import labelled_grid, overlay_map
from engine.picture.write import save_image
from engine.pocket import world
from engine.pocket.classifier import predict

FIRST_SEED = 1_060_000
SIZE = 128
GAP = 12
"""Pixels between regions that have runs of their own."""


@dataclass(frozen=True)
class Scene:
    """A picture and what it is to get."""

    seed: int
    image: Any
    """H W 3."""
    base: str
    """What is there."""
    masks: Sequence[Any]
    """H W each, in [0, 1]."""
    things: Sequence[tuple[str, str]]
    """Kind and colour of each."""
    prompts: Sequence[str]


def scenes(count: int, things: int | None, *, apart: bool = False) -> Iterator[Scene]:
    """Held-out scenes with room for as many things; two to five in turn if None. ``apart``: with
    regions that do not touch, which have runs of their own.
    """
    seed, made = FIRST_SEED, 0
    while made < count:
        scene = scene_of(seed, things or 2 + made % 4, apart=apart)
        seed += 1
        if scene is not None:
            made += 1
            yield scene


def scene_of(seed: int, count: int, *, apart: bool = False) -> Scene | None:
    """An empty place, and boxes for ``count`` things of different kinds or colours."""
    spec = replace(world.sample_scene(seed), objects=())
    rng = np.random.default_rng([seed, 5])
    after = spec
    taken: list[tuple[str, str]] = []
    boxes: list[Any] = []
    for _ in range(60):
        thing = world.fitting_object(after, rng)
        if thing is None or (thing.kind, thing.colour) in taken:
            continue
        box = box_of(spec, thing)
        if apart and any((world.grow(box, GAP) & each).any() for each in boxes):
            continue
        after = after.with_object(thing)
        taken.append((thing.kind, thing.colour))
        boxes.append(box)
        if len(taken) == count:
            break
    if len(taken) < count:
        return None
    return Scene(
        seed,
        world.render(spec, SIZE).image,
        spec.caption,
        [each.astype(np.float32) for each in boxes],
        [(thing.kind, thing.colour) for thing in after.objects],
        [replace(spec, objects=(thing,)).caption for thing in after.objects],
    )


def box_of(spec: world.SceneSpec, thing: world.SceneObject) -> Any:
    """The box (H W, bool) around a thing that is put into a place."""
    return world.box_around(world.render(spec.with_object(thing), SIZE).masks[-1], margin=1 / 32)


def together(engine: InpaintEngine, scene: Scene, asked: argparse.Namespace) -> Any:
    """All regions in one call."""
    return engine.edit(
        image=scene.image,
        prompt=scene.base,
        regions=regions_of(scene, asked),
        coupling=asked.coupling,
        guidance_end=asked.guidance_end,
        candidates=asked.candidates,
        **settings(scene, asked),
    )


def regions_of(scene: Scene, asked: argparse.Namespace) -> list[Region]:
    """The scene's regions, each with a LoRA of its own if that is ``asked``."""
    pairs = zip(scene.masks, scene.prompts, strict=True)
    names = [f"own{number}" if asked.loras else None for number in range(len(scene.masks))]
    return [Region(*pair, lora=name) for pair, name in zip(pairs, names, strict=True)]


def each_alone(scene: Scene, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """What an edit of each region by itself is told: a plain one, where it has no LoRA."""
    regions = regions_of(scene, asked)
    if asked.loras:
        return [{"regions": [each], "prompt": scene.base} for each in regions]
    return [{"strength_map": each.map, "prompt": each.prompt} for each in regions]


def load_loras(engine: InpaintEngine, count: int) -> None:
    """LoRAs of all attentions that cost what they cost and change nothing (peft begins so)."""
    from peft import LoraConfig

    from engine.models.lora import adding_adapters

    layers = LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    for network in engine.backbone.networks.values():
        for number in range(count):
            with adding_adapters():
                network.module.add_adapter(layers, f"own{number}")
        network.module.disable_adapters()


def settings(scene: Scene, asked: argparse.Namespace) -> dict[str, Any]:
    """What all runs of a scene have in common."""
    return {
        "strategy": asked.strategy,
        "num_inference_steps": asked.steps,
        "seed": scene.seed,
        "progress": False,
    }


def measured(engine: InpaintEngine, scene: Scene, asked: argparse.Namespace) -> dict[str, Any]:
    """One scene, in one call and one after another."""
    clock = process_time if engine.backbone.device.type == "cpu" else perf_counter
    engine.backbone.forget()
    began = clock()
    one = np.asarray(together(engine, scene, asked).images[0])
    joint_s = clock() - began
    engine.backbone.forget()
    began = clock()
    own = [
        np.asarray(engine.edit(image=scene.image, **told, **settings(scene, asked)).images[0])
        for told in each_alone(scene, asked)
    ]
    own_s = clock() - began
    alone = [
        np.where((mask > 0)[..., None], picture, scene.image)
        for picture, mask in [*((one, m) for m in scene.masks), *zip(own, scene.masks, strict=True)]
    ]
    seen = [set(each.objects) for each in predict(alone)]
    count = len(scene.things)
    joint, single = seen[:count], seen[count:]
    pairs = [(r, q) for r in range(count) for q in range(count) if r != q]
    return {
        "scene": scene.seed,
        "regions": count,
        "found": [thing in joint[i] for i, thing in enumerate(scene.things)],
        "found_alone": [thing in single[i] for i, thing in enumerate(scene.things)],
        "leaks": [scene.things[r] in joint[q] for r, q in pairs],
        "leaks_alone": [scene.things[r] in single[q] for r, q in pairs],
        "seconds": joint_s,
        "seconds_alone": own_s,
    }


# --- three tasks at once -------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixed(Scene):
    """Something goes, something takes another colour, something comes: a region each."""

    truth: Any
    """H W 3, as the renderer draws it."""


def mixed(count: int) -> Iterator[Mixed]:
    """Held-out scenes of at least two things, with room for a third."""
    seed = FIRST_SEED
    while count:
        scene = mixed_scene(seed)
        seed += 1
        if scene is not None:
            count -= 1
            yield scene


def mixed_scene(seed: int) -> Mixed | None:
    """None where there is nothing that could go or stay, or its regions would touch."""
    spec, rng = world.sample_scene(seed), np.random.default_rng([seed, 6])
    new = world.fitting_object(spec, rng)
    if len(spec.objects) < 2 or new is None:
        return None
    colours = [c for c in world.KIND_COLOURS[spec.objects[1].kind] if c != spec.objects[1].colour]
    painted = replace(spec.objects[1], colour=str(rng.choice(colours)))
    bare = replace(spec, objects=())
    boxes = [box_of(bare, thing) for thing in (*spec.objects[:2], new)]
    if any((world.grow(one, GAP) & two).any() for one in boxes for two in boxes if one is not two):
        return None
    after = spec.replaced(1, painted).without(0).with_object(new)
    return Mixed(
        seed,
        world.render(spec, SIZE).image,
        spec.caption,
        [each.astype(np.float32) for each in boxes],
        [(thing.kind, thing.colour) for thing in (painted, new)],
        ["", *(replace(spec, objects=(thing,)).caption for thing in (painted, new))],
        world.render(after, SIZE).image,
    )


def measured_mixed(
    engine: InpaintEngine, scene: Mixed, strategy: str, asked: argparse.Namespace
) -> dict[str, Any]:
    """One scene by one strategy: colour errors of the three regions, and whether the new colour and
    the new thing are found.
    """
    told = {**settings(scene, asked), "strategy": strategy, "prompt": scene.base}
    result = engine.edit(image=scene.image, regions=regions_of(scene, asked), **told)
    made = np.asarray(result.images[0])
    regions = [mask > 0 for mask in scene.masks]
    seen = predict([np.where(each[..., None], made, scene.image) for each in regions[1:]])
    pairs = zip(scene.things, seen, strict=True)
    return {
        "scene": scene.seed,
        "strategy": strategy,
        "colour": [colour_inside(made, scene.truth, each) for each in regions],
        "found": [thing in each.objects for thing, each in pairs],
        "calls": result.model_calls,
    }


def mixed_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each strategy."""
    lines = [
        "| strategy | found | colour, goes | recoloured | comes | all | model calls |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        some = [row for row in rows if row["strategy"] == strategy]
        colours = np.mean([row["colour"] for row in some], axis=0)
        values = [f"{each:.1f}" for each in (*colours, colours.mean())]
        found = fmean(value for row in some for value in row["found"])
        calls = fmean(row["calls"] for row in some)
        lines.append(f"| `{strategy}` | {found:.1%} | {' | '.join(values)} | {calls:.0f} |")
    return "\n".join(lines)


# --- the report ----------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Shares and times, by the number of regions and over all."""

    def line(name: str, some: Sequence[dict[str, Any]]) -> str:
        def share(key: str) -> float:
            return fmean(value for row in some for value in row[key])

        time = sum(r["seconds"] for r in some) / sum(r["seconds_alone"] for r in some)
        shares = [share(key) for key in ("found", "found_alone", "leaks", "leaks_alone")]
        return (
            f"| {name} | {len(some)} | "
            + " | ".join(f"{s:.1%}" for s in shares)
            + f" | {time:.2f} |"
        )

    head = [
        "| regions | scenes | found | in its own run | leaks | in own runs | time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    counts = sorted({row["regions"] for row in rows})
    each = [line(str(n), [row for row in rows if row["regions"] == n]) for n in counts]
    return "\n".join([*head, *each, line("all", rows), "", *verdict(rows)])


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What regions in one call are to be, and whether they are."""
    found, own, leaks = (
        fmean(value for row in rows for value in row[key])
        for key in ("found", "found_alone", "leaks")
    )
    time = sum(r["seconds"] for r in rows) / sum(r["seconds_alone"] for r in rows)
    lines = [
        (f"found {100 * (found - own):+.1f} points against own runs (-3)", found >= own - 0.03),
        (f"leaks {leaks:.1%} (5%)", leaks <= 0.05),
        (f"time {time:.2f} of runs one after another (.5)", time <= 0.5),
    ]
    return [f"- {line}: {'met' if met else 'not met'}" for line, met in lines]


def sheet(engine: InpaintEngine, asked: argparse.Namespace) -> Any:
    """Each scene: the picture, its regions, the edit."""
    rows = []
    chosen = [int(seed) for seed in asked.seeds.split(",")] if asked.seeds else []
    named = (scene_of(seed, asked.things or 5, apart=asked.apart) for seed in chosen)
    for scene in named if chosen else scenes(asked.count, asked.things, apart=asked.apart):
        if scene is None:
            raise SystemExit("a scene of these seeds has no room for as many things.")
        result = together(engine, scene, asked).images[0]
        words = [f"{colour} {kind}" for kind, colour in scene.things]
        told = ",\n".join(", ".join(words[i : i + 3]) for i in range(0, len(words), 3))
        cells = [scene.image, outlined(scene), result]
        labels = [scene.base, f"{len(scene.masks)} regions (seed {scene.seed})", told]
        rows.append([(large(cell), label) for cell, label in zip(cells, labels, strict=True)])
    return labelled_grid(rows)


def outlined(scene: Scene) -> Any:
    """A scene's picture with its regions on it, each with a border of its own."""
    from PIL import ImageDraw

    union = np.maximum.reduce([0.5 * each for each in scene.masks])
    picture = large(overlay_map(scene.image, union))
    draw = ImageDraw.Draw(picture)
    for mask in scene.masks:
        rows, columns = np.nonzero(mask)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        draw.rectangle([3 * int(each) for each in corners], outline=(255, 255, 255), width=3)
    return picture


def large(picture: Any) -> Any:
    """A picture, to be looked at."""
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    if image.size == (3 * SIZE, 3 * SIZE):
        return image
    return image.resize((3 * SIZE, 3 * SIZE), Image.Resampling.LANCZOS)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["figures", "mixed", "sheet"])
    parser.add_argument("--count", type=int, help="scenes; 20, and 3 of a sheet")
    parser.add_argument("--things", type=int, help="regions in each; 2 to 5 in turn without")
    parser.add_argument("--apart", action="store_true", help="regions that do not touch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategy", default="inpaint9", help="of mixed with commas between")
    parser.add_argument("--candidates", type=int, help="of the one call; the best is kept")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loras", action="store_true", help="each region with one of its own")
    parser.add_argument("--seeds", help="of the scenes of a sheet, with commas between")
    parser.add_argument("--coupling", default="auto")
    parser.add_argument("--guidance-end", type=float, default=1.0, help="of the one call")
    parser.add_argument("--json", type=Path, help="rows, to go on where it was stopped")
    parser.add_argument("-o", "--output", type=Path, default=Path("regions.png"))
    asked = parser.parse_args()
    asked.count = asked.count or (3 if asked.what == "sheet" else 20)
    engine = InpaintEngine.from_pretrained(device=asked.device)
    if asked.loras:
        load_loras(engine, 5)
    if asked.what == "sheet":
        save_image(sheet(engine, asked), asked.output)
        return
    known = asked.json is not None and asked.json.exists()
    rows = json.loads(asked.json.read_text(encoding="utf-8")) if known else []
    if asked.what == "mixed":
        for three in mixed(asked.count):
            for strategy in asked.strategy.split(","):
                if not any((r["scene"], r["strategy"]) == (three.seed, strategy) for r in rows):
                    rows.append(measured_mixed(engine, three, strategy, asked))
            if asked.json is not None:
                asked.json.write_text(json.dumps(rows), encoding="utf-8")
        print(mixed_table(rows))
        return
    done = {row["scene"] for row in rows}
    for scene in scenes(asked.count, asked.things, apart=asked.apart):
        if scene.seed not in done:
            rows.append(measured(engine, scene, asked))
        if asked.json is not None:
            asked.json.write_text(json.dumps(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
