"""Who imports whom: no circles between modules, no arrow upward, and no room that is not placed.

The contracts in ``pyproject.toml`` (``lint-imports``) say the order; here is what they cannot say.
Imports for type checkers alone are left out: they are not made when the program runs.
"""

from __future__ import annotations

import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "strategies", "controls")


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@pytest.fixture(scope="module")
def layers():
    """The contract's layers, from the lowest, each as the rooms in it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = {each["id"]: each for each in settings["tool"]["importlinter"]["contracts"]}
    return [
        [room.strip(" ()") for room in layer.replace("|", ":").split(":")]
        for layer in reversed(contracts["layers"]["layers"])
    ]


def test_no_circle_between_modules(graph):
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " imports ".join(reversed(error.args[1])))


def test_no_arrow_upward(graph, layers):
    heights = {room: height for height, rooms in enumerate(layers) for room in rooms}

    def height(module):
        room = next((r for r in heights if module == r or module.startswith(f"{r}.")), None)
        return None if room is None else heights[room]

    upward = [
        f"{name} imports {imported}"
        for name in graph.modules
        for imported in graph.find_modules_directly_imported_by(name)
        if (low := height(name)) is not None and (high := height(imported)) is not None
        if high > low
    ]
    assert not upward


def test_every_room_has_its_place(graph, layers):
    """What is new directly in ``engine`` must be put into the contract."""
    placed = {room for rooms in layers for room in rooms}
    assert {"strategies", "controls"} <= placed
    assert graph.find_children("engine") <= placed


def test_plug_ins_do_not_know_each_other(graph):
    for one, other in (("strategies", "controls"), ("controls", "strategies")):
        assert not graph.find_shortest_chains(one, other, as_packages=True)


def test_contracts_forgive_nothing():
    """An ignored import is an arrow upward by another name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    assert not [each["id"] for each in contracts if each.get("ignore_imports")]
