"""Records of other programs: read, taken over as far as they are understood, written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from engine.cli import run
from engine.errors import InputError, UnknownNameError
from engine.picture.metadata import texts_of
from engine.request import infotext, invoke
from engine.request.foreign import ForeignRecord, read_texts, record_of
from engine.request.record import EditRecord
from engine.request.save import KEPT
from tests.kit import tiny

A1111 = (
    "a (red:1.2) house, <lora:oldFilm_v2:0.7> by a lake\nwide\n"
    "Negative prompt: blurry, text\n"
    "Steps: 24, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 1234567890, "
    'Size: 832x1216, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, VAE: "a, b.safetensors", '
    "Denoising strength: 0.75, Clip skip: 2, Mask blur: 4, Version: v1.10.1"
)
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": ["20", 0],
            "steps": 20,
            "cfg": 7,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 0.6,
            "model": ["10", 0],
            "positive": ["12", 0],
            "negative": ["7", 0],
            "latent_image": ["13", 0],
        },
    },
    "4": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "juggernautXL.safetensors"},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["21", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "film.safetensors", "strength_model": 0.8, "model": ["4", 0]},
    },
    "12": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1},
    },
    "20": {"class_type": "PrimitiveInt", "inputs": {"value": 99}},
    "21": {"class_type": "PrimitiveString", "inputs": {"value": "a red house"}},
}
INVOKE = {
    "generation_mode": "sdxl_inpaint",
    "positive_prompt": "a red house",
    "negative_prompt": "",
    "width": 1024,
    "seed": 5,
    "steps": 30,
    "cfg_scale": 7.5,
    "scheduler": "dpmpp_2m_k",
    "strength": 0.7,
    "model": {"key": "k", "name": "juggernaut"},
    "loras": [{"model": {"name": "film"}, "weight": 0.75}],
}


def test_a1111():
    record = read_texts({"parameters": A1111})
    assert record is not None
    assert record.program == "stable-diffusion-webui"
    assert record.settings == {
        "prompt": "a (red:1.2) house, by a lake\nwide",
        "negative_prompt": "blurry, text",
        "num_inference_steps": 24,
        "guidance_scale": 6.5,
        "seed": 1234567890,
        "strength": 0.75,
        "clip_skip": 1,
        "scheduler": "dpmpp-2m-karras",
    }
    assert record.left["LoRA oldFilm_v2"] == "0.7"
    assert record.left["Model"] == "sd_xl_base_1.0"
    assert record.left["VAE"] == "a, b.safetensors"
    assert record.left["Mask blur"] == "4"


@pytest.mark.parametrize(
    ("text", "prompt", "left"),
    [
        ("a tent", "a tent", set()),
        ("Steps: up, to, heaven", "Steps: up, to, heaven", set()),
        ("a tent\nSteps: x, Sampler: Restart, Seed: 3", "a tent", {"Steps", "Sampler"}),
        ("a\nSteps: 3, Sampler: Euler a Karras, Seed: 3", "a", {"Sampler"}),
        ("", None, set()),
    ],
)
def test_odd_texts(text, prompt, left):
    record = read_texts({"parameters": text})
    assert (record and record.settings["prompt"]) == prompt
    assert record is None or record.left.keys() == left


def test_comfyui():
    record = read_texts({"prompt": json.dumps(COMFY), "workflow": "{}"})
    assert record is not None
    assert record.settings == {
        "prompt": "a red house",
        "negative_prompt": "blurry",
        "num_inference_steps": 20,
        "guidance_scale": 7.0,
        "seed": 99,
        "strength": 0.6,
        "scheduler": "dpmpp-2m-karras",
    }
    assert record.left == {
        "model": "juggernautXL.safetensors",
        "LoRA film.safetensors": "0.8",
        "other nodes": "ControlNetApplyAdvanced, PrimitiveInt, PrimitiveString",
    }


def test_graphs_that_are_none():
    loop = {"1": {"inputs": {"positive": ["1", 0], "steps": ["1", 0], "cfg": True}}, "2": 5}
    record = read_texts({"prompt": json.dumps(loop)})
    assert record is not None
    assert record.settings == {}
    only = read_texts({"workflow": "{}"})
    assert only is not None
    assert "workflow" in only.left
    assert read_texts({"prompt": "[1]"}) is None
    assert read_texts({"prompt": "[" * 100_000}) is None


def test_invokeai():
    record = read_texts({"invokeai_metadata": json.dumps(INVOKE)})
    assert record is not None
    assert record.settings == {
        "prompt": "a red house",
        "num_inference_steps": 30,
        "guidance_scale": 7.5,
        "seed": 5,
        "strength": 0.7,
        "scheduler": "dpmpp-2m-karras",
    }
    assert record.left == {
        "model": "juggernaut",
        "LoRA film": "0.75",
        "generation_mode": "sdxl_inpaint",
        "width": "1024",
    }


def test_every_sampler_is_found_again():
    for name, (sampler, schedule) in infotext.SAMPLERS.items():
        assert infotext.scheduler_of(sampler, schedule) == name
    assert infotext.scheduler_of("DPM++ 2M Karras") == "dpmpp-2m-karras"
    assert infotext.scheduler_of("Euler", "Automatic") == "euler"


def test_what_is_written_is_read_again():
    used = {
        "prompt": 'a tent, "red"\nwide',
        "negative_prompt": "grey",
        "num_inference_steps": 12,
        "guidance_scale": 5.0,
        "scheduler": "euler-a",
        "strength": 0.5,
        "clip_skip": 1,
        "size": [72, 56],
        "model": "/models/a, b.safetensors",
    }
    text = infotext.written(used, {"lora": ["/l/film.safetensors:0.5", "/l/b.safetensors"]}, 7)
    settings, left = infotext.read(text)
    names = ("num_inference_steps", "guidance_scale", "scheduler", "strength", "clip_skip")
    assert {name: settings[name] for name in names} == {name: used[name] for name in names}
    assert (settings["prompt"], settings["negative_prompt"]) == ('a tent, "red"\nwide', "grey")
    assert settings["seed"] == 7
    assert left["LoRA film"] == "0.5"
    assert left["LoRA b"] == "1"
    assert (left["Model"], left["Size"]) == ("a, b", "72x56")


# ------------------------------------------------------------------------------------ in files


@pytest.fixture(scope="module")
def result():
    return tiny.edited(tiny.engine(inpaint=False), num_inference_steps=1, output_type="pil")


def with_text(path: Path, picture: Image.Image, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    picture.save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "tiff"])
def test_it_is_written_where_it_is_asked_for(tmp_path, result, suffix):
    (path,) = result.save(tmp_path / f"a.{suffix}", metadata="a1111")
    (text,) = [each for key, each in texts_of(path).items() if key == "parameters"]
    assert infotext.read(text)[0]["prompt"] == "a red house"
    assert EditRecord.read(path).edit["prompt"] == "a red house"
    (plain,) = result.save(tmp_path / f"b.{suffix}", metadata="softpaint")
    assert "parameters" not in texts_of(plain)
    (auto,) = result.save(tmp_path / f"c.{suffix}")
    assert ("parameters" in texts_of(auto)) == (suffix == "png")


def test_the_photos_own_are_kept(tmp_path):
    photo = with_text(tmp_path / "in.png", tiny.picture(), parameters=A1111, Title="mine")
    engine = tiny.engine(inpaint=False)
    result = engine.edit(
        image=photo, mask=tiny.box_mask(), prompt="a tent", num_inference_steps=1, seed=1
    )
    result.save(tmp_path / "auto.png")
    assert texts_of(tmp_path / "auto.png") == {"parameters": A1111, "Title": "mine"}
    result.save(tmp_path / "asked.png", metadata="a1111")
    texts = texts_of(tmp_path / "asked.png")
    assert texts[KEPT.format("parameters")] == A1111
    assert texts["Title"] == "mine"
    assert texts["parameters"].startswith("a tent\nSteps: 1, Sampler: ")


def test_invokeais_is_written_as_it_is_read(tmp_path, result):
    (path,) = result.save(tmp_path / "a.png", metadata="invokeai")
    table = json.loads(texts_of(path)["invokeai_metadata"])
    assert table["generation_mode"] == "sdxl_inpaint"
    assert table["model"]["type"] == "main"
    record = ForeignRecord.read(path)
    assert record is not None
    assert record.program == "InvokeAI"
    used = result.settings
    assert (used["scheduler"], record.settings["scheduler"]) == ("EulerDiscreteScheduler", "euler")
    for name in ("prompt", "num_inference_steps", "guidance_scale", "strength"):
        assert record.settings[name] == used[name], name
    assert record.settings["seed"] == result.seeds[0]
    assert EditRecord.read(path).edit["prompt"] == "a red house"
    for own, there in invoke.SCHEDULERS.items():
        assert list(invoke.SCHEDULERS.values()).count(there) == 1, own


def test_invokeais_of_an_edit_with_everything():
    used = {
        "family": "sd",
        "prompt": ["a", "b"],
        "negative_prompt": "grey",
        "num_inference_steps": 12,
        "guidance_scale": 5.0,
        "scheduler": "euler-trailing",
        "strength": 0.5,
        "clip_skip": 1,
        "size": [72, 56],
        "model": "/models/a, b.safetensors",
    }
    load = {"lora": ["/l/film.safetensors:0.5", "/l/b.safetensors"]}
    settings, left = invoke.read(json.loads(invoke.written(used, load, 7)))
    assert settings == {
        "prompt": "a\nb",
        "negative_prompt": "grey",
        "num_inference_steps": 12,
        "guidance_scale": 5.0,
        "seed": 7,
        "strength": 0.5,
        "clip_skip": 1,
    }
    assert (left["model"], left["LoRA film"], left["LoRA b"]) == ("a, b", "0.5", "1.0")
    assert left["generation_mode"] == "inpaint"


def test_invokeai_reads_pngs_alone(tmp_path, result):
    with pytest.raises(InputError, match="from PNG files only"):
        result.save(tmp_path / "a.jpg", metadata="invokeai")
    photo = with_text(tmp_path / "in.png", tiny.picture(), invokeai_metadata=json.dumps(INVOKE))
    engine = tiny.engine(inpaint=False)
    kept = engine.edit(
        image=photo, mask=tiny.box_mask(), prompt="a tent", num_inference_steps=1, seed=1
    )
    kept.save(tmp_path / "asked.png", metadata="invokeai")
    texts = texts_of(tmp_path / "asked.png")
    assert json.loads(texts[KEPT.format("invokeai_metadata")]) == INVOKE
    assert json.loads(texts["invokeai_metadata"])["positive_prompt"] == "a tent"


def test_what_cannot_be_asked_for(tmp_path, result):
    with pytest.raises(UnknownNameError, match="a1111"):
        result.save(tmp_path / "a.png", metadata="comfy")


def test_texts_of_other_formats(tmp_path):
    picture, exif = tiny.picture(), Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(COMFY)
    picture.save(tmp_path / "comfy.webp", exif=exif)
    record = ForeignRecord.read(tmp_path / "comfy.webp")
    assert record is not None
    assert record.program == "ComfyUI"
    for coding in ("utf-16-le", "utf-16-be"):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(coding)
        picture.save(tmp_path / "web.jpg", exif=exif)
        assert texts_of(tmp_path / "web.jpg") == {"parameters": A1111}


def test_a_file_without_any_says_so(tmp_path):
    tiny.picture().save(tmp_path / "none.png")
    with pytest.raises(InputError, match="no Softpaint settings"):
        record_of(tmp_path / "none.png")


@pytest.fixture
def go(files, capsys, monkeypatch):
    monkeypatch.chdir(files.folder)
    with_text(files.folder / "web.png", tiny.picture(), parameters=A1111)
    with_text(files.folder / "comfy.png", tiny.picture(), prompt=json.dumps(COMFY))
    with_text(files.folder / "bad.png", tiny.picture(), parameters="a\nSteps: 0, Seed: 1, X: 2")

    def line(text: str) -> tuple[int, str]:
        with tiny.loaded():
            code = run(text.split())
        said = capsys.readouterr()
        return code, said.out + said.err

    return line


def test_show_and_from(go, files):
    shown = go("show web.png")[1]
    assert "made by              stable-diffusion-webui" in shown
    assert "what --from does not take over" in shown
    assert json.loads(go("show comfy.png --json")[1])["program"] == "ComfyUI"
    code, said = go("edit photo.png -m mask.png --from web.png --steps 2 -o out.png")
    assert code == 0, said
    assert "not taken over: LoRA oldFilm_v2, Model hash, Model, VAE" in said.replace("Size, ", "")
    record = EditRecord.read(files.folder / "out.png")
    assert record.edit["prompt"] == "a (red:1.2) house, by a lake\nwide"
    assert record.edit["seed"] == 1234567890
    assert record.edit["scheduler"] == "dpmpp-2m-karras"
    assert record.edit["num_inference_steps"] == 2
    assert record.load == {}
    code, said = go("edit --from web.png -o other.png")
    assert code == 2
    assert "give PHOTO" in said
    code, said = go("edit photo.png -m mask.png --from bad.png -o other.png")
    assert code == 2
    assert "--steps must be" in said


@pytest.mark.filterwarnings("default")
def test_a_damaged_record_beside_another_programs_is_told_of(tmp_path, capsys):
    picture = PngImagePlugin.PngInfo()
    picture.add_text("softpaint:edit", "[1]")
    picture.add_text("parameters", "a tent\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 5")
    path = tmp_path / "both.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=picture)
    assert run(["show", str(path)]) == 0
    shown = capsys.readouterr()
    assert "holds damaged Softpaint settings" in shown.err
    assert "What it says in the words of other programs is taken" in shown.err
    assert "a tent" in shown.out
