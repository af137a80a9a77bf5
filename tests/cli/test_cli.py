"""The command line: what it writes, what it says, how it fails."""

from __future__ import annotations

import functools
import inspect
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from engine import InpaintEngine
from engine.cli import app, run
from engine.cli.command import Command
from engine.picture.metadata import read_metadata
from strategies import list_strategies

COMMANDS = ["demo", "edit", "compare", "evaluate", "annotate", "strategies", "models", "show"]
COMMANDS += ["doctor"]
QUIET = {"TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"}  # which the other tests set
SOFTPAINT = [sys.executable, "-m", "engine.cli"]


@pytest.fixture
def edit(files, capsys):
    """Run `softpaint edit` on the small picture, two steps; the output's pixels."""

    def go(*more: str, output: str = "out.png", region: str = "mask") -> np.ndarray | None:
        option = "--mask" if region == "mask" else "--strength-map"
        arguments = ["edit", files.photo, option, files.folder / f"{region}.png", "--prompt"]
        arguments += ["a red house", "--steps", "2", "-o", files.folder / output, *more]
        code = run([str(each) for each in arguments])
        assert code == 0, capsys.readouterr().err
        path = files.folder / output
        return pixels(path) if path.exists() else None

    return go


@pytest.fixture(autouse=True)
def load_once(monkeypatch, pocket):
    """Commands of this process share the embedded model; other models are really loaded."""
    real = InpaintEngine.from_pretrained

    @functools.wraps(real)
    def load(**given):
        return real(**given) if given else pocket

    monkeypatch.setattr(InpaintEngine, "from_pretrained", load)


@pytest.fixture
def no_model(monkeypatch):
    """Fail where a model is loaded."""

    def refuse(*_, **__):
        pytest.fail("a model was loaded before the input was checked")

    monkeypatch.setattr(InpaintEngine, "from_pretrained", refuse)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# ------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"Examples?:\n +softpaint {command}", text)


