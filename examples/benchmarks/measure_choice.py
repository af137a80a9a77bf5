"""Measure what choosing is worth, on the pocket model and held-out scenes.

    python examples/benchmarks/measure_choice.py candidates --count 200 --json rows.json
    python examples/benchmarks/measure_choice.py auto --count 200 --json auto.json
    python examples/benchmarks/measure_choice.py sheet --tasks insertion --count 1 -o sheet.png

With ``--json`` it goes on where it was stopped. Every scene's candidates are judged on their way
and all finished, so that choosing, one run and the best of all are told from the same
runs. Prints Markdown tables, which ``examples/choosing.md`` shows, and what is met.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from engine import InpaintEngine
from engine.edit.halving import SHARES, going_on
from engine.evaluate import Case, open_suite
from engine.evaluate.suites import PURPOSES
from engine.picture.judging import enough_for, weighed
from engine.picture.metrics import Sample, measure
from engine.picture.sheet import labelled_grid
from engine.picture.write import save_image
from engine.request.request import EditRequest
from engine.runtime.contest import Contest
from engine.runtime.progress import run

FIRST_SEED = 1_050_000
"""Held-out scenes, as ``softpaint evaluate`` has them."""
TASKS = ("insertion", "recolour", "removal")


def measured(case: Case, result: Any) -> dict[str, float]:
    """The figures of what an edit of the case became."""
    sample = Sample(
        result=np.asarray(result.images[0]),
        original=case.canvas,
        strength_map=case.canvas_map,
        truth=case.truth,
        subject=case.subject,
        prompt=case.prompt,
    )
    return measure(sample)


def candidates(engine: InpaintEngine, case: Case, place: int, asked: argparse.Namespace) -> Any:
    """The candidates of a case: what was thought of each at each share, and what it became."""
    request = EditRequest(
        image=case.image,
        prompt=case.prompt,
        mask=case.strength_map if case.strength_map.any() else None,
        expand=case.expand,
        strategy=asked.strategy,
        num_inference_steps=asked.steps,
        seed=1000 * place,
        candidates=asked.candidates,
        progress=False,
    )
    runtime = engine.runtime()
    contest = Contest(runtime, request, cut=lambda running, _: running)
    run(runtime, [contest], progress=False)
    rows = []
    for entry in contest.entries:
        result = entry.ticket.outcome()
        metrics = measured(case, result)
        judged = [{"share": each.share, **each.scores} for each in entry.judged]
        rows.append({"judged": judged, "calls": result.model_calls, "metrics": metrics})
    return {"task": case.task, "scene": case.scene, "candidates": rows, "judge_s": contest.seconds}


ENOUGH = enough_for("pocket", "", None)


def chosen(rows: Sequence[Any], enough: float | None = ENOUGH) -> tuple[int, float]:
    """Who is kept of a scene's candidates, and for how many full runs, as
    :class:`engine.runtime.contest.Contest` chooses.
    """
    running, reached = list(range(len(rows))), [0] * len(rows)
    for place in range(len(SHARES)):
        left = going_on(len(running), 1)
        if left == len(running):
            break
        for i in running:
            reached[i] = place
        running = sorted(running, key=lambda i: -rows[i]["judged"][place]["total"])[:left]
    finished = [(rows[i]["judged"][-1]["total"], i) for i in running]
    waiting = {i for i in range(len(rows)) if i not in running}
    while waiting and enough is not None:
        if not rows[max(finished)[1]]["judged"][-1].get("prompt", 1.0) < enough:
            break
        called = max(waiting, key=lambda i: rows[i]["judged"][reached[i]]["total"])
        waiting.remove(called)
        finished.append((rows[called]["judged"][-1]["total"], called))
    cost = len(finished) + sum(SHARES[reached[i]] for i in waiting)
    return max(finished)[1], cost


def table(scenes: Sequence[Any]) -> str:
    """One run, the chosen one and the best of all, by task."""
    columns: Mapping[str, Callable[[Any], float]] = {
        "score": lambda row: row["judged"][-1]["total"],
        "prompt found": lambda row: row["metrics"].get("prompt", float("nan")),
        "seam": lambda row: row["metrics"].get("seam", float("nan")),
        "colour inside": lambda row: row["metrics"].get("colour_inside", float("nan")),
    }
    lines = [
        "| task | | full runs | " + " | ".join(columns) + " | score, worst tenth |",
        "|---|---|---:|" + "---:|" * (len(columns) + 1),
    ]
    for task in dict.fromkeys(scene["task"] for scene in scenes):
        own = [scene["candidates"] for scene in scenes if scene["task"] == task]
        ways = {
            "one run": (1.0, [[row] for rows in own for row in rows]),
            "nobody called back": _kept(own, None),
            "chosen": _kept(own, ENOUGH),
            "best of all": (
                float(len(own[0])),
                [[max(rows, key=lambda row: row["judged"][-1]["total"])] for rows in own],
            ),
        }
        for name, (cost, picked) in ways.items():
            flat = [row for rows in picked for row in rows]
            values = [np.nanmean([read(row) for row in flat]) for read in columns.values()]
            scores = sorted(columns["score"](row) for row in flat)
            worst = fmean(scores[: max(1, len(scores) // 10)])
            shown = " | ".join(f"{value:.3g}" for value in [*values, worst])
            lines.append(f"| {task} | {name} | {cost:.1f} | {shown} |")
    return "\n".join(lines)


def _kept(scenes: Sequence[Any], enough: float | None) -> tuple[float, list[list[Any]]]:
    """What choosing costs a scene, and whom it keeps of each."""
    picks = [chosen(rows, enough) for rows in scenes]
    kept = [[rows[best]] for rows, (best, _) in zip(scenes, picks, strict=True)]
    return fmean(cost for _, cost in picks), kept


def verdict(scenes: Sequence[Any]) -> str:
    """Whether choosing keeps what it is to keep: of the best of all, and against one run."""
    own = [scene["candidates"] for scene in scenes]
    cost, picked = _kept(own, ENOUGH)
    kept = [row for (row,) in picked]
    every = [row for rows in own for row in rows]

    def score(rows: Sequence[Any], worst: float = 1.0) -> float:
        scores = sorted(row["judged"][-1]["total"] for row in rows)
        return fmean(scores[: max(1, round(worst * len(scores)))])

    def metric(rows: Sequence[Any], name: str) -> float:
        return float(np.nanmean([row["metrics"].get(name, np.nan) for row in rows]))

    best = fmean(max(row["judged"][-1]["total"] for row in rows) for rows in own)
    share = score(kept) / best
    less = 1 - (1 - score(kept, 0.1)) / max(1e-9, 1 - score(every, 0.1))
    prompt = metric(kept, "prompt") - metric(every, "prompt")
    seam = 1 - metric(kept, "seam") / metric(every, "seam")
    lines = [
        (f"score {share:.1%} of the best of all (95%)", share >= 0.95),
        (f"{cost:.2f} full runs (3.2)", cost <= 3.2 + 1e-6),
        (f"prompt found {100 * prompt:+.1f} points against one run (more)", prompt > 0),
        (f"seam {-seam:+.0%} against one run (less)", seam > 0),
        (f"what the worst tenth lacks to 1: {-less:+.0%} against one run (-33%)", less >= 1 / 3),
    ]
    return "\n".join(f"- {line}: {'met' if met else 'not met'}" for line, met in lines)


SINGLE = ("differential", "inpaint9", "remove", "think")
"""Strategies beside ``auto``: those that it may take."""


def alone(engine: InpaintEngine, case: Case, place: int, asked: argparse.Namespace) -> Any:
    """A scene's metrics by strategy, ``auto`` among them; each is told what the edit is for."""
    made = {}
    task: Any = PURPOSES[case.task]
    for name in ("auto", *SINGLE):
        result = engine.edit(
            image=case.image,
            prompt=case.prompt,
            mask=case.strength_map,
            strategy=name,
            task=task,
            num_inference_steps=asked.steps,
            seed=1000 * place,
            progress=False,
        )
        made[name] = measured(case, result)
    return {"task": case.task, "scene": case.scene, "made": made}


