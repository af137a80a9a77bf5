"""Keys and values of the text are computed once for a run, and the results have the same bits."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from engine.models.speed.text_projections import TextProjections
from engine.models.unet import UNetNetwork
from engine.pocket import world
from engine.types import Conditioning
from tests.kit import tiny


@pytest.fixture
def network() -> UNetNetwork:
    return UNetNetwork(tiny.unet())


def given(network, rows=2, seed=0):
    torch.manual_seed(seed)
    config = network.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    conditioning = Conditioning(
        {
            "encoder_hidden_states": torch.randn(rows, 77, config.cross_attention_dim),
            "text_embeds": torch.randn(rows, pooled),
            "time_ids": torch.randn(rows, 6),
        }
    )
    return torch.randn(rows, 4, 8, 8), torch.full((rows,), 500.0), conditioning


@torch.no_grad()
def plain(network, sample, timesteps, conditioning):
    """diffusers' own call."""
    added = {key: conditioning.tensors[key] for key in ("text_embeds", "time_ids")}
    return network.unet(
        sample,
        timesteps,
        encoder_hidden_states=conditioning.text,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


@torch.no_grad()
def predicted(network, sample, timesteps, conditioning):
    return network.predict(sample, timesteps, conditioning, {})


def count_products(monkeypatch, text):
    """Calls of ``linear`` on ``text``, which the list grows by."""
    linear, seen = torch.nn.functional.linear, []

    def noted(rows, *others):
        if rows is text:
            seen.append(rows.shape)
        return linear(rows, *others)

    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    return seen


def layers(network):
    return list(TextProjections(network.unet)._layers())


def test_a_text_is_projected_once_and_its_bits_stay(network, monkeypatch):
    sample, timesteps, conditioning = given(network, rows=4)
    wanted = [plain(network, sample, each, conditioning) for each in (timesteps, timesteps - 200)]
    seen = count_products(monkeypatch, conditioning.text)
    for each, want in zip((timesteps, timesteps - 200), wanted, strict=True):
        assert torch.equal(predicted(network, sample, each, conditioning), want)
    assert len(seen) == len(layers(network)) > 0


def test_another_text_is_projected_anew(network):
    sample, timesteps, first = given(network, rows=4)
    _, _, second = given(network, rows=4, seed=1)
    for conditioning in (first, second, first):
        want = plain(network, sample, timesteps, conditioning)
        assert torch.equal(predicted(network, sample, timesteps, conditioning), want)


@pytest.mark.parametrize("what", ["the text", "a weight", "an output"])
def test_what_is_written_to_is_projected_anew(network, what):
    sample, timesteps, conditioning = given(network, rows=4)
    predicted(network, sample, timesteps, conditioning)
    with torch.no_grad():
        if what == "the text":
            conditioning.text.mul_(2)
        elif what == "a weight":
            layers(network)[0].weight.mul_(2)
        else:
            made = network._projections._memo.made
            made[layers(network)[0]][0].zero_()
    want = plain(network, sample, timesteps, conditioning)
    assert torch.equal(predicted(network, sample, timesteps, conditioning), want)


def test_layers_that_are_somebody_elses_are_left_alone(network):
    """A LoRA's, one that a hook watches, one that another program computes otherwise."""
    every = layers(network)
    assert len(every) >= 4
    every[0].register_forward_hook(lambda *_: None)
    vars(every[1])["forward"] = every[1].forward
    attention = next(each for _, each in TextProjections(network.unet)._attentions)
    own = attention.to_v
    attention.to_v = torch.nn.Sequential(own)
    left = layers(network)
    assert every[0] not in left
    assert every[1] not in left
    assert own not in left


@pytest.mark.parametrize("how", ["in place", "wrapped", "by the block"])
def test_what_is_compiled_is_left_alone(network, how):
    """New forwards inside would be compiled anew at every call."""
    sample, timesteps, conditioning = given(network)
    want = plain(network, sample, timesteps, conditioning)
    if how == "in place":
        network.unet.compile(backend="eager")
    elif how == "wrapped":
        network = UNetNetwork(torch.compile(network.unet, backend="eager"))
    else:
        network.unet.compile_repeated_blocks(backend="eager")
    assert layers(network) == []
    changes = list(network._changes(sample, conditioning.text, {}))
    assert (changes == []) == (how != "by the block")  # else the embeddings, which it leaves out
    got = predicted(network, sample, timesteps, conditioning)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_nothing_is_kept_where_gradients_are_wanted(network):
    sample, timesteps, conditioning = given(network, rows=4)
    network.predict(sample, timesteps, conditioning, {})
    assert network._projections._memo.made == {}


def test_inference_mode(network):
    with torch.inference_mode():
        sample, timesteps, conditioning = given(network, rows=4)
        want = plain(network, sample, timesteps, conditioning)
        for _ in range(2):
            assert torch.equal(predicted(network, sample, timesteps, conditioning), want)


def test_it_is_forgotten_with_the_text(network):
    sample, timesteps, conditioning = given(network, rows=4)
    predicted(network, sample, timesteps, conditioning)
    assert network._projections._memo.made
    del conditioning
    gc.collect()
    assert network._projections._memo is None


@pytest.mark.parametrize("strategy", ["differential", "differential+canny"])
def test_an_edit_projects_its_text_once(strategy, pocket, monkeypatch):
    backbone = pocket.backbone
    networks = [backbone.network("base").unet]
    if "canny" in strategy:
        networks.append(backbone.controlnet("pocket:canny"))
    width, calls = backbone.unet_config.cross_attention_dim, []
    linear = torch.nn.functional.linear

    def noted(rows, *others):
        if rows.shape[-2:] == (77, width):
            calls.append(rows.shape)
        return linear(rows, *others)

    scene = world.sample_edits()[0]
    edit: dict[str, Any] = {"image": scene.image, "mask": scene.mask, "prompt": scene.prompt}
    pocket.edit(**edit, strategy=strategy, num_inference_steps=2)  # the prompt is encoded
    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    pocket.edit(**edit, strategy=strategy, num_inference_steps=4)
    assert len(calls) == sum(len(list(TextProjections(each)._layers())) for each in networks)
