"""Layers computed in another way for a while: alone and together to the same bits."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from engine import InpaintEngine
from engine.models.speed.forwards import in_fours, replaced_forwards
from engine.pocket import world
from tests.kit import tiny


def test_forwards_are_put_back_in_order():
    layer, own = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    vars(layer)["forward"] = own.forward  # as accelerate's hooks do
    plain = torch.nn.Identity()

    def fail_inside():
        whole = torch.nn.Sequential(layer, plain)
        with replaced_forwards(whole, [(layer, abs), (plain, abs), (layer, round)]):
            assert vars(layer)["forward"] is round
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert vars(layer)["forward"] == own.forward
    assert "forward" not in vars(plain)


@pytest.mark.parametrize("rows", [1, 3, 4, 6])
def test_rows_are_computed_in_fours(rows):
    seen = []

    def doubled(given, other, scale):
        seen.append((len(given), len(other)))
        return given * scale + other

    given = torch.arange(2.0 * rows).reshape(rows, 2)
    made = in_fours(doubled)(given, given + 1, 2)
    assert torch.equal(made, given * 2 + given + 1)
    assert seen == [(-(-rows // 4) * 4,) * 2]


def test_edits_alone_and_together_have_the_same_bits():
    engine = InpaintEngine.from_pretrained(device="cpu")
    scenes = world.demo_scenes()
    edits: list[dict[str, Any]] = [
        {
            "image": scenes[number].image,
            "mask": scenes[number].mask,
            "prompt": scenes[number].prompt,
            "num_inference_steps": 2 + number,
            "guidance_scale": 5.0 if number < 2 else 1.0,
            "seed": number,
            "output_type": "latent",
        }
        for number in range(3)
    ]
    together = engine.edit_many(edits)
    for edit, shared in zip(edits, together, strict=True):
        alone = engine.edit(**edit)
        assert isinstance(alone.latents, torch.Tensor)
        assert isinstance(shared.latents, torch.Tensor)
        if alone.settings["guidance_scale"] > 1:
            assert torch.equal(alone.latents, shared.latents)
        else:  # a call of one row still differs in the last bits: 2e-6 a step
            torch.testing.assert_close(alone.latents, shared.latents, atol=5e-5, rtol=0)


def test_parity_has_diffusers_own_products(monkeypatch):
    """Calls of two rows: diffusers' embeddings have two as well."""
    engine = tiny.engine(inpaint=False)
    linear, seen = torch.nn.functional.linear, []

    def noted(rows, *others):
        seen.append(tuple(rows.shape))
        return linear(rows, *others)

    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    compat: Literal["diffusers"] | None
    for compat, expected in ((None, 4), ("diffusers", 2)):
        seen.clear()
        engine.edit(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            prompt="",
            num_inference_steps=1,
            compat=compat,
        )
        rows = {shape[0] for shape in seen if len(shape) == 2} - {1}
        assert rows == {expected}