def strategies(scenes: Sequence[Any]) -> str:
    """``auto`` beside single strategies by task and over the mix, and whether it is as good."""
    tasks = [*dict.fromkeys(scene["task"] for scene in scenes), "all"]
    lines = [
        "| task | strategy | prompt found | colour inside | seam |",
        "|---|---|---:|---:|---:|",
    ]
    verdicts = []
    for task in tasks:
        own = [scene["made"] for scene in scenes if task in {"all", scene["task"]}]
        means = {
            name: [
                float(np.nanmean([made[name].get(key, np.nan) for made in own]))
                for key in ("prompt", "colour_inside", "seam")
            ]
            for name in ("auto", *SINGLE)
        }
        for name, (prompt, colour, seam) in means.items():
            lines.append(f"| {task} | {name} | {prompt:.1%} | {colour:.2f} | {seam:.2f} |")
        found = means["auto"][0] - max(means[name][0] for name in SINGLE)
        colour = means["auto"][1] - min(means[name][1] for name in SINGLE)
        met = found >= 0 and colour <= 0
        verdicts.append(
            f"- {task}: prompt found {100 * found:+.1f} points, colour {colour:+.2f} against the "
            f"best single strategy in each: {'met' if met else 'not met'}"
        )
    return "\n".join([*lines, "", *verdicts])


