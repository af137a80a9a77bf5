"""What holds for edits with every family of models, on tiny real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import InpaintEngine, InputError, Strategy
from engine.models import FAMILIES
from tests.kit import tiny
from tests.kit.families import TINY

STEPS = 4
SAME = 2e-5
"""How far shared calls may be off solo ones: products of other numbers of rows have other last bits
(values of latents are up to 5)."""
HOLDERS = ("blend", "differential", "soft-blend")
pytestmark = pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")


@pytest.fixture(scope="module", params=list(TINY))
def model(request):
    return InpaintEngine.from_pipe(TINY[request.param]())


def test_every_family_is_held_to_the_laws():
    assert set(FAMILIES.names()) <= set(TINY)


def flat(strength: float) -> np.ndarray:
    return np.full((tiny.SIZE, tiny.SIZE), strength, np.float32)


def halves(left: float, right: float) -> np.ndarray:
    strengths = flat(left)
    strengths[:, tiny.SIZE // 2 :] = right
    return strengths


def edited(model: InpaintEngine, **changes) -> torch.Tensor:
    """Latents, unguided where nothing else is said."""
    run = {"num_inference_steps": STEPS, "guidance_scale": 1.0, **changes}
    latents: torch.Tensor = tiny.edited(model, **run).latents
    return latents


@pytest.mark.parametrize("strategy", HOLDERS)
def test_where_the_map_is_zero_the_input_stays_to_the_bit(model, strategy):
    pixels = torch.from_numpy(np.array(tiny.picture())).movedim(-1, 0)[None]
    with torch.no_grad():
        original = model.backbone.encode(pixels.float() / 127.5 - 1)
    got = edited(model, strength_map=halves(0, 1), strategy=strategy, guidance_scale=3.0)
    half = original.shape[-1] // 2
    assert torch.equal(got[..., :half], original[..., :half])
    assert not torch.equal(got[..., half:], original[..., half:])


@pytest.mark.parametrize("strategy", HOLDERS)
def test_a_map_of_ones_is_plain_image_to_image(model, strategy):
    """The same run without any strategy's part: to the bit, but where a part goes to the clean
    prediction and back.
    """
    plain = edited(model, strength=0.6, strategy=Strategy("plain", ()), prefill="original")
    got = edited(model, strength=0.6, strategy=strategy, prefill="original")
    torch.testing.assert_close(got, plain, rtol=0, atol=SAME if strategy == "soft-blend" else 0)


def test_a_flat_map_is_a_run_of_that_strength(model):
    """To the bit, for the families' own solvers have no memory."""
    settings = {"scheduler": "euler", "prefill": "original"}
    soft = edited(model, strength_map=flat(0.5), strategy="differential", **settings)
    assert torch.equal(soft, edited(model, strength=0.5, strategy="blend", **settings))


def test_shared_calls_are_solo_ones(model):
    """Of other prompts, lengths of prompts, steps, strengths, strategies and guidance."""
    edits = [
        {"prompt": "a", "strategy": "blend", "guidance_scale": 3.0},
        {"prompt": "a long red house on a hill", "num_inference_steps": 3, "seed": 8},
        {"prompt": "of", "strength": 0.5, "strategy": "differential", "seed": 9},
    ]
    common = {"image": tiny.picture(), "strength_map": halves(0.6, 1), "output_type": "latent"}
    run = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "seed": 2, **common}
    together = model.edit_many([{**run, **each} for each in edits]).unwrap()
    for each, shared in zip(edits, together, strict=True):
        alone = model.edit(**{**run, **each}).latents
        torch.testing.assert_close(shared.latents, alone, atol=SAME, rtol=SAME)


def test_skipped_is_full_and_retuned_is_full(model):
    run = {
        "image": tiny.picture(),
        "prompt": "a",
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "seed": 2,
        "strategy": "differential",
        "output_type": "latent",
    }
    before, after = halves(0.25, 0.75), halves(0.25, 0.5)
    full = model.edit(**run, strength_map=after, skip=False)
    quick = model.edit(**run, strength_map=after)
    assert torch.equal(quick.latents, full.latents)
    assert quick.model_calls < full.model_calls
    session = model.session(**run)
    session.render(strength_map=before)
    retuned = session.render(strength_map=after)
    assert torch.equal(retuned.latents, full.latents)
    assert retuned.reused_calls + retuned.skipped_calls > 0


def test_erasing_runs_or_is_refused_in_a_line(model):
    """It needs a UNet's self-attention."""
    if model.backbone.main.redirects:
        assert torch.isfinite(edited(model, strategy="erase")).all()
        return
    with pytest.raises(InputError, match="cannot be told so") as refused:
        edited(model, strategy="erase")
    assert "\n" not in str(refused.value)
