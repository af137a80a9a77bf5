"""Rows of a manifest: whatever an edit takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from controls import Control
from engine.batch.edits import check_single
from engine.batch.items import plain_control, split_files, with_files
from engine.batch.listing import items_of
from engine.batch.manifest import MANIFESTS
from engine.cli import run
from engine.errors import InputError
from engine.request.request import EditRequest


def manifest(folder, kind, rows):
    path = folder / f"edits{kind}"
    if kind == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {name for row in rows for name in row}
        rows = [{**dict.fromkeys(columns), **row} for row in rows]
        for row in rows:  # a column is of one type
            row["prompt"] = [row["prompt"]] if isinstance(row["prompt"], str) else row["prompt"]
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif kind == ".csv":
        names = sorted({name for row in rows for name in row})
        table = [[json.dumps(row[name]) if name in row else "" for name in names] for row in rows]
        quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in table]
        path.write_text("\n".join(",".join(row) for row in [names, *quoted]))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("kind", MANIFESTS)
def test_every_form_says_the_same(tmp_path, kind):
    rows = [
        {"image": "p/a.png", "mask": "m/a.png", "text": "a boat", "seed": 3, "feather": 2.5},
        {"image": "p/b.png", "strength_map": "alpha", "caption": "two boats", "hard_mask": True},
        {"file_name": "p/c.png", "mask": "/m/c.png", "prompt": ["a cat", "a dog"], "seed": 8},
        {
            "image": "p/d.png",
            "mask": "m/d.png",
            "context_mask": "m/e.png",
            "prompt": "a tree",
            "expand": [1, 2, 3, 4],
            "controls": [{"name": "canny", "scale": 0.5, "end": 0.75}],
        },
    ]
    items = list(items_of(manifest(tmp_path, kind, rows)))
    assert [(item.name, item.settings) for item in items] == [
        ("p/a.png", {"prompt": "a boat", "seed": 3, "feather": 2.5}),
        ("p/b.png", {"prompt": "two boats", "hard_mask": True}),
        ("p/c.png", {"prompt": "a cat", "seed": 8}),
        ("p/c-2.png", {"prompt": "a dog", "seed": 9}),
        (
            "p/d.png",
            {
                "prompt": "a tree",
                "expand": [1, 2, 3, 4],
                "controls": [{"model": "canny", "scale": 0.5, "end": 0.75}],
            },
        ),
    ]
    assert items[1].files == {"image": f"{tmp_path}/p/b.png", "strength_map": "alpha"}
    assert items[3].files == {"image": f"{tmp_path}/p/c.png", "mask": "/m/c.png"}
    assert items[4].files["context_mask"] == f"{tmp_path}/m/e.png"
    assert all(json.loads(item.line())["settings"] == item.settings for item in items)


def test_controls_are_texts_or_objects_with_files_of_their_own(tmp_path):
    row = {
        "image": "a.png",
        "mask": "b.png",
        "prompt": "a boat",
        "controls": ["canny=edges.png:0.8:0-0.6", {"name": "depth", "mask": "half.png"}],
    }
    (item,) = items_of(manifest(tmp_path, ".jsonl", [row]))
    assert item.settings["controls"] == [
        {"model": "canny", "scale": 0.8, "start": 0.0, "end": 0.6},
        {"model": "depth"},
    ]
    assert item.files["controls.0.image"] == f"{tmp_path}/edges.png"
    assert item.files["controls.1.mask"] == f"{tmp_path}/half.png"
    request = EditRequest.read(with_files(item.settings, item.files))
    edges, depth = request.controls
    assert (edges.model, edges.image, edges.scale, edges.end) == (
        "canny",
        f"{tmp_path}/edges.png",
        0.8,
        0.6,
    )
    assert (depth.annotator, depth.mask) == ("midas", f"{tmp_path}/half.png")
    again, files = split_files({"controls": [plain_control(edges)]}, "")
    assert Control(**again["controls"][0], image=files["controls.0.image"]).scale == 0.8


def test_regions_have_maps_of_their_own(tmp_path):
    """Region edits: each object's map is a file of the item."""
    regions = [{"map": "l.png", "prompt": "a cat", "seed": 3}, {"map": "r.png", "prompt": "a dog"}]
    row = {"image": "a.png", "prompt": "", "regions": regions}
    (item,) = items_of(manifest(tmp_path, ".jsonl", [row]))
    assert item.settings["regions"] == [{"prompt": "a cat", "seed": 3}, {"prompt": "a dog"}]
    assert item.files["regions.1.map"] == f"{tmp_path}/r.png"
    left, right = EditRequest.read(with_files(item.settings, item.files)).regions
    assert (left.prompt, left.seed) == ("a cat", 3)
    assert str(right.map).endswith("r.png")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"controls": ["nonsense"]}, "line 1: unknown control"),
        ({"controls": [{"name": "canny", "weight": 1}]}, "line 1: a control takes .* not 'weight'"),
        ({"regions": [{"prompt": "a"}]}, "line 1: region 1 has no map"),
        ({"regions": [{"map": "m.png", "seeds": 1}]}, "line 1: region 1: 'seeds' is none of"),
        ({"controls": [3]}, "line 1: a control is a text or an object"),
        ({"mask": 3}, "line 1: mask must be a path"),
        ({"image": {"bytes": "", "path": "a.png"}}, "line 1: image holds a picture"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, row, message):
    path = manifest(tmp_path, ".jsonl", [{"image": "a.png", "prompt": "a", **row}])
    with pytest.raises(InputError, match=message):
        list(items_of(path))


