"""Measure the strategies on the pocket model, on held-out scenes.

    python examples/benchmarks/measure_strategies.py strength  # what a strength does
    python examples/benchmarks/measure_strategies.py strength --model pocket-flow
    python examples/benchmarks/measure_strategies.py think --count 200  # at equal model calls too
    python examples/benchmarks/measure_strategies.py removal --count 200  # erase beside blend
    python examples/benchmarks/measure_strategies.py sheet -o sheet.png

Prints a Markdown table; ``examples/strategies.md`` shows it. ``softpaint evaluate`` measures the
pictures that strategies make.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from engine import InpaintEngine
from engine.denoise.loop import Loop
from engine.edit.before import prepare_edits
from engine.evaluate import Case, open_suite, patches
from engine.picture.metrics import Sample, measure
from engine.picture.sheet import labelled_grid
from engine.picture.write import save_image
from engine.pocket import world
from engine.pocket.classifier import predict, prompt_score
from engine.request.request import EditRequest
from engine.solvers.names import SCHEDULERS, fresh_scheduler, list_schedulers
from engine.solvers.parameterisation import Flow, parameterisation_of
from engine.solvers.schedule import Schedule

if TYPE_CHECKING:
    from engine.denoise.job import Job

FIRST_SEED = 1_000_000
"""Held-out scenes: training used seeds below this one."""
UNGUIDED = ("lcm", "tcd")
"""Samplers of distilled models, which are used without guidance."""


def run(engine: InpaintEngine, requests: Sequence[EditRequest]) -> list[Job]:
    """The finished jobs of many edits of one picture each, in shared model calls."""
    jobs = [
        job
        for request in requests
        for prepared in prepare_edits(engine.backbone, [request])
        for job in prepared.start()
    ]
    loop = Loop()
    loop.submit(jobs)
    loop.run()
    for job in jobs:
        if job.error is not None:
            raise job.error
    return jobs


def strength(engine: InpaintEngine, *, steps: int, count: int) -> None:
    """Release and realised change of nine strengths under every scheduler."""
    maps = [patches(scene, turn) for scene in range(count) for turn in range(9)]
    scenes = [world.render(world.sample_scene(FIRST_SEED + i)) for i in range(count)]
    values = [i / 8 for i in range(9)]
    heads = [f"{value:.3g}" for value in values]
    print(
        f"Latent change by strength ({steps} steps, {count} scenes in nine turns, `differential`), "
        "and the share of the run at which each strength is released\n"
    )
    print("| scheduler | " + " | ".join(heads) + " | Spearman | release within |")
    print("|---|" + "---:|" * 11)
    for name in _schedulers(engine):
        requests = [
            EditRequest(
                image=scenes[i // 9].image,
                strength_map=strength_map,
                prompt="a landscape at night",
                strategy="differential",
                num_inference_steps=steps,
                guidance_scale=1.0 if name in UNGUIDED else 4.0 if _is_flow(engine) else 5.0,
                scheduler=name,
                seed=i,
                output_type="latent",
            )
            for i, (strength_map, _) in enumerate(maps)
        ]
        change = np.zeros(9)
        jobs = run(engine, requests)
        for job, (_, which) in zip(jobs, maps, strict=True):
            moved = (job.latents - job.state[0].init_latents).norm(dim=1)[0].numpy()
            change += [moved[which == i].mean() / len(maps) for i in range(9)]
        schedule = Schedule(fresh_scheduler(name, engine.pipe.scheduler), steps)
        release, which = jobs[0].state[0].release[0, 0].numpy(), maps[0][1]
        worst = 0.0
        for i, value in enumerate(values):
            starts = [step.position for step in schedule.steps if step.starts]
            first = int(release[which == i][0])
            real = min((p for p in starts if p >= first), default=steps)
            worst = max(worst, abs(real - (1 - value) * steps))
        rank = spearmanr(values, change).statistic
        cells = " | ".join(f"{each:.2f}" for each in change)
        print(f"| {name} | {cells} | {rank:.3f} | {worst:.1f} steps |", flush=True)


def _is_flow(engine: InpaintEngine) -> bool:
    return isinstance(parameterisation_of(engine.pipe.scheduler), Flow)


def _schedulers(engine: InpaintEngine) -> list[str]:
    """Those that have a form for the engine's model."""
    every = list_schedulers()
    return [name for name in every if SCHEDULERS.get(name).flow] if _is_flow(engine) else every


