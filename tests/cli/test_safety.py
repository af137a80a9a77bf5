"""What a command writes destroys nothing that it reads, and a record by others is only data."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from engine.cli import run
from engine.errors import InputError, OutputError, setting, told
from engine.picture.commit import Commit
from engine.picture.metadata import read_metadata
from engine.request.record import EditRecord
from tests.kit import tiny


@pytest.fixture(autouse=True)
def loaded():
    with tiny.loaded() as engine:
        yield engine


@pytest.fixture
def go(files, capsys, monkeypatch):
    """Run a command in the files' folder; its exit code and what it says."""
    monkeypatch.chdir(files.folder)

    def run_line(line: str) -> tuple[int, str]:
        code = run(line.split())
        return code, capsys.readouterr().err

    return run_line


EDIT = "edit photo.png -m mask.png -p tent --steps 1 "


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (EDIT.replace("photo", "X-0") + "-o y.png --num-images 2 --preview X.png", "image"),
        (EDIT.replace("mask", "X-1") + "-o X.png --num-images 2", "mask"),
        (EDIT + "-o y.png --control canny=map.png --preview map.png", "control's image"),
        (EDIT + "-o link.png", "image"),
        (EDIT + "-o twin.png", "mask"),
        ("compare photo.png -m mask.png -p x -o y.png --html photo.png", "image"),
        ("compare photo.png -m mask.png -p x -o y.html.png --html y.html.png", "--output"),
        ("map mask.png --with map.png --grow 1 -o map.png", "map"),
        ("annotate photo.png -c canny -o ./photo.png", "image"),
    ],
)
def test_nothing_that_is_read_is_written(go, files, line, what):
    for name, source in (("X-0", "photo"), ("X-1", "mask")):
        (files.folder / f"{name}.png").write_bytes((files.folder / f"{source}.png").read_bytes())
    (files.folder / "link.png").symlink_to("photo.png")
    os.link(files.mask, files.folder / "twin.png")
    before = {path.name: path.read_bytes() for path in files.folder.iterdir()}
    code, said = go(line)
    assert code == 2, said
    assert what in said
    assert said.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in files.folder.iterdir()}


def test_names_that_differ_in_case_only_are_one_output(go):
    code, said = go(EDIT + "-o out.png --preview OUT.png")
    assert code == 2
    assert "another file" in said


def test_a_file_keeps_its_mode_and_a_protected_one_its_contents(go, files):
    out = files.folder / "out.png"
    out.write_bytes(b"old")
    out.chmod(0o600)
    assert go(EDIT + "-o out.png")[0] == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    out.chmod(0o444)
    before = out.read_bytes()
    code, said = go(EDIT + "-o out.png --seed 9")
    assert (code, "write-protected" in said) == (2, True)
    assert out.read_bytes() == before


def test_what_several_would_have_replaced_stands_again(tmp_path, monkeypatch):
    names = [tmp_path / f"t-{i}" for i in range(3)]
    names[0].write_text("old")
    replace = type(names[0]).replace

    def fail_at_the_last(path, target):
        if target == names[2]:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(type(names[0]), "replace", fail_at_the_last)

    def write_all() -> None:
        with Commit() as commit:
            for name in names:
                commit.write(name, lambda file: file.write(b"new"))

    with pytest.raises(OutputError, match="disk is full"):
        write_all()
    assert [path.name for path in tmp_path.iterdir()] == ["t-0"]
    assert names[0].read_text() == "old"