def test_a_file_that_is_no_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "edits.parquet").write_bytes(b"PAR2")
    with pytest.raises(InputError, match="no Parquet file"):
        list(items_of(tmp_path / "edits.parquet"))


def test_a_folder_at_an_address(memory):
    for name in ("in/b.jpg", "a.png", ".hidden.png", "in/b_mask.png", "a_mask.png"):
        memory.write(name, b"")
    memory.write("a.txt", "a boat".encode("utf-8-sig"))
    first, second = items_of(memory.place)
    assert (first.name, first.settings) == ("a.png", {"prompt": "a boat"})
    assert first.files == {
        "image": f"{memory.place}/a.png",
        "mask": f"{memory.place}/a_mask.png",
    }
    assert (second.name, second.files["mask"]) == ("in/b.jpg", f"{memory.place}/in/b_mask.png")


def test_a_manifest_at_an_address(memory):
    memory.write("edits.jsonl", b'{"image": "p/a.png", "mask": "s3://other/m.png", "prompt": "x"}')
    (item,) = items_of(f"{memory.place}/edits.jsonl")
    assert item.name == "p/a.png"
    assert item.files == {"image": f"{memory.place}/p/a.png", "mask": "s3://other/m.png"}


def test_half_a_million_names_are_checked_for_two_of_one_place(tmp_path):
    """By their numbers; only what may be the same is looked at again."""
    rows = [{"image": "a.png", "output": name} for name in ("X.png", "y.png", "x.png")]
    with pytest.raises(InputError, match=r"would both be written to 'x.png'"):
        list(items_of(manifest(tmp_path, ".jsonl", rows)))


