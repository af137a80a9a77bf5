"""Half precision, which is what a GPU computes in where nothing is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import InpaintEngine
from tests.kit.devices import CUDA, DEVICE, HALF, hard, on_device, pixels, psnr, repainted
from tests.kit.pocket_edits import EDITS

pytestmark = on_device
NO_LATENTS = ("expand", "islands", "regions", "auto")
"""Edits that have none, or none of one size."""
NAMES = pytest.mark.parametrize("name", EDITS)


def test_it_is_what_nothing_said_means(half, flows):
    assert half.backbone.dtype == torch.float16
    assert flows["half"].backbone.dtype == (torch.bfloat16 if CUDA else torch.float16)


@NAMES
def test_the_picture_is_near_float32s(made, name):
    """On a CPU float16 reaches 52 dB and more where it repaints. A GPU adds up in another order and
    lays products out otherwise, which is of the same size; a flow model has bfloat16 there, of an
    eighth of the precision, 18 dB. Candidates may be others, where two are as good.
    """
    model, settings = EDITS[name]
    one, other = made("cpu", name), made("half", name)
    if one.seeds != other.seeds:
        pytest.skip("another candidate was as good")
    shape = pixels(one).shape[1:3]
    where = repainted(settings)
    where = where if where.shape == shape else np.ones(shape, bool)
    assert psnr(one, other, where) > (28 if model == "pocket-flow" else 40)


@pytest.mark.parametrize("name", [n for n in EDITS if not any(each in n for each in NO_LATENTS)])
def test_the_latents_are_finite(half, flows, name):
    model, settings = EDITS[name]
    engine = flows["half"] if model == "pocket-flow" else half
    settings = {key: each for key, each in settings.items() if key not in {"candidates", "keep"}}
    latents = engine.edit(**{**settings, "output_type": "latent"}).latents
    assert latents.isfinite().all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_either_kind_of_half_runs(made, dtype):
    """bfloat16 has 8 bits of mantissa: 24 dB less than float16 at the worst."""
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=dtype)
    _, settings = EDITS["differential"]
    found = psnr(engine.edit(**settings), made("cpu", "differential"), repainted(settings))
    assert found > (40 if dtype == "float16" else 28)


class TestAVaeThatAsksForFloat32:
    @pytest.fixture
    def watched(self):
        """An engine in half precision with such a VAE, and the types that its parts have seen."""
        engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF)
        engine.pipe.vae.register_to_config(force_upcast=True)
        seen = set()
        for part in (engine.pipe.vae.encoder, engine.pipe.vae.decoder):
            part.register_forward_pre_hook(lambda _, given: seen.add(given[0].dtype))
        return engine, seen

    def test_gets_it(self, watched):
        engine, seen = watched
        engine.edit(**hard())
        assert seen == {torch.float32}

    def test_is_what_it_was_afterwards(self, watched):
        engine, _ = watched
        engine.edit(**hard())
        assert {each.dtype for each in engine.pipe.vae.parameters()} == {torch.float16}

    def test_paints_the_same(self, watched, made):
        engine, _ = watched
        _, settings = EDITS["blend"]
        assert psnr(engine.edit(**settings), made("cpu", "blend"), repainted(settings)) > 40

    def test_shows_previews(self, watched):
        engine, _ = watched
        seen = []
        engine.edit(**hard(callback=lambda shot: seen.append(np.asarray(shot.preview()))))
        assert all(each.std() > 0 for each in seen)

    def test_is_diffusers_with_compat(self, watched, made):
        engine, _ = watched
        _, settings = EDITS["compat"]
        assert psnr(engine.edit(**settings), made("cpu", "compat"), repainted(settings)) > 40
