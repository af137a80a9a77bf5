"""The page of an evaluation: means, worst cases, every row, plots."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from engine.picture.metrics import METRICS
from engine.report.html import (
    SORTING,
    data_of,
    escaped,
    glossary_html,
    heading_html,
    picture_html,
    picture_tag,
    table_html,
    whole_page,
)

if TYPE_CHECKING:
    from engine.evaluate.store import Row
    from engine.evaluate.suites import Case

Picture = Callable[[str, str, str], Image.Image]
"""The picture of (task, scene, name)."""

SHOWN: Final = (
    *("untouched", "seam", "seam_jump", "colour_ring", "colour_inside", "hue", "saturation"),
    *("saturation_loss", "colour_moved", "strength_rank", "psnr_inside", "ssim", "psnr_outside"),
    *("prompt", "seconds", "model_calls"),
)
"""The metrics of the page's tables; the CSV has all of them."""
PLOTTED: Final = (
    *("seam", "colour_ring", "colour_inside", "saturation", "strength_rank", "psnr_inside"),
    *("prompt", "seconds"),
)
RANKED: Final = ("colour_inside", "strength_rank", "seam")
"""Worst cases are ranked by the first of these that the task has."""


_PEER: Final = "#9a9a9a"


def evaluation_page(
    rows: Sequence[Row],
    cases: Mapping[str, Sequence[Case]],
    picture: Picture,
    settings: Mapping[str, Any],
    *,
    worst: int = 8,
    worst_by: str | None = None,
) -> str:
    """Tables of means, plots, and each task's ``worst`` cases with their pictures, worst first.

    ``worst_by`` is the metric that ranks them; None: the first of :data:`RANKED` that a task has.
    """
    parts = []
    for task in cases:
        own = [row for row in rows if row.task == task]
        parts.append(f"<h2>{escaped(task)}</h2>{_means(own)}")
    plots = "".join(
        f"<div>{picture_tag(uri, f'{name} by strategy and task')}</div>"
        for name, uri in _plots(rows, list(cases))
    )
    sheets = "".join(
        _worst_cases([row for row in rows if row.task == task], each, picture, worst, worst_by)
        for task, each in cases.items()
    )
    scenes = ", ".join(f"{task} {len(each)}" for task, each in cases.items())
    said = {key: value for key, value in settings.items() if value not in (None, {})}
    used = ", ".join(f"{key} {json.dumps(value)}" for key, value in said.items())
    body = f"""
<h1>Softpaint evaluation</h1>
<p class="soft">Scenes: {escaped(scenes)}.<br>{escaped(used)}.</p>
<p>Means over scenes; the best of each column is bold, grey rows are diffusers' own pipelines on
the same weights. The median shows when the pointer rests on a number.</p>
{"".join(parts)}
<h2>Spread</h2>
<p class="soft">Boxes hold the middle half of the scenes, lines the middle 90%, the bar is the
median.</p>
<div class="plots">{plots}</div>
<h2>Worst cases</h2>
{sheets}
{_every_row(rows)}
{glossary_html({name for row in rows for name in row.metrics})}
"""
    return whole_page("Softpaint evaluation", body, SORTING)


def _means(rows: Sequence[Row]) -> str:
    """A sortable table: a line for each name, a column for each metric."""
    names = list(dict.fromkeys(row.name for row in rows))
    metrics = [METRICS.get(name) for name in SHOWN if any(name in row.metrics for row in rows)]
    values = {
        (name, metric.name): [
            row.metrics[metric.name]
            for row in rows
            if row.name == name and metric.name in row.metrics
        ]
        for name in names
        for metric in metrics
    }
    peers = {row.name for row in rows if row.peer}
    best = {
        metric.name: min(
            metric.badness(float(np.mean(values[name, metric.name])))
            for name in names
            if values[name, metric.name]
        )
        for metric in metrics
    }
    lines = []
    for name in names:
        cells = [f'<td class="text">{escaped(name)}</td>']
        for metric in metrics:
            each = values[name, metric.name]
            if not each:
                cells.append("<td></td>")
                continue
            mean = float(np.mean(each))
            mark = ' class="best"' if metric.badness(mean) <= best[metric.name] else ""
            hint = f"median {metric.show(float(np.median(each)))}, {len(each)} scenes"
            cells.append(f'<td{mark} data-value="{mean!r}" title="{hint}">{metric.show(mean)}</td>')
        kind = ' class="peer"' if name in peers else ""
        lines.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return table_html(["name", *(heading_html(metric) for metric in metrics)], lines)