TASKS = {"insertion": "add", "recolour": "replace"}
"""In which ``think`` is measured, and what they are for: whole runs, from the original."""
GAIN = 0.06
"""How much lower the colour error is to be."""
SOFT = 6.0
"""Sigma in px of the soft maps: the masks, blurred outwards."""


def think(
    engine: InpaintEngine, *, steps: int, count: int, seeds: int, tasks: Sequence[str]
) -> None:
    """What Langevin steps are worth beside ``differential``: with as many solver's steps, and with
    as many model calls. On the masks, and on maps that fall off around them.
    """
    suite = open_suite("pocket", first_seed=1_050_000, size=128)
    print("| task | map | | model calls | colour inside | PSNR inside | prompt found |")
    print("|---|---|---|---:|---:|---:|---:|")
    for task, purpose in TASKS.items():
        if task not in tasks:
            continue
        cases = suite.cases(task, count) * seeds
        for kind in ("mask", "soft map"):
            maps = [each.strength_map for each in cases]
            if kind != "mask":
                maps = [np.maximum(each, gaussian_filter(each, SOFT)) for each in maps]
            told = {"num_inference_steps": steps, "task": purpose}
            plain = _figures(engine, cases, maps, strategy="differential", **told)
            thought = _figures(engine, cases, maps, strategy="think", **told)
            told["num_inference_steps"] = round(thought[0])
            long = _figures(engine, cases, maps, strategy="differential", **told)
            for name, own in (
                ("`differential`", plain),
                ("`think`", thought),
                ("`differential`, as many calls", long),
            ):
                calls, colour, psnr, prompt, _ = own
                figures = f"{calls:.1f} | {colour:.2f} | {psnr:.2f} | {prompt:.0%}"
                print(f"| {task} | {kind} | {name} | {figures} |", flush=True)
            gain, over = (1 - thought[1] / each[1] for each in (plain, long))
            met = "met" if min(gain, over) >= GAIN else "not met"
            print(f"| | | lower by {gain:.1%}, by {over:.1%} at equal calls: {met} | | | | |")


REMOVALS: dict[str, dict[str, Any]] = {
    "`blend`": {"strategy": "blend"},
    "`blend`, unguided": {"strategy": "blend", "guidance_scale": 1.0},
    "`erase`": {"strategy": "erase"},
    "`erase+blend`": {"strategy": "erase+blend"},
    "`remove`": {"strategy": "remove"},
}
"""Ways to take things away. Guidance by a prompt of what is to be there asks for all of it once
more: a second sun in the hole. So ``blend`` is there without it too."""


def removal(engine: InpaintEngine, *, steps: int, count: int) -> None:
    """What taking things away leaves: colour, and things that were not there."""
    cases = open_suite("pocket", first_seed=1_050_000, size=128).cases("removal", count)
    maps = [each.strength_map for each in cases]
    print("| removal | colour inside | PSNR inside | prompt found | things too many |")
    print("|---|---:|---:|---:|---:|")
    made = {}
    for name, told in REMOVALS.items():
        made[name] = _figures(engine, cases, maps, num_inference_steps=steps, task="remove", **told)
        _, colour, psnr, prompt, more = made[name]
        figures = f"{colour:.2f} | {psnr:.2f} | {prompt:.0%} | {more:.1%}"
        print(f"| {name} | {figures} |", flush=True)
    _, colour, psnr, _, more = made["`erase`"]
    beside = made["`blend`"]
    met = colour <= beside[1] and psnr >= beside[2] and more <= beside[4]
    print(f"\n`erase` as good as `blend`, without more things: {'met' if met else 'not met'}")


