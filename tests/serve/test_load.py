"""The load command's short form: refusals are 429, accepted pictures are their solo runs'."""

import importlib.util
import sys
from pathlib import Path

import pytest

from engine.serve.limits import Limits
from tests.kit.serving import serving

PATH = Path(__file__).parents[2] / "examples" / "benchmarks" / "serve_load.py"


@pytest.fixture(scope="module")
def loading():
    spec = importlib.util.spec_from_file_location("serve_load", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_under_load_refusals_are_429_and_pictures_are_their_solo_runs(pocket, loading):
    several = loading.edits(kinds=6, steps=(2, 3))
    path = "/api/jobs?wait=true"
    with serving(pocket, Limits(queue=2, running=4)) as small:
        report, made = loading.load("softpaint", small.url, path, several, seconds=3, clients=12)
        assert set(report.statuses) == {200, 429}
        assert made
        loading.compare(report, small.url, path, several, made)
        # Model calls are shared: last bits are the library's.
        assert report.furthest <= 1
        assert not small.service.worker.running
        assert not small.service.worker.waiting
