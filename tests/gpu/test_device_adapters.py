"""What is laid over a model, on the device: LoRAs, embeddings, references, fills, judges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from controls import Control, Reference
from engine import InpaintEngine
from tests.kit import tiny, tiny_adapters, tiny_controls
from tests.kit.devices import DEVICE, HALF, apart, box, hard, on_device, psnr, repainted

pytestmark = on_device


@pytest.fixture(scope="module")
def engines():
    """New ones, on the CPU and on the device in float32 and in half precision."""
    return {
        "cpu": InpaintEngine.from_pretrained(device="cpu", dtype="float32"),
        "single": InpaintEngine.from_pretrained(device=DEVICE, dtype="float32"),
        "half": InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF),
    }


@pytest.fixture(scope="module")
def lora(engines, tmp_path_factory):
    state = tiny_adapters.lora(tiny_adapters.kohya(engines["cpu"].pipe))
    # A weak one: random changes of a trained network's size would leave noise, and no picture.
    state = {k: each * (0.3 if "lora_up" in k else 1) for k, each in state.items()}
    return tiny_adapters.saved(state, tmp_path_factory.mktemp("lora") / "style.safetensors")


def near(engines: dict[str, InpaintEngine], **changes: Any) -> None:
    """Float32 there is float32 here; half precision is what half precision is (``test_half.py``),
    less 10 dB: random adapters leave colours no picture has, where a decoder is steeper.
    """
    settings = hard(**changes)
    one, other, third = (each.edit(**settings) for each in engines.values())
    assert apart(one, other).mean() < 0.1
    assert psnr(one, third, repainted(settings)) > 30


@pytest.mark.parametrize("strategy", ["blend", "inpaint9"])
def test_a_lora_does_what_it_does_on_the_cpu(engines, lora, strategy):
    for engine in engines.values():
        engine.load_lora(lora)
    try:
        near(engines, strategy=strategy)
    finally:
        for engine in engines.values():
            engine.unload_lora()


@pytest.mark.parametrize("kind", ["single", "half"])
@pytest.mark.parametrize("strategy", ["blend", "inpaint9"])
def test_a_lora_that_is_taken_out_leaves_nothing(engines, lora, kind, strategy):
    engine, settings = engines[kind], hard(strategy=strategy)
    before = engine.edit(**settings).latents
    engine.load_lora(lora)
    changed = engine.edit(**settings).latents
    engine.unload_lora()
    assert not torch.equal(changed, before)
    assert torch.equal(engine.edit(**settings).latents, before)


def test_a_lora_that_is_merged_by_hand_is_noticed(engines, lora):
    """As peft does it, past the counters of torch: a few values of each weight are looked at."""
    engine = engines["half"]
    engine.load_lora(lora)
    try:
        before = engine.backbone.fingerprint()
        engine.pipe.fuse_lora()
        assert engine.backbone.fingerprint() != before
        engine.pipe.unfuse_lora()
    finally:
        engine.unload_lora()


@pytest.mark.filterwarnings("ignore:the model's own network was changed in place")
def test_a_weight_that_is_changed_by_hand_is_noticed():
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF)
    before = engine.backbone.fingerprint()
    engine.pipe.unet.conv_in.weight.data.mul_(1.5)
    assert engine.backbone.fingerprint() != before


def test_a_lora_may_be_one_regions_alone(engines, lora):
    """The other region's pixels are what they are without it."""
    for engine in engines.values():
        engine.load_lora(lora, 0)
    left, right = box(0, 32, 40, 112), box(80, 32, 120, 112)
    styled = [
        {"map": left, "prompt": "a red house"},
        {"map": right, "prompt": "a white boat", "lora": "style:0.7"},
    ]
    try:
        near(engines, mask=None, regions=styled)
    finally:
        for engine in engines.values():
            engine.unload_lora()


