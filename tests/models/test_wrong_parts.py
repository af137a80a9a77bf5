"""Models of parts that do not belong together: one line before any of them works."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import save_file

from controls import Control
from engine import InpaintEngine
from engine.errors import InputError, ModelError
from engine.models.family import FAMILIES
from engine.models.unheard import PromptWarning
from tests.kit import tiny
from tests.kit.families import TINY

FLOWS = [name for name in TINY if name not in {"sd", "sdxl"}]


@pytest.fixture(scope="module")
def flux():
    return InpaintEngine.from_pipe(TINY["flux"]())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, flux):
    place = tmp_path_factory.mktemp("models") / "flux"
    flux.pipe.save_pretrained(place)
    return place


@pytest.fixture
def broken(folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(folder, tmp_path / "broken")


def changed(path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def refuses(place, line: str, **settings) -> None:
    with pytest.raises(ModelError, match=line):
        InpaintEngine.from_pretrained(place, device="cpu", **settings)


def test_a_part_is_missing(broken):
    (broken / "text_encoder_2" / "model.safetensors").unlink()
    refuses(broken, r"has no weights for its text_encoder_2; give text_encoder[.]")
    shutil.rmtree(broken / "text_encoder_2")
    refuses(broken, r"no text_encoder_2 \(its model_index.json lists a T5.*; give text_encoder[.]")


@pytest.mark.parametrize(
    ("part", "said", "line"),
    [
        ("transformer", {"_class_name": "QwenImageTransformer2DModel"}, "is a QwenImageTransf"),
        ("vae", {"_class_name": "AutoencoderKLFlux2"}, "its vae is a AutoencoderKLFlux2"),
        ("text_encoder_2", {"model_type": "qwen3"}, "its text_encoder_2 is a qwen3"),
        ("scheduler", {"_class_name": "EulerDiscreteScheduler"}, "its scheduler is a Euler"),
    ],
)
def test_a_part_is_another_models(broken, part, said, line):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    changed(broken / part / name, **said)
    refuses(broken, f"{line}.*a part of another model")


def test_a_vae_of_other_latents():
    """SD 3's transformer before Flux' VAE, of fewer channels; and one scaled for another family."""
    parts = {**TINY["sd3"]().components, "vae": TINY["flux"]().vae}
    pipe = type(TINY["sd3"]())(**parts)
    with pytest.raises(ModelError, match="latents of 16 channels, and its VAE makes 4"):
        InpaintEngine.from_pipe(pipe)


def swapped(pipeline=StableDiffusionXLPipeline, *, sdxl=True, **parts):
    """A tiny pipeline with other parts."""
    return pipeline(**{**tiny.modules(sdxl=sdxl), **parts})


@pytest.mark.parametrize(
    ("pipe", "line"),
    [
        (
            lambda: swapped(StableDiffusionPipeline, sdxl=False, unet=tiny.unet()),
            "StableDiffusionPipeline is not supported: the UNet is another family's: it takes text",
        ),
        (lambda: swapped(unet=tiny.unet(sdxl=False)), "it takes nothing beside the text"),
        (
            lambda: swapped(StableDiffusionXLInstructPix2PixPipeline, unet=tiny.unet(8)),
            "^StableDiffusionXLInstructPix2PixPipeline is not supported: the UNet has 8 input",
        ),
        (
            lambda: swapped(StableDiffusionXLInstructPix2PixPipeline),
            "^StableDiffusionXLInstructPix2PixPipeline is not supported: it reads texts",
        ),
        (lambda: wrapped("unet"), "unet is wrapped in DataParallel.*: give its .module"),
        (lambda: wrapped("text_encoder"), "text_encoder is wrapped in DataParallel"),
    ],
)
def test_pipelines_put_together_wrongly(pipe, line):
    with pytest.raises(ModelError, match=line):
        InpaintEngine.from_pipe(pipe())


def wrapped(name):
    pipe = swapped()
    setattr(pipe, name, torch.nn.DataParallel(getattr(pipe, name)))
    return pipe


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoders"])
@pytest.mark.parametrize("compat", [None, "diffusers"])
def test_a_part_in_half_beside_others_in_whole(name, compat):
    pipe = swapped()
    parts = [part for key, part in pipe.components.items() if key.startswith(name.rstrip("s"))]
    for part in parts:
        part.to(torch.bfloat16)
    model = InpaintEngine.from_pipe(pipe)
    asked = {"strategy": "blend", "compat": compat, "num_inference_steps": 1}
    made = tiny.edited(model, **asked, output_type="np").images
    assert parts
    assert np.isfinite(made).all()


def test_an_inpainting_unet_of_another_type():
    with pytest.raises(ModelError, match=r"in torch.float16 and the model's own in torch.float32"):
        InpaintEngine.from_pipe(swapped(), tiny.unet(9).half())


def test_no_texts_without_a_tokenizer():
    pipe = swapped()
    names = ("", "negative_", "pooled_", "negative_pooled_")
    with torch.no_grad():
        made = pipe.encode_prompt("a red house", device="cpu")
    pipe.tokenizer = pipe.tokenizer_2 = None
    model = InpaintEngine.from_pipe(pipe)
    with pytest.raises(InputError, match=r"tokenizer is not loaded.*give prompt_embeds"):
        tiny.edited(model)
    embeds = {f"{name}prompt_embeds": each for name, each in zip(names, made, strict=True)}
    tiny.edited(model, prompt="", num_inference_steps=1, **embeds)


def test_a_vae_that_is_scaled_for_another_family(folder, tmp_path):
    other = shutil.copytree(folder / "vae", tmp_path / "vae")
    changed(other / "config.json", scaling_factor=1.5305)
    refuses(folder, "another family: its scaling_factor is 1.5305", vae=other)


def test_flux2s_vae_comes_in_folders(flux, tmp_path):
    place = tmp_path / "flux2"
    TINY["flux2"]().save_pretrained(place)
    refuses(
        place, "holds a AutoencoderKL, and .* a AutoencoderKLFlux2", vae=flux_vae(flux, tmp_path)
    )
    file = flux_vae(flux, tmp_path) / "diffusion_pytorch_model.safetensors"
    refuses(place, "give a folder of this model's VAE, a AutoencoderKLFlux2", vae=file)


def flux_vae(flux, folder):
    flux.pipe.vae.save_pretrained(folder / "vae")
    return folder / "vae"


def test_a_lora_with_layers_that_it_has_not(flux, tmp_path):
    """Qwen-Image's layers have names of Flux', and some their sizes: there are more of them."""
    state: dict[str, torch.Tensor] = {}
    for block in range(4):
        layer = f"transformer.transformer_blocks.{block}.attn.to_q"
        state |= {
            f"{layer}.lora_A.weight": torch.zeros(2, 32),
            f"{layer}.lora_B.weight": torch.zeros(32, 2),
        }
    path = tmp_path / "qwen.safetensors"
    save_file(state, str(path))
    with pytest.raises(ModelError, match="another family: 2 of its 4 layers are not in this model"):
        flux.load_lora(path)
    assert not flux.adapters.recorded()


@pytest.mark.parametrize("name", [each for each in FLOWS if each != "flux"])
def test_families_without_controlnets_say_so(name):
    model = InpaintEngine.from_pipe(TINY[name]())
    for control in (Control("canny"), Control("some/folder", image=tiny.picture())):
        with pytest.raises((InputError, ModelError), match="ControlNets here"):
            tiny.edited(model, controls=[control])
    assert not FAMILIES.get(name).controlnets


def test_a_network_that_a_family_has_not_is_told():
    chroma = InpaintEngine.from_pipe(TINY["chroma"]())
    for strategy in ("remove", "inpaint9", "fill"):
        with pytest.raises(InputError, match="which Chroma has not; differential is for every"):
            tiny.edited(chroma, strategy=strategy)
    tiny.edited(chroma, strategy="remove", stage="differential", guidance_scale=1.0)


def test_a_negative_prompt_without_effect_is_told(flux):
    """Once, before the model works: Flux.1 is told the scale; others are not guided by a small
    one.
    """
    run = {"negative_prompt": "fog", "num_inference_steps": 1}
    with pytest.warns(PromptWarning, match=r"no effect: Flux.1 is told the guidance scale"):
        tiny.edited(flux, **run)
    chroma = InpaintEngine.from_pipe(TINY["chroma"]())
    with pytest.warns(PromptWarning, match="no effect: Chroma is not guided by a scale of 1"):
        tiny.edited(chroma, **run, guidance_scale=1.0)
    with pytest.warns(PromptWarning, match="clip_skip has no effect: Chroma reads all layers"):
        tiny.edited(chroma, clip_skip=1, num_inference_steps=1)
    assert np.isfinite(tiny.edited(chroma, **run, guidance_scale=4.0).latents).all()


@pytest.mark.parametrize("part", ["vae", "text_encoder_2", "unet"])
def test_parts_on_several_devices_are_told(part):
    """Before the model works; torch's own device without memory stands for a second one."""
    model = InpaintEngine.from_pipe(TINY["sdxl"]())
    getattr(model.pipe, part).to("meta")
    with pytest.raises(ModelError, match=rf"several devices .*{part} on meta"):
        tiny.edited(model)
