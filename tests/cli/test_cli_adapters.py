"""LoRAs and embeddings on the command line: applied, recorded, repeated where they are trusted."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from engine.cli import run
from engine.request.record import EditRecord
from tests.kit import tiny_adapters

EDIT = "edit photo.png -m mask.png -p tent --steps 1 --seed 3 --device cpu "


@pytest.fixture
def go(files, capsys, monkeypatch, pocket):
    """Run a command in the files' folder, where a LoRA and an embedding for the pocket model lie;
    its exit code and what it says.
    """
    monkeypatch.chdir(files.folder)
    state = tiny_adapters.lora(tiny_adapters.kohya(pocket.pipe))
    tiny_adapters.saved(state, files.folder / "style.safetensors")
    save_file(tiny_adapters.embeddings(pocket.pipe), files.folder / "word.safetensors")

    def run_line(line: str) -> tuple[int, str]:
        code = run(line.split())
        said = capsys.readouterr()
        return code, said.err + said.out

    return run_line


def pixels(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def test_a_lora_is_applied_recorded_and_repeated(go):
    assert go(EDIT + "-o plain.png")[0] == 0
    code, said = go(
        EDIT + "--lora style.safetensors:0.5 --embedding word.safetensors:word -o a.png"
    )
    assert code == 0, said
    assert not np.array_equal(pixels("plain.png"), pixels("a.png"))
    load = EditRecord.read("a.png").load
    assert load["lora"][0].endswith("/style.safetensors:0.5")
    assert load["embedding"][0].endswith("/word.safetensors:word")
    assert "style.safetensors:0.5" in go("show a.png")[1]
    code, said = go("edit --from a.png -o b.png")
    assert code == 2
    assert f"--lora {load['lora'][0]}" in said
    assert f"--embedding {load['embedding'][0]}" in said
    code, said = go("edit --from a.png --trust -o b.png")
    assert code == 0, said
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    code, said = go(
        "edit --from a.png --lora style.safetensors:2 --embedding word.safetensors:word -o c.png"
    )
    assert code == 0, said
    assert not np.array_equal(pixels("a.png"), pixels("c.png"))


def test_bad_ones_are_refused_before_anything_is_written(go, files):
    for line, message, expected in (
        ("--lora gone.safetensors", "there is no file gone.safetensors", 1),
        ("--lora mask.png", "mask.png is no .safetensors file", 1),
        ("--embedding style.safetensors", "is a LoRA, not an embedding", 1),
    ):
        code, said = go(EDIT + line + " -o x.png")
        assert code == expected, said
        assert message in said
        assert "unexpected" not in said
        assert not (files.folder / "x.png").exists()
    code, said = go(EDIT + "--lora style.safetensors -o style.safetensors")
    assert code == 2
    assert (files.folder / "style.safetensors").stat().st_size > 10000


def test_prompts_are_read_with_their_weights(go):
    assert go(EDIT + "-o a.png")[0] == 0
    for options, same in (
        ("-p (tent:1.0)", True),
        ("-p (tent:1.6)", False),
        ("-p (tent:1.6) --prompt-syntax plain", False),
        ("-p tent --clip-skip 1", False),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            code, said = go(EDIT.replace("-p tent", options) + "-o b.png")
        assert code == 0, said
        assert ("as plain words" in said) == ("plain" in options)
        assert np.array_equal(pixels("a.png"), pixels("b.png")) == same
    record = json.loads(go("show b.png --json")[1])
    assert record["edit"]["clip_skip"] == 1


@pytest.mark.parametrize(
    "command", ["edit", "compare", "evaluate", "demo", "serve", "studio", "batch run"]
)
def test_every_command_that_loads_a_model_takes_them(go, command):
    said = go(f"{command} --help")[1]
    for option in ("--model", "--inpaint-patch", "--lora", "--embedding", "--vae", "--device"):
        assert f"{option} " in said, option
