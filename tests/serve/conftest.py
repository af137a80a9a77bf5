"""A server on the pocket model, and an edit of one of its scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from engine.picture.source import Source
from engine.pocket.world import sample_edits
from tests.kit.serving import SETTINGS, edited, png, serving
from tests.serve.kit import CHROMIUM
from tests.serve.kit import serving as serving_page


@pytest.fixture(scope="session")
def server(pocket) -> Iterator[SimpleNamespace]:
    """A server with everything at its defaults."""
    with serving(pocket) as running:
        yield running


@pytest.fixture
def client(server):
    """Its client."""
    return server.client


@pytest.fixture(scope="session")
def scene() -> SimpleNamespace:
    """A picture with a soft map, as files, and as the engine takes files."""
    edit = next(each for each in sample_edits(128) if each.name == "winter")
    assert edit.strength_map is not None
    soft = np.round(edit.strength_map * 255).astype(np.uint8)
    picture, strength_map = png(edit.image), png(soft)
    return SimpleNamespace(
        image=edit.image,
        soft=soft,
        picture=picture,
        map=strength_map,
        files={"picture": picture, "map": strength_map},
        arguments={"image": Source("p", picture), "strength_map": Source("m", strength_map)},
    )


@pytest.fixture(scope="session")
def expected(pocket, scene):
    """The engine's own picture (H W 3) with these changes to the settings, made once for each."""
    known: dict[str, np.ndarray] = {}

    def edit(**changes) -> np.ndarray:
        key = json.dumps(changes, sort_keys=True, default=lambda value: hash(value.tobytes()))
        if key not in known:
            arguments = {**scene.arguments, **SETTINGS, **changes}
            if "mask" in changes:
                arguments.pop("strength_map")
            result = edited(pocket, **arguments)
            known[key] = np.stack([np.asarray(image) for image in result.images])
        return known[key]

    return edit


@pytest.fixture(scope="module")
def browser():
    """Chromium. Of a module only: Playwright's loop runs as long as it does."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian's will do)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(pocket):
    """A server for a page: its address and its service."""
    with serving_page(pocket) as (url, service):
        yield url, service
