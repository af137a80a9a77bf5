"""The forms in which controls come: small ones, the authors' layout, what is refused by name."""

from __future__ import annotations

import json
import socket
import time
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import ControlNetXSAdapter, StableDiffusionXLPipeline
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from safetensors.torch import save_file

from controls import Control, Reference
from controls.networks import network_of
from engine import InpaintEngine, InputError, ModelError
from engine.models.formats.sources import config_file, guarded
from engine.models.unet import UNET_CONTROLNETS
from tests.kit import tiny, tiny_adapters, tiny_controls


@pytest.fixture(scope="module")
def unet(engine):
    return engine.backbone.network("base").unet


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("kind", ["whole", "small"])
def test_a_single_file_is_what_its_folder_is(tmp_path, engine, unet, layout, kind):
    make = tiny_controls.small if kind == "small" else tiny_controls.controlnet
    net = make(unet)
    state = net.state_dict() if layout == "diffusers" else tiny_controls.original_layout(net)
    path = tiny_adapters.saved(state, tmp_path / "net.safetensors")
    loaded = engine.backbone.controlnet(path)
    own = net.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    for name, value in own.items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    want, got = (
        tiny.edited(engine, controls=Control(each, tiny.picture(seed=4)), num_inference_steps=1)
        for each in (net, path)
    )
    assert torch.equal(want.latents, got.latents)
    plain = tiny.edited(engine, num_inference_steps=1)
    assert not torch.equal(plain.latents, got.latents)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora_controlnet", "input_blocks.1.0.in_layers.2.up"], "is a Control-LoRA"),
        (["difference", "control_model.input_hint_block.0.weight"], "as a difference to one base"),
        (["lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight"], "is a ControlLLLite"),
        (["style_embedding", "transformer_layes.0.ln_1.weight"], "is a T2I style adapter"),
        (["down_blocks.0.ctrl_resnets.0.conv1.weight", "ctrl_conv_in.weight"], "a ControlNet-XS"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "is an IP-Adapter"),
        (["lora_unet_a.lora_up.weight"], "is a LoRA"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, engine, keys, message):
    path = tmp_path / "net.safetensors"
    save_file({key: torch.rand(1) for key in keys}, path)
    with pytest.raises(ModelError, match=f"{message}.*, and a ControlNet, ControlNet-Union or"):
        engine.backbone.controlnet(path)


def test_other_folders_are_refused_by_what_they_are(tmp_path, engine):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetXSAdapter"}))
    with pytest.raises(ModelError, match="is a ControlNetXSAdapter, which nothing here runs"):
        engine.backbone.controlnet(tmp_path)


def test_other_networks_are_refused_by_their_class(engine):
    across: object = ControlNetXSAdapter.__new__(ControlNetXSAdapter)
    with pytest.raises(InputError, match="not ControlNetXSAdapter"):
        tiny.edited(engine, controls=Control(across, tiny.picture()))


def test_a_folder_in_half_precision_alone(tmp_path, engine, unet):
    tiny_controls.controlnet(unet).half().save_pretrained(tmp_path, variant="fp16")
    assert [each.name for each in tmp_path.glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    assert engine.backbone.controlnet(tmp_path).dtype == torch.float32


def test_sd2_has_no_controls_of_sd1():
    """Which are of another width: they would be downloaded, and refused."""
    model = SimpleNamespace(
        family=SimpleNamespace(name="sd", controlnets=UNET_CONTROLNETS),
        unet_config=SimpleNamespace(cross_attention_dim=1024),
        checkpoint=None,
    )
    with pytest.raises(InputError, match=r"no ControlNet for SD 2.x models .*'canny'"):
        network_of(Control("canny"), model)


def test_a_hub_that_is_out_of_reach_is_asked_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked = []

    def refuse(*given, **_):
        asked.append(given)
        raise ConnectionRefusedError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    began = time.monotonic()
    with pytest.raises(ModelError, match="the model hub cannot be reached"):
        guarded(lambda: config_file("nobody/nothing-of-this-name"), "nobody/nothing-of-this-name")
    assert asked
    assert time.monotonic() - began < 5


class TestIPAdapters:
    def test_plus_reaches_the_inpainting_network(self):
        """Its projections have attentions of their own, which are not the network's."""
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules(), **tiny_controls.image_reader())
        weights = tiny_controls.ip_adapter_plus(pipe.unet)
        pipe.load_ip_adapter([weights], subfolder=[""], weight_name=[""])
        engine = InpaintEngine.from_pipe(pipe, tiny.unet(9, seed=1))
        edited = [
            tiny.edited(
                engine,
                strategy="inpaint9",
                num_inference_steps=1,
                ip_adapter_image=Reference(tiny.picture(seed=5), scale=scale),
            ).latents
            for scale in (0, 1)
        ]
        assert not torch.equal(*edited)

    def test_a_face_id_is_told_what_it_reads(self):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules(), **tiny_controls.image_reader())
        pipe.load_ip_adapter(
            [tiny_controls.ip_adapter(pipe.unet)], subfolder=[""], weight_name=[""]
        )
        layers = pipe.unet.encoder_hid_proj.image_projection_layers
        layers[0] = IPAdapterFaceIDImageProjection(cross_attention_dim=64, image_embed_dim=24)
        engine = InpaintEngine.from_pipe(pipe)
        with pytest.raises(InputError, match=r"a FaceID.*give Reference\(embeds="):
            tiny.edited(engine, ip_adapter_image=tiny.picture())

    def test_a_face_id_without_an_encoder_reads_embeddings_alone(self):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        weights = tiny_controls.ip_adapter(pipe.unet)
        pipe.load_ip_adapter([weights], subfolder=[""], weight_name=[""], image_encoder_folder=None)
        layers = pipe.unet.encoder_hid_proj.image_projection_layers
        torch.manual_seed(0)
        layers[0] = IPAdapterFaceIDImageProjection(
            image_embed_dim=24,
            cross_attention_dim=pipe.unet.config.cross_attention_dim,
            num_tokens=4,
        )
        engine = InpaintEngine.from_pipe(pipe)
        with pytest.raises(InputError, match=r"a FaceID.*give Reference\(embeds="):
            tiny.edited(engine, ip_adapter_image=tiny.picture())
        faces = torch.randn(1, 1, 24, generator=torch.Generator().manual_seed(1))
        off, on = (
            tiny.edited(
                engine,
                num_inference_steps=1,
                ip_adapter_image=Reference(embeds=faces, scale=scale),
            ).latents
            for scale in (0, 1)
        )
        assert not torch.equal(off, on)
