"""Exact counts: what the loop reads on the host, and what is encoded how often."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from engine.denoise.strategy import Strategy
from strategies import LatentBlend
from tests.kit import tiny

RUN = str(Path(__file__).parents[2] / "examples" / "benchmarks" / "run.py")


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(RUN)


@pytest.fixture(scope="module")
def engine():
    return tiny.engine(inpaint=False)


EDIT = {
    "image": tiny.picture(),
    "mask": tiny.box_mask(),
    "prompt": "a red house",
    "seed": 1,
    "prefill": "original",  # a fill is a picture of its own to encode
}


@pytest.mark.parametrize(
    ("scheduler", "strategy"),
    [
        *((name, "differential") for name in ("euler", "ddim", "dpmpp-2m", "lcm")),
        *(("euler", name) for name in ("blend", "soft-blend")),
    ],
)
def test_a_step_reads_nothing_on_the_host(engine, bench, scheduler, strategy):
    counts = []
    for steps in (1, 2, 5):  # the first one is where picture and prompt are met
        with bench["HostReads"]() as reads:
            engine.edit(**EDIT, num_inference_steps=steps, scheduler=scheduler, strategy=strategy)
        counts.append(reads.count)
    assert counts[1] == counts[2]


def test_the_counter_counts(bench):
    import torch

    with bench["HostReads"]() as reads:
        assert float(torch.ones(3)[1]) == 1
    assert reads.count == 1


def test_a_comparison_encodes_once(engine, monkeypatch):
    calls = {"vae": 0, "text_encoder": 0}

    def count(name, method):
        module = getattr(engine.pipe, name)
        call = getattr(module, method)

        def counted(*args, **kwargs):
            calls[name] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(module, method, counted)

    count("vae", "encode")
    count("text_encoder", "forward")
    engine.clear_cache()
    hard = Strategy("hard", (LatentBlend(hard_mask=True),))
    strategies = ["blend", "differential", "soft-blend", hard]
    engine.compare(**EDIT, num_inference_steps=1, guidance_scale=1.0, strategies=strategies)
    assert calls == {"vae": 1, "text_encoder": 1}
    engine.edit(**EDIT, num_inference_steps=1, guidance_scale=1.0)
    assert calls == {"vae": 1, "text_encoder": 1}
    with monkeypatch.context() as patch:
        patch.setattr(engine.pipe.vae.encoder.conv_in, "bias", None)  # other weights
        engine.edit(**EDIT, num_inference_steps=1, guidance_scale=1.0)
    assert calls["vae"] == 2


def test_the_benchmark_writes_its_table(tmp_path, monkeypatch, capsys, bench):
    monkeypatch.setattr(
        sys, "argv", [RUN, "--rows", "leading-skip", "--json", str(tmp_path / "table.json")]
    )
    names = bench["main"].__globals__
    monkeypatch.setitem(names, "STEPS", 9)
    monkeypatch.setitem(names, "list_schedulers", lambda: ["euler"])
    bench["main"]()
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert row["row"] == "leading-skip"
    assert row["max_difference"] == 0
    assert (row["softpaint"], row["peer"]) == (4, 9)
    assert "| `leading-skip` | 4 | 9 | 0.444 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [RUN, "--rows", "haste"])
    with pytest.raises(SystemExit, match="2"):
        bench["main"]()
