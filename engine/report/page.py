"""Reports as web pages of one file: pictures, plots, style and script inside, nothing to fetch.

They work from ``file://``, without a network, and with a keyboard: sliders are range inputs, and
columns are sorted by buttons.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from engine.picture.metrics import METRICS, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.evaluate.store import Row
    from engine.evaluate.suites import Case
    from engine.request.result import Comparison

__all__ = ["comparison_page", "evaluation_page"]

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
_THUMBNAIL: Final = 256  # px; the report holds many pictures
_PEER: Final = "#9a9a9a"

_STYLE: Final = """
:root { color-scheme: light; --line: #d5d5d5; --soft: #666; --mark: #0b5fad; }
body { margin: 2rem auto; max-width: 90rem; padding: 0 1.25rem; background: #f4f4f4;
       color: #181818; font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; } p { max-width: 60rem; }
.soft, small, caption { color: var(--soft); } caption { text-align: left; padding: .2rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .25rem .55rem; text-align: right; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
thead th { position: sticky; top: 0; background: #ececec; vertical-align: bottom; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible, input:focus-visible, select:focus-visible, summary:focus-visible {
  outline: 2px solid var(--mark); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; font-size: .7em; }
th[aria-sort=descending] button::after { content: " \\25BC"; font-size: .7em; }
td.text { white-space: nowrap; } td.best { font-weight: 700; }
tr.peer td { color: #555; background: #f8f8f8; }
.cases td { vertical-align: top; text-align: left; padding: .4rem; min-width: 9.5rem; }
.cases img { width: 9.5rem; display: block; } .cases small { display: block; max-width: 9.5rem; }
.cases td.worst { background: #fdeaea; }
.plots { display: grid; gap: 1rem; grid-template-columns: 1fr; } .plots img { max-width: 100%; }
.pairs { display: grid; gap: 1.5rem;
         grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; background: #fff; border: 1px solid var(--line); padding: .75rem; }
figcaption { margin: .5rem 0 0; } figcaption strong { font-size: 1.05rem; }
.pair { position: relative; line-height: 0; }
.pair img { width: 100%; display: block; }
.pair .after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)); }
.pair::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at, 50%);
               width: 2px; margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; }
.pair b { position: absolute; bottom: .4rem; padding: .1rem .45rem; background: #000b;
          color: #fff; font: 600 12px/1.4 system-ui, sans-serif; }
.pair b:first-of-type { left: .4rem; } .pair b:last-of-type { right: .4rem; }
figure input[type=range] { width: 100%; margin: .6rem 0 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .4rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

_SORTING: Final = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    const key = row => { const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value); };
    const empty = row => row.cells[column].textContent === "";
    const rows = [...body.rows].sort((a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b);
      const x = key(a), y = key(b);
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    for (const each of head.parentNode.children) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  });
}
"""

_SLIDING: Final = """
for (const figure of document.querySelectorAll("figure")) {
  const pair = figure.querySelector(".pair"), range = figure.querySelector("input");
  const move = () => pair.style.setProperty("--at", range.value + "%");
  range.addEventListener("input", move);
  const drag = event => {
    if (event.buttons !== 1) return;
    const box = pair.getBoundingClientRect();
    range.value = Math.round(100 * (event.clientX - box.left) / box.width);
    move();
    event.preventDefault();
  };
  pair.addEventListener("pointerdown", drag);
  pair.addEventListener("pointermove", drag);
  move();
}
const before = document.getElementById("before");
before.addEventListener("change", () => {
  const label = before.selectedOptions[0].textContent;
  for (const figure of document.querySelectorAll("figure")) {
    const [under, over] = figure.querySelectorAll("img");
    const source = before.value === "" ? null : document.querySelectorAll(".after")[before.value];
    under.src = source ? source.src : under.dataset.original;
    under.alt = figure.querySelector("b").textContent = label;
  }
});
"""


# --- a comparison --------------------------------------------------------------------------------


def comparison_page(comparison: Comparison, *, title: str) -> str:
    """Each strategy's picture over the original, with a slider, its metrics and its settings."""
    measured = comparison.measure()
    original = comparison.original.convert("RGB")
    middle = _middle(comparison.strength_map)
    figures, names = [], []
    for name, result in comparison.results.items():
        for i, seed in enumerate(result.seeds):
            label = name if len(result.seeds) == 1 else f"{name}, seed {seed}"
            names.append(label)
            image = comparison.picture(name, i)
            figures.append(
                _figure(label, original, image, measured[name][i], result.settings, middle)
            )
    figures += [
        f'<p class="soft">{_text(f"{name} failed: {error}")}</p>'
        for name, error in comparison.errors.items()
    ]
    options = "".join(f'<option value="{i}">{_text(n)}</option>' for i, n in enumerate(names))
    overlay = _image(comparison.overlay(), "where, and how strongly", None)
    body = f"""
<h1>{_text(title)}</h1>
<p class="soft">{comparison.seconds:.1f} s for all of them, in shared model calls. Drag a picture,
or use its slider with the arrow keys.</p>
<p><label>on the left: <select id="before"><option value="">original</option>{options}</select>
</label></p>
<div class="pairs">{"".join(figures)}</div>
<h2>Strength map</h2>
<div style="max-width: 24rem" class="maps">{overlay}</div>
{_glossary({m for each in measured.values() for one in each for m in one})}
"""
    return _page(title, body, _SLIDING)


