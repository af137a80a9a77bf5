"""Plug-ins by name: what every registry refuses, and what other packages bring."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

import engine.registry
from controls import Control, annotate
from controls.annotators import ANNOTATORS
from controls.registry import CONTROLS
from engine import InputError, UnknownNameError
from engine.denoise.strategy import Strategy
from engine.edit.map_sources import MAP_SOURCES
from engine.models import FAMILIES
from engine.models.checkpoints import CHECKPOINTS
from engine.models.speed.optimise import OPTIMISATIONS
from engine.picture.colour import COLOURS, match_colours
from engine.picture.fill import FILLS, GANS, find_prefill, prefilled
from engine.picture.judging import JUDGES
from engine.picture.metrics import METRICS
from engine.picture.paste import PASTES, stitch
from engine.registry import OWN, Registry
from engine.solvers.names import SCHEDULERS, fresh_scheduler
from engine.solvers.parameterisation import PARAMETERISATIONS
from strategies import LatentBlend, create_strategy
from strategies.registry import STRATEGIES
from tests.kit import tiny

REGISTRIES: list[Registry[Any]] = [
    ANNOTATORS,
    CHECKPOINTS,
    COLOURS,
    CONTROLS,
    FAMILIES,
    FILLS,
    GANS,
    JUDGES,
    MAP_SOURCES,
    METRICS,
    OPTIMISATIONS,
    PARAMETERISATIONS,
    PASTES,
    SCHEDULERS,
    STRATEGIES,
]


def forgetful(registry, monkeypatch):
    """The registry, which forgets afterwards, and has not looked for entry points yet."""
    registry.names()
    own = OWN.get(registry.group, {})
    known = {name: info for name, info in registry._infos.items() if name not in own}
    monkeypatch.setattr(registry, "_infos", known)
    monkeypatch.setattr(registry, "_read", False)
    return registry


@pytest.fixture(params=REGISTRIES, ids=lambda each: each.kind)
def registry(request, monkeypatch):
    return forgetful(request.param, monkeypatch)


@pytest.fixture
def bring(monkeypatch, tmp_path):
    """Let another package bring what ``code`` calls ``info`` to a registry."""
    brought = []

    def go(registry, code: str) -> None:
        brought.append(forgetful(registry, monkeypatch))
        module = f"their_{registry.kind.lower().replace(' ', '_')}"
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        point = EntryPoint("theirs", f"{module}:info", registry.group)
        points = {registry.group: [point]}
        monkeypatch.setattr(engine.registry, "entry_points", lambda group: points.get(group, []))

    yield go
    monkeypatch.undo()
    assert all("theirs" not in registry for registry in brought)


def test_every_registry_of_the_house_is_tested_here():
    groups = {each.group for each in REGISTRIES}
    assert len(groups) == len(REGISTRIES)
    assert set(OWN) <= groups
    found = {id(each) for module in list(sys.modules.values()) for each in _registries_of(module)}
    assert found == {id(each) for each in REGISTRIES}


def _registries_of(module):
    if module is None or module.__name__.partition(".")[0] not in {
        "engine",
        "strategies",
        "controls",
    }:
        return []
    return [each for each in vars(module).values() if isinstance(each, Registry)]


def test_records_are_frozen_and_described(registry):
    assert len(registry)
    for info in registry:
        assert getattr(info, "description", None) or type(info).__doc__, info.name
        with pytest.raises(dataclasses.FrozenInstanceError):
            info.name = "other"
        assert registry.get(info.name) is info
        assert info.name in registry


def test_duplicates_and_odd_names_are_errors(registry):
    info = registry.get(registry.names()[0])
    with pytest.raises(InputError, match="registered already"):
        registry.register(info)
    for name in ("", *(f"a{character}b" for character in registry.reserved)):
        with pytest.raises(InputError, match=r"not empty"):
            registry.register(dataclasses.replace(info, name=name))


def test_an_unknown_name_says_what_is_known_and_the_nearest(registry):
    for name in registry.names():
        near = f"Did you mean '{name}'"
        with pytest.raises(UnknownNameError, match=f"unknown {registry.kind} .*{near}.* Known: "):
            registry.get(f"x{name}")
    with pytest.raises(InputError, match=f"{registry.kind} must be a name, not int"):
        registry.get(3)


def test_an_entry_point_that_is_none_says_so(registry, bring):
    bring(registry, "info = 3\n")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"'theirs' of {registry.group} is no \w+"):
            registry.names()


def test_an_entry_point_that_cannot_be_imported_says_so(registry, bring):
    bring(registry, "import softpaint_nowhere\n")
    with pytest.raises(InputError, match=r"'theirs' of .* cannot be loaded.*softpaint_nowhere"):
        registry.names()


def test_a_taken_name_leaves_the_registry_as_it_was(bring):
    bring(
        PASTES,
        "from engine.picture.paste import PasteInfo\n"
        "info = PasteInfo('alpha', 'mine', lambda original, edited, alpha: edited)\n",
    )
    for _ in range(2):
        with pytest.raises(InputError, match="'alpha' is registered already"):
            PASTES.get("alpha")


def test_a_plug_in_may_look_at_what_is_built_in_while_it_is_imported(bring):
    bring(
        PASTES,
        "from engine.picture.paste import PASTES, PasteInfo\n"
        "info = PasteInfo('theirs', str(PASTES.names()), PASTES.get('alpha').run)\n",
    )
    assert "poisson" in PASTES.get("theirs").description


# --- what other packages bring is used ------------------------------------------------------------


def test_a_control_from_outside(bring):
    bring(
        CONTROLS,
        "from controls import ControlInfo\n"
        "info = ControlInfo('theirs', 'one line', lambda image: 255 - image, {'sdxl': 'a/b'})\n",
    )
    assert CONTROLS.names()[-1] == "theirs"
    assert annotate(np.zeros((4, 4, 3), np.uint8), Control("theirs").annotator).all()


def test_a_strategy_from_outside(bring):
    bring(
        STRATEGIES,
        "from strategies import StrategyInfo, LatentBlend\n"
        "info = StrategyInfo('theirs', 'one line', 'one call', LatentBlend)\n",
    )
    theirs = create_strategy("theirs", hard_mask=True)
    assert theirs == Strategy("theirs", (LatentBlend(hard_mask=True),))


def test_an_annotator_from_outside(bring):
    bring(
        ANNOTATORS,
        "from controls import AnnotatorInfo\n"
        "info = AnnotatorInfo('theirs', 'the negative', lambda image: 255 - image)\n",
    )
    assert Control("canny", "theirs").annotator == "theirs"
    assert annotate(np.zeros((4, 4, 3), np.uint8), "theirs").all()


FILL = """
import numpy as np
from engine.picture.fill import FillInfo