def _worst_cases(
    rows: Sequence[Row], cases: Sequence[Case], picture: Picture, count: int, by: str | None
) -> str:
    """A task's scenes in which some strategy does worst, with everybody's pictures."""
    wanted = RANKED if by is None else (by,)
    ranking = next((n for n in wanted if any(n in row.metrics for row in rows)), None)
    if ranking is None:
        return ""
    metric = METRICS.get(ranking)
    names = list(dict.fromkeys(row.name for row in rows))
    by_key = {(row.scene, row.name): row for row in rows}

    def badness(row: Row) -> float:
        value = row.metrics.get(ranking)
        return -np.inf if value is None or row.peer else metric.badness(value)

    def worst_of(case: Case) -> tuple[float, str]:
        return max((badness(by_key[case.scene, name]), name) for name in names)

    lines = []
    for case in sorted(cases, key=worst_of, reverse=True)[:count]:
        worst = worst_of(case)[1]
        asked = picture_html(_overlay(case), f"what is asked of scene {case.scene}")
        cells = [f"<td>{asked}<small>{escaped(case.scene)}: {escaped(case.prompt)}</small></td>"]
        for name in names:
            row = by_key[case.scene, name]
            image = picture_html(
                picture(case.task, case.scene, name), f"{name}, scene {case.scene}"
            )
            told = "<br>".join(
                f"{each} {METRICS.get(each).show(row.metrics[each])}"
                for each in dict.fromkeys((ranking, "seam", "prompt"))
                if each in row.metrics
            )
            mark = ' class="worst"' if name == worst else ""
            cells.append(f"<td{mark}>{image}<small>{told}</small></td>")
        if case.truth is not None:
            cells.append(f"<td>{picture_html(Image.fromarray(case.truth), 'the truth')}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    truth = ["truth"] if any(case.truth is not None for case in cases) else []
    heads = "".join(f'<th class="text">{escaped(n)}</th>' for n in ("asked for", *names, *truth))
    return f"""<h3>{escaped(cases[0].task)}</h3>
<p class="soft">Worst first by {ranking} ({escaped(metric.description)}), of strategies; the
strategy that does worst is red.</p>
<div class="wide"><table class="cases"><thead><tr>{heads}</tr></thead>
<tbody>{"".join(lines)}</tbody></table></div>"""


def _overlay(case: Case) -> Image.Image:
    from engine.picture.sheet import overlay_map

    return overlay_map(case.canvas, case.canvas_map)


def _every_row(rows: Sequence[Row]) -> str:
    metrics = [METRICS.get(name) for name in SHOWN if any(name in row.metrics for row in rows)]
    lines = []
    for row in rows:
        cells = [
            f'<td class="text">{escaped(each)}</td>' for each in (row.task, row.scene, row.name)
        ]
        for metric in metrics:
            value = row.metrics.get(metric.name)
            cells.append(
                "<td></td>"
                if value is None
                else f'<td data-value="{value:.6g}">{metric.show(value)}</td>'
            )
        lines.append(f"<tr{' class=peer' if row.peer else ''}>{''.join(cells)}</tr>")
    table = table_html(
        ["task", "scene", "name", *(heading_html(metric) for metric in metrics)], lines
    )
    return f"<h2>Every picture</h2><details><summary>{len(rows)} rows</summary>{table}</details>"


def _plots(rows: Sequence[Row], tasks: Sequence[str]) -> list[tuple[str, str]]:
    """Box plots (name of the metric, data URI) of the metrics' spread over scenes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    made = []
    names = list(dict.fromkeys(row.name for row in rows))[::-1]  # the first one on top
    peers = {row.name for row in rows if row.peer}
    for metric in PLOTTED:
        shown = [t for t in tasks if any(r.task == t and metric in r.metrics for r in rows)]
        if not shown:
            continue
        figure = Figure(figsize=(3.1 * len(shown) + 1.6, 0.3 * len(names) + 1), layout="tight")
        axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axis, task in zip(axes, shown, strict=True):
            values = [
                [
                    r.metrics[metric]
                    for r in rows
                    if (r.task, r.name) == (task, n) and metric in r.metrics
                ]
                for n in names
            ]
            boxes = axis.boxplot(
                values,
                orientation="horizontal",
                whis=(5, 95),
                showfliers=False,
                patch_artist=True,
                widths=0.6,
                medianprops={"color": "#181818"},
            )
            for box, name in zip(boxes["boxes"], names, strict=True):
                box.set_facecolor(_PEER if name in peers else "#8fbce6")
            axis.set_title(task, fontsize=10)
            axis.set_yticks(range(1, len(names) + 1), names, fontsize=9)
            axis.tick_params(axis="x", labelsize=8)
            axis.grid(axis="x", alpha=0.3)
        figure.suptitle(f"{metric} ({METRICS.get(metric).unit})", fontsize=11, x=0.01, ha="left")
        file = io.BytesIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "softpaint"}):
            figure.savefig(file, format="svg", metadata={"Date": None})
        made.append((metric, data_of("image/svg+xml", file.getvalue())))
    return made


# --- pieces --------------------------------------------------------------------------------------
