"""Where an evaluation keeps what it has done, so that it can be interrupted and go on."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from engine.errors import InputError
from engine.picture.opening import first_line
from engine.picture.read import load_image
from engine.picture.write import check_writable, save_image, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SETTINGS: Final = "settings.json"
ROWS: Final = "rows.jsonl"
PICTURES: Final = "pictures"


@dataclass(frozen=True)
class Row:
    """One picture's measures."""

    name: str
    """The strategy's, with its settings, or the peer's."""
    peer: bool
    task: str
    scene: str
    metrics: Mapping[str, float]
    """Those that are defined for this picture: every value is finite."""
    judges: Mapping[str, str] = field(default_factory=dict)
    """Whose weights gave those of :mod:`engine.evaluate.judges`."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.scene, self.name


class Store:
    """A folder with one picture and one line of JSON for each edit that was made.

    A picture is renamed into place before its line is added, and a line that a crash cut short is
    dropped when the folder is opened again: what is listed is there.

    Args:
        folder: made where it is missing.
        settings: what the pictures depend on; JSON-able. A folder keeps to one set of settings.

    Raises:
        InputError: the folder cannot be written, or holds an evaluation with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.rows: dict[tuple[str, str, str], Row] = {}
        try:
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be the report's folder: {error.strerror}."
            ) from error
        check_writable(folder / ROWS, image=False)
        self._check_settings()
        self._read_rows()

    def _check_settings(self) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            write_text(path, json.dumps(self.settings, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged: {first_line(error)}") from error
        changed = [key for key in self.settings if before.get(key) != self.settings[key]]
        if changed:
            key = changed[0]
            raise InputError(
                f"{self.folder} holds an evaluation with {key} = {before.get(key)!r}, not "
                f"{self.settings[key]!r}; give another folder, or the same settings to go on."
            )

    def _read_rows(self) -> None:
        path = self.folder / ROWS
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            write_text(path, "".join(whole))
        try:
            for line in whole:
                row = Row(**json.loads(line))
                self.rows[row.key] = row
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged: {first_line(error)}") from error

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return key in self.rows

    def add(self, row: Row, pixels: NDArray[np.uint8]) -> None:
        """Keep a picture (H W 3) and its row."""
        save_image(Image.fromarray(pixels), self.picture(*row.key))
        self.amend(row)

    def amend(self, row: Row) -> None:
        """Keep a row of a picture that is here: the last one of a key counts."""
        with (self.folder / ROWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[row.key] = row

    def picture(self, task: str, scene: str, name: str) -> Path:
        """Where the picture of an edit is."""
        return self.folder / PICTURES / ("--".join(map(_safe, (task, scene, name))) + ".png")

    def pixels(self, task: str, scene: str, name: str) -> NDArray[np.uint8]:
        """The picture of an edit, H W 3."""
        return load_image(self.picture(task, scene, name)).rgb

    def image(self, task: str, scene: str, name: str) -> Image.Image:
        """The picture of an edit."""
        return Image.fromarray(self.pixels(task, scene, name))


def _safe(text: str) -> str:
    """``text`` as part of a file name that every system takes."""
    return re.sub(r"[^A-Za-z0-9.+=_-]", "_", text)


# --- sums ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """One metric of one name in one task, over all scenes for which it is defined."""

    name: str
    peer: bool
    task: str
    metric: str
    mean: float
    median: float
    n: int


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Means and medians, in the order in which names, tasks and metrics first appear."""
    values: dict[tuple[str, bool, str, str], list[float]] = {}
    for row in rows:
        for metric, value in row.metrics.items():
            values.setdefault((row.name, row.peer, row.task, metric), []).append(value)
    return [
        Summary(*key, float(np.mean(each)), float(np.median(each)), len(each))
        for key, each in values.items()
    ]


def summary_json(rows: Sequence[Row]) -> str:
    """``{"rows": [{"name", "peer", "task", "metric", "mean", "median", "n"}, ...]}``."""
    return json.dumps({"rows": [asdict(each) for each in summarise(rows)]}, indent=1) + "\n"


def rows_csv(rows: Sequence[Row]) -> str:
    """One line for each picture; a metric that is not defined for it is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "scene", "name", "peer", *names])
    for row in rows:
        values = (row.metrics.get(name, "") for name in names)
        writer.writerow([row.task, row.scene, row.name, int(row.peer), *values])
    return text.getvalue()


def markdown(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """One table of means for each task, in Markdown."""
    from engine.picture.metrics import METRICS

    summary = summarise(rows)
    tables = []
    for task in dict.fromkeys(row.task for row in rows):
        means = {(s.name, s.metric): s.mean for s in summary if s.task == task}
        shown = [metric for metric in metrics if any(key[1] == metric for key in means)]
        count = len({row.scene for row in rows if row.task == task})
        lines = [f"| {task} ({count}) | {' | '.join(shown)} |", "|---|" + "---:|" * len(shown)]
        for name in dict.fromkeys(name for name, _ in means):
            cells = (
                METRICS.get(metric).show(means[name, metric]) if (name, metric) in means else ""
                for metric in shown
            )
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