def test_what_changes_during_the_run_changes_nothing(go, files, monkeypatch, loaded):
    edit, wanted = type(loaded).edit, files.mask.read_bytes()

    def edit_and_spoil(self, **arguments):
        files.photo.unlink()
        Image.new("L", (72, 56), 255).save(files.mask)
        return edit(self, **arguments)

    photo = files.photo.read_bytes()
    monkeypatch.setattr(type(loaded), "edit", edit_and_spoil)
    assert go(EDIT + "-o out.png --seed 4")[0] == 0
    monkeypatch.undo()
    files.photo.write_bytes(photo)
    files.mask.write_bytes(wanted)
    os.chdir(files.folder)
    code = run("edit --from out.png -o again.png".split())
    assert code == 0  # the record names the bytes that were used
    with Image.open(files.folder / "out.png") as one, Image.open(files.folder / "again.png") as two:
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_a_preview_that_cannot_be_written_stops_nothing(go, files, monkeypatch):
    from engine.picture import write

    save = write.save_image

    def fail(image, path, **more):
        if "now" in str(path):
            raise OutputError("the disk is full")
        save(image, path, **more)

    monkeypatch.setattr(write, "save_image", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, said = go(EDIT.replace("--steps 1", "--steps 3") + "-o out.png --preview now.png")
    assert said.count("softpaint: warning: no previews: the disk is full") == 1
    assert code == 0
    assert (files.folder / "out.png").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("edit loop -m mask.png -p x -o o.png", "link that leads to no file"),
        ("edit https://x.org/a.png -m mask.png -p x -o o.png", "address, and nothing is fetched"),
        ("edit ~/none.png -m mask.png -p x -o o.png", "outside quotes"),
        ("edit *.webp -m mask.png -p x -o o.png", "pattern"),
        ("edit moving.gif -m mask.png -p x -o o.png", "2 frames .*magick"),
        ("edit photo.png -m black.png -p x -o o.png", "use --invert"),
        ("edit photo.png -m white.png -p x -o o.png", "as --strength-map"),
        (EDIT + "-o - --num-images 2", "standard output"),
        (EDIT + "-o o.png --preview -", "give a file"),
        (
            EDIT + "-o o.png --seed 18446744073709551616",
            "--seed must be from -1 to 18446744073709551615",
        ),
        (EDIT + "-o o.png --trust", "--from"),
    ],
)
def test_advice_is_the_command_lines(go, files, line, message):
    (files.folder / "loop").symlink_to("loop")
    frames = [Image.new("L", (72, 56), level) for level in (0, 255)]
    frames[0].save(files.folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(files.folder / "black.png")
    frames[1].save(files.folder / "white.png")
    code, said = go(line)
    assert code == 2, said
    assert re.search(message, said), said
    assert not any(python in said for python in ("=True", "=...", "image.seek"))


def test_a_message_speaks_both_tongues():
    error = InputError(
        f"no {setting('feather')}; use {setting('invert', True)}, {told(python='a', command='b')}"
    )
    assert str(error) == "no feather; use invert=True, a"
    assert error.for_command({"invert": "--invert"}) == "no feather; use --invert, b"


def test_standard_input_and_output(files, monkeypatch, capsys):
    monkeypatch.chdir(files.folder)
    out = io.BytesIO()
    given = SimpleNamespace(buffer=io.BytesIO(files.photo.read_bytes()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr(
        sys, "stdout", SimpleNamespace(buffer=out, isatty=lambda: False, flush=out.flush)
    )
    code = run("edit - -m mask.png -p tent --steps 1 -o - --seed 2".split())
    monkeypatch.undo()
    assert code == 0
    (files.folder / "piped.png").write_bytes(out.getvalue())
    made = np.asarray(Image.open(files.folder / "piped.png"))
    outside = np.asarray(Image.open(files.mask)) == 0
    assert np.array_equal(made[outside], files.picture[outside])
    record = EditRecord.read(files.folder / "piped.png")
    assert record.image is not None
    assert record.image.path == "standard input"
    again = SimpleNamespace(buffer=io.BytesIO(out.getvalue()), isatty=lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", again)
        assert run(["show", "-"]) == 0
    assert "tent" in capsys.readouterr().out


# ------------------------------------------------------------------------- records by others


def _crafted(files, **changes):
    """A result whose record is changed: dotted places and their new values."""
    path = files.folder / "out.png"
    record = json.loads(read_metadata(path)["edit"])
    for place, value in changes.items():
        *tables, last = place.split("__")
        table = record
        for name in tables:
            table = table[name]
        table[last] = value
    text = PngImagePlugin.PngInfo()
    text.add_itxt("softpaint:edit", json.dumps(record), "", "")
    with Image.open(path) as image:
        image.save(files.folder / "crafted.png", pnginfo=text)


@pytest.fixture
def made(go):
    assert go(EDIT + "-o out.png --seed 3")[0] == 0


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"load__model": "evil/model"}, "--model evil/model.*--trust"),
        ({"load__inpaint_model": "/x/y"}, "--inpaint-model /x/y.*--trust"),
        ({"edit__prefill": "gan:/tmp/evil.pt"}, "--prefill gan:/tmp/evil.pt.*--trust"),
        ({"load__callback": "x"}, "damaged"),
        ({"edit__callback": "x"}, "damaged"),
        ({"edit__colour": ["x"]}, "damaged|colour"),
        ({"timings__total": "x"}, "damaged"),
        ({"index": 9}, "damaged"),
        ({"image": 5}, "damaged"),
        ({"image__absolute": "a\0b", "image__path": "\0"}, "missing"),
    ],
)
def test_a_crafted_record_loads_nothing_and_gives_one_line(go, files, changes, message):
    _crafted(files, **changes)
    code, said = go("edit --from crafted.png -o new.png")
    assert code == 2, said
    assert said.count("\n") == 1
    assert "unexpected" not in said
    assert re.search(message, said), said


