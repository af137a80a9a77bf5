"""Rows of one call with LoRAs of their own choice: as calls of their own."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from engine.models.lora import adding_adapters
from engine.models.speed.rows import OneByOne
from engine.models.unet import UNetNetwork
from engine.models.weighed import CHOICE, Choices, at_weights
from engine.types import Conditioning
from tests.kit import tiny

STATES = [{"one": 1.0}, {"two": 0.5}, {"one": -0.5, "two": 1.0}, {}, None]


def adapted(*targets):
    """A UNet with a LoRA and a DoRA of the layers whose names end so; the LoRA is active."""
    unet = tiny.unet(4, sdxl=False)
    for name, dora in (("one", False), ("two", True)):
        torch.manual_seed(len(name) + dora)
        with adding_adapters():
            unet.add_adapter(LoraConfig(r=4, target_modules=list(targets), use_dora=dora), name)
    for key, weight in unet.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.2)
    unet.set_adapters(["one"], [0.7])
    return unet.eval()


@pytest.fixture(scope="module")
def unet():
    return adapted("to_q", "to_v", "conv1", "proj_in")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def asked(rows: int):
    generator = torch.Generator().manual_seed(3)
    sample, text = (torch.randn(rows, *s, generator=generator) for s in ((4, 8, 8), (7, 32)))
    return sample, torch.full((rows,), 500), Conditioning({"encoder_hidden_states": text}), {}


def by_choice(network, numbers):
    sample, timesteps, conditioning, residuals = asked(len(numbers))
    told = conditioning.adding({CHOICE: torch.tensor(numbers)})
    return network.predict(sample, timesteps, told, residuals)


def one_by_one(network, numbers):
    sample, timesteps, conditioning, _ = asked(len(numbers))
    made = []
    for row, number in enumerate(numbers):
        part = slice(row, row + 1)
        with at_weights(network.module, STATES[number]):
            said = network.predict(sample[part], timesteps[part], conditioning.take(part), {})
        made.append(said)
    return torch.cat(made)


def chosen_of(network):
    choices = Choices()
    for number, state in enumerate(STATES):
        assert choices.number(state) == number
    assert choices.number({"two": 1.0, "one": -0.5}) == 2
    assert choices.network(network) is choices.network(network)
    return choices.network(network)


@pytest.mark.parametrize("numbers", [[0, 0, 1, 1, 2], [3, 4, 0], [1, 0, 1, 0], [2, 2]])
def test_rows_have_their_own(unet, numbers, monkeypatch):
    """One forward; afterwards the network is as it was."""
    network = UNetNetwork(unet)
    with monkeypatch.context() as patched:
        rows = tiny.count_rows(patched, unet)
        made = by_choice(chosen_of(network), numbers)
    assert rows == [len(numbers)]
    assert torch.allclose(made, one_by_one(network, numbers), atol=2e-5)
    before = one_by_one(network, [4])
    assert torch.equal(before, one_by_one(network, [4]))
    assert (before - one_by_one(network, [3])).abs().max() > 0.01


def test_rows_one_by_one_stay_so(unet):
    """A layer that sees another number of rows: a call for each choice, to the same bits."""
    network = OneByOne(UNetNetwork(unet))
    chosen, numbers = chosen_of(network), [0, 1, 1]
    for _ in range(2):
        assert torch.equal(by_choice(chosen, numbers), one_by_one(network, numbers))


def test_what_is_compiled_is_called_for_each_choice(unet, monkeypatch):
    """Other forwards inside it would be compiled anew at every call."""
    for block in unet.down_blocks:
        monkeypatch.setattr(block, "_compiled_call_impl", block._call_impl)
    rows = tiny.count_rows(monkeypatch, unet)
    by_choice(chosen_of(UNetNetwork(unet)), [0, 0, 1])
    assert rows == [2, 1]


@pytest.mark.parametrize("numbers", [[0, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 3]])
def test_layers_that_see_rows_in_fours(numbers):
    """Those that see the time alone: filled up to four rows, which are not the call's."""
    network = UNetNetwork(adapted("time_emb_proj", "linear_1"))
    made = by_choice(chosen_of(network), numbers)
    assert torch.allclose(made, one_by_one(network, numbers), atol=2e-5)
    assert (made[0] - made[-1]).abs().max() > 0.01
