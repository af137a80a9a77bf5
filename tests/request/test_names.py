"""Misspelt settings, and strategies in every form that an edit takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import InputError
from engine.denoise.strategy import Part, Strategy
from engine.edit.strategies import build_strategy
from strategies import DifferentialDiffusion, LatentBlend, create_strategy
from tests.kit import tiny


def request(**changes):
    arguments = {"image": tiny.picture(), "prompt": "a red house", "num_inference_steps": 1}
    return {**arguments, "seed": 1, "mask": tiny.box_mask(), **changes}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("guidance_scal", "guidance_scale"),
        ("guidence_scale", "guidance_scale"),
        ("num_inference_step", "num_inference_steps"),
        ("guess_mod", "guess_mode"),
        ("color", "colour"),
        ("negative_promt", "negative_prompt"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(engine, written, meant):
    with pytest.raises(InputError, match=f"unknown setting '{written}'. Did you mean '{meant}'"):
        engine.edit(**request(**{written: 1}))
    with pytest.raises(InputError, match=f"Did you mean '{meant}'"):
        engine.compare(**request(**{written: 1}), strategies=["blend"])


def test_an_unknown_option_names_the_strategys(engine):
    with pytest.raises(InputError, match=r"option of strategy 'differential': 'strengthmode'.*"):
        engine.edit(**request(strengthmode="absolute"))


def test_an_option_given_twice_is_refused(engine):
    with pytest.raises(InputError, match="'dither' is given twice"):
        engine.edit(**request(dither=True, options={"dither": False}))


def test_every_form_of_a_strategy_is_the_same_edit(engine):
    forms: list[dict[str, Any]] = [
        {"strategy": "differential", "strength_mode": "absolute"},
        {"strategy": "differential", "options": {"strength_mode": "absolute"}},
        {"strategy": DifferentialDiffusion, "strength_mode": "absolute"},
        {"strategy": DifferentialDiffusion(strength_mode="absolute")},
        {"strategy": [DifferentialDiffusion(strength_mode="absolute")]},
        {"strategy": create_strategy("differential", strength_mode="absolute")},
    ]
    results = [engine.edit(**request(**form)) for form in forms]
    for result in results:
        assert result.settings["strategy"] == "differential"
        assert result.settings["options"] == results[0].settings["options"]
        assert np.array_equal(np.asarray(result.images[0]), np.asarray(results[0].images[0]))


def test_a_part_of_ones_own_has_its_classs_name(engine):
    class Half(Part):
        def denoised(self, state, denoised, latents, step):
            return denoised * 0.5

    result = engine.edit(**request(strategy=[Half, "blend"]))
    assert result.settings["strategy"] == "Half+blend"
    built = build_strategy([Half, "blend"], {})
    assert isinstance(built, Strategy)
    assert [type(part) for part in built.parts] == [Half, LatentBlend]


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (3, {}, "must be a name, a Part"),
        (dict, {}, "must be a name, a Part"),
        ([], {}, "empty list"),
        (LatentBlend(), {"dither": True}, "go into the strategy object itself"),
        (LatentBlend, {"dither": True}, "option of strategy 'LatentBlend'"),
        (["staged", "blend"], {}, "stages of its own"),
        (["blend", "differential"], {}, "cannot be composed"),
    ],
)
def test_what_is_no_strategy_is_refused(strategy, options, message):
    with pytest.raises(InputError, match=message):
        build_strategy(strategy, options)


def test_a_strategy_object_stays_as_it_is():
    built = Strategy("mine", (LatentBlend(),))
    assert build_strategy(built, {}) is built
