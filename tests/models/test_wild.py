"""Files in places where they do not belong: what is said, and before what."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine import InpaintEngine, ModelError
from engine.errors import SoftpaintWarning
from engine.models.families.sd import SD1
from engine.models.families.sdxl import BASE, REFINER
from engine.models.formats.folders import load_inpaint_unet, load_pipeline
from engine.models.formats.ip_adapters import load_ip_adapters
from engine.models.formats.patch import patched_unet
from tests.kit import ldm, tiny, tiny_adapters, tiny_controls

CLIP = 49408
PAGE = b"<!DOCTYPE html><html>login</html>"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Path:
    """A folder with a small file of each kind."""
    folder: Path = tmp_path_factory.mktemp("kinds")
    unet = tiny.unet()
    save = {
        "vae": ldm.vae_tensors(ldm.vae(), ""),
        "net": tiny_controls.controlnet(unet).state_dict(),
        "t2i": tiny_controls.t2i_adapter(unet).state_dict(),
        "word": {"emb_params": torch.zeros(1, 32)},
        "lora": {"lora_unet_a.lora_up.weight": torch.zeros(2, 2)},
        "ip": {"image_proj.proj.weight": torch.zeros(2, 2), "ip_adapter.1.x": torch.zeros(1)},
        "whole": ldm.tensors_of(SD1, ldm.tiny_parts(SD1)),
        "oft": {"oft_unet_a.oft_blocks": torch.zeros(1), "oft_unet_a.alpha": torch.zeros(1)},
    }
    for name, tensors in save.items():
        ldm.write(folder / f"{name}.safetensors", tensors)
    (folder / "page.safetensors").write_bytes(PAGE)
    (folder / "empty.safetensors").write_bytes(b"")
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, part in (("vae", ldm.vae()), ("net", tiny_controls.controlnet(unet))):
        part.save_pretrained(folder / name)
    return folder


OTHERS = {
    "page": "is a web page",
    "empty": "is empty",
    "cut": "is cut short",
    "whole": "is a whole checkpoint",
    "vae": "is a VAE",
    "net": "is a ControlNet",
    "t2i": "is a T2I-Adapter",
}


@pytest.mark.parametrize("place", ["lora", "embedding", "ip_adapter"])
def test_adapters_are_looked_at_before_the_model_is_loaded(kinds, place, monkeypatch):
    monkeypatch.setattr("engine.loaded.open_model", lambda **_: pytest.fail("loaded"))
    own = {"lora": "lora", "embedding": "word", "ip_adapter": "ip"}
    wrong = OTHERS | {"word": "is an embedding", "lora": "is a LoRA", "ip": "is an IP-Adapter"}
    for name in wrong.keys() - {own[place]}:
        given: Any = {place: str(kinds / f"{name}.safetensors")}
        with pytest.raises(ModelError, match=wrong[name]):
            InpaintEngine.from_pretrained("pocket", **given)
    given = {place: "nothing.safetensors"}
    with pytest.raises(ModelError, match="there is no file nothing"):
        InpaintEngine.from_pretrained("pocket", **given)


def test_an_oft_is_named(kinds):
    engine = tiny.engine(inpaint=False)
    with pytest.raises(ModelError, match="is an OFT"):
        engine.load_lora(kinds / "oft.safetensors")


@pytest.mark.parametrize("name", ["page", "empty", "vae"])
def test_what_is_no_patch(kinds, name):
    with pytest.raises(ModelError, match="is no Fooocus inpaint patch: it is "):
        patched_unet(tiny.unet(), kinds / f"{name}.safetensors")


@pytest.mark.parametrize(("name", "what"), [("vae", "AutoencoderKL"), ("net", "ControlNetModel")])
def test_folders_of_parts_in_a_models_place(kinds, name, what):
    with pytest.raises(ModelError, match=f"holds no whole model but {what} alone"):
        load_pipeline(kinds / name, None, "cpu")


def test_an_unusual_number_of_channels(tmp_path):
    tensors = ldm.tensors_of(SD1, ldm.tiny_parts(SD1))
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 6, 3, 3)
    path = ldm.write(tmp_path / "six.safetensors", tensors)
    with pytest.raises(ModelError, match=r"unusual number of channels; 4 .* and 9"):
        load_pipeline(path, None, "cpu")


def test_an_inpainting_unet_of_another_family(tmp_path):
    path = ldm.write(tmp_path / "sd1.safetensors", ldm.unet_tensors(ldm.sd1_unet(9)))
    with pytest.raises(ModelError, match="of another family: its UNet takes text embeddings of 32"):
        load_inpaint_unet(path, ldm.sdxl_unet(), torch.float32, "cpu")


def test_an_ip_adapter_of_another_family(tmp_path):
    pipe = tiny.engine(inpaint=False).pipe
    made = tiny_controls.ip_adapter(tiny.unet(sdxl=False))
    path = tmp_path / "ip.safetensors"
    flat = {f"{table}.{name}": each for table, held in made.items() for name, each in held.items()}
    save_file(flat, path)
    tiny_controls.image_reader()["image_encoder"].save_pretrained(tmp_path / "image_encoder")
    with pytest.raises(ModelError, match=r"of another family: .* text embeddings of 32"):
        load_ip_adapters(pipe, [path])


def loaded(path: Path) -> InpaintEngine:
    return InpaintEngine.from_pretrained(path, device="cpu", dtype="float32")


def test_zero_terminal_snr_of_sd1(tmp_path):
    """Whose own scheduler is PNDM, with settings that Euler's does not have."""
    tensors = ldm.tensors_of(SD1, ldm.tiny_parts(SD1))
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = ldm.write(tmp_path / "zt.safetensors", tensors | marks)
    scheduler = load_pipeline(path, "float32", "cpu").pipe.scheduler
    assert type(scheduler).__name__ == "EulerDiscreteScheduler"
    assert scheduler.config.rescale_betas_zero_snr
    assert scheduler.config.prediction_type == "v_prediction"


def test_the_refiner_reads_prompts_with_its_one_encoder(tmp_path):
    parts = ldm.tiny_parts(REFINER, words=CLIP)
    path = ldm.write(tmp_path / "refiner.safetensors", ldm.tensors_of(REFINER, parts))
    engine = loaded(path)
    one, other = (
        tiny.edited(engine, num_inference_steps=2, prompt=prompt).latents
        for prompt in ("a red house", "a boat")
    )
    assert not torch.equal(one, other)


def test_a_short_run_of_edm_begins_at_the_top(tmp_path):
    """And is not told that it begins next to the picture."""
    tensors = ldm.tensors_of(BASE, ldm.tiny_parts(BASE, words=CLIP))
    edm = {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}
    path = ldm.write(tmp_path / "edm.safetensors", tensors | edm)
    engine = loaded(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SoftpaintWarning)
        tiny.edited(engine, num_inference_steps=2)


def test_loras_of_one_part(tmp_path):
    """Trained with the text encoder alone, or without it."""
    engine = tiny.engine(inpaint=False)
    named = tiny_adapters.kohya(engine.pipe)
    plain = tiny.edited(engine, num_inference_steps=1).latents
    for prefix in ("lora_te", "lora_unet"):
        own = {name: shape for name, shape in named.items() if name.startswith(prefix)}
        engine.load_lora(
            tiny_adapters.saved(tiny_adapters.lora(own), tmp_path / f"{prefix}.safetensors")
        )
        assert not torch.equal(tiny.edited(engine, num_inference_steps=1).latents, plain)
        engine.unload_lora()
