"""Plug-ins by name: what both registries refuse, and what other packages bring."""

from __future__ import annotations

import dataclasses
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import engine.registry
from controls import Control, annotate, list_controls
from controls.registry import CONTROLS
from engine import InputError, UnknownNameError
from engine.denoise.strategy import Strategy
from strategies import LatentBlend, create_strategy, list_strategies
from strategies.registry import STRATEGIES

CODE = {
    "control": "from controls import ControlInfo\n"
    "info = ControlInfo('theirs', 'one line', lambda image: 255 - image, {'sdxl': 'a/b'})\n",
    "strategy": "from strategies import StrategyInfo, LatentBlend\n"
    "info = StrategyInfo('theirs', 'one line', 'one call', LatentBlend)\n",
}


@pytest.fixture(params=[CONTROLS, STRATEGIES], ids=lambda each: each.kind)
def registry(request, monkeypatch):
    """A registry that forgets afterwards, and has not looked for entry points yet."""
    monkeypatch.setattr(request.param, "_infos", dict(request.param._infos))
    monkeypatch.setattr(request.param, "_read", False)
    return request.param


@pytest.fixture
def bring(registry, monkeypatch, tmp_path):
    """Let another package bring what ``code`` calls ``info``."""

    def go(code: str) -> None:
        (tmp_path / f"their_{registry.kind}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, f"their_{registry.kind}", raising=False)
        point = EntryPoint("theirs", f"their_{registry.kind}:info", registry.group)
        asked = {registry.group: [point]}
        monkeypatch.setattr(engine.registry, "entry_points", lambda group: asked[group])

    yield go
    monkeypatch.undo()
    assert "theirs" not in registry.names()


def test_duplicates_and_odd_names_are_errors(registry):
    info = registry.get(registry.names()[0])
    with pytest.raises(InputError, match="registered already"):
        registry.register(info)
    for name in ("", *(f"a{character}b" for character in registry.reserved)):
        with pytest.raises(InputError, match=r"not empty and has no '\+'"):
            registry.register(dataclasses.replace(info, name=name))


def test_an_unknown_name_says_what_is_known(registry):
    known = registry.names()[0]
    message = f"unknown {registry.kind} '{known}x'. Did you mean '{known}'"
    with pytest.raises(UnknownNameError, match=message):
        registry.get(f"{known}x")


def test_entry_points_come_after_what_is_built_in(registry, bring):
    built_in = list(registry._infos)
    bring(CODE[registry.kind])
    assert registry.names() == [*built_in, "theirs"]
    assert registry.get("theirs").description == "one line"
    if registry is CONTROLS:
        assert "theirs" in list_controls()
        assert annotate(np.zeros((4, 4, 3), np.uint8), Control("theirs").annotator).all()
    else:
        assert "theirs" in list_strategies()
        theirs = create_strategy("theirs", hard_mask=True)
        assert theirs == Strategy("theirs", (LatentBlend(hard_mask=True),))


def test_an_entry_point_that_is_none_says_so(registry, bring):
    bring("info = 3\n")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"'theirs' of {registry.group} is no \w+Info"):
            registry.names()
