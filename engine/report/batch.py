"""The page of a batch: its figures, worst first, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from typing import Any, Final
from urllib.parse import quote

from engine.picture.metrics import METRICS
from engine.report.html import (
    SORTING,
    escaped,
    glossary_html,
    heading_html,
    table_html,
    whole_page,
)

_SHOWN: Final = ("seam", "seam_jump", "colour_ring", "untouched")
"""The metrics of the page; rows are ranked by the first."""
_MOST: Final = 500
"""Pictures that are listed, the worst ones, and failures."""


def batch_page(
    lines: Iterable[Mapping[str, Any]],
    pictures: int,
    failures: Sequence[Mapping[str, Any]],
    title: str,
) -> str:
    """A table of the pictures, the worst seam first, with links to them; then what failed.

    Args:
        lines: of ``metadata.jsonl``.
        pictures: how many there are.
        failures: of ``failed.jsonl``.
        title: of the page.
    """
    ranked = nlargest(_MOST, lines, key=lambda line: line["figures"].get(_SHOWN[0], -1.0))
    shown = [name for name in _SHOWN if any(name in line["figures"] for line in ranked)]
    heads = ["picture", "prompt", *(heading_html(METRICS.get(name)) for name in shown), "seconds"]
    rows = [_row(line, shown) for line in ranked]
    failed = "".join(
        f"<dt>{escaped(each['item'])}</dt><dd>{escaped(each['error'])}</dd>" for each in failures
    )
    told = f"{pictures} pictures" + (f", {len(failures)} failed" if failures else "")
    if pictures > _MOST:
        told += f"; the {_MOST} with the worst seams are listed"
    body = f"""
<h1>{escaped(title)}</h1>
<p class="soft">{told}.</p>
{f"<h2>Failed</h2><dl>{failed}</dl>" if failed else ""}
<h2>Pictures</h2>
{table_html(heads, rows)}
{glossary_html(set(shown))}
"""
    return whole_page(title, body, SORTING)


def _row(line: Mapping[str, Any], shown: Sequence[str]) -> str:
    name = line["file_name"]
    figures = "".join(_figure(name, line["figures"].get(name)) for name in shown)
    return (
        f'<tr><td class="text"><a href="{quote(name)}">{escaped(name)}</a></td>'
        f'<td class="text">{escaped(line["prompt"])}</td>{figures}'
        f'<td data-value="{line["seconds"]}">{line["seconds"]:.1f}</td></tr>'
    )


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "<td></td>"
    return f'<td data-value="{value}">{METRICS.get(name).show(value)}</td>'