def _figures(
    engine: InpaintEngine, cases: Sequence[Case], maps: Sequence[Any], **told: Any
) -> list[float]:
    """Means over the cases: model calls, colour and PSNR inside the mask, prompt found, and the
    share that shows a thing that the truth does not. ``told``: the edit's settings.
    """
    rows = []
    for start in range(0, len(cases), 16):
        some = list(zip(cases, maps, strict=True))[start : start + 16]
        results = engine.edit_many(
            [
                {
                    "image": case.image,
                    "prompt": case.prompt,
                    "strength_map": strength_map,
                    "seed": start + number,
                    "progress": False,
                    **told,
                }
                for number, (case, strength_map) in enumerate(some)
            ]
        )
        for (case, _), result in zip(some, results, strict=True):
            if isinstance(result, Exception):
                raise result
            pixels = np.asarray(result.images[0])
            sample = Sample(
                result=pixels,
                original=case.image,
                strength_map=case.strength_map,
                truth=case.truth,
            )
            found = measure(sample, ["colour_inside", "psnr_inside"])
            (prompt,) = prompt_score([pixels], case.prompt)
            assert case.truth is not None  # noqa: S101 - the pocket renders it
            seen, there = (each.objects for each in predict([pixels, case.truth]))
            rows.append([result.model_calls, *found.values(), prompt, bool(set(seen) - set(there))])
    means: list[float] = np.mean(rows, axis=0).tolist()
    return means


def sheet(engine: InpaintEngine, path: Path, *, steps: int, strategies: Sequence[str]) -> None:
    """The demo's scenes through the strategies, and outpainting."""
    rows: list[list[tuple[Any, str]]] = []
    for scene in world.sample_edits():
        region: dict[str, Any] = {"mask": scene.mask}
        if scene.strength_map is not None:
            region = {"strength_map": scene.strength_map}
        comparison = engine.compare(
            image=scene.image,
            prompt=scene.prompt,
            num_inference_steps=steps,
            guidance_end=scene.guidance_end,
            seed=7,
            strategies=strategies,
            **region,
        )
        row = [(Image.fromarray(scene.image), f"{scene.name}\n{scene.prompt}")]
        rows.append([*row, *((r.images[0], n) for n, r in comparison.results.items())])
    wide = world.render(world.sample_scene(FIRST_SEED + 5))
    comparison = engine.compare(
        image=wide.image,
        prompt=wide.caption,
        expand=(48, 0, 48, 0),
        num_inference_steps=steps,
        seed=7,
        strategies=strategies,
    )
    row = [(Image.fromarray(wide.image), f"outpaint\n{wide.caption}")]
    rows.append([*row, *((r.images[0], n) for n, r in comparison.results.items())])
    save_image(labelled_grid(rows), path)
    print(path)


def main() -> None:
    """Parse the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=["strength", "think", "removal", "sheet"])
    parser.add_argument("--model", default="pocket", help="pocket or pocket-flow")
    parser.add_argument("--count", type=int, default=3, help="scenes; of strength in nine turns")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategies", help="names with commas between")
    parser.add_argument("-o", "--output", type=Path, default=Path("strategies.png"))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="think's; all by default")
    parser.add_argument("--seeds", type=int, default=1, help="edits of each of think's scenes")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    engine = InpaintEngine.from_pretrained(options.model, device="cpu")
    names = options.strategies.split(",") if options.strategies else engine.strategies()
    if options.part == "strength":
        strength(engine, steps=options.steps, count=options.count)
    elif options.part == "think":
        think(
            engine,
            steps=options.steps,
            count=options.count,
            seeds=options.seeds,
            tasks=options.tasks or list(TASKS),
        )
    elif options.part == "removal":
        removal(engine, steps=options.steps, count=options.count)
    else:
        sheet(engine, options.output, steps=options.steps, strategies=names)


if __name__ == "__main__":
    main()
