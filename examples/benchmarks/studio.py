"""Measure the studio from the brush to the picture, in a real browser, with the embedded model.

    python examples/benchmarks/studio.py [--strokes 10] [--json FILE]
    python examples/benchmarks/studio.py --first  # `softpaint studio`, in an empty home

A full edit is the first picture of a session, at strength 1; a stroke afterwards is at strengths up
to 0.4, and its time is from pen-up to the exact picture on the screen, by the page's own marks. The
instant answer and the brush are timed inside the browser. Medians. Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvicorn
from playwright.sync_api import Page, sync_playwright

from engine import InpaintEngine
from engine.serve.app import create_app
from engine.serve.run import listen
from engine.serve.service import Service

INSTANT = """async () => {
  const { Stack } = await import("/page/arithmetic/stack.js");
  const side = 1024, strengths = Array.from({ length: 10 }, (_, k) => k / 9);
  const words = () => new Uint32Array(side * side).map(() => Math.random() * 2 ** 32);
  const stack = new Stack(side, side, strengths, strengths.map(words));
  const levels = new Uint16Array(side * side).map(() => Math.random() * 65536);
  const canvas = new OffscreenCanvas(side, side), draw = canvas.getContext("2d");
  const out = new Uint32Array(side * side), times = [];
  for (let round = 0; round < 25; round++) {
    const began = performance.now();
    stack.mix(levels, { x: 0, y: 0, width: side, height: side }, out);
    draw.putImageData(new ImageData(new Uint8ClampedArray(out.buffer), side, side), 0, 0);
    times.push(performance.now() - began);
  }
  return times.slice(5);
}"""
STROKES = """async () => {
  const { Stroke } = await import("/page/arithmetic/brush.js");
  const { LevelMap } = await import("/page/arithmetic/levels.js");
  const { Undo } = await import("/page/arithmetic/undo.js");
  const { heat } = await import("/page/arithmetic/heat.js");
  const side = 4096, map = new LevelMap(side, side), undo = new Undo();
  const canvas = new OffscreenCanvas(side, side), draw = canvas.getContext("2d");
  const brush = { size: 128, strength: .6, hardness: .5, spacing: .12, mode: "set" };
  const buffer = new Uint16Array(side * side), times = [];
  for (let round = 0; round < 40; round++) {
    const x = 200 + Math.random() * 3000, y = 200 + Math.random() * 3000, began = performance.now();
    const stroke = new Stroke(map, brush, buffer);
    for (let step = 0; step <= 8; step++) stroke.to(x + 40 * step, y + 20 * step);
    for (const rect of undo.change(map, stroke.finish())) {
      const words = new Uint32Array(rect.width * rect.height);
      heat(map.cut(rect), words);
      const bytes = new Uint8ClampedArray(words.buffer);
      draw.putImageData(new ImageData(bytes, rect.width, rect.height), rect.x, rect.y);
    }
    times.push(performance.now() - began);
  }
  return times.slice(8);
}"""


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


def times(page: Page, count: int) -> tuple[float, float | None]:
    """Wait for picture ``count``; ms from asking to the exact one and to the first preview."""
    page.locator("#strip .shot canvas").nth(count - 1).wait_for(timeout=300_000)
    marks = page.evaluate(
        "performance.getEntriesByType('mark').map(mark => [mark.name.slice(10), mark.startTime])"
    )
    page.evaluate("performance.clearMarks()")
    asked = next(at for name, at in marks if name == "asked")
    exact = next(at for name, at in reversed(marks) if name == "exact")
    previews = [at for name, at in marks if name == "preview" and at < exact]
    return exact - asked, previews[0] - asked if previews else None


def stroke(page: Page, strength: int, y: float) -> None:
    """A stroke of the mouse over a third of the picture."""
    page.get_by_role("spinbutton", name="Strength", exact=True).fill(str(strength))
    page.keyboard.press("Tab")
    box = page.locator("#world .base").bounding_box()
    if box is None:
        raise SystemExit("no picture is shown")
    page.mouse.move(box["x"] + 0.35 * box["width"], box["y"] + y * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.65 * box["width"], box["y"] + y * box["height"], steps=4)
    page.mouse.up()


def measure(page: Page, strokes: int) -> dict[str, float]:
    """Every figure, in ms or as a share of a full edit."""
    page.click("#view-menu")
    page.get_by_label("Instant answer").uncheck()  # the stack would be made between the strokes
    page.keyboard.press("Escape")
    page.locator(".samples button").first.click()
    count, full = 1, [times(page, 1)[0]]
    page.uncheck("#live", force=True)
    for seed in ("11", "12"):
        page.get_by_label("Seed").fill(seed)
        page.keyboard.press("Tab")
        page.click("#render")
        count += 1
        full.append(times(page, count)[0])
    page.check("#live", force=True)
    page.get_by_role("spinbutton", name="Size", exact=True).fill("24")
    exact, previews = [], []
    for at in range(strokes):
        stroke(page, 10 + 30 * (at % 4) // 3, 0.12 + 0.02 * at)
        count += 1
        done, preview = times(page, count)
        exact.append(done)
        if preview is not None:
            previews.append(preview)
    instant, brush = page.evaluate(INSTANT), page.evaluate(STROKES)
    whole = median(full)
    return {
        "full edit, ms": whole,
        "stroke to exact picture, ms": median(exact),
        "stroke to exact picture, of a full edit": median(exact) / whole,
        "stroke to first preview, ms": median(previews) if previews else float("nan"),
        "stroke to first preview, of a full edit": median(previews) / whole if previews else 1.0,
        "strokes with a preview": len(previews) / strokes,
        "instant answer at 1024 px, ms": median(instant),
        "a stroke on 4096 x 4096, ms": median(brush),
    }


def first() -> dict[str, float]:
    """Seconds of who tries it for the first time: the command is started in an empty home, a sample
    opened, a stroke painted, and the picture is there.
    """
    command = [sys.executable, "-m", "engine.cli", "studio", "--no-open", "--port", "0"]
    with TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.monotonic()
        own = {"HOME": home, "XDG_CACHE_HOME": home}
        with subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, text=True, env=os.environ | own
        ) as server:
            try:
                url = (server.stdout or io.StringIO()).readline().strip()
                answered = time.monotonic()
                page.goto(url)
                page.wait_for_selector("body[data-ready]")
                ready = time.monotonic()
                page.locator(".samples button").first.click()
                times(page, 1)
                sample = time.monotonic()
                page.get_by_role("spinbutton", name="Size", exact=True).fill("40")
                stroke(page, 100, 0.5)
                times(page, 2)
                painted = time.monotonic()
            finally:
                server.terminate()
        browser.close()
    return {
        "start to address, s": answered - began,
        "address to page, s": ready - answered,
        "sample pressed to its picture, s": sample - ready,
        "stroke to its picture, s": painted - sample,
        "page to painted picture, s": painted - ready,
        "all of it, s": painted - began,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strokes", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--first", action="store_true", help="time the first minute in place of it")
    asked = parser.parse_args()
    figures = first() if asked.first else strokes_of(asked.strokes)
    print("| | |\n|---|---:|")
    for name, value in figures.items():
        print(f"| {name} | {value:.3g} |")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


def strokes_of(strokes: int) -> dict[str, float]:
    """Every figure of the brush, see :func:`measure`."""
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        figures = measure(page, strokes)
        browser.close()
    return figures


if __name__ == "__main__":
    main()
