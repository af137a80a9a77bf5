"""Settings that have no effect beside the others are told, once and in a line."""

from __future__ import annotations

import re
import warnings

import pytest

from controls import Control
from engine.cli import run
from engine.edit.unused import UnusedSettingWarning, warn_of_unused
from engine.request.field import fields_of
from engine.request.request import EditRequest
from tests.kit import tiny


def told(engine, **given):
    """The warnings of an edit that is not run."""
    asked = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a boat", **given}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        warn_of_unused(engine.read(asked), asked, engine.backbone)
    return [str(each.message) for each in heard]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"eta": 0.5, "scheduler": "euler"}, "eta has no effect: this scheduler"),
        ({"guess_mode": True}, "guess_mode has no effect: it says how controls act"),
        ({"guess_mode": True, "controls": []}, "guess_mode has no effect"),
        ({"prefer": "speed"}, "prefer has no effect: .*auto"),
        ({"coupling": "latents"}, "coupling has no effect: .*regions"),
        ({"region": "full", "padding": 8}, "padding has no effect: .*full"),
        ({"region": "full", "context": 3.0}, "context has no effect"),
        ({"region": "full", "zoom": 2.0}, "zoom has no effect"),
        ({"compat": "diffusers", "colour": "lab"}, "colour has no effect: .*diffusers"),
        ({"judge": "pocket"}, "judge has no effect: it judges candidates, and there are none"),
        ({"prefill": "original", "prefill_mask": tiny.box_mask()}, "prefill_mask has no effect"),
        (
            {"guidance_scale": 1.0, "guidance_end": 0.5},
            "guidance_end has no effect: .* of 1 guides",
        ),
    ],
)
def test_what_has_no_effect_is_told(engine, given, line):
    (warned,) = told(engine, **given)
    assert re.search(line, warned)


@pytest.mark.parametrize(
    "given",
    [
        {"eta": 0.5, "scheduler": "ddim"},
        {"guess_mode": True, "controls": Control("canny")},
        {"guess_mode": True, "strategy": "differential+canny"},
        {"prefer": "speed", "strategy": "auto"},
        {"task": "add", "strategy": "remove"},  # it says what the edit is for, as a form does
        {"coupling": "latents", "regions": [{"map": tiny.box_mask(), "prompt": "a"}], "mask": None},
        {"region": "mask", "padding": 8, "zoom": 2.0},
        {"judge": "pocket", "candidates": 2},
        {"prefill": "original", "prefill_mask": None, "judge": "auto"},
        {"guidance_scale": 2.0, "guidance_end": 0.5},
        {"compat": "diffusers", "colour": "none", "feather": 0, "judge": "none"},
    ],
)
def test_what_has_one_is_not(engine, given):
    assert told(engine, **given) == []


def test_defaults_are_nobodys_wish(engine):
    """All settings given as they are anyway, as a program does that hands on its own form."""
    names = ("eta", "guess_mode", "prefer", "coupling", "padding", "context", "zoom")
    fields = fields_of(EditRequest)
    assert told(engine, region="full", **{name: fields[name].default for name in names}) == []


def test_an_edit_tells_and_its_record_does_not(pocket, tmp_path, capsys):
    tiny.picture().save(tmp_path / "photo.png")
    tiny.box_mask().save(tmp_path / "mask.png")
    asked = {"prompt": "a boat", "num_inference_steps": 1, "guess_mode": True, "seed": 1}
    with pytest.warns(UnusedSettingWarning, match="guess_mode"):
        made = pocket.edit(image=tmp_path / "photo.png", mask=tmp_path / "mask.png", **asked)
    made.save(tmp_path / "out.png")
    assert run(["edit", "--from", str(tmp_path / "out.png"), "-o", str(tmp_path / "two.png")]) == 0
    assert "no effect" not in capsys.readouterr().err
    options = ["-m", str(tmp_path / "mask.png"), "-p", "a boat", "--steps", "1", "--guess-mode"]
    out = ["-o", str(tmp_path / "three.png")]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run(["edit", str(tmp_path / "photo.png"), *options, *out]) == 0
    assert "warning: --guess-mode has no effect" in capsys.readouterr().err
