"""Results: one line, a picture in a notebook, a file with its record."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import InputError, OutputError
from engine.cli import run
from engine.request.record import EditRecord
from tests.kit import tiny


@pytest.fixture
def arguments(tmp_path):
    tiny.picture().save(tmp_path / "photo.png")
    tiny.box_mask().save(tmp_path / "mask.png")
    return {
        "image": tmp_path / "photo.png",
        "mask": tmp_path / "mask.png",
        "prompt": "a boat",
        "num_inference_steps": 1,
        "seed": 3,
    }


def test_a_saved_result_is_what_the_command_line_writes(pocket, arguments, tmp_path):
    result = pocket.edit(**arguments, num_images=2)
    written = result.save(tmp_path / "own.png")
    assert [path.name for path in written] == ["own-0.png", "own-1.png"]
    options = ["-m", "mask.png", "-p", "a boat", "--steps", "1", "--seed", "3", "--quiet"]
    options = [str(tmp_path / each) if each == "mask.png" else each for each in options]
    command = ["edit", str(tmp_path / "photo.png"), *options, "--num-images", "2"]
    assert run([*command, "-o", str(tmp_path / "cli.png")]) == 0
    for index, path in enumerate(written):
        own, theirs = EditRecord.read(path), EditRecord.read(tmp_path / f"cli-{index}.png")
        assert own.edit == theirs.edit
        assert own.image == theirs.image
        assert own.region == theirs.region
        assert own.index == theirs.index == index
        with Image.open(path) as one, Image.open(tmp_path / f"cli-{index}.png") as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_what_was_read_is_recorded_whatever_becomes_of_the_file(pocket, arguments, tmp_path):
    result = pocket.edit(**arguments)
    photo = Path(arguments["image"])
    before = EditRecord.of(result, index=0, beside=tmp_path / "out.png").image
    photo.write_bytes(b"something else")
    assert EditRecord.of(result, index=0, beside=tmp_path / "out.png").image == before


def test_saving_over_an_input_is_refused(pocket, arguments, tmp_path):
    result = pocket.edit(**arguments)
    before = (tmp_path / "photo.png").read_bytes()
    with pytest.raises(InputError, match="input of this edit"):
        result.save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="suffix"):
        result.save(tmp_path / "out.xyz")
    with pytest.raises((InputError, OutputError), match="folder"):
        result.save(tmp_path / "nowhere" / "out.png")
    assert (tmp_path / "photo.png").read_bytes() == before


def test_a_picture_in_memory_has_a_record_without_a_file(pocket, arguments, tmp_path, capsys):
    arguments |= {"image": tiny.picture(), "mask": tiny.box_mask()}
    (path,) = pocket.edit(**arguments).save(tmp_path / "out.png")
    assert EditRecord.read(path).image is None
    assert run(["edit", "--from", str(path), "-o", str(tmp_path / "again.png")]) == 2
    assert "was no file" in capsys.readouterr().err


def test_pictures_as_tensors(engine, arguments, tmp_path):
    """As diffusers' ``output_type="pt"``: float b c h w in [0, 1], also to the bit."""
    for compat in ({}, {"compat": "diffusers", "strategy": "blend"}):
        asked = {**arguments, **compat, "num_images": 2}
        made = engine.edit(**asked, output_type="pt")
        array = engine.edit(**asked, output_type="np").images
        assert made.images.shape == (2, 3, 64, 64)
        assert made.images.dtype == torch.float32
        assert np.array_equal(made.images.permute(0, 2, 3, 1).numpy(), array)
        (first, _) = made.save(tmp_path / "out.png")
        assert first.is_file()
        assert np.array_equal(np.asarray(made.picture(1)), (array[1] * 255).round())


def test_results_show_themselves(engine):
    arguments = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "", "seed": 1}
    result = engine.edit(**arguments, num_inference_steps=1, num_images=2)
    assert repr(result).startswith("EditResult(2 pictures, 'differential', seeds [1, 2], ")
    with Image.open(BytesIO(result._repr_png_())) as shown:
        assert shown.size == (128, 64)
    comparison = engine.compare(**arguments, num_inference_steps=1, strategies=["blend"])
    assert repr(comparison).startswith("Comparison(blend, ")
    with Image.open(BytesIO(comparison._repr_png_())) as shown:
        assert shown.size == comparison.grid().size
    page = comparison._repr_html_()
    assert page.startswith('<img alt="Comparison(blend, ')
    assert "seam" in page
    latents = engine.edit(**arguments, num_inference_steps=1, output_type="latent")
    assert latents._repr_png_() is None
    assert "\n" not in repr(latents)
    with pytest.raises(InputError, match="latents"):
        latents.save("out.png")


def test_what_is_no_files_name_is_refused(engine):
    arguments = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a house"}
    result = engine.edit(**arguments, num_inference_steps=1, seed=1)
    for place in (None, 3, BytesIO()):
        with pytest.raises(InputError, match="save takes a file's name, not"):
            result.save(place)


def test_one_of_several_prompts_is_repeated(pocket, files, capsys):
    shared = {"image": files.photo, "mask": files.mask, "num_inference_steps": 2, "seed": 5}
    second = pocket.edit(**shared, prompt=["a tent", "a boat"]).save(files.folder / "two.png")[1]
    again = files.folder / "again.png"
    repeat = ["edit", "--from", str(second), "-o"]
    assert run([*repeat, str(again)]) == 0
    with Image.open(second) as one, Image.open(again) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert run([*repeat, str(again), "--candidates", "2"]) == 0
    assert "6  differential" in capsys.readouterr().err
    assert EditRecord.read(again).edit["prompt"] == "a boat"
    assert run([*repeat, str(files.folder / "other.png"), "--seed", "9"]) == 0
    made = [files.folder / f"other-{i}.png" for i in (0, 1)]  # both, from another seed
    assert all(each.is_file() for each in made)
