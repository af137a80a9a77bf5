"""A batch on Ray: what an actor does with its parts, and once with Ray itself where it is there."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

from engine.batch.cluster import Cluster, PartEditor, run_on_cluster, write_parts
from engine.batch.drive import Disk
from engine.batch.listing import items_of
from engine.batch.run import Survey
from engine.batch.store import SEGMENTS, Store
from engine.batch.workers import Plan
from engine.errors import InputError, OutputError


@pytest.fixture
def photos(tmp_path, files):
    """Four photos with masks, the second one broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        if name == "b.png":
            (folder / name).write_bytes(b"no picture")
        else:
            Image.fromarray(files.picture).save(folder / name)
        (folder / f"{name[0]}_mask.png").write_bytes(files.mask.read_bytes())
    return folder


@pytest.fixture
def begun(photos, tmp_path):
    """A batch whose only part no actor has taken: its store, the part's name and the plan."""
    plan = Plan(
        str(tmp_path / "out"), {"prompt": "a boat", "num_inference_steps": 1, "seed": 1}, {}, 2
    )
    with Store(plan.place) as store:
        store.begin({"edit": plan.settings, "load": plan.load})
        parts = write_parts(store, Survey(items_of(photos), store).left(), 64)
        assert parts.count == 1
        yield store, parts.name(0), plan


def test_a_part_is_edited_and_said_in_segments(begun, pocket):
    store, name, plan = begun
    ended = PartEditor(pocket, plan, 3).edit(name)
    assert (ended["done"], ended["failed"]) == (3, 1)
    assert ended["told"].startswith("b.png: ")
    assert all(each.startswith(name) for each in store.drive.names(SEGMENTS))
    looked = Store.existing(plan.place)
    assert (looked.pictures, list(looked.failures)) == (3, ["b.png"])


def test_a_part_whose_actor_died_is_ended_by_another(begun, pocket, monkeypatch):
    """What has a line is not made again; what is left is edited alone."""
    store, name, plan = begun
    add, dying = Store.add, PartEditor(pocket, plan, 3)

    def dies(self, lines):
        if self.pictures:
            raise SystemExit
        add(self, lines)
        self.flush()

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add", dies)
        with pytest.raises(SystemExit):
            dying.edit(name)
    first = [line["file_name"] for line in Store.existing(plan.place).lines()]
    assert len(first) == 1
    kept = (store.drive.folder / first[0]).stat().st_mtime_ns
    ended = PartEditor(pocket, plan, 3).edit(name)
    assert (ended["done"], ended["failed"]) == (3, 1)
    assert (store.drive.folder / first[0]).stat().st_mtime_ns == kept
    store.flush()
    store._gather()
    assert (store.verify().whole, store.verify().broken) == (3, [])


def test_an_actor_whose_batch_was_begun_anew_writes_no_more(begun, pocket, monkeypatch):
    """Its driver was killed, which Ray has not told it yet."""
    store, name, plan = begun
    write = Disk.write

    def taken_over(self, file, data):
        write(self, file, data)
        if file.endswith(".png"):
            self.clear(".softpaint/parts")

    monkeypatch.setattr(Disk, "write", taken_over)
    with pytest.raises(OutputError, match="another run goes on"):
        PartEditor(pocket, plan, 3).edit(name)
    assert len(list(store.drive.folder.glob("*.png"))) == 1
    assert not store.drive.names(SEGMENTS)


def test_an_item_that_kills_its_actor_is_given_up(begun, pocket):
    _, name, plan = begun
    editor = PartEditor(pocket, plan, 2)
    editor._mark(name, "all")
    for _ in range(2):  # d.png's actor has died twice
        editor._mark(name, "3")
    ended = editor.edit(name)
    assert (ended["done"], ended["failed"]) == (2, 2)
    assert "d.png: the worker died with it" in ended["told"]
    assert Store.existing(plan.place).failures["d.png"]["tries"] == 2


def test_without_ray_it_says_what_is_missing(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = Plan(str(tmp_path / "out"), {"prompt": "a boat"}, {})
    with pytest.raises(InputError, match=r"pip install 'softpaint\[ray\]'"):
        run_on_cluster(items_of(photos), plan, Cluster())
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_real_ray_does_as_local_workers_do(photos, tmp_path, pocket):
    """Local edits in this process and actors of a Ray of one machine: the same ids, once each."""
    ray = pytest.importorskip("ray", reason="softpaint[ray] is not installed")
    from engine.batch.run import run_batch

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    settings = {"prompt": "a boat", "num_inference_steps": 1, "seed": 1}
    # The same model to both: an id holds what was loaded.
    plans = [Plan(str(tmp_path / n), settings, pocket.load, 2) for n in ("ray", "here")]
    try:
        ended = []
        cluster = Cluster(workers=1, part=3)
        store = run_on_cluster(
            items_of(photos), plans[0], cluster, progress=lambda state: ended.append(state.left)
        )
        again = run_on_cluster(items_of(photos), plans[0], cluster)
    finally:
        ray.shutdown()
    assert ended[-1] == 0
    assert (store.verify().whole, store.verify().broken) == (3, [])
    assert again.pictures == 3
    here = run_batch(items_of(photos), plans[1], engine=lambda: pocket)
    ids = [{line["file_name"]: line["id"] for line in each.lines()} for each in (store, here)]
    assert ids[0] == ids[1]
    assert list(store.failures) == ["b.png"]
    assert sorted(ids[0]) == ["a.png", "c.png", "d.png"]