def build(argument):
    return lambda rgb, hole: np.where(hole[..., None], np.uint8(argument or 7), rgb)

info = FillInfo('theirs', 'one level', build, argument='LEVEL')
"""
PASTE = """
from engine.picture.paste import PasteInfo
info = PasteInfo('theirs', 'half', lambda original, edited, alpha: original // 2 + edited // 2)
"""
COLOUR = """
from engine.picture.colour import ColourInfo
info = ColourInfo('theirs', 'black', lambda evidence: evidence.decoded * 0.0)
"""


def test_a_fill_a_paste_and_a_colour_from_outside(bring):
    rgb = np.full((4, 4, 3), 90, np.uint8)
    hole = np.zeros((4, 4), bool)
    hole[1:3, 1:3] = True
    bring(FILLS, FILL)
    assert (prefilled(find_prefill("theirs:41"), rgb, hole)[hole] == 41).all()
    assert (prefilled(find_prefill("theirs"), rgb, hole)[hole] == 7).all()
    with pytest.raises(UnknownNameError, match=r"Did you mean 'theirs:LEVEL'|theirs"):
        find_prefill("thiers")
    with pytest.raises(InputError, match="takes nothing behind a colon"):
        find_prefill("blur:3")
    bring(PASTES, PASTE)
    assert (stitch("theirs", rgb, rgb + 20, hole.astype(np.float32)) == 100).all()
    bring(COLOURS, COLOUR)
    strength_map = hole.astype(np.float32)
    assert not match_colours(rgb, rgb, strength_map, method="theirs")[hole].any()


def test_a_scheduler_from_outside_runs_an_edit(bring):
    bring(
        SCHEDULERS,
        "from diffusers import EulerDiscreteScheduler\n"
        "from engine.solvers.names import SchedulerInfo\n"
        "class Mine(EulerDiscreteScheduler): pass\n"
        "info = SchedulerInfo('theirs', 'mine', Mine, {'use_karras_sigmas': True})\n",
    )
    model = tiny.engine(inpaint=False)
    made = fresh_scheduler("theirs", model.pipe.scheduler)
    assert type(made).__name__ == "Mine"
    one, other = (
        model.edit(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            prompt="a",
            seed=1,
            num_inference_steps=2,
            scheduler=name,
            progress=False,
        ).images[0]
        for name in ("theirs", "euler-karras")
    )
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_model_from_outside_brings_its_folder_and_its_fill(bring, tmp_path):
    bring(
        CHECKPOINTS,
        "from pathlib import Path\nfrom engine.types import Checkpoint\n"
        f"info = Checkpoint('theirs', 'one line', Path({str(tmp_path / 'model')!r}),\n"
        "    background_fill='telea')\n",
    )
    tiny.engine(inpaint=False).pipe.save_pretrained(tmp_path / "model")
    theirs = engine.InpaintEngine.from_pretrained("theirs", device="cpu")
    assert theirs.backbone.background_fill == "telea"
    assert theirs.name == "theirs"


def test_the_pocket_comes_from_outside_without_installed_metadata():
    """A checkout on the path, whose distribution nobody installed, has the embedded model too."""
    code = (
        "import importlib.metadata as m\n"
        "m.entry_points = lambda **_: []\n"
        "import sys\n"
        "from engine.picture.fill import GANS\n"
        "from engine.models.checkpoints import CHECKPOINTS\n"
        "assert 'engine.pocket' not in sys.modules\n"
        "assert CHECKPOINTS.names() == ['pocket', 'pocket-flow']\n"
        "assert GANS.names() == ['pocket']\n"
        "assert CHECKPOINTS.get('pocket').folder.is_dir()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
