"""Langevin steps under the condition of what is held."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine import InputError
from engine.denoise.guidance import Unguided
from engine.denoise.strategy import Holders, Part
from engine.types import Level, Step
from strategies import Think, create_strategy
from strategies.think import Condition
from tests.kit import tiny

STEPS = 4
# Batches of other sizes go through the same matrix products in other blocks.
TOLERANCE = 5e-4
SOFT = np.tile(np.linspace(0, 1, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))


def edited(engine, strategy, **changes):
    return tiny.edited(
        engine, strategy=strategy, num_inference_steps=STEPS, strength_map=SOFT, **changes
    )


def rows_of_calls(engine, monkeypatch) -> list[int]:
    """How many rows each call of the network has, from now on."""
    network, rows = type(engine.backbone.main), []
    predict = network.predict

    def counted(self, sample, *given):
        rows.append(len(sample))
        return predict(self, sample, *given)

    monkeypatch.setattr(network, "predict", counted)
    return rows


@pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")
class TestUnderSoftMaps:
    def test_alone_it_holds_as_differential_does(self, engine):
        alone, composed, turned = (
            edited(engine, name, n=2).latents
            for name in ("think", "think+differential", "differential+think")
        )
        assert torch.equal(alone, composed)
        assert torch.equal(composed, turned)

    def test_what_is_never_released_is_the_originals(self, engine):
        held = edited(engine, "differential").latents
        thought = edited(engine, "think").latents
        assert torch.equal(held[..., 0], thought[..., 0])  # strength 0
        assert not torch.equal(held[..., -1], thought[..., -1])

    def test_it_goes_by_what_each_strategy_holds(self, engine):
        names = ("think+blend", "think+differential", "think+soft-blend")
        made = [edited(engine, name).latents for name in names]
        assert not torch.equal(made[0], made[1])
        assert not torch.equal(made[1], made[2])

    def test_inner_steps_are_counted_and_fall_with_the_noise(self, engine):
        plain, one, eight = (
            edited(engine, name, **options).model_calls
            for name, options in (("differential", {}), ("think", {"n": 1}), ("think", {"n": 8}))
        )
        assert plain < one < eight < 9 * plain

    def test_the_same_seed_gives_the_same_and_another_another(self, engine):
        one, two, other = (edited(engine, "think", seed=seed).latents for seed in (3, 3, 4))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)

    def test_a_session_goes_on_from_what_it_has(self, engine):
        given = {"image": tiny.picture(), "strength_map": SOFT, "prompt": "a", "strategy": "think"}
        session = engine.session(**given, num_inference_steps=STEPS, seed=3)
        first = session.render()
        second = session.render(feather=9.0)
        assert second.model_calls == 0
        assert second.reused_calls == first.model_calls + first.skipped_calls

    @pytest.mark.parametrize("guidance", [1.0, 2.0, 5.0, None])
    def test_the_weight_of_the_prompt_is_the_guidance_of_what_is_known(self, engine, guidance):
        told = {"guidance_scale": 5.0, "guidance": guidance}
        same, own, away = (
            edited(engine, "think", prompt_weight=weight, **told).latents
            for weight in (guidance or 5.0, None, -0.5)
        )
        assert torch.equal(same, own)
        assert not torch.equal(own, away)

    def test_unguided_inner_steps_leave_the_unconditional_branch_out(self, engine, monkeypatch):
        outer = edited(engine, "differential", guidance_scale=5.0).model_calls
        rows = rows_of_calls(engine, monkeypatch)
        unguided = edited(engine, "think", guidance_scale=5.0)
        assert sum(rows) == unguided.model_calls + outer
        rows.clear()
        # another weight of what is known by a hair, for which both branches are computed
        both = edited(engine, "think", guidance_scale=5.0, prompt_weight=1 + 1e-9)
        assert sum(rows) == 2 * both.model_calls == 2 * unguided.model_calls
        torch.testing.assert_close(unguided.latents, both.latents, rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize("options", [{}, {"n": 5, "guidance": None}])
    @pytest.mark.parametrize("steps", [12, 30])
    @pytest.mark.parametrize("scale", [5.0, 1.0])
    def test_its_effort_is_told(self, engine, monkeypatch, options, steps, scale):
        rows = rows_of_calls(engine, monkeypatch)
        told = {"strength_map": np.ones_like(SOFT), "num_inference_steps": steps}
        spent = []
        for strategy, own in (("differential", {}), ("think", options)):
            rows.clear()
            tiny.edited(engine, strategy=strategy, guidance_scale=scale, **told, **own)
            spent.append(sum(rows))
        effort = Think(**options).effort(guided=scale > 1)
        assert spent[1] / spent[0] == pytest.approx(effort, rel=0.1)  # whole steps, no fractions

    def test_unguided_beside_guided_in_one_loop_is_as_alone(self, engine):
        told = [{"guidance": 1.0}, {"guidance": None}, {"n": 3}]
        given = {"image": tiny.picture(), "prompt": "a", "strength_map": SOFT, "seed": 3}
        given |= {"strategy": "think", "num_inference_steps": STEPS, "output_type": "latent"}
        together = engine.edit_many([{**given, "options": each} for each in told])
        for each, beside in zip(told, together, strict=True):
            alone = engine.edit(**given, options=each)
            torch.testing.assert_close(alone.latents, beside.latents, rtol=0, atol=TOLERANCE)
            assert beside.model_calls == alone.model_calls


class Half(Part):
    """Holds the first of two positions."""

    def holds(self, state, step):
        return torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)


def test_it_samples_what_is_free_given_what_is_held():
    """Two positions of a normal prior, .8 correlated, the first known: at a level the second's mean
    is the first's times their regression.
    """
    share, known, rows = 0.5, 1.5, 4096
    level = Level(math.sqrt(share), math.sqrt(1 - share))
    prior = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    noisy = share * prior + (1 - share) * torch.eye(2)
    gain = math.sqrt(share) * prior @ noisy.inverse()
    step: Any = SimpleNamespace(level=level, starts=True, last=False, position=0)
    original = torch.full((1, 1, 1, 2), known)
    state = Condition(original, Holders((Half(),), (None,)), None)
    draws = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(rows, 1, 1, 2, generator=draws)

    latents = draw()
    for _ in range(8):
        think: Any = Think(n=50, lam=20, step_size=0.2)
        going = think.refine(state, latents, step, draw)
        asked = next(going)
        try:
            while True:
                x0 = asked.latents @ gain.T
                answer = SimpleNamespace(denoised=lambda _=None, x0=x0: x0, guidance=Unguided())
                asked = going.send(answer)
        except StopIteration as end:
            latents = end.value
    first, second = latents[..., 0], latents[..., 1]
    wanted = float(noisy[1, 0] / noisy[0, 0]) * float(first.mean())
    # A mean of 4096 draws of variance 1 is off by .016; steps of .2 bias it as much.
    assert float(second.mean()) == pytest.approx(wanted, abs=0.06)
    # The firmer what is known is held, the nearer its prediction comes to it.
    assert float((latents @ gain.T)[..., 0].mean()) == pytest.approx(known, abs=0.1)
    spread = float(noisy[1, 1] - noisy[1, 0] ** 2 / noisy[0, 0])
    left = second - float(noisy[1, 0] / noisy[0, 0]) * first
    assert float(left.var()) == pytest.approx(spread, rel=0.2)


def test_nothing_is_left_to_sample_at_the_end():
    clean = Step(0, torch.tensor(0), 0, True, True, Level(1.0, 0.001), Level(1.0, 0.0), False)
    state = Condition(torch.zeros(1, 1, 1, 2), Holders((Half(),), (None,)), None)
    for step in (clean, replace(clean, level=Level(0.0, 1.0), last=True)):
        assert Think().refine(state, torch.zeros(1, 1, 1, 2), step, torch.empty) is None


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"n": 2.5},
        {"lam": -1},
        {"step_size": 0},
        {"step_size": 2},
        {"guidance": -1},
        {"prompt_weight": "x"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        create_strategy("think", **options)