def _middle(strength_map: NDArray[np.float32]) -> int:
    """Where the edit's middle is, in percent of the width: a slider there shows both halves."""
    columns = strength_map.sum(axis=0)
    if not columns.any():
        return 50
    return round(
        100 * float(np.average((np.arange(columns.size) + 0.5) / columns.size, weights=columns))
    )


def _figure(
    label: str,
    before: Image.Image,
    after: Image.Image,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    at: int,
) -> str:
    original = _data_uri(before, None)
    told = "".join(
        f"<dt>{_text(name)}</dt><dd>{METRICS.get(name).show(value)} {METRICS.get(name).unit}</dd>"
        for name, value in metrics.items()
    )
    used = "".join(
        f"<dt>{_text(key)}</dt><dd>{_text(json.dumps(value, ensure_ascii=False))}</dd>"
        for key, value in settings.items()
    )
    return f"""
<figure><div class="pair"><img src="{original}" data-original="{original}" alt="original"
draggable="false"><img class="after" src="{_data_uri(after, None)}" alt="{_text(label)}"
draggable="false"><b>original</b><b>{_text(label)}</b></div>
<input type="range" min="0" max="100" value="{at}" aria-label="where {_text(label)} begins">
<figcaption><strong>{_text(label)}</strong><dl>{told}</dl>
<details><summary>settings</summary><dl>{used}</dl></details></figcaption></figure>"""


# --- an evaluation -------------------------------------------------------------------------------


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
        parts.append(f"<h2>{_text(task)}</h2>{_means(own)}")
    plots = "".join(
        f"<div>{_image_tag(uri, f'{name} by strategy and task')}</div>"
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
<p class="soft">Scenes: {_text(scenes)}.<br>{_text(used)}.</p>
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
{_glossary({name for row in rows for name in row.metrics})}
"""
    return _page("Softpaint evaluation", body, _SORTING)


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
        cells = [f'<td class="text">{_text(name)}</td>']
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
    return _table(["name", *(_heading(metric) for metric in metrics)], lines)


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
        asked = _image(_overlay(case), f"what is asked of scene {case.scene}")
        cells = [f"<td>{asked}<small>{_text(case.scene)}: {_text(case.prompt)}</small></td>"]
        for name in names:
            row = by_key[case.scene, name]
            image = _image(picture(case.task, case.scene, name), f"{name}, scene {case.scene}")
            told = "<br>".join(
                f"{each} {METRICS.get(each).show(row.metrics[each])}"
                for each in dict.fromkeys((ranking, "seam", "prompt"))
                if each in row.metrics
            )
            mark = ' class="worst"' if name == worst else ""
            cells.append(f"<td{mark}>{image}<small>{told}</small></td>")
        if case.truth is not None:
            cells.append(f"<td>{_image(Image.fromarray(case.truth), 'the truth')}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    truth = ["truth"] if any(case.truth is not None for case in cases) else []
    heads = "".join(f'<th class="text">{_text(n)}</th>' for n in ("asked for", *names, *truth))
    return f"""<h3>{_text(cases[0].task)}</h3>
<p class="soft">Worst first by {ranking} ({_text(metric.description)}), of strategies; the
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
        cells = [f'<td class="text">{_text(each)}</td>' for each in (row.task, row.scene, row.name)]
        for metric in metrics:
            value = row.metrics.get(metric.name)
            cells.append(
                "<td></td>"
                if value is None
                else f'<td data-value="{value:.6g}">{metric.show(value)}</td>'
            )
        lines.append(f"<tr{' class=peer' if row.peer else ''}>{''.join(cells)}</tr>")
    table = _table(["task", "scene", "name", *(_heading(metric) for metric in metrics)], lines)
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
        made.append((metric, _uri("image/svg+xml", file.getvalue())))
    return made


# --- pieces --------------------------------------------------------------------------------------


def _page(title: str, body: str, script: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title><style>{_STYLE}</style></head>
<body>{body}<script>{script}</script></body></html>
"""


def _table(heads: Iterable[str], lines: Iterable[str]) -> str:
    buttons = "".join(
        f'<th scope="col"><button type="button">{each}</button></th>' for each in heads
    )
    return (
        f'<div class="wide"><table><thead><tr>{buttons}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heading(metric: Metric) -> str:
    arrow = {"lower": "&darr;", "higher": "&uarr;", "one": "&rarr;1"}[metric.better]
    return f"{metric.name} {arrow}<br><small>{metric.unit}</small>"


def _glossary(names: set[str]) -> str:
    """What the metrics mean."""
    known = [metric for metric in METRICS if metric.name in names]
    items = "".join(
        f"<dt>{metric.name}</dt><dd>{_text(metric.description)}; in {_text(metric.unit)}, "
        f"{'best at 1' if metric.better == 'one' else f'{metric.better} is better'}</dd>"
        for metric in known
    )
    return f"<h2>The metrics</h2><dl>{items}</dl>"


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)


def _image(image: Image.Image, description: str, limit: int | None = _THUMBNAIL) -> str:
    return _image_tag(_data_uri(image, limit), description)


def _image_tag(uri: str, description: str) -> str:
    return f'<img src="{uri}" alt="{_text(description)}">'


def _data_uri(image: Image.Image, limit: int | None) -> str:
    """The picture inside a URI, no side longer than ``limit`` px."""
    if limit is not None and max(image.size) > limit:
        image = image.copy()
        image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.convert("RGB").save(file, format="PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
