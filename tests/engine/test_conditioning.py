"""What networks are told is a value: rows are taken, repeated, joined, and padded under a mask."""

from __future__ import annotations

import pytest
import torch

from engine.models.unet import UNetNetwork
from engine.types import Conditioning
from tests.kit import tiny

MASKED = {"text": "text_mask"}


def told(rows: int = 1, length: int = 5, *, masked: bool = True, **others: torch.Tensor):
    text = torch.randn(rows, length, 8, generator=torch.Generator().manual_seed(length))
    return Conditioning({"text": text, **others}, MASKED if masked else {})


def test_rows_that_are_joined_are_taken_apart_again():
    one, two = told(2, size=torch.ones(2, 6)), told(3, size=torch.zeros(3, 6))
    joined = Conditioning.join([one, two])
    assert joined.rows == 5
    for want, rows in ((one, slice(0, 2)), (two, slice(2, 5))):
        taken = joined.take(rows)
        assert taken.tensors.keys() == want.tensors.keys()
        assert all(torch.equal(taken.tensors[key], want.tensors[key]) for key in want.tensors)


def test_equal_lengths_are_joined_without_a_mask():
    assert Conditioning.join([told(), told()]).tensors.keys() == {"text"}


def test_texts_of_unequal_length_are_padded_at_their_ends_and_masked():
    short, long = told(1, 3), told(2, 7)
    assert short.key() == long.key()
    joined = Conditioning.join([short, long])
    assert joined.text.shape == (3, 7, 8)
    assert torch.equal(joined.text[0, :3], short.text[0])
    assert not joined.text[0, 3:].any()
    assert torch.equal(joined.text[1:], long.text)
    assert joined.tensors["text_mask"].tolist() == [[True] * 3 + [False] * 4, *[[True] * 7] * 2]


def test_what_was_padded_is_joined_again_with_its_mask():
    inner = Conditioning.join([told(1, 3), told(1, 7)])
    joined = Conditioning.join([inner, told(1, 9), told(1, 2)])
    assert joined.tensors["text_mask"].sum(dim=1).tolist() == [3, 7, 9, 2]
    assert joined.text.shape == (4, 9, 8)
    again = Conditioning.join([joined.take(slice(0, 1)), told(1, 9)])
    assert again.tensors["text_mask"].sum(dim=1).tolist() == [3, 9]


def test_a_network_that_ignores_masks_shares_no_call_with_other_lengths():
    short, long = told(1, 3, masked=False), told(1, 7, masked=False)
    assert short.key() != long.key()
    with pytest.raises(ValueError, match="cannot be joined"):
        Conditioning.join([short, long])


@pytest.mark.parametrize(
    "other",
    [
        told(size=torch.ones(1, 6)),
        told(size=torch.ones(1, 5)),
        Conditioning({"text": torch.zeros(1, 5, 9)}, MASKED),
        Conditioning({"text": torch.zeros(1, 5, 8, dtype=torch.float64)}, MASKED),
    ],
)
def test_other_names_sizes_and_types_share_no_call(other):
    mine = told(size=torch.ones(1, 4))
    assert mine.key() != other.key()
    with pytest.raises(ValueError, match="cannot be joined"):
        Conditioning.join([mine, other])


def test_one_row_is_repeated_without_a_copy():
    repeated = told().repeat(3)
    assert repeated.rows == 3
    assert repeated.text.untyped_storage().nbytes() == told().text.untyped_storage().nbytes()
    with pytest.raises(ValueError, match="one row can be repeated"):
        repeated.repeat(2)


def test_unequal_rows_are_refused():
    with pytest.raises(ValueError, match="as many rows"):
        told(2, size=torch.ones(1, 6))
    with pytest.raises(ValueError, match="rows and length"):
        told(text_mask=torch.ones(1, 4, dtype=torch.bool))


def sdxl_text(network, length):
    config = network.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    tensors = {
        "encoder_hidden_states": torch.randn(1, length, config.cross_attention_dim),
        "text_embeds": torch.randn(1, pooled),
        "time_ids": torch.randn(1, 6),
    }
    return Conditioning(tensors, {"encoder_hidden_states": "encoder_attention_mask"})


@torch.no_grad()
def test_a_padded_row_of_a_unet_is_what_it_is_alone():
    network = UNetNetwork(tiny.unet())
    torch.manual_seed(0)
    texts = [sdxl_text(network, length) for length in (7, 19)]
    sample, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 20.0])
    joined = network.predict(sample, timesteps, Conditioning.join(texts), {})
    for row, text in enumerate(texts):
        own = slice(row, row + 1)
        alone = network.predict(sample[own], timesteps[own], text, {})
        assert torch.allclose(joined[own], alone, atol=2e-5)
    tensors = dict(Conditioning.join(texts).tensors)
    del tensors["encoder_attention_mask"]
    unmasked = Conditioning(tensors)
    padding_seen = network.predict(sample, timesteps, unmasked, {})
    assert (padding_seen[0] - joined[0]).abs().max() > 1e-3