def test_pictures_of_the_items_are_read_and_named_in_what_is_recorded(tmp_path, pocket):
    """A row's control and map change its picture; the batch's line says so."""
    from engine.batch.run import run_batch
    from engine.batch.workers import Plan

    rng = np.random.default_rng(0)
    for name in ("photo", "mask", "edges"):
        pixels = rng.integers(0, 2, (64, 64), np.uint8) * 255
        Image.fromarray(pixels).convert("RGB" if name == "photo" else "L").save(
            tmp_path / f"{name}.png"
        )
    shared = {"image": "photo.png", "mask": "mask.png", "prompt": "a boat", "seed": 1}
    rows = [shared, {**shared, "controls": ["canny=edges.png"]}]
    path = manifest(tmp_path, ".jsonl", rows)
    plan = Plan(str(tmp_path / "out"), {"num_inference_steps": 2}, {})
    store = run_batch(items_of(path), plan, engine=lambda: pocket)
    plain, steered = sorted(store.lines(), key=lambda line: line["file_name"], reverse=True)
    assert (plain["file_name"], steered["file_name"]) == ("photo.png", "photo-2.png")
    assert plain["sha256"] != steered["sha256"]
    assert json.loads(steered["inputs"])["controls.0.image"]["path"] == str(tmp_path / "edges.png")
    alone = pocket.edit(
        image=tmp_path / "photo.png",
        mask=tmp_path / "mask.png",
        prompt="a boat",
        seed=1,
        num_inference_steps=2,
        controls=[Control("canny", image=tmp_path / "edges.png")],
    )
    made = np.asarray(Image.open(tmp_path / "out" / "photo-2.png"), np.int16)
    # As far as shared calls may differ on any processor.
    assert np.abs(made - np.asarray(alone.images[0], np.int16)).max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        'image,mask,prompt,invert,expand\np.png,m.png,2024,False,"1,2,3,4"\n',
        "image;mask;prompt;invert;expand\np.png;m.png;2024;FALSE;1,2,3,4\n",
        "\ufeffimage\tmask\tprompt\tinvert\texpand\r\np.png\tm.png\t2024\tfalse\t[1, 2, 3, 4]\r\n",
        'image, mask, prompt, invert, expand\np.png, m.png, 2024, False, "1,2,3,4"\n',
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    (tmp_path / "edits.csv").write_text(text, encoding="utf-8", newline="")
    (item,) = items_of(tmp_path / "edits.csv")
    assert item.files == {
        name: str(tmp_path / f"{name[0].replace('i', 'p')}.png") for name in item.files
    }
    told = {**item.settings, "expand": list(item.settings["expand"])}
    assert told == {"prompt": "2024", "invert": False, "expand": [1, 2, 3, 4]}


def test_a_table_in_another_encoding_is_named(tmp_path):
    (tmp_path / "edits.csv").write_bytes("image,prompt\np.png,ein Häuschen\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"edits.csv is no text in UTF-8 \(spreadsheets"):
        list(items_of(tmp_path / "edits.csv"))


@pytest.mark.parametrize(
    "changes", [{"strategy": "auto"}, {"strategy": "blend,staged"}, {"candidates": 2}]
)
def test_what_is_more_than_one_run_is_refused(changes):
    asked = EditRequest.read({"image": "p.png", "mask": "alpha", "prompt": "a", **changes})
    with pytest.raises(InputError, match=r"for single edits \(softpaint edit; softpaint advise"):
        check_single(asked)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"output": "a.gif"}, r"line 1: output 'a.gif' has none of the suffixes .png, .jpg"),
        ({"output": "a"}, "output 'a' has none of the suffixes"),
        ({"prompt": []}, "line 1: prompt is an empty list"),
        ({"output_type": "latent"}, "output_type is a setting of Python's callers"),
        ({"generator": 1}, "generator is a setting of Python's callers"),
        ({"steps": 3}, "unknown setting 'steps': here it is called num_inference_steps"),
    ],
)
def test_what_no_row_can_be_is_named_by_its_line(tmp_path, row, said):
    rows = [{"image": "p.png", "mask": "m.png", "prompt": "x", **row}]
    with pytest.raises(InputError, match=said):
        list(items_of(manifest(tmp_path, ".jsonl", rows)))


def test_a_column_may_be_any_strategys_option(tmp_path):
    rows = [{"image": "p.png", "mask": "m.png", "prompt": "x", "guidance": 0.5, "n": 2}]
    (item,) = items_of(manifest(tmp_path, ".jsonl", rows))
    assert item.settings == {"prompt": "x", "guidance": 0.5, "n": 2}


def test_a_wrong_row_is_told_in_its_own_words(files, capsys):
    rows = [{"image": "photo.png", "mask": "mask.png", "prompt": "x", "seed": "abc"}]
    path = manifest(files.folder, ".jsonl", rows)
    assert run(["batch", str(path), "-o", str(files.folder / "out")]) == 2
    assert "photo.png: seed must be a whole number, not 'abc'" in capsys.readouterr().err
