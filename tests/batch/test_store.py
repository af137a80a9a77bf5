"""A batch's folder, wherever it is."""

from __future__ import annotations

import hashlib
import json
import tarfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from engine.batch import drive as drives
from engine.batch.export import export
from engine.batch.listing import items_of
from engine.batch.run import run_batch
from engine.batch.store import FAILURES, LINES, OWN, REPORT, SEGMENTS, Store
from engine.batch.workers import Plan
from engine.cli import run
from engine.errors import InputError, OutputError


def line(number, **changes):
    """What is said of an item's only picture."""
    name = f"{number:05}.png"
    return {
        "file_name": name,
        "item": name,
        "id": "0-0",
        "prompt": "a boat",
        "strategy": "blend",
        "seed": number,
        "seconds": 0.1,
        "figures": {"seam": 0.5 * number},
        "own": "{}",
        "inputs": "{}",
        "picture": 1,
        "pictures": 1,
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        **changes,
    }


@pytest.fixture(params=["disk", "memory", "local"])
def place(request, tmp_path, memory):
    """A disk, a bucket, and a remote file system on which a file is seen while it is written."""
    return {"disk": str(tmp_path), "memory": memory.place, "local": f"local://{tmp_path}"}[
        request.param
    ] + "/out"


def test_what_was_said_is_there_when_it_is_begun_again(place):
    with Store(place) as store:
        store.begin({})
        for number in range(3):
            store.drive.write(f"{number:05}.png", b"")
            store.add([line(number)])
        store.fail("broken.png", "it is broken", 2)
    for store in (Store.existing(place), Store(place)):
        if store.known.get("00001.png") is None:
            store.begin({})
        assert store.pictures == 3
        assert store.known.get("00003.png") is None
        assert list(store.failures) == ["broken.png"]
    with store:
        assert (store.verify().whole, store.verify().broken) == (3, [])
        assert store.forget_failures() == 1
    assert not Store.existing(place).failures
    names = [store.drive.names(""), store.drive.names(OWN), store.drive.names(SEGMENTS)]
    assert names[0] == ["00000.png", "00001.png", "00002.png", FAILURES, LINES]
    assert not names[2]


def test_several_that_write_leave_segments_which_are_gathered_once(place):
    with Store(place) as store:
        store.begin({})
        for writer in range(3):  # two of them have done the same item
            several = Store(place, segment=f"part-{writer}")
            several.add([line(writer)])
            several.add([line(7)])
            several.fail(f"bad-{writer}", "it is broken", 1)
            several.flush()
        assert len(store.drive.names(SEGMENTS)) == 3
        looked = Store.existing(place)
        assert (looked.pictures, len(looked.failures)) == (4, 3)
    store = Store.existing(place)
    assert not store.drive.names(SEGMENTS)
    assert sorted(each["seed"] for each in store.lines()) == [0, 1, 2, 7]
    assert len(store.failures) == 3


def test_a_kill_between_gathering_and_removing_says_nothing_twice(place, monkeypatch):
    with Store(place) as store:
        store.begin({})
        Store(place, segment="a").drive.write(
            f"{SEGMENTS}/a.jsonl", (json.dumps(line(1)) + "\n").encode()
        )
        with monkeypatch.context() as patched:
            patched.setattr(type(store.drive), "remove", lambda *_: None)
            store._gather()
        assert store.drive.names(SEGMENTS) == ["a.jsonl"]
        store._gather()
        assert not store.drive.names(SEGMENTS)
        assert len(list(store.lines())) == 1


def test_an_item_of_several_pictures_is_done_when_all_its_lines_are(tmp_path):
    several = [line(n, item="a.png", picture=n + 1, pictures=3) for n in range(3)]
    with Store(tmp_path) as store:
        store.begin({})
        store.add([line(9)])
        store.add(several)
    whole = (tmp_path / LINES).read_bytes()
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    for cut in (*range(ends[1], ends[4], 97), *ends[1:4]):
        (tmp_path / LINES).write_bytes(whole[:cut])
        with Store(tmp_path) as store:
            store.begin({})
            assert [each["item"] for each in store.lines()] == ["00009.png"], cut


def test_two_processes_do_not_share_an_address(memory, monkeypatch):
    monkeypatch.setattr(drives, "BEAT", 0.05)
    with Store(memory.place) as store:
        store.begin({})
        with pytest.raises(InputError, match=r"another process works on the batch .* start again"):
            Store(memory.place).take()
    with Store(memory.place) as store:  # the first one has left
        store.begin({})
    told = json.dumps({"host": "elsewhere", "process": 1, "at": 0.0}).encode()
    memory.write(f"{OWN}/lock", told)
    with Store(memory.place) as store:  # one that was killed long ago
        store.begin({})


