"""SD3: text of three encoders, shifted latents, and tokens in a T5's place that are one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import InpaintEngine
from engine.errors import InputError, ModelError
from engine.models.families.sd3 import COUNTS, WITHOUT_T5
from engine.picture.geometry import Size
from engine.types import Conditioning
from tests.kit import tiny, tiny_flow

SIZE = 64


@pytest.fixture(scope="module")
def sd3():
    return InpaintEngine.from_pipe(tiny_flow.sd3())


@pytest.fixture(scope="module")
def with_t5():
    return InpaintEngine.from_pipe(tiny_flow.sd3(with_t5=True))


def request(**changes):
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[16:48, 8:40] = 1
    settings = {
        "image": tiny.picture(SIZE),
        "mask": mask,
        "prompt": "a red house",
        "num_inference_steps": 3,
        "seed": 1,
    }
    if "prompt_embeds" in changes:
        settings["prompt"] = None
    return {**settings, **changes}


def test_its_own_defaults_are_taken_where_nothing_is_said(sd3):
    settings = request()
    del settings["num_inference_steps"]
    asked = sd3.read(settings)
    assert (asked.num_inference_steps, asked.guidance_scale) == (28, 5.0)
    assert sd3.read(request(guidance_scale=2.0)).guidance_scale == 2.0


def test_tokens_in_the_place_of_a_t5_are_one(sd3):
    """And what the network says is what it says of all 256: the softmax is the same."""
    cond, uncond = sd3.backbone.encode_prompt("a", None, guided=True, size=Size(SIZE, SIZE))
    assert cond.text.shape[1] == 77 + 1
    assert cond.tensors[COUNTS][0, -1] == WITHOUT_T5
    network = sd3.backbone.main
    both = Conditioning.join([uncond, cond])
    sample, timesteps = torch.randn(2, 16, 8, 8), torch.tensor([900.0, 300.0])
    with torch.no_grad():
        one = network.predict(sample, timesteps, both, {})
        every = network.like_diffusers.predict(sample, timesteps, both, {})
    assert (one - every).abs().max() < 1e-5 < every.abs().max()
    processors = {type(each).__name__ for each in network.module.attn_processors.values()}
    assert processors == {"JointAttnProcessor2_0"}  # they are put back


def test_the_texts_are_the_pipelines_own(with_t5):
    pipe = with_t5.pipe
    cond, uncond = with_t5.backbone.encode_prompt("a", "b", guided=True, size=Size(SIZE, SIZE))
    wanted = pipe.encode_prompt("a", None, None, negative_prompt="b")
    assert torch.equal(cond.text, wanted[0])
    assert torch.equal(uncond.text, wanted[1])
    assert COUNTS not in cond.tensors


def test_embeddings_take_the_place_of_texts(sd3):
    embeds, _, pooled, _ = sd3.pipe.encode_prompt(
        "a red house", None, None, do_classifier_free_guidance=False
    )
    given = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "guidance_scale": 1.0}
    said = sd3.edit(**request(guidance_scale=1.0)).images[0]
    assert np.array_equal(sd3.edit(**request(**given)).images[0], said)
    with pytest.raises(InputError, match="pooled_prompt_embeds"):
        sd3.edit(**request(prompt_embeds=embeds))
    with pytest.raises(InputError, match="1 n 64"):
        sd3.edit(**request(prompt_embeds=embeds[..., :5], pooled_prompt_embeds=pooled))


def test_without_text_encoders_it_asks_for_embeddings_before_any_work(monkeypatch):
    engine = InpaintEngine.from_pipe(tiny_flow.sd3())
    engine.pipe.text_encoder = None
    monkeypatch.setattr(engine.pipe.vae, "encode", None)
    with pytest.raises(InputError, match=r"text_encoder is not loaded.*prompt_embeds and pooled"):
        engine.edit(**request())


def test_latents_are_shifted_and_scaled(sd3):
    pixels = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        latents = sd3.backbone.encode(pixels)
        mode = sd3.pipe.vae.encode(pixels).latent_dist.mode()
    config = sd3.pipe.vae.config
    wanted = (mode - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(latents, wanted, atol=1e-5, rtol=0)


def test_a_picture_beyond_its_positions_is_refused(sd3):
    # 16 patches of 2 cells of 8 px
    large = np.zeros((SIZE, 320, 3), np.uint8)
    ones = np.ones((SIZE, 320), np.float32)
    with pytest.raises(InputError, match="256 px a side"):
        sd3.edit(**request(image=large, mask=None, strength_map=ones, region="full"))


def test_a_lora_is_loaded_weighed_and_taken_out_again(tmp_path):
    """To the bits of the model without it."""
    from peft import LoraConfig, get_peft_model_state_dict

    taught = tiny_flow.sd3()
    torch.manual_seed(1)
    taught.transformer.add_adapter(
        LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"])
    )
    layers = get_peft_model_state_dict(taught.transformer)
    type(taught).save_lora_weights(tmp_path, transformer_lora_layers=layers)
    engine = InpaintEngine.from_pipe(tiny_flow.sd3())
    plain = np.asarray(engine.edit(**request()).images[0])
    file = tmp_path / "pytorch_lora_weights.safetensors"
    name = engine.load_lora(f"{file}:1.0")
    with_it = np.asarray(engine.edit(**request()).images[0])
    assert not np.array_equal(with_it, plain)
    engine.unload_lora(name)
    assert np.array_equal(np.asarray(engine.edit(**request()).images[0]), plain)


def test_a_lora_of_another_family_is_named(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "other.safetensors"
    rows = {"unet.down.to_q.lora_A.weight": torch.zeros(2, 4)}
    save_file({**rows, "unet.down.to_q.lora_B.weight": torch.zeros(4, 2)}, file)
    engine = InpaintEngine.from_pipe(tiny_flow.sd3())
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        engine.load_lora(str(file))