@pytest.mark.usefixtures("made")
def test_what_is_named_again_or_trusted_is_loaded(go, files):
    _crafted(files, load__model="evil/model")
    assert go("edit --from crafted.png -o new.png --model pocket")[0] == 0
    assert go("edit --from crafted.png -o new.png --trust")[0] == 0


@pytest.mark.usefixtures("made")
def test_show_prints_no_control_characters(files, capsys, monkeypatch):
    monkeypatch.chdir(files.folder)
    _crafted(files, settings__prompt="\x1b[2J\u202e\nmodel  other", edit__prompt="\x9b2J")
    for line in ("show crafted.png", "show --json crafted.png"):
        assert run(line.split()) == 0
        shown = capsys.readouterr().out
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
        assert "\nmodel  other" not in shown
    assert json.loads(shown)["settings"]["prompt"] == "\x1b[2J\u202e\nmodel  other"


@pytest.mark.usefixtures("made")
def test_a_recipe_for_another_picture(go, files):
    Image.fromarray(255 - files.picture[:40]).save(files.folder / "new.png")
    mask = np.zeros((40, 72), np.uint8)
    mask[5:20, 5:30] = 255
    Image.fromarray(mask).save(files.folder / "new-mask.png")
    code, said = go("edit new.png --from out.png -o other.png")
    assert code == 2
    assert "give --mask" in said
    code, said = go("edit new.png -m new-mask.png --from out.png -o other.png")
    assert code == 0, said
    assert "not taken over: its image, its mask" in said
    record = EditRecord.read(files.folder / "other.png")
    assert (record.edit["prompt"], record.edit["seed"]) == ("tent", 3)
    assert np.asarray(Image.open(files.folder / "other.png")).shape == (40, 72, 3)


def test_a_mask_is_grown_as_the_map_tool_grows_it(go, files):
    assert go("map mask.png --grow 4 -o wide.png")[0] == 0
    assert go(EDIT + "-o one.png --seed 5 --grow 4")[0] == 0
    assert go(EDIT.replace("mask", "wide") + "-o two.png --seed 5")[0] == 0
    one, two = (np.asarray(Image.open(files.folder / name)) for name in ("one.png", "two.png"))
    assert np.array_equal(one, two)
    assert EditRecord.read(files.folder / "one.png").edit["grow_mask"] == 4
