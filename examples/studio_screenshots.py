"""Make the screenshots of the studio at work: python examples/studio_screenshots.py [FOLDER]

Needs Playwright's Python package (a development dependency) and Chromium.
"""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from engine import InpaintEngine
from engine.serve.app import create_app
from engine.serve.run import listen
from engine.serve.service import Service

SCROLLED = """document.activeElement.blur();
document.querySelector("#regions").scrollIntoView({ block: "start" })"""
"""Regions and what came of them in the panel."""
SIZES = {1440: 900, 768: 1024, 390: 844}
REGIONS = {
    "house": (
        "a red house on a green meadow at sunset",
        [[(0.18, 0.66), (0.30, 0.60), (0.42, 0.68)], [(0.22, 0.76), (0.40, 0.77)]],
    ),
    "tree": (
        "a tree on a green meadow at sunset",
        [[(0.72, 0.50), (0.76, 0.62), (0.74, 0.74)]],
    ),
}
"""By name the prompt and the strokes, in shares of the picture's width and height."""


@contextmanager
def served() -> Iterator[str]:
    """The embedded model, served from a thread at an address of its own."""
    sock = listen("127.0.0.1", 0)
    app = create_app(Service(InpaintEngine.from_pretrained()), grace=1)
    config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def paint(page: Page, strokes: list[list[tuple[float, float]]]) -> None:
    """Soft strokes over the sample."""
    box = page.locator("#world .base").bounding_box()
    if box is None:
        raise SystemExit("no picture is shown")
    for stroke in strokes:
        for at, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
            if at == 0:
                page.mouse.down()
        page.mouse.up()


def edit(page: Page) -> None:
    """Open a sample, paint regions with prompts of their own, and wait for the picture."""
    page.get_by_role("button", name="insert").click()
    page.wait_for_selector("#strip .shot canvas", timeout=120_000)
    page.uncheck("#live", force=True)
    page.click("#map-menu")
    page.get_by_role("button", name="Clear").click()
    page.keyboard.press("Escape")
    page.get_by_label("Seed").fill("5")
    for name, value in {"Size": 40, "Hardness": 30}.items():
        page.get_by_role("spinbutton", name=name, exact=True).fill(str(value))
    for name, (prompt, strokes) in REGIONS.items():
        page.click("#add-region")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Prompt of this region").fill(prompt)
        paint(page, strokes)
    page.click("#render")
    page.locator("#strip .shot canvas").nth(1).wait_for(timeout=120_000)
    page.check("#live", force=True)
    page.mouse.move(700, 60)


def main(folder: Path) -> None:
    """Look at an edit in every size and theme."""
    folder.mkdir(parents=True, exist_ok=True)
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        edit(page)
        time.sleep(1)
        for width, height in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate(SCROLLED)
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                keys = "h" if theme == "dark" else "hh"  # the map's heat: always, or as it is
                for key in keys if (width, theme) != (1440, "light") else "":
                    page.keyboard.press(key)
                time.sleep(0.6)
                page.screenshot(path=folder / f"studio-{width}-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
