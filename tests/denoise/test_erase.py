"""Self-attention that is kept from what is to go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import InputError, Region
from engine.denoise.guidance import ClassifierFree, Guidance, Unguided
from engine.denoise.redirection import BLIND, DIM, RedirectionGuidance
from engine.models.redirected import Redirected, hiding
from engine.models.speed.forwards import replaced_forwards
from engine.types import Conditioning
from strategies import Erase
from tests.kit import tiny

STEPS = 3
SOFT = np.tile(np.linspace(0, 1, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))
pytestmark = pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")


def edited(engine, strategy="erase", **changes):
    given = {"num_inference_steps": STEPS, "strength_map": SOFT, "guidance_scale": 5.0, **changes}
    return tiny.edited(engine, strategy=strategy, **given)


class TestAStrategyOfItsOwnRows:
    def test_alone_it_holds_as_differential_does(self, engine):
        alone, composed, blended = (
            edited(engine, name).latents for name in ("erase", "erase+differential", "erase+blend")
        )
        assert torch.equal(alone, composed)
        assert not torch.equal(alone, blended)
        held = edited(engine, "differential").latents
        assert torch.equal(alone[..., 0], held[..., 0])  # strength 0
        assert not torch.allclose(alone[..., -1], held[..., -1], atol=0.05)

    def test_led_nowhere_it_is_the_unguided_edit(self, engine):
        """Its rows in the call change nothing; other kernels, so up to rounding."""
        plain = edited(engine, "differential", guidance_scale=1.0).latents
        assert torch.allclose(edited(engine, away=0, prompted=0).latents, plain, atol=5e-5)

    def test_it_costs_what_guidance_does(self, engine):
        assert edited(engine).model_calls == edited(engine, "differential").model_calls

    def test_half_the_rows_give_the_same(self, engine):
        """Of an ``away`` of 1 the prediction that sees falls out; other kernels, so up to
        rounding.
        """
        whole = edited(engine, away=1 + 1e-6).latents
        assert torch.allclose(edited(engine).latents, whole, atol=5e-5)

    def test_it_takes_the_edits_guidance_where_it_is_asked_to(self, engine):
        made = [edited(engine, prompted=share).latents for share in (0, 0.5, 1)]
        assert not torch.equal(made[0], made[1])
        assert not torch.equal(made[1], made[2])

    @pytest.mark.parametrize("coupling", ["attention", "latents"])
    def test_regions_that_touch_are_erased_in_one_run(self, engine, coupling):
        maps = SOFT * (SOFT < 0.6), SOFT * (SOFT > 0.5)
        given = {
            "strength_map": None,
            "regions": [Region(m, w) for m, w in zip(maps, ("grass", "sky"), strict=True)],
            "coupling": coupling,
            "output_type": "np",
        }
        erased, plain = edited(engine, **given), edited(engine, "differential", **given)
        assert erased.settings["runs"] == [[1, 2]]
        assert not np.allclose(erased.images[0], plain.images[0], atol=0.05)

    @pytest.mark.parametrize(
        "options", [{"away": -1}, {"sharpness": 2}, {"dim": "long"}, {"prompted": True}]
    )
    def test_options_are_checked(self, options):
        with pytest.raises(InputError, match="must be a number from 0 to"):
            Erase(**options)

    def test_diffusers_has_no_such_thing(self, engine):
        with pytest.raises(InputError, match="no counterpart"):
            edited(engine, compat="diffusers", strength_map=(SOFT > 0.5).astype(np.float32))


class TestGuidance:
    def test_it_goes_from_what_is_seen_to_what_is_not(self):
        guide = RedirectionGuidance(Guidance(3.0), 2.0, 0.5)
        early, late = guide.at(0.0), guide.at(0.5)
        assert early.branches == ("uncond", "cond", f"uncond.{DIM}", f"cond.{DIM}")
        assert late.branches == ("uncond", "cond", f"uncond.{BLIND}", f"cond.{BLIND}")
        values = (0.0, 1.0, 2.0, 4.0)
        told = {name: torch.tensor([v]) for name, v in zip(late.branches, values, strict=True)}
        seeing, blind = 3.0, 2 + 3 * 2
        assert late.combine(told).item() == seeing + 2 * (blind - seeing)

    def test_led_as_far_as_it_is_blind_it_asks_for_nothing_else(self):
        late = RedirectionGuidance(Guidance(3.0), 1.0, 0.0).at(0.5)
        assert late.branches == (f"uncond.{BLIND}", f"cond.{BLIND}")
        told = {name: torch.tensor([v]) for name, v in zip(late.branches, (2.0, 4.0), strict=True)}
        assert late.combine(told).item() == 2 + 3 * 2

    def test_a_weakened_inner_guidance_asks_less(self):
        guide = RedirectionGuidance(Guidance(3.0), 2.0, 0.0)
        assert isinstance(guide.at(0).inner, ClassifierFree)
        assert isinstance(guide.weakened(0.0).at(0).inner, Unguided)


class TestAttention:
    """On one self-attention of a UNet's decoder, its grid 4 x 4."""

    @pytest.fixture
    def asked(self, engine):
        """Asks it of features (1 16 c), with places hidden (16) and a damping."""
        unet = engine.backbone.network("base").module
        redirected = Redirected(unet)
        attention = redirected._attentions[0]
        width = attention.to_q.in_features

        def ask(features, hidden=None, damping=1.0):
            told = Conditioning({"encoder_hidden_states": torch.zeros(1, 1, 1)})
            if hidden is not None:
                grid = torch.tensor(hidden, dtype=torch.float32).reshape(1, 1, 4, 4)
                told = hiding(told, grid, damping)
            changes = redirected.changes(told.tensors)
            with torch.no_grad(), replaced_forwards(unet, changes):
                return attention(features)

        draws = torch.Generator().manual_seed(0)
        return ask, torch.randn(1, 16, width, generator=draws)

    def test_what_is_hidden_moves_nothing_else(self, asked):
        ask, features = asked
        hidden = [1.0] * 3 + [0.0] * 13
        moved = features.clone()
        moved[:, :3] += 1
        one, two = ask(features, hidden), ask(moved, hidden)
        assert torch.equal(one[:, 3:], two[:, 3:])
        assert not torch.allclose(ask(features)[:, 3:], ask(moved)[:, 3:])

    def test_a_place_counts_as_much_as_it_is_seen(self, asked):
        """Half hidden, two equal places count as one."""
        ask, features = asked
        twins = features.clone()
        twins[:, 1] = twins[:, 0]
        halved = ask(twins, [0.5, 0.5] + [0.0] * 14)
        one = ask(twins, [1.0] + [0.0] * 15)
        assert torch.allclose(halved, one, atol=1e-5)

    def test_nothing_hidden_and_all_hidden_are_as_ever(self, asked):
        ask, features = asked
        plain = ask(features)
        assert torch.allclose(ask(features, [0.0] * 16), plain, atol=1e-5)
        assert torch.allclose(ask(features, [1.0] * 16), plain, atol=1e-2)  # scores of 1e4

    def test_what_is_hidden_looks_less_sharply(self, asked):
        """Without any sharpness it sees the mean of all that is seen."""
        ask, features = asked
        hidden = [1.0] * 2 + [0.0] * 14
        blunt = ask(features, hidden, damping=0.0)
        assert torch.allclose(blunt[:, 0], blunt[:, 1], atol=1e-6)
        assert torch.equal(blunt[:, 2:], ask(features, hidden)[:, 2:])


def test_a_network_with_fused_projections_cannot_be_told(engine):
    redirected = Redirected(engine.backbone.network("base").module)
    attention = redirected._attentions[0]
    attention.fused_projections = True
    try:
        assert not redirected.able
        with pytest.raises(InputError, match="cannot be told so"):
            edited(engine)
    finally:
        attention.fused_projections = False
