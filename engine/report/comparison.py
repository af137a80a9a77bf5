"""Reports as web pages of one file: pictures, plots, style and script inside, nothing to fetch.

They work from ``file://``, without a network, and with a keyboard: sliders are range inputs, and
columns are sorted by buttons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.picture.metrics import METRICS
from engine.report.evaluation import evaluation_page
from engine.report.html import (
    SLIDING,
    escaped,
    glossary_html,
    picture_html,
    picture_uri,
    whole_page,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from engine.request.result import Comparison

__all__ = ["comparison_page", "evaluation_page"]


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
        f'<p class="soft">{escaped(f"{name} failed: {error}")}</p>'
        for name, error in comparison.errors.items()
    ]
    options = "".join(f'<option value="{i}">{escaped(n)}</option>' for i, n in enumerate(names))
    overlay = picture_html(comparison.overlay(), "where, and how strongly", None)
    body = f"""
<h1>{escaped(title)}</h1>
<p class="soft">{comparison.seconds:.1f} s for all of them, in shared model calls. Drag a picture,
or use its slider with the arrow keys.</p>
<p><label>on the left: <select id="before"><option value="">original</option>{options}</select>
</label></p>
<div class="pairs">{"".join(figures)}</div>
<h2>Strength map</h2>
<div style="max-width: 24rem" class="maps">{overlay}</div>
{glossary_html({m for each in measured.values() for one in each for m in one})}
"""
    return whole_page(title, body, SLIDING)


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
    original = picture_uri(before, None)
    told = "".join(
        f"<dt>{escaped(name)}</dt><dd>{METRICS.get(name).show(value)} {METRICS.get(name).unit}</dd>"
        for name, value in metrics.items()
    )
    used = "".join(
        f"<dt>{escaped(key)}</dt><dd>{escaped(json.dumps(value, ensure_ascii=False))}</dd>"
        for key, value in settings.items()
    )
    return f"""
<figure><div class="pair"><img src="{original}" data-original="{original}" alt="original"
draggable="false"><img class="after" src="{picture_uri(after, None)}" alt="{escaped(label)}"
draggable="false"><b>original</b><b>{escaped(label)}</b></div>
<input type="range" min="0" max="100" value="{at}" aria-label="where {escaped(label)} begins">
<figcaption><strong>{escaped(label)}</strong><dl>{told}</dl>
<details><summary>settings</summary><dl>{used}</dl></details></figcaption></figure>"""


# --- an evaluation -------------------------------------------------------------------------------
