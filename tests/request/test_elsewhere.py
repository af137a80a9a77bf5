"""Settings and arguments under the names that they have elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import EditRequest, InpaintEngine, InputError
from engine.cli import run
from engine.errors import UnknownNameError
from engine.models.formats.devices import resolve_device, resolve_dtype
from engine.request.elsewhere import ELSEWHERE, OF_A_MODEL, check_settings
from engine.request.field import fields_of
from tests.kit import tiny


def request(**changes):
    arguments = {"image": tiny.picture(), "prompt": "a red house", "num_inference_steps": 1}
    return {**arguments, "seed": 1, "mask": tiny.box_mask(), **changes}


def test_names_of_elsewhere_are_no_settings_and_lead_to_some():
    known = set(fields_of(EditRequest))
    assert not known & ELSEWHERE.keys()
    assert not known & OF_A_MODEL
    assert set(ELSEWHERE.values()) <= known


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("steps", "unknown setting 'steps': here it is called num_inference_steps."),
        ("guidance", "here it is called guidance_scale."),
        ("negative", "here it is called negative_prompt."),
        ("init_image", "here it is called image."),
        ("sampler", "here it is called scheduler."),
        ("denoising_strength", "here it is called strength."),
        ("lora", r"'lora' goes with a model when it is loaded.*from_pretrained"),
    ],
)
def test_a_setting_is_told_what_it_is_called_here(engine, name, said):
    with pytest.raises(InputError, match=said):
        engine.edit(**request(**{name: 5}))


def test_an_option_of_the_strategy_stays_one():
    check_settings(["guidance", "n"], ["guidance", "n"])
    with pytest.raises(InputError, match="guidance_scale"):
        check_settings(["guidance"], ["n"])


def test_a_missing_picture_is_found_under_its_other_name(engine):
    given = request()
    given["init_image"] = given.pop("image")
    with pytest.raises(InputError, match="image is missing; here 'init_image' is called image"):
        engine.edit(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask": "m.png"}, "a list of edits, and this is one"),
        (None, "a list of edits, not NoneType"),
        ("photo.png", "a list of edits, not str"),
    ],
)
def test_edit_many_takes_several(engine, given, said):
    with pytest.raises(InputError, match=said):
        engine.edit_many(given)


def test_an_entry_that_is_no_edit_is_its_own_error(engine):
    first, second, third = engine.edit_many([3, request(), None])
    assert "not 3" in str(first)
    assert "not None" in str(third)
    assert second.seeds == [1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variant": "fp16"}, r"^variant= is no argument: .*dtype="),
        ({"device_map": "auto"}, r"^device_map= is no argument: device= says"),
        ({"revision": "main"}, "HF_HOME"),
        ({"scheduler": "euler"}, r"engine.edit\(scheduler="),
        ({"torch_dtype": "float32", "dtype": "float32"}, "give either dtype= or torch_dtype="),
        ({"modle": "pocket"}, "unknown argument 'modle'. Did you mean model="),
        ({"model": 3}, "model must be a folder, a file or a name, not int"),
        ({"model": ""}, "model is empty"),
        ({"vae": torch.nn.Linear(1, 1)}, "vae must be a folder, a file or a name, not Linear"),
    ],
)
def test_what_loading_does_not_take_is_one_line(given, said):
    with pytest.raises(InputError, match=said):
        InpaintEngine.from_pretrained(**given)


def test_a_loaded_pipeline_is_shared_not_loaded(engine):
    with pytest.raises(InputError, match=r"not \w+Pipeline \(InpaintEngine.from_pipe shares"):
        InpaintEngine.from_pretrained(engine.pipe)


def test_diffusers_names_of_the_same_are_taken(monkeypatch):
    opened = []

    def open_model(**given):
        opened.append(given)
        raise InputError("stop")

    monkeypatch.setattr("engine.loaded.open_model", open_model)
    given: dict[str, Any] = {"torch_dtype": torch.float32, "device_map": "cpu"}
    given |= {"safety_checker": None, "use_safetensors": True}
    with pytest.raises(InputError, match="stop"):
        InpaintEngine.from_pretrained("pocket", **given)
    assert opened[0]["dtype"] is torch.float32
    assert opened[0]["device"] == "cpu"


@pytest.mark.parametrize("name", ["float16", "torch.float16", "fp16", torch.float16])
def test_a_precision_by_its_names(name):
    assert resolve_dtype(name, "cpu") is torch.float16


@pytest.mark.parametrize("name", ["int8", 16, float, torch.int8])
def test_another_precision_is_refused(name):
    with pytest.raises(InputError, match="accepted: float16, bfloat16, float32"):
        resolve_dtype(name, "cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu cpu"])
def test_no_device_is_one_line(name):
    with pytest.raises(InputError, match=f"device '{name}'"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("EULER", "euler"), ("Euler a", "euler-a"), ("DPM++ 2M Karras", "dpmpp-2m-karras")],
)
def test_names_written_otherwise_are_found(written, meant):
    known = ["euler", "euler-a", "dpmpp-2m", "dpmpp-2m-karras"]
    assert f"Did you mean '{meant}'" in str(UnknownNameError("scheduler", written, known))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--cfg-scale 7", "No such option: --cfg-scale. Here it is called --guidance."),
        ("--num-inference-steps 7", "called --steps."),
        ("--mask-image m.png", "called --mask."),
        ("--option cfg=7", "'cfg': here it is called --guidance"),
        ("--option seed=7", "no option of a strategy: give it as --seed"),
        ("--option dither=true --option dither=false", "gives dither twice"),
        ("--option contrast=2", "'contrast', which is one of soft-blend. Known: dither"),
        ("--strategy ,", "names none"),
        ("--keep 2", "--keep says how many of several are finished"),
    ],
)
def test_the_command_line_says_the_same(files, capsys, line, said):
    begin = f"edit {files.photo} -m {files.mask} -p x -o {files.folder}/o.png "
    assert run([*begin.split(), *line.split()]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
