"""What is shipped: the public names, the dependencies, the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import controls
import engine
import strategies

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", [engine, strategies], ids=lambda package: package.__name__)
def test_every_public_name_is_there(package):
    assert sorted(package.__all__) == list(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="InpaintEngin"):
        engine.InpaintEngin  # noqa: B018


@pytest.mark.parametrize("package", [engine, strategies, controls], ids=lambda p: p.__name__)
def test_packages_are_typed(package):
    assert (Path(package.__file__).parent / "py.typed").is_file()


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="softpaint")
    assert command.value == "engine.cli:main"


def test_known_good_versions_lie_in_the_declared_ranges():
    exact = [Requirement(each) for each in PROJECT["tool"]["uv"]["constraint-dependencies"]]
    pinned = {each.name: next(iter(each.specifier)) for each in exact}
    assert all(specifier.operator == "==" for specifier in pinned.values())
    declared = [Requirement(each) for each in PROJECT["project"]["dependencies"]]
    for requirement in declared:
        assert requirement.name in pinned, f"{requirement.name} has no known-good version"
        assert requirement.specifier.contains(pinned[requirement.name].version)


def test_this_environment_satisfies_the_declared_ranges():
    for each in requires("softpaint") or []:
        requirement = Requirement(each)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue  # an extra
        assert requirement.specifier.contains(version(requirement.name)), each


def test_the_changelog_knows_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version('softpaint'))}\b", changelog, re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as it would be published."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_carries_the_packages_and_the_model_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in ("engine", "strategies", "controls"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.relative_to(ROOT).as_posix() in names
        assert f"{package}/py.typed" in names
    model = "engine/pocket/model"
    assert f"{model}/model_index.json" in names
    assert {f"{model}/{part}/config.json" for part in ("unet", "vae", "text_encoder_2")} <= names
    assert any(re.fullmatch(rf"{model}/unet/.*\.safetensors", name) for name in names)
    assert "engine/pocket/classifier.safetensors" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    roots = {name.split("/")[0] for name in names}
    assert roots == {
        "engine",
        "strategies",
        "controls",
        f"softpaint-{version('softpaint')}.dist-info",
    }
    assert not any("__pycache__" in name for name in names)


def test_the_wheel_is_small_enough_for_package_registries(wheel):
    assert wheel.stat().st_size < 90e6
