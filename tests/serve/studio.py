"""The studio's page in a real browser: visited, painted, rendered, read."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80
PATH = [(300, 300), (420, 380), (500, 350), (560, 470)]
"""px from the left upper corner of the pane."""


@contextmanager
def visit(browser, url, *, instant=False, kept=True):
    """A visit to the page in a browser without memory."""
    asked: list[str] = []
    said: list[str] = []

    def hear(message):
        if message.type == "error":
            said.append(message.text)

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    if not instant:  # the stack for it takes the server's time
        context.add_init_script("localStorage.setItem('softpaint-instant', 'off')")
    if not kept:
        context.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
    page = context.new_page()
    page.set_default_timeout(90_000)  # on a busy machine
    context.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", hear)
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert [each for each in asked if not each.startswith((url, "blob:"))] == []
    # A server that is away or refuses is said so by the browser itself.
    assert [text for text in said if not text.startswith("Failed to load")] == []


def picture(seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), np.uint8)
    return png(np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT))))


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def open_picture(page, data: bytes, steps: int = 2) -> None:
    page.set_input_files("#file", {"name": "scene.png", "mimeType": "image/png", "buffer": data})
    page.wait_for_selector("#welcome", state="hidden")
    page.uncheck("#live", force=True)
    page.fill("#prompt", "a red house")
    page.get_by_label("Inference steps").fill(str(steps))
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Tab")


def until(page, true: str, seconds: float = 60) -> None:
    """Wait for an expression. Playwright's own way evaluates text, which the policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < deadline, true
        page.wait_for_timeout(30)


def paint(page, points: Sequence[tuple[float, float]] = PATH) -> None:
    """With the real mouse."""
    left, top = corner(page)
    page.mouse.move(left + points[0][0], top + points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(left + x, top + y)
    page.mouse.up()


def corner(page) -> tuple[float, float]:
    box = page.locator("#pane").bounding_box()
    return box["x"], box["y"]


def render(page) -> None:
    """To the exact picture."""
    before = page.locator("#strip .shot").count()
    page.click("#render")
    until(page, f"document.querySelectorAll('#strip .shot canvas').length > {before}")


def exported(page, bits: int = 16):
    """The page's map as a file, in [0, 1]."""
    page.click("#map-menu")
    with page.expect_download() as waiting:
        page.get_by_role("button", name=f"Export {bits} bit").click()
    page.keyboard.press("Escape")
    with Image.open(waiting.value.path()) as image:
        return np.asarray(image) / (2**bits - 1)


def downloaded(page):
    """The result that is shown, as its PNG holds it."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download PNG").click()
    with Image.open(waiting.value.path()) as image:
        return np.asarray(image.convert("RGB")), image.info
