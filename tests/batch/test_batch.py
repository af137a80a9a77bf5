"""A batch does everything once, whatever stops it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.batch import edits
from engine.batch.drive import Disk
from engine.batch.listing import items_of
from engine.batch.run import run_batch
from engine.batch.store import LINES, Store
from engine.batch.workers import Plan
from engine.cli import run
from engine.edit.unused import UnusedSettingWarning
from engine.errors import InputError, OutputError

STEPS = 2


@pytest.fixture
def photos(tmp_path, files):
    """Five photos with masks: two names, two formats, one in a folder, one broken, one grey."""
    folder = tmp_path / "photos"
    mask = Image.fromarray(np.asarray(Image.open(files.mask)))
    for number, name in enumerate(["a.png", "a.jpg", "in/b.png", "c.png", "d.webp"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "c.png":
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(np.roll(files.picture, number, axis=1)).save(path)
        mask.save(path.with_name(f"{path.stem}_mask.png"))
    return folder


def batch(photos, out, pocket, **changes):
    settings = {"prompt": "a red house", "num_inference_steps": STEPS, "seed": 5}
    told: list[str] = []
    given = {"workers": 1, "tries": 2, **changes}
    plan = Plan(str(out), settings | given.pop("settings", {}), {}, 4)
    engine = pocket if callable(pocket) else lambda: pocket
    store = run_batch(items_of(photos), plan, engine=engine, told=told.append, **given)
    return store, told


def lines_of(store):
    return {line["file_name"]: line for line in store.lines()}


def test_all_that_can_be_done_is_done_once(photos, tmp_path, pocket):
    out = tmp_path / "out"
    store, told = batch(photos, out, pocket)
    assert sorted(lines_of(store)) == ["a.jpg", "a.png", "d.webp", "in/b.png"]
    assert list(store.failures) == ["c.png"]
    assert any(line.startswith("c.png: ") for line in told)
    verdict = store.verify()
    assert (verdict.whole, verdict.broken) == (4, [])
    before = {name: (out / name).stat().st_mtime_ns for name in lines_of(store)}

    def none():
        pytest.fail("nothing is left to do")

    again, _ = batch(photos, out, none)
    assert lines_of(again) == lines_of(store)
    assert {name: (out / name).stat().st_mtime_ns for name in lines_of(store)} == before

    # Each picture is what a single edit makes; the tolerance is of shared calls on any processor.
    for name in ("a.png", "in/b.png"):
        photo = photos / name
        alone = pocket.edit(
            image=photo,
            mask=photo.with_name(f"{photo.stem}_mask.png"),
            prompt="a red house",
            num_inference_steps=STEPS,
            seed=5,
        )
        made = np.asarray(Image.open(out / name), np.int16)
        assert np.abs(made - np.asarray(alone.images[0], np.int16)).max() <= 1


def test_a_seed_that_nobody_gave_is_the_items_own(photos, tmp_path, pocket):
    seeds = []
    for name in ("one", "two"):
        store, _ = batch(photos, tmp_path / name, pocket, settings={"seed": None})
        seeds.append({name: line["seed"] for name, line in lines_of(store).items()})
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == 4


def test_a_picture_without_its_line_is_made_again(photos, tmp_path, pocket, monkeypatch):
    """The process dies after a rename, before the line."""
    add = Store.add

    def dies(self, lines):
        if self.pictures == 2:
            raise KeyboardInterrupt
        add(self, lines)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            batch(photos, tmp_path / "out", pocket)
    with (tmp_path / "out" / LINES).open("a") as file:
        file.write('{"file_name": "to')  # and tore a line
    assert Store.existing(tmp_path / "out").pictures == 2
    store, _ = batch(photos, tmp_path / "out", pocket)
    lines = (tmp_path / "out" / LINES).read_text().splitlines()
    assert sorted(json.loads(line)["file_name"] for line in lines) == sorted(lines_of(store))
    assert (store.verify().whole, store.verify().broken) == (4, [])


def test_other_settings_or_inputs_are_refused(photos, tmp_path, pocket):
    out = tmp_path / "out"
    batch(photos, out, pocket)
    with pytest.raises(InputError, match=r"other settings .num_inference_steps 2, now 3"):
        batch(photos, out, pocket, settings={"num_inference_steps": 3})
    (photos / "a.png").touch()
    batch(photos, out, pocket)  # touched, not changed
    Image.new("RGB", (72, 56)).save(photos / "a.png")
    with pytest.raises(InputError, match=r"'a.png' was made with another image"):
        batch(photos, out, pocket)
    (photos / "in" / "b.txt").write_text("a boat")
    Image.open(out / "a.png").save(photos / "a.png")
    with pytest.raises(InputError, match="another"):
        batch(photos, out, pocket)


def test_two_processes_do_not_share_a_folder(photos, tmp_path, pocket):
    with Store(tmp_path / "out") as store:
        store.begin({})
        with pytest.raises(InputError, match="another process"):
            batch(photos, tmp_path / "out", pocket)


def test_a_folder_of_other_files_is_left_alone(photos, tmp_path, pocket):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds other files"):
        batch(photos, tmp_path / "mine", pocket)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_full_disk_is_waited_for(photos, tmp_path, pocket, monkeypatch):
    write, failures = Disk.write, [errno.ENOSPC, errno.EDQUOT]

    def full(self, name, data):
        if failures and name.endswith(".png"):
            cause = OSError(failures.pop(), "full")
            raise OutputError("the disk is full") from cause
        write(self, name, data)

    monkeypatch.setattr(edits, "_WAIT", 0.01)
    monkeypatch.setattr(Disk, "write", full)
    store, told = batch(photos, tmp_path / "out", pocket)
    assert store.pictures == 4
    assert [line for line in told if not line.startswith("c.png")] == [
        f"the disk of {tmp_path / 'out'} is full: waiting until there is room",
        "there is room again: going on",
    ]


def test_what_may_pass_is_tried_again(photos, tmp_path, pocket, monkeypatch):
    from engine.edit import prepare

    own, failures = prepare.prepare, ["once"]

    def flaky(*arguments):
        if failures:
            raise RuntimeError(failures.pop())
        return own(*arguments)

    monkeypatch.setattr(prepare, "prepare", flaky)
    store, _ = batch(photos, tmp_path / "out", pocket)
    assert list(store.failures) == ["c.png"]


def test_retry_verify_and_status(photos, tmp_path, pocket, capsys):
    out = tmp_path / "out"
    batch(photos, out, pocket)
    assert run(["batch", "status", str(out)]) == 0
    assert "4 pictures, 1 failed" in (said := capsys.readouterr().out)
    assert said.startswith("5 of 5 edits have ended")
    assert "c.png: " in said
    assert run(["batch", "retry", str(out)]) == 0
    Image.open(photos / "a.png").save(photos / "c.png")
    store, _ = batch(photos, out, pocket)
    assert store.pictures == 5
    assert not store.failures
    assert run(["batch", "verify", str(out)]) == 0
    (out / "a.png").write_bytes(b"")
    (out / "a.jpg").unlink()
    assert run(["batch", "verify", str(out)]) == 1
    said = capsys.readouterr().out
    assert "a.png: was changed" in said
    assert "a.jpg: is missing" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch {photos} -o {photos}/out -p x", "would share a folder"),
        ("batch {photos} -o out", "--prompt is missing"),
        ("batch {photos} -p x", "--output is missing"),
        ("batch {photos} -p x -o out --steps 0", "--steps must be"),
        ("batch {photos} -p x -o out --strategy nonsense", "unknown strategy"),
        ("batch {photos} -p x -o out --masks nowhere", "is no folder"),
        ("batch status {photos}", "there is no batch"),
        ("batch - -p x -o out", "is neither"),
        ("batch {photos} -p x -o text", "'text' is a file; a batch wants a folder"),
    ],
)
def test_bad_use_is_told_before_a_model_is_loaded(
    photos, tmp_path, monkeypatch, capsys, line, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").touch()
    monkeypatch.setattr("engine.InpaintEngine.from_pretrained", None)
    assert run(line.format(photos=photos).split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("always")
def test_what_is_said_of_every_photo_is_shown_once(photos, tmp_path, capsys):
    assert run(["batch", str(photos), "-p", "x", "-o", str(tmp_path / "out"), "--steps", "1"]) == 1
    assert capsys.readouterr().err.count("draws next to nothing") == 1


def test_a_setting_without_effect_is_told_of(files, tmp_path, pocket):
    row = {"image": str(files.photo), "mask": str(files.mask), "prompt": "a red house"}
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({**row, "num_inference_steps": 1, "enough": 0.5}))
    with pytest.warns(UnusedSettingWarning, match="enough"):
        run_batch(
            items_of(manifest),
            Plan(str(tmp_path / "out"), {}, {}, 4),
            engine=lambda: pocket,
            told=lambda _: None,
            workers=1,
            tries=1,
        )


def test_workers_that_are_killed_lose_nothing(photos, tmp_path, pocket):
    """Two processes; one of them, then the whole tree is killed; the same batch ends the work."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "engine.cli", "batch", str(photos), "-o", str(out)]
    command += ["-p", "a red house", "--steps", "6", "--seed", "5", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(lambda: len(workers_of(process.pid)) == 2 or process.poll() is not None)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: (out / LINES).exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    settings = {"num_inference_steps": 6}
    store, _ = batch(photos, out, pocket, settings=settings)
    assert (store.verify().whole, store.verify().broken) == (4, [])
    assert list(store.failures) == ["c.png"]
    assert not list(out.rglob(".softpaint-*.tmp"))


def workers_of(process: int) -> list[int]:
    """The worker processes of a batch, which one of its children forks."""
    for each in children(process):
        try:
            line = Path(f"/proc/{each}/cmdline").read_text()
        except OSError:
            continue
        if "forkserver" in line:
            return children(each)
    return []


def children(process: int) -> list[int]:
    try:
        return [
            int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except OSError:
        return []


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