def test_a_word_is_learnt(engines, tmp_path):
    path = tmp_path / "word.safetensors"
    save_file(tiny_adapters.embeddings(engines["cpu"].pipe), path)
    for engine in engines.values():
        engine.load_embedding(path)
    try:
        near(engines, prompt="a word house")
    finally:
        for engine in engines.values():
            engine.unload_embedding()


def test_a_word_is_forgotten(engines, tmp_path):
    engine, path = engines["half"], tmp_path / "word.safetensors"
    save_file(tiny_adapters.embeddings(engine.pipe), path)
    before = engine.edit(**hard()).latents
    engine.load_embedding(path, "other")
    engine.edit(**hard(prompt="an other house"))
    engine.unload_embedding()
    assert torch.equal(engine.edit(**hard()).latents, before)


@pytest.fixture(scope="module")
def readers(engines, tmp_path_factory):
    """Engines with an IP-Adapter from a file, its encoder's folder beside it."""
    folder = tmp_path_factory.mktemp("ip")
    made = tiny_controls.ip_adapter(engines["cpu"].pipe.unet)
    state = {f"{t}.{name}": each for t, held in made.items() for name, each in held.items()}
    save_file(state, folder / "ip.safetensors")
    tiny_controls.image_reader()["image_encoder"].save_pretrained(folder / "image_encoder")
    file = folder / "ip.safetensors"
    return {
        kind: InpaintEngine.from_pretrained(device=where, dtype=dtype, ip_adapter=file)
        for kind, where, dtype in (
            ("cpu", "cpu", "float32"),
            ("single", DEVICE, "float32"),
            ("half", DEVICE, HALF),
        )
    }


class TestAReference:
    @pytest.mark.parametrize("strategy", ["blend", "inpaint9", "think"])
    def test_acts_as_on_the_cpu(self, readers, strategy):
        picture = tiny.picture(48, seed=21)
        near(readers, strategy=strategy, ip_adapter_image=Reference(picture, scale=0.5))

    def test_acts_where_its_mask_is(self, readers):
        one = Reference(tiny.picture(48, seed=21), scale=0.5, mask=box(0, 0, 64, 128))
        near(readers, ip_adapter_image=one)

    def test_acts_beside_a_control_and_regions(self, readers):
        picture = Reference(tiny.picture(48, seed=21), scale=0.3)
        near(readers, ip_adapter_image=picture, controls="canny")


class TestNetworksOfTheCaller:
    """Made on the CPU and moved, as one moves what one has loaded."""

    @pytest.mark.parametrize("kind", ["controlnet", "union", "t2i_adapter", "small"])
    def test_act_as_on_the_cpu(self, engines, kind):
        made = {
            name: getattr(tiny_controls, kind)(engines["cpu"].pipe.unet)
            for name in ("cpu", "single")
        }
        made["single"].to(DEVICE)
        picture = hard()["image"]
        mode: dict[str, Any] = {"mode": "canny"} if kind == "union" else {}
        results = [
            engines[name].edit(**hard(controls=Control(net, image=picture, scale=0.2, **mode)))
            for name, net in made.items()
        ]
        assert apart(*results).mean() < 0.1


@pytest.mark.parametrize("fill", ["gan", "patch", "telea", "noise"])
def test_a_fill_is_the_cpus(engines, fill):
    near(engines, prefill=fill, strategy="blend", strength=0.7)


def test_a_tiny_vae_draws_previews():
    torch.manual_seed(0)
    kind: Any = AutoencoderTiny
    vae = kind(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF)
    engine.preview_with(vae.to(DEVICE, engine.backbone.dtype).eval())
    seen: list[np.ndarray] = []
    engine.edit(**hard(callback=lambda shot: seen.append(np.asarray(shot.preview()))))
    assert len(seen) == hard()["num_inference_steps"]


@pytest.mark.parametrize("judge", ["auto", "pocket", "none"])
def test_a_judge_chooses(engines, judge):
    assert len(engines["half"].edit(**hard(candidates=3, judge=judge)).images) == 1
