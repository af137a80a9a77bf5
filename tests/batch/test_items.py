"""What a batch is made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from engine.batch.known import Tally
from engine.batch.listing import items_of as listed
from engine.errors import InputError


def items_of(source, **given):
    return list(listed(source, **given))


def picture(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).convert(mode).save(path)


def test_a_folder_with_masks_of_the_same_names(tmp_path):
    for name in ("b.jpg", "a.png", "a.jpg", "in/c.bmp", ".hidden.png", "notes.txt"):
        if name.endswith(".txt"):
            (tmp_path / "photos" / name).write_text("no picture")
        else:
            picture(tmp_path / "photos" / name)
    for name in ("b.png", "a.jpg.png", "a.png", "in/c_mask.png"):
        picture(tmp_path / "masks" / name)
    (tmp_path / "photos" / "b.txt").write_text("a boat\n")
    items = items_of(tmp_path / "photos", masks=str(tmp_path / "masks"))
    masks = {item.name: item.files["mask"].removeprefix(f"{tmp_path}/masks/") for item in items}
    assert masks == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png",
        "b.jpg": "b.png",
        "in/c.bmp.png": "in/c_mask.png",
    }
    assert [item.settings for item in items if item.settings] == [{"prompt": "a boat"}]


def test_masks_beside_the_photos_are_no_photos(tmp_path):
    for name in ("a.png", "a_mask.png", "b.png"):
        picture(tmp_path / name)
    whole, lacking = items_of(tmp_path)
    assert (whole.name, whole.error) == ("a.png", "")
    assert whole.files["mask"].endswith("a_mask.png")
    assert "b_mask" in lacking.error


def test_one_mask_for_all_or_the_photos_own(tmp_path):
    picture(tmp_path / "a.png")
    assert items_of(tmp_path, masked=True)[0].files.keys() == {"image"}
    assert items_of(tmp_path, masks="alpha")[0].files["mask"] == "alpha"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_manifest(tmp_path, suffix):
    rows: list[dict[str, object]] = [
        {"file_name": "p/a.png", "mask": "m/a.png", "prompt": "a boat", "seed": 3},
        {"image": "p/a.png", "strength_map": "alpha", "prompt": "2 boats", "output": "other.png"},
        {"image": "p/a.png", "mask": "m/a.png", "hard_mask": True},
    ]
    manifest = tmp_path / f"edits.{suffix}"
    if suffix == "jsonl":
        manifest.write_text("\n\n".join(json.dumps(row) for row in rows))
    else:
        columns = sorted({name for row in rows for name in row})
        lines = [[str(row.get(name, "")) for name in columns] for row in rows]
        text = [",".join(each).replace("True", "true") for each in [columns, *lines]]
        manifest.write_text("\n".join(text))
    first, second, third = items_of(manifest)
    assert (first.name, first.settings) == ("p/a.png", {"prompt": "a boat", "seed": 3})
    assert first.files == {"image": str(tmp_path / "p/a.png"), "mask": str(tmp_path / "m/a.png")}
    assert (second.name, second.files["strength_map"]) == ("other.png", "alpha")
    assert (third.name, third.settings) == ("p/a-2.png", {"hard_mask": True})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "line 1: image is missing"),
        ({"image": "a.png", "output": "../a.png"}, "not inside the batch"),
        ({"image": "a.png", "guidence_scale": 3}, "Did you mean 'guidance_scale'"),
        ([], "no JSON object"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, row, message):
    (tmp_path / "edits.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        items_of(tmp_path / "edits.jsonl")


def test_what_cannot_begin(tmp_path):
    with pytest.raises(InputError, match="neither a folder of photos nor a manifest"):
        items_of(tmp_path / "nowhere")
    with pytest.raises(InputError, match="nothing to edit"):
        items_of(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="has no mask"):
        items_of(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        items_of(tmp_path, masks=str(tmp_path / "masks"))
    row = json.dumps({"image": "a.png", "output": "x.png"})
    (tmp_path / "edits.jsonl").write_text(f"{row}\n{row}")
    with pytest.raises(InputError, match="would both be written to"):
        items_of(tmp_path / "edits.jsonl")


def test_a_tally_counts_every_name():
    tally = Tally()
    names = [f"{number % 3000}.png" for number in range(7000)]
    counts = [tally.add(name) for name in names]
    assert counts == [1 + number // 3000 for number in range(7000)]
    assert "2999.png" in tally
    assert "3000.png" not in tally