def correlations(scenes: Sequence[Any]) -> str:
    """How the order after each share goes with the order at the end, by task."""
    lines = [
        "| task | " + " | ".join(f"after {share:.0%}" for share in SHARES) + " |",
        "|---|" + "---:|" * len(SHARES),
    ]
    for task in dict.fromkeys(scene["task"] for scene in scenes):
        own = [scene["candidates"] for scene in scenes if scene["task"] == task]
        values = []
        for place in range(len(SHARES)):
            ranks = [
                spearmanr(
                    [row["judged"][place]["total"] for row in rows],
                    [row["judged"][-1]["total"] for row in rows],
                ).statistic
                for rows in own
            ]
            values.append(np.nanmean(ranks))
        lines.append(f"| {task} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def sheet(engine: InpaintEngine, case: Case, path: Path, asked: argparse.Namespace) -> None:
    """A row of previews for each share at which candidates were judged, with their scores."""
    result = engine.edit(
        image=case.image,
        prompt=case.prompt,
        mask=case.strength_map,
        strategy=asked.strategy,
        num_inference_steps=asked.steps,
        seed=0,
        candidates=asked.candidates,
        progress=False,
    )
    shares = sorted({judged.share for each in result.candidates for judged in each.judged})
    rows: list[list[Any]] = []
    for share in shares:
        row: list[Any] = []
        for each in result.candidates:
            found = [judged for judged in each.judged if judged.share == share]
            if not found:
                row.append((None, ""))
                continue
            score = found[0].scores["total"]
            row.append((found[0].preview, f"seed {each.seed}, {share:.0%}\nscore {score:.2f}"))
        rows.append(row)
    save_image(labelled_grid(rows, title=case.prompt, cell=128), path)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["candidates", "auto", "sheet"])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--count", type=int, default=40, help="scenes a task")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--output", "-o", type=Path, default=Path("candidates.png"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategy", default="differential")
    parser.add_argument(
        "--json", type=Path, help="rows of earlier runs, weighed anew, and where they go"
    )
    asked = parser.parse_args()
    suite = open_suite("pocket", first_seed=FIRST_SEED, size=128)
    cases = {task: suite.cases(task, asked.count) for task in asked.tasks.split(",")}
    known = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    every = (row for scene in known for row in scene.get("candidates", ()))
    for judged in (j for row in every for j in row["judged"]):
        judged["total"] = weighed(judged, finished=judged["share"] == 1)
    done = {(scene["task"], scene["scene"]) for scene in known}
    engine = InpaintEngine.from_pretrained("pocket")
    if asked.what == "sheet":
        sheet(engine, next(iter(cases.values()))[-1], asked.output, asked)
        return
    for place in range(asked.count):  # all tasks of a scene, so that it can be stopped anywhere
        for task, each in cases.items():
            if place < len(each) and (task, each[place].scene) not in done:
                make = alone if asked.what == "auto" else candidates
                known.append(make(engine, each[place], place, asked))
                if asked.json:
                    asked.json.write_text(json.dumps(known))
    if asked.what == "auto":
        print(strategies(known))
        return
    print(table(known), correlations(known), verdict(known), sep="\n\n")


if __name__ == "__main__":
    main()
