"""The command line's controls: annotate, --control, sweeps, what a PNG remembers of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engine.pocket
from controls import annotate, list_annotators, list_controls
from engine import InpaintEngine
from engine.cli import run
from engine.picture.metadata import read_metadata
from tests.kit import tiny_controls


@pytest.fixture(scope="module")
def nets(pocket, tmp_path_factory):
    """Random ControlNets that fit the embedded model, where its own would be."""
    folder = tmp_path_factory.mktemp("nets")
    unet = pocket.backbone.network("base").unet
    for seed, name in enumerate(("canny", "depth")):
        tiny_controls.controlnet(unet, seed).save_pretrained(folder / f"controlnet_{name}")
    return folder


@pytest.fixture(autouse=True)
def carried(monkeypatch, pocket, nets):
    """The embedded model, loaded once, with these ControlNets for its own."""
    paths = {name: nets / f"controlnet_{name}" for name in ("canny", "depth")}
    monkeypatch.setattr(engine.pocket, "controlnet_paths", lambda: paths)
    monkeypatch.setattr(pocket.backbone, "_controlnets", {})
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pocket)


@pytest.fixture
def go(files, capsys, monkeypatch):
    """Run a command in the folder of the small picture; what it printed."""
    Image.fromarray(annotate(files.picture, "canny")).save(files.folder / "edges.png")
    half = np.zeros(files.picture.shape[:2], np.uint8)
    half[:, :36] = 255
    Image.fromarray(half).save(files.folder / "half.png")
    monkeypatch.chdir(files.folder)

    def command(line: str, code: int = 0) -> str:
        got = run(line.split())
        captured = capsys.readouterr()
        assert got == code, captured.err
        return str(captured.out + captured.err)

    return command


EDIT = "edit photo.png -m mask.png -p house -o {}.png --steps 2 --seed 3 "


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_annotate(go, files):
    go("annotate photo.png --control canny -o out.png")
    assert np.array_equal(pixels("out.png"), annotate(files.picture, "canny"))
    go("annotate photo.png -c grey -o out.png --quiet")
    assert np.array_equal(pixels("out.png"), annotate(files.picture, "grey"))


def test_annotate_lists_all_names(go):
    text = go("annotate --list")
    for name in (*list_annotators(), *list_controls()):
        assert re.search(rf"^  {re.escape(name)} ", text, re.MULTILINE)
    assert re.search(r"midas .*loads weights on first use", text)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("annotate --control canny -o out.png", 2, "PHOTO is missing"),
        ("annotate photo.png -o out.png", 2, "--control is missing"),
        ("annotate photo.png -c canny", 2, "--output is missing"),
        ("annotate photo.png -c cany -o out.png", 2, "unknown control or annotator 'cany'.*canny"),
        ("annotate photo.png -c inpaint -o out.png", 2, "without what its mask covers"),
        ("annotate photo.png -c canny -o photo.png", 2, "photo.png' is an input"),
        ("annotate photo.png -c canny -o out.gif", 2, "known: .png"),
        ("annotate photo.png -c depth -o out.png", 1, "needs weights.*these need none: canny"),
        (EDIT + "--control cany", 2, "unknown control 'cany'. Did you mean 'canny'"),
        (EDIT + "--control canny=absent.png", 2, "absent.png.*does not exist"),
        (EDIT + "--control canny=small.png", 2, "40 x 40 px but the picture is 72 x 56"),
        (EDIT + "--control canny:nan", 2, "scale must be a finite number"),
        (EDIT + "--control canny:1:0.6-0.4", 2, "must lie before end"),
        (EDIT + "--control canny:1:0:2", 2, "cannot be read: NAME"),
        (EDIT + "--control canny:0.2,0.5", 2, r"several scales \(0.2, 0.5\).*compare"),
        (EDIT + "--control canny --control-mask canny=black.png", 2, "is 0 everywhere"),
        (EDIT + "--control canny --control-mask depth=half.png", 2, "there is no --control depth"),
        (EDIT + "--control canny --control-mask half.png", 2, "takes NAME=FILE"),
        (EDIT + "--control canny --loose-masks", 2, "about --control-mask, and there is none"),
        (EDIT + "--control canny=edges.png -o edges.png", 2, "edges.png' is an input"),
        (EDIT + "--control canny --control-mask canny=half.png -o half.png", 2, "is an input"),
        (
            "compare photo.png -m mask.png -p x -o s.png --control canny:0,1 --control depth:0,1",
            2,
            "one control can be swept at a time.*canny, depth",
        ),
    ],
)
def test_bad_use_is_told_before_a_model_is_loaded(go, files, line, code, message, monkeypatch):
    Image.new("RGB", (40, 40)).save("small.png")
    Image.new("L", (72, 56)).save("black.png")
    before = {path: path.read_bytes() for path in files.folder.iterdir()}
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pytest.fail("loaded"))
    text = go(line.format("out"), code)
    assert re.fullmatch(r"softpaint: error: .+\n", text)
    assert re.search(message, text)
    assert before == {path: path.read_bytes() for path in files.folder.iterdir()}


def test_a_name_without_a_network_for_this_model(go):
    assert "no ControlNet for pocket models is known by the name 'shuffle'" in go(
        (EDIT + "--control shuffle").format("out"), 2
    )


def test_depth_without_weights_for_its_annotator(go):
    assert "annotator 'midas' needs weights" in go((EDIT + "--control depth").format("out"), 1)


def test_controls_change_the_edit_and_scale_0_does_not(go, files):
    go(EDIT.format("plain"))
    go((EDIT + "--control canny:0").format("off"))
    assert np.array_equal(pixels("off.png"), pixels("plain.png"))
    go((EDIT + "--control canny").format("on"))
    go((EDIT + "--strategy differential+canny").format("named"))
    assert np.array_equal(pixels("on.png"), pixels("named.png"))
    go((EDIT + "--control canny=edges.png").format("drawn"))
    assert np.array_equal(pixels("on.png"), pixels("drawn.png"))
    assert not np.array_equal(pixels("on.png"), pixels("plain.png"))
    outside = pixels("mask.png") == 0
    assert np.array_equal(pixels("on.png")[outside], files.picture[outside])
    go((EDIT + "--control canny --guess-mode").format("guessed"))
    assert not np.array_equal(pixels("on.png"), pixels("guessed.png"))


def test_a_control_mask_is_exact_or_loose_and_so_again(go):
    for name, option in (("exact", ""), ("loose", "--loose-masks")):
        masked = f"--control canny=edges.png --control-mask canny=half.png {option}"
        go((EDIT + masked).format(name))
        record = json.loads(read_metadata(Path(f"{name}.png"))["edit"])
        assert record["controls"][0]["exact"] == (name == "exact")
        go(f"edit --from {name}.png -o again.png")
        assert np.array_equal(pixels("again.png"), pixels(f"{name}.png"))
    assert not np.array_equal(pixels("exact.png"), pixels("loose.png"))


def test_a_png_remembers_its_controls_and_repeats_them(go, nets):
    controls = (
        f"--control canny=edges.png:0.7:0-0.5 --control {nets / 'controlnet_depth'}=grey:0.4 "
        "--control-mask canny=half.png"
    )
    go((EDIT + controls).format("out"))
    refused = go("edit --from out.png -o again.png", 2)
    assert "controlnet_depth. If you trust it, add --trust" in refused
    go("edit --from out.png --trust -o again.png")
    assert np.array_equal(pixels("out.png"), pixels("again.png"))
    record = json.loads(read_metadata(Path("out.png"))["edit"])
    first, second = record["controls"]
    assert (first["model"], first["scale"], first["end"]) == ("canny", 0.7, 0.5)
    assert (first["image"]["path"], first["mask"]["path"]) == ("edges.png", "half.png")
    assert (second["image"], second["mask"]) == ("grey", None)
    shown = go("show out.png")
    assert re.search(r"canny image +edges.png \(sha256 [0-9a-f]{12}\)", shown)

    go("edit --from out.png --control canny:0 -o other.png")  # in place of the recorded ones
    go(EDIT.format("plain"))
    assert np.array_equal(pixels("other.png"), pixels("plain.png"))

    Image.fromarray(255 - pixels("edges.png")).save("edges.png")
    text = go("edit --from out.png --trust -o third.png", 2)
    assert re.search(r"edges.png is not the canny control's image .*contents differ", text)
    assert not Path("third.png").exists()


def test_compare_sweeps_a_scale(go):
    line = "compare photo.png -m mask.png -p house --steps 2 --seed 3 -o {}.png --strategies "
    table = go((line + "blend,differential --control canny:0,0.5").format("sheet"))
    labels = re.findall(r"^(\w+, canny [\d.]+) ", table, re.MULTILINE)
    assert labels == [
        f"{name}, canny {scale}" for name in ("blend", "differential") for scale in ("0", "0.5")
    ]
    sheet = pixels("sheet.png")
    go((line + "blend --control canny:0,0.5").format("row"))
    assert pixels("row.png").shape[1] == sheet.shape[1]  # a row for each strategy
    assert pixels("row.png").shape[0] < 0.6 * sheet.shape[0]
    go((line + "blend --control canny:0.5").format("one"))
    assert pixels("one.png").shape[1] < sheet.shape[1]


def test_models_lists_what_can_be_named(go):
    text = go("models")
    assert re.search(r"controlnet_canny +ControlNetModel +\d+\.\d MB", text)
    assert re.search(r"by name +canny \(pocket, sdxl, sd\), depth \(pocket", text)


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_the_demo_shows_each_with_and_without(go, monkeypatch):
    from engine.pocket import world

    scenes = world.demo_scenes(64)[:1]
    monkeypatch.setattr(world, "demo_scenes", lambda _: scenes)
    text = go("demo --steps 2 --size 64")
    names = re.findall(r"^([\w+-]+) +[\d.]+ +\d+ +0 +[\d.]+ +[\d.]+$", text, re.MULTILINE)
    assert names[:3] == ["blend", "differential", "differential+canny"]
    assert "reads the edges of the picture in the last column" in text
    assert Path("softpaint-demo.png").exists()