def test_no_arguments_is_help(capsys):
    assert run([]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_version(capsys):
    from importlib.metadata import version

    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"softpaint {version('softpaint')}"


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [(["-m", "engine.cli", "--help"], 0.5), (["-c", "import engine"], 0.3)],
    ids=["softpaint --help", "import engine"],
)
def test_starts_quickly(arguments, limit):
    """Processor time, so that a busy machine does not fail it; the best of three."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < limit


def test_import_and_help_load_nothing_heavy():
    code = (
        "import sys, engine; from engine.cli import run; run(['edit', '--help']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'cv2', 'skimage', 'rich', 'PIL', 'numpy'};"
        "sys.exit(', '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_the_help_tells_the_engines_defaults(capsys):
    """`[default: 30]` of a model's options is written by hand: the engine must agree."""
    run(["edit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    edit = inspect.signature(InpaintEngine.edit).parameters
    load = inspect.signature(InpaintEngine.from_pretrained).parameters
    names = {
        "--model": "model",
        "--strategy": "strategy",
        "--steps": "num_inference_steps",
        "--guidance": "guidance_scale",
        "--guidance-rescale": "guidance_rescale",
        "--strength": "strength",
        "--num-images": "num_images",
        "--feather": "feather",
        "--colour": "colour",
    }
    for flag, name in names.items():
        told = re.search(rf"{flag} (?:<\w+>|NAME) [^\[]*\[default: ([^\]]+)\]", text)
        assert told, flag
        default = (edit.get(name) or load[name]).default
        assert told[1] == (default if isinstance(default, str) else f"{default:g}"), flag


# ------------------------------------------------------------------------------------- edit


def test_edit_keeps_size_and_untouched_pixels(edit, files, capsys):
    out = edit("--seed", "3")
    outside = pixels(files.mask) == 0
    assert out.shape == files.picture.shape
    assert np.array_equal(out[outside], files.picture[outside])
    assert not np.array_equal(out, files.picture)
    assert "seed 3" in capsys.readouterr().err


def test_edit_an_ordinary_photograph(cat, tmp_path):
    """The README's own command, as its own process, on 451 x 300 px."""
    mask = Image.new("L", cat.size)
    mask.paste(255, (150, 100, 260, 190))
    cat.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    command = "edit photo.png --mask mask.png -o out.png --steps 2 --prompt".split()
    done = subprocess.run(
        [*SOFTPAINT, *command, "a red house"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"out\.png  \(seed \d+, [\d.]+ s\)\n", done.stderr)  # and no progress bar
    out = pixels(tmp_path / "out.png")
    outside = np.asarray(mask) == 0
    assert out.shape == (300, 451, 3)
    assert np.array_equal(out[outside], np.asarray(cat)[outside])


def test_edit_with_a_strength_map(edit, files):
    out = edit("--steps", "12", region="map")
    untouched = pixels(files.map) == 0
    assert np.array_equal(out[untouched], files.picture[untouched])


def test_expand_grows_the_canvas_and_repeats(files):
    out, again = files.folder / "out.png", files.folder / "again.png"
    arguments = ["edit", str(files.photo), "--prompt", "the sea", "--steps", "2", "-o", str(out)]
    assert run([*arguments, "--expand", "8,0,16,0"]) == 0
    height, width = files.picture.shape[:2]
    assert pixels(out).shape == (height, width + 24, 3)
    assert np.array_equal(pixels(out)[:, 8 : 8 + width], files.picture)
    assert run(["edit", "--from", str(out), "-o", str(again)]) == 0
    assert np.array_equal(pixels(out), pixels(again))


def test_several_images_and_the_repetition_of_one(edit, files, capsys):
    edit("--num-images", "2", "--seed", "5")
    first, second = (files.folder / f"out-{i}.png" for i in (0, 1))
    assert not (files.folder / "out.png").exists()
    assert not np.array_equal(pixels(first), pixels(second))
    again = files.folder / "again.png"
    assert run(["edit", "--from", str(second), "-o", str(again)]) == 0
    assert np.array_equal(pixels(second), pixels(again))
    single = files.folder / "single.png"
    assert run(["edit", "--from", str(second), "--num-images", "1", "-o", str(single)]) == 0
    assert np.array_equal(pixels(first), pixels(single))  # one image with the first seed
    best = files.folder / "best.png"
    assert run(["edit", "--from", str(second), "--candidates", "2", "-o", str(best)]) == 0
    assert "6  differential" in capsys.readouterr().err  # begins with the seed of the one at hand


def test_quiet_says_nothing(edit, capsys):
    edit("--quiet")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_strategy_options_reach_the_strategy(edit, files):
    edit("--strategy", "differential", "--option", "strength-mode=absolute")
    record = json.loads(read_metadata(files.folder / "out.png")["edit"])
    assert record["settings"]["options"] == {"strength_mode": "absolute", "dither": False}


# ------------------------------------------------------------------------------ show and --from


def test_a_drawn_seed_is_recorded_and_the_edit_repeats(edit, files):
    out = edit("--guidance", "3", "--scheduler", "ddim", "--strength", "0.8", "--feather", "2")
    again = files.folder / "again.png"
    assert run(["edit", "--from", str(files.folder / "out.png"), "-o", str(again)]) == 0
    assert np.array_equal(out, pixels(again))


def test_the_interval_of_guidance_and_skipping_are_recorded_and_repeated(edit, files):
    interval = ("--guidance-start", "0.5", "--guidance-end", "0.9")
    out = edit(*interval, "--no-skip", "--seed", "1")
    record = json.loads(read_metadata(files.folder / "out.png")["edit"])
    used = {key: record["edit"][key] for key in ("guidance_start", "guidance_end", "skip")}
    assert used == {"guidance_start": 0.5, "guidance_end": 0.9, "skip": False}
    again = files.folder / "again.png"
    arguments = ["edit", "--from", str(files.folder / "out.png"), "-o", str(again)]
    assert run(arguments) == 0
    assert np.array_equal(out, pixels(again))
    assert run([*arguments, "--guidance-start", "0", "--skip"]) == 0
    assert not np.array_equal(out, pixels(again))
    assert json.loads(read_metadata(again)["edit"])["edit"]["skip"]


def test_previews_are_written_as_it_goes(edit, files, monkeypatch):
    from engine.picture import write as writing

    written, save = [], writing.save_image

    def noted(image, path, **more):
        save(image, path, **more)
        written.append(path.name)

    monkeypatch.setattr(writing, "save_image", noted)
    out = edit("--preview", str(files.folder / "now.png"), "--seed", "1")
    assert written == ["now.png", "now.png", "out.png"]
    preview = pixels(files.folder / "now.png")
    assert preview.shape[:2] != out.shape[:2]  # the padded picture, as the model sees it
    assert np.array_equal(out, edit("--seed", "1"))
    edit("--preview", str(files.folder / "now.png"), "--num-images", "2")
    assert (files.folder / "now-1.png").exists()


def test_from_takes_overriding_options(edit, files):
    first = edit("--seed", "1", "--strategy", "differential", "--option", "strength_mode=absolute")
    again = files.folder / "again.png"
    arguments = ["edit", "--from", str(files.folder / "out.png"), "-o", str(again)]
    assert run([*arguments, "--seed", "2"]) == 0
    assert not np.array_equal(first, pixels(again))
    assert run([*arguments, "--strategy", "blend"]) == 0  # its options are left behind
    record = json.loads(read_metadata(again)["edit"])
    assert record["settings"]["strategy"] == "blend"
    assert record["settings"]["seeds"] == [1]


def test_a_folder_can_be_moved_as_a_whole(edit, files, tmp_path_factory):
    out = edit()
    moved = tmp_path_factory.mktemp("elsewhere") / "folder"
    shutil.move(files.folder, moved)
    assert run(["edit", "--from", str(moved / "out.png"), "-o", str(moved / "again.png")]) == 0
    assert np.array_equal(out, pixels(moved / "again.png"))


def test_from_says_which_input_is_missing_and_takes_its_place(edit, files, capsys):
    out = edit()
    result, again = str(files.folder / "out.png"), str(files.folder / "again.png")
    new = files.folder / "new.png"
    files.photo.rename(new)
    assert run(["edit", "--from", result, "-o", again]) == 2
    assert re.search(r"the image that .* was made from is missing", capsys.readouterr().err)
    assert run(["edit", str(new), "--from", result, "-o", again]) == 0
    assert np.array_equal(out, pixels(Path(again)))


@pytest.mark.parametrize("which", ["photo", "mask"])
def test_from_refuses_a_changed_input(edit, files, capsys, no_model_after, which):
    edit()
    path = getattr(files, which)
    Image.fromarray(255 - pixels(path)).save(path)
    no_model_after()
    result, again = str(files.folder / "out.png"), files.folder / "again.png"
    assert run(["edit", "--from", result, "-o", str(again)]) == 2
    assert "contents differ" in capsys.readouterr().err
    assert not again.exists()


@pytest.fixture
def no_model_after(monkeypatch):
    def begin():
        monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pytest.fail("loaded"))

    return begin


def test_show_prints_every_setting(edit, files, capsys):
    edit("--seed", "11", "--scheduler", "ddim")
    assert run(["show", str(files.folder / "out.png")]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["prompt"] == "a red house"
    assert shown["seeds"] == "[11]"
    assert shown["scheduler"] == "ddim"
    assert shown["num_inference_steps"] == "2"
    assert shown["image"].startswith("photo.png (sha256 ")
    assert {"model", "strategy", "guidance_scale", "versions.torch", "seconds"} <= set(shown)
    assert run(["show", "--json", str(files.folder / "out.png")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["image"]["absolute"] == str(files.photo.resolve())
    assert len(record["region"]["mask"]["sha256"]) == 64


# ------------------------------------------------------------------------------ other commands


def test_compare_writes_a_sheet_and_prints_a_table(files, capsys):
    sheet = files.folder / "sheet.png"
    arguments = ["compare", files.photo, "--mask", files.mask, "--prompt", "a boat", "--steps", "2"]
    arguments += ["--strategies", "blend,differential", "-o", sheet]
    code = run([str(each) for each in arguments])
    table, complaint = capsys.readouterr()
    assert code == 0, complaint
    assert "blend" in table
    assert "differential" in table
    assert pixels(sheet).shape[1] > 3 * 72


def test_strategies_explains_each(capsys):
    assert run(["strategies"]) == 0
    text = capsys.readouterr().out
    assert all(
        re.search(rf"^{re.escape(name)}\b", text, re.MULTILINE) for name in list_strategies()
    )


def test_models_lists_the_embedded_model(capsys):
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"UNet2DConditionModel +\d+\.\d MB", text)
    assert "--model stabilityai/stable-diffusion-xl-base-1.0" in text


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_demo_draws_the_scenes_and_prints_a_table(tmp_path, capsys, pocket):
    assert run(["demo", "-o", str(tmp_path), "--steps", "2", "--size", "64"]) == 0
    text = capsys.readouterr().out
    for name in pocket.strategies():
        row = re.search(
            rf"^{re.escape(name)} +([\d.]+) +(\d+) +(\d+) +([\d.]+) +([\d.]+)$",
            text,
            re.MULTILINE,
        )
        assert row, text
        assert row[3] == "0"  # untouched pixels are untouched
        assert 0 <= float(row[4]) <= 1
        assert 0 < float(row[5]) < 100
    assert str(tmp_path / "softpaint-demo.png") in text
    assert "Real work takes a real checkpoint" in text
    assert pixels(tmp_path / "softpaint-demo.png").shape[1] > 500


# ---------------------------------------------------------------------------------- bad input


def _bad_files(folder: Path, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    (folder / "text.png").write_text("no picture")
    (folder / "nothing.png").write_bytes(b"")
    whole = (folder / "photo.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bomb.png").write_bytes(_png_of(60_000, 60_000))
    Image.new("L", (width, height)).save(folder / "black.png")
    Image.new("L", (width, height), 255).save(folder / "white.png")
    Image.new("L", (height, width), 255).save(folder / "turned.png")
    values = np.full((height, width), 0.5, np.float32)
    values[3, 4] = np.nan
    Image.fromarray(values).save(folder / "nan.tif")
    values[3, 4] = 1.5
    Image.fromarray(values).save(folder / "above.tif")
    (folder / "empty-folder").mkdir()


def _png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">II5B", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


EDIT = "edit photo.png --mask mask.png --prompt house -o out.png --steps 2 "
BAD_USE = {
    "no photo": ("edit --mask mask.png --prompt house -o out.png", "PHOTO is missing"),
    "no prompt": ("edit photo.png --mask mask.png -o out.png", "--prompt is missing"),
    "no output": ("edit photo.png --mask mask.png --prompt house", "--output is missing"),
    "no region": (
        "edit photo.png --prompt house -o out.png",
        "--mask, --strength-map, --region-edit or --expand",
    ),
    "two regions": (EDIT + "--strength-map map.png", "not both"),
    "missing photo": (EDIT.replace("photo", "absent"), "absent.png.*does not exist"),
    "not an image": (EDIT.replace("photo", "text"), "text.png.*is not an image"),
    "empty file": (EDIT.replace("photo", "nothing"), "nothing.png.*is an empty file"),
    "truncated image": (EDIT.replace("photo", "half"), "half.png"),
    "image bomb": (EDIT.replace("photo", "bomb"), "bomb.png.*is refused"),
    "folder as photo": (EDIT.replace("photo.png", "empty-folder"), "is a folder.*softpaint batch"),
    "two photos": (EDIT + "text.png", "text.png.*softpaint batch"),
    "auto and several": (
        EDIT + "--strategy auto --num-images 2",
        r"--strategy 'auto' cannot be combined with --num-images \(--keep says",
    ),
    "two results": ("show text.png text.png", r"\(text.png\)$"),
    "missing mask": (EDIT.replace("mask.png", "absent.png"), "absent.png.*does not exist"),
    "empty mask": (EDIT.replace("mask.png", "black.png"), "black.png.*is empty"),
    "mask of all ones": (EDIT.replace("mask.png", "white.png"), "covers the whole picture"),
    "mask of another shape": (EDIT.replace("mask.png", "turned.png"), "turned.png"),
    "NaN in a map": (EDIT.replace("--mask mask.png", "-s nan.tif"), "nan.tif.*NaN"),
    "values above 1": (
        EDIT.replace("--mask mask.png", "-s above.tif"),
        "above.tif.*to 1.5; 0 to 1",
    ),
    "no steps": (EDIT + "--steps 0", "--steps must be from 1 to 1000, not 0"),
    "steps no number": (EDIT + "--steps many", "--steps"),
    "negative guidance": (EDIT + "--guidance=-1", "--guidance must be at least 0"),
    "guidance NaN": (EDIT + "--guidance nan", "--guidance must be a finite number"),
    "strength 0": (EDIT + "--strength 0", "--strength must be"),
    "strength 2": (EDIT + "--strength 2", "--strength must be"),
    "negative feather": (EDIT + "--feather=-1", "--feather must be"),
    "negative seed": (EDIT + "--seed=-2", "--seed must be"),
    "no images": (EDIT + "--num-images 0", "--num-images must be"),
    "unknown strategy": (EDIT + "--strategy blnd", "Did you mean 'blend'.*Known: .*differential"),
    "unknown scheduler": (EDIT + "--scheduler eulr", "Did you mean 'euler'"),
    "option without value": (EDIT + "--option strength_mode", "key=value"),
    "unknown option": (EDIT + "--option strenth_mode=legacy", "strength_mode"),
    "bad option": (EDIT + "--option strength_mode=loud", "relative, absolute, legacy"),
    "an edit's own option": (EDIT + "--option prompt=x", "prompt"),
    "folder of output missing": (EDIT + "-o absent/out.png", "absent.*does not exist"),
    "output is a folder": (EDIT + "-o empty-folder", "is a folder"),
    "output of unknown kind": (EDIT + "-o out.gif", r"\.gif.*known: \.png"),
    "expand by words": (EDIT + "--expand a,b,c,d", "--expand takes four whole numbers"),
    "expand by three": (EDIT + "--expand 1,2,3", "expand must be"),
    "expand by nothing": (EDIT + "--expand 0,0,0,0", "nothing to paint"),
    "output is the photo": (EDIT + "-o photo.png", "photo.png. is an input"),
    "output is the mask": (EDIT + "-o mask.png", "mask.png. is an input"),
    "preview is the output": (
        EDIT + "--preview out.png",
        "out.png. is another file",
    ),
    "preview of unknown kind": (EDIT + "--preview now.gif", r"\.gif.*known: \.png"),
    "preview model alone": (EDIT + "--preview-model tiny", "there is none"),
    "guidance ends before it starts": (
        EDIT + "--guidance-start .6 --guidance-end .5",
        "--guidance-start .* not lie after --guidance-end",
    ),
    "from nothing": ("edit --from photo.png -o out.png", "photo.png.*not written by Softpaint"),
    "from an absent file": ("edit --from absent.png -o out.png", "absent.png.*does not exist"),
    "show nothing": ("show photo.png", "photo.png.*not written by Softpaint"),
    "show a text": ("show text.png", "text.png"),
    "unknown command": ("paint photo.png", "No such command 'paint'"),
    "unknown flag": (EDIT + "--tint red", "No such option: --tint"),
    "an option for another's value": (
        EDIT + "--negative-prompt --steps 4",
        "--negative-prompt needs a value, and --steps is another option; --negative-prompt=--steps",
    ),
    "one of a batch": ("batch photos --masks -p x -o out", "--masks needs a value, and -p is"),
    "compare unknown": (
        "compare photo.png --mask mask.png --prompt x -o out.png --strategies blend,blnd",
        "Did you mean 'blend'",
    ),
    "demo in no folder": ("demo -o absent", "absent.*does not exist"),
    "demo of odd size": ("demo --size 100", "multiple of 8"),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("case", BAD_USE)
def test_bad_use_is_one_line_and_exit_code_2(case, files, capsys, monkeypatch):
    arguments, message = BAD_USE[case]
    _check_failure(arguments.split(), message, 2, files, capsys, monkeypatch)


def test_every_command_takes_no_option_for_a_value():
    waiting: list[object] = [get_command(app)]
    found = []
    while waiting:
        command = waiting.pop()
        if isinstance(command, TyperGroup):
            waiting += command.commands.values()
        else:
            found.append(command)
    assert len(found) > 20
    assert [each for each in found if not isinstance(each, Command)] == []


FAILURES = {
    "no model there": (EDIT + "--model absent", "absent.*pocket"),
    "no model folder": (EDIT + "--model empty-folder", "empty-folder.*model_index.json.*pocket"),
    "no checkpoint": (EDIT + "--model photo.png", "photo.png"),
    "hub out of reach": (EDIT + "--model some/model", "some/model.*hub.*pocket"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_model_that_fails_is_one_line_and_exit_code_1(case, files, capsys, monkeypatch):
    arguments, message = FAILURES[case]
    _check_failure(arguments.split(), message, 1, files, capsys, monkeypatch)


def test_9_channels_without_their_network_is_bad_use(files, capsys, monkeypatch):
    from engine.pocket import model_path

    arguments = [*EDIT.split(), "--strategy", "inpaint9", "--model", str(model_path())]
    _check_failure(arguments, "9-channel.*inpaint.model", 2, files, capsys, monkeypatch)


def _check_failure(arguments, message, code, files, capsys, monkeypatch) -> None:
    _bad_files(files.folder, files.picture)
    before = {path: path.stat().st_mtime_ns for path in files.folder.rglob("*")}
    monkeypatch.chdir(files.folder)
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"softpaint: error: .+\n", captured.err)
    assert re.search(message, captured.err), captured.err
    assert before == {path: path.stat().st_mtime_ns for path in files.folder.rglob("*")}


def test_a_write_that_fails_leaves_nothing(edit, files, capsys):
    """The kernel refuses to let the file grow, as it does on a full disk."""
    edit()  # loads what is to be loaded
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = set(files.folder.iterdir())
    arguments = ["edit", "--from", files.folder / "out.png", "-o", files.folder / "new.png"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        code = run([str(each) for each in arguments])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert re.search(
        r"^softpaint: error: cannot write .*new\.png.*$", capsys.readouterr().err, re.MULTILINE
    )
    assert set(files.folder.iterdir()) == before


def test_several_images_are_written_together_or_not_at_all(edit, files, monkeypatch):
    from engine.errors import OutputError
    from engine.picture import write as module

    save = module.save_image
    saved: list[Path] = []

    def fail_at_the_second(image, path, **more):
        if saved:
            raise OutputError("the disk is full")
        saved.append(path)
        save(image, path, **more)

    monkeypatch.setattr(module, "save_image", fail_at_the_second)
    with pytest.raises(AssertionError, match="the disk is full"):
        edit("--num-images", "2")
    assert saved
    assert not list(files.folder.glob("out*"))


@pytest.mark.usefixtures("no_model")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(files, capsys):
    files.folder.chmod(0o500)
    try:
        arguments = ["edit", files.photo, "--mask", files.mask, "-p", "x", "-o"]
        code = run([*map(str, arguments), str(files.folder / "out.png")])
    finally:
        files.folder.chmod(0o700)
    assert code == 1
    assert "permission denied" in capsys.readouterr().err


def test_a_defect_is_one_line_too(files, capsys, monkeypatch):
    def burst(**_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(InpaintEngine, "from_pretrained", burst)
    arguments = [str(each) for each in ("edit", files.photo, "-m", files.mask, "-p", "x", "-o")]
    arguments.append(str(files.folder / "out.png"))
    assert run(arguments) == 1
    assert capsys.readouterr().err == (
        "softpaint: error: unexpected RuntimeError: two lines (SOFTPAINT_DEBUG=1 shows where)\n"
    )
    monkeypatch.setenv("SOFTPAINT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="two"):
        run(arguments)


def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(
        [*SOFTPAINT, "strategies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_ctrl_c_on_a_terminal(files):
    """A real process on a real terminal: a progress bar, then Ctrl-C, then one line."""
    arguments = ["edit", "photo.png", "--mask", "mask.png", "-p", "x", "-o", "out.png"]
    # A background job of a shell is born deaf to Ctrl-C, hence the handler.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from engine.cli import main; main()"
    )
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", start, *arguments, "--steps", "1000"],
        cwd=files.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        seen = _read_until(main, b"denoising")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        seen += _read_until(main, None)
        assert process.wait(timeout=60) == 130, seen.decode()
    os.close(main)
    assert b"Traceback" not in seen
    assert seen.replace(b"\r\n", b"\n").endswith(b"softpaint: interrupted; nothing was written\n")
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "map.png",
        "mask.png",
        "photo.png",
    ]


def _read_until(descriptor: int, text: bytes | None) -> bytes:
    """Read until ``text`` was seen, or to the end."""
    seen = b""
    while text is None or text not in seen:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        seen += chunk
    return seen


@pytest.mark.parametrize(("policy", "spins"), [(None, "20000"), ("passive", None)])
def test_threads_do_not_spin_for_long_unless_told_how_to_wait(monkeypatch, policy, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what the command sets goes again
        monkeypatch.delenv(name)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert run(["strategies"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_an_empty_token_is_no_token(monkeypatch, capsys):
    """As of a variable that is not set: nobody means to serve without one then."""
    monkeypatch.setattr("engine.InpaintEngine.from_pretrained", None)
    assert run(["serve", "--token", ""]) == 2
    assert "--token is empty" in capsys.readouterr().err
