"""Each public name is documented with an example, and the example runs as it stands."""

from __future__ import annotations

import doctest
import inspect
import warnings

import pytest

import engine as softpaint
from tests.kit import tiny


@pytest.fixture(scope="module")
def result(pocket):
    return pocket.edit(
        image=tiny.picture(), mask=tiny.box_mask(), prompt="a boat", num_inference_steps=1
    )


@pytest.mark.parametrize("name", softpaint.__all__)
def test_the_example_of_a_public_name(name, pocket, result, files, monkeypatch):
    """In a folder with photo.png, mask.png and map.png; ``engine`` is the pocket model's."""
    shown = inspect.getdoc(getattr(softpaint, name))
    assert shown is not None
    monkeypatch.chdir(files.folder)
    names = {each: getattr(softpaint, each) for each in softpaint.__all__}
    test = doctest.DocTestParser().get_doctest(
        shown, {**names, "engine": pocket, "result": result}, name, None, 0
    )
    assert test.examples
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with warnings.catch_warnings():
        runner.run(test, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)
