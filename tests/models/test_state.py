"""A model's state: what changes it, whatever way a weight lies in memory."""

from __future__ import annotations

import pytest
import torch

from engine.models.state import sampled

LAID = {
    "plain": lambda: torch.zeros(3, 5),
    "half": lambda: torch.zeros(7, dtype=torch.float16),
    "channels last": lambda: torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.zeros(3, 5).T,
    "one value": lambda: torch.zeros(()),
    "the end of a larger one": lambda: torch.zeros(64)[60:],
    "every third": lambda: torch.zeros(30)[::3],
    "one value many times": lambda: torch.zeros(1).expand(1000, 1000),
    "a parameter": lambda: torch.nn.Parameter(torch.zeros(4, 4)),
}


@pytest.mark.parametrize("laid", LAID)
def test_a_change_that_no_counter_tells_is_noticed(laid):
    weight = LAID[laid]()
    before = sampled([weight])
    assert sampled([weight]) == before
    weight.detach().as_strided((1,), (1,)).fill_(0.25)
    assert sampled([weight]) != before


def test_what_has_no_values_is_left_out():
    plain = torch.ones(4)
    nothing = [torch.zeros(0), torch.zeros(4, device="meta"), torch.eye(3).to_sparse()]
    assert sampled([plain, *nothing]) == sampled([plain])