def test_a_batch_from_bucket_to_bucket(memory, files, pocket, capsys):
    """The same ids and promises as on a disk: what is there is not made again."""
    for name, path in {"a.png": files.photo, "b.webp": files.photo}.items():
        data = BytesIO()
        Image.open(path).save(data, Image.registered_extensions()[f".{name.split('.')[1]}"])
        memory.write(f"photos/{name}", data.getvalue())
        memory.write(f"masks/{name.split('.')[0]}.png", files.mask.read_bytes())
    memory.write("photos/c.png", b"no picture")
    memory.write("masks/c.png", files.mask.read_bytes())
    items = items_of(f"{memory.place}/photos", masks=f"{memory.place}/masks")
    plan = Plan(f"{memory.place}/out", {"prompt": "a boat", "num_inference_steps": 1}, {})
    store = run_batch(items, plan, engine=lambda: pocket)
    assert store.pictures == 2
    store = Store.existing(plan.place)
    assert (store.verify().whole, store.verify().broken) == (2, [])
    assert list(store.failures) == ["c.png"]

    def none():
        pytest.fail("nothing is left to do")

    assert run_batch(items, plan, engine=none).pictures == 2
    with store.drive.open("b.webp") as file:
        assert Image.open(BytesIO(file.read())).size == (72, 56)
    assert run(["batch", "verify", plan.place]) == 0
    assert "2 pictures are as they were written" in capsys.readouterr().out


def batch_of(folder, count):
    with Store(folder) as store:
        store.begin({})
        for number in range(count):
            pixels = np.full((8, 8, 3), number, np.uint8)
            data = BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            name = f"{number:05}.png"
            store.drive.write(name, data.getvalue())
            store.add([line(number, sha256=hashlib.sha256(data.getvalue()).hexdigest())])
    return Store.existing(folder)


def test_exports_as_parquet(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    batch_of(tmp_path / "out", 5)
    line = f"batch export {tmp_path}/out {tmp_path}/set --rows 2"
    assert run(line.split()) == 0
    assert "3 files, train-00000-of-00003.parquet to" in capsys.readouterr().out
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "set").iterdir())]
    assert [table.num_rows for table in tables] == [2, 2, 1]
    row = tables[1].to_pylist()[1]
    assert (row["file_name"], row["seed"], row["seam"]) == ("00003.png", 3, 1.5)
    assert np.asarray(Image.open(BytesIO(row["image"]["bytes"]))).max() == 3
    told = json.loads(tables[0].schema.metadata[b"huggingface"])
    assert told["info"]["features"]["image"] == {"_type": "Image"}


def test_exports_as_webdataset(tmp_path):
    store = batch_of(tmp_path / "out", 3)
    assert export(store, str(tmp_path / "set"), "webdataset", 2) == [
        "train-00000-of-00002.tar",
        "train-00001-of-00002.tar",
    ]
    with tarfile.open(tmp_path / "set" / "train-00001-of-00002.tar") as archive:
        assert archive.getnames() == ["000000002.png", "000000002.txt", "000000002.json"]
        told = json.loads(member(archive, "000000002.json"))
        assert (told["file_name"], told["seam"]) == ("00002.png", 1.0)
        assert member(archive, "000000002.txt") == b"a boat"


def member(archive, name):
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_nothing_broken_is_exported(tmp_path, capsys):
    store = batch_of(tmp_path / "out", 1)
    assert run(f"batch export {tmp_path}/out {tmp_path}/set --as tiff".split()) == 2
    assert "'tiff' is no kind of export; there are parquet, webdataset" in capsys.readouterr().err
    store.drive.write("00000.png", b"changed")
    with pytest.raises(InputError, match=r"00000.png was changed since it was written"):
        export(store, str(tmp_path / "set"), "webdataset")
    assert not (tmp_path / "set").exists() or not list((tmp_path / "set").iterdir())


def test_a_picture_without_a_line_that_is_not_asked_for_any_more_goes(tmp_path):
    """What a killed run has left; other people's files stay."""
    with Store(tmp_path / "out") as store:
        store.begin({})
        for number, data in enumerate((b"softpaint:", b"softpaint:", b"-")):
            store.drive.write(f"{number:05}.png", data)
        store.add([line(0)])
    (tmp_path / "out" / OWN / "working").touch()
    with Store(tmp_path / "out") as store:
        store.begin({})
        assert store.drive.names("") == ["00000.png", "00002.png", LINES]


def test_a_batch_goes_on_where_its_disk_is_full(tmp_path, monkeypatch):
    """What segments tell is known at once; it is gathered when there is room."""
    with Store(tmp_path / "out") as store:
        store.begin({})
    several = Store(tmp_path / "out", segment="a")
    several.add([line(0)])
    several.flush()

    def full(_self, name, _data):
        raise OutputError(f"cannot write {name!r}: No space left on device.")

    with monkeypatch.context() as patched:
        patched.setattr(drives.Disk, "append", full)
        with Store(tmp_path / "out") as store:
            store.begin({})
            assert store.known.get("00000.png") is not None
            with pytest.raises(OutputError, match="No space left"):
                store.settle()
            patched.undo()
    assert (tmp_path / "out" / LINES).read_text().count("\n") == 1
    assert not list((tmp_path / "out" / SEGMENTS).iterdir())


def test_a_kill_while_the_report_is_written_leaves_nothing_for_ever(tmp_path, monkeypatch):
    with Store(tmp_path / "out") as store:
        store.begin({})

    def torn(self, name, data):
        if name == REPORT:
            (self.folder / ".softpaint-1.tmp").touch()
            raise KeyboardInterrupt
        write(self, name, data)

    write = drives.Disk.write
    with monkeypatch.context() as patched:
        patched.setattr(drives.Disk, "write", torn)
        with pytest.raises(KeyboardInterrupt):
            store.report("page")
    with Store(tmp_path / "out") as store:
        store.begin({})
    store.report("page")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert (tmp_path / "out" / REPORT).read_text() == "page"
    assert not store.drive.exists(f"{OWN}/working")
