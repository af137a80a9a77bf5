"""What pages are made of: style, scripts, tables, metrics explained, pictures inside one file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import Final

from PIL import Image

from engine.picture.metrics import METRICS, Metric

_THUMBNAIL: Final = 256  # px; the report holds many pictures


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

SORTING: Final = """
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

SLIDING: Final = """
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


def whole_page(title: str, body: str, script: str) -> str:
    """A page of one file around ``body``."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title><style>{_STYLE}</style></head>
<body>{body}<script>{script}</script></body></html>
"""


def table_html(heads: Iterable[str], lines: Iterable[str]) -> str:
    """A table whose columns are sorted by their heads."""
    buttons = "".join(
        f'<th scope="col"><button type="button">{each}</button></th>' for each in heads
    )
    return (
        f'<div class="wide"><table><thead><tr>{buttons}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def heading_html(metric: Metric) -> str:
    """A metric's name, which way is better, and its unit."""
    arrow = {"lower": "&darr;", "higher": "&uarr;", "one": "&rarr;1"}[metric.better]
    return f"{metric.name} {arrow}<br><small>{metric.unit}</small>"


def glossary_html(names: set[str]) -> str:
    """What the metrics mean."""
    known = [metric for metric in METRICS if metric.name in names]
    items = "".join(
        f"<dt>{metric.name}</dt><dd>{escaped(metric.description)}; in {escaped(metric.unit)}, "
        f"{'best at 1' if metric.better == 'one' else f'{metric.better} is better'}</dd>"
        for metric in known
    )
    return f"<h2>The metrics</h2><dl>{items}</dl>"


def escaped(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text), quote=True)


def picture_html(image: Image.Image, description: str, limit: int | None = _THUMBNAIL) -> str:
    """A picture inside the page, at most ``limit`` px on a side."""
    return picture_tag(picture_uri(image, limit), description)


def picture_tag(uri: str, description: str) -> str:
    """The tag of a picture under a URI."""
    return f'<img src="{uri}" alt="{escaped(description)}">'


def picture_uri(image: Image.Image, limit: int | None) -> str:
    """The picture inside a URI, no side longer than ``limit`` px."""
    if limit is not None and max(image.size) > limit:
        image = image.copy()
        image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.convert("RGB").save(file, format="PNG", optimize=True)
    return data_of("image/png", file.getvalue())


def data_of(kind: str, data: bytes) -> str:
    """Data as a URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
