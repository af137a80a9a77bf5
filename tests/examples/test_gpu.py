"""The GPU's bench runs to its end on a CPU, so that it cannot rot before somebody has a GPU."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

GPU = str(Path(__file__).parents[2] / "examples" / "benchmarks" / "gpu.py")


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(GPU)["main"]


def test_every_row_on_a_tiny_model(main, tmp_path, capsys):
    table, found = tmp_path / "table.md", tmp_path / "rows.json"
    words = ["--tiny", "--device", "cpu", "--json", str(found), "--markdown", str(table)]
    assert main(words) == 0
    rows = {row["row"]: row for row in json.loads(found.read_text())["rows"]}
    assert rows["edit, eager"]["details"]["compat_difference"] == 0  # the same module objects
    assert all(
        rows[name]["value"] > 0 for name in ("edit, eager", "retune", "8 edits, shared calls")
    )
    assert rows["model offload"]["value"] is None  # said, not left out
    assert len(table.read_text().splitlines()) == len(rows) + 4
    assert "needs a GPU" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(main, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "no GPU here" in capsys.readouterr().err
