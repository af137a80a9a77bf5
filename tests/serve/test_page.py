"""The page in a real browser, in front of the real server with the pocket model."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from tests.serve.kit import CHROMIUM, serving, stroke
from tests.serve.studio import (
    HEIGHT,
    PATH,
    WIDTH,
    corner,
    downloaded,
    exported,
    open_picture,
    paint,
    picture,
    png,
    render,
    until,
    visit,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's will do)")

BRUSH = {"Size": 20, "Strength": 80, "Hardness": 40, "Spacing": 15}


@pytest.fixture(scope="module", autouse=True)
def victim():
    """A server in a process of its own, to be killed. It starts while the other tests run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "engine.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        yield process, port
        process.kill()


@pytest.fixture
def page(browser, served):
    """The page with a picture on its desk and quick settings. At the end no request has left for
    another machine, and nothing was said on the console.
    """
    with visit(browser, served[0]) as page:
        open_picture(page, picture())
        yield page


def _set_brush(page) -> None:
    for name, value in BRUSH.items():
        page.get_by_role("spinbutton", name=name, exact=True).fill(str(value))
    page.keyboard.press("Tab")


def _reference(page, points: Sequence[tuple[float, float]], pressure: float = 1.0):
    """What a stroke through points of the pane covers of the map, (H, W) in [0, 1]."""
    x, y, shown = page.evaluate(
        """() => { const pane = document.querySelector("#pane").getBoundingClientRect();
          const base = document.querySelector("#world .base").getBoundingClientRect();
          return [base.x - pane.x, base.y - pane.y, base.width]; }"""
    )
    scale = shown / WIDTH
    places = [((px - x) / scale, (py - y) / scale, pressure) for px, py in points]
    return stroke(
        (WIDTH, HEIGHT),
        places,
        diameter=BRUSH["Size"],
        strength=1,
        hardness=BRUSH["Hardness"] / 100,
        spacing=BRUSH["Spacing"] / 100,
    )


def _paint_with_pen(page, points: Sequence[tuple[float, float]], force: float) -> None:
    session = page.context.new_cdp_session(page)
    left, top = corner(page)
    kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
    for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
        up = kind == "mouseReleased"
        session.send(
            "Input.dispatchMouseEvent",
            {
                "type": kind, "x": left + x, "y": top + y, "pointerType": "pen",
                "button": "left", "buttons": 0 if up else 1, "clickCount": 1,
                "force": 0 if up else force,
            },
        )  # fmt: skip


def _posted(service):
    """The map that the server has of the page's last render."""
    return list(service.sessions._open.values())[-1].strength_map


def test_what_mouse_and_pen_paint_is_what_the_server_gets(page, served):
    _set_brush(page)
    strength = BRUSH["Strength"] / 100
    paint(page)
    expected = strength * _reference(page, PATH)
    assert expected.max() > 0.7
    assert np.abs(exported(page) - expected).max() <= 1e-4
    render(page)
    assert np.abs(_posted(served[1]) - expected).max() <= 1 / 255

    line = [(700, 120), (560, 240), (380, 150)]
    _paint_with_pen(page, line, force=0.4)
    cover = _reference(page, line, pressure=0.4)
    expected += (strength - expected) * cover
    render(page)  # only the rectangle that changed was sent
    assert np.abs(_posted(served[1]) - expected).max() <= 1 / 255
    assert np.abs(exported(page, 8) - expected).max() <= 1 / 255


def test_undo_to_the_empty_map_and_redo(page):
    for shift in (0, 40, 80):
        paint(page, [(x, y - shift) for x, y in PATH])
    painted = exported(page)
    assert painted.max() == 1
    while page.locator("#undo").is_enabled():
        page.keyboard.press("Control+z")
    assert not exported(page).any()
    while page.locator("#redo").is_enabled():
        page.click("#redo")
    assert np.array_equal(exported(page), painted)


def test_a_reload_keeps_desk_and_history_and_n_goes_on_from_a_result(page):
    first = np.asarray(Image.open(io.BytesIO(picture())))
    paint(page, [(300, 200)])
    render(page)
    painted, (result, info) = exported(page), downloaded(page)
    assert "a red house" in str(info)  # its recipe
    paint(page, [(500, 500)])  # not rendered
    later = exported(page)
    page.wait_for_timeout(700)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert np.array_equal(exported(page), later)
    assert page.input_value("#prompt") == "a red house"
    page.locator("#strip .shot").first.click()
    page.wait_for_selector("#judge:not([hidden])")
    assert np.array_equal(exported(page), painted)
    assert np.array_equal(downloaded(page)[0], result)

    page.focus("#stage")
    page.keyboard.press("n")
    page.wait_for_selector("#judge", state="hidden")
    assert not exported(page).any()
    page.uncheck("#live", force=True)
    paint(page, [(600, 450)])
    touched = (painted > 0) | (exported(page) > 0)
    render(page)
    second = downloaded(page)[0]
    assert np.array_equal(second[~touched], first[~touched])
    assert (second != first)[touched].any()


def test_live_pictures_follow_the_brush_and_previews_are_marked(browser, served):
    with visit(browser, served[0], instant=True) as page:
        open_picture(page, picture())
        page.check("#live", force=True)
        paint(page)
        page.wait_for_selector("#strip .shot canvas")
        page.wait_for_selector("#badge", state="hidden")
        page.wait_for_selector("#stage[data-stack=there]")
        _follow(page)


def _follow(page) -> None:
    paint(page, [(200, 450), (300, 520)])
    # The stack's answer is there before anything was rendered, and is called what it is.
    assert page.locator("#world .instant").is_visible()
    places = [
        page.locator(f"#world .{name}").bounding_box() for name in ("base", "instant", "heat")
    ]
    assert places[0] == places[1] == places[2]
    assert page.locator("#badge").is_visible()
    until(page, "document.querySelectorAll('#strip .shot canvas').length > 1")
    page.wait_for_selector("#badge", state="hidden")
    assert page.locator("#world .instant").is_hidden()


def test_cancel_stops_within_one_step(page, served, monkeypatch):
    service = served[1]
    seen = []
    cancel = service.cancel

    def watched(job):
        seen.append((job, job.done))
        return cancel(job)

    monkeypatch.setattr(service, "cancel", watched)
    page.get_by_label("Inference steps").fill("200")
    page.keyboard.press("Tab")
    paint(page)
    page.click("#render")
    until(page, "document.querySelector('#progress').ariaValueNow > 0")
    page.click("#render")
    page.wait_for_selector("#progress", state="hidden")
    deadline = time.monotonic() + 20
    while not (seen and seen[0][0].over) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    job, done = seen[0]
    assert job.state == "cancelled"
    assert job.done - done <= 1
    assert job.done < job.total
    assert page.locator("#strip .shot").count() == 0


def test_maps_of_16_bits_come_in_and_go_out_to_the_bit(page):
    given = np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    file = {"name": "map.png", "mimeType": "image/png", "buffer": png(given)}
    page.set_input_files("#map-file", file)
    until(page, "!document.querySelector('#undo').disabled")
    assert np.array_equal(np.rint(exported(page) * 65535), given)
    small = file | {"buffer": png(given[:40])}
    page.set_input_files("#map-file", small)
    page.wait_for_selector("#notice:not([hidden])")
    assert "96 x 40" in page.inner_text("#notice")


def test_the_form_is_the_registrys_and_errors_stand_at_their_setting(page):
    known = page.evaluate("fetch('/api/settings').then(answer => answer.json())")
    shown = {part.get_attribute("data-setting") for part in page.locator("[data-setting]").all()}
    asked = {
        field["name"]
        for field in known["fields"]
        if field["type"] in {"string", "integer", "number", "boolean"} or field["choices"]
    }
    strategies = {each["name"]: each["options"] for each in known["strategies"]}
    default = next(field["default"] for field in known["fields"] if field["name"] == "strategy")
    options = {option["name"] for option in strategies[default]}
    assert shown == asked - {"prompt"} | {"controls"} | options
    page.get_by_label("Inference steps").fill("1000")
    page.keyboard.press("Tab")
    paint(page)
    page.click("#render")
    field = page.locator("[data-setting=num_inference_steps]")
    field.locator(".error").wait_for()
    assert "num_inference_steps" in field.locator(".error").inner_text()
    assert field.locator("input").get_attribute("aria-invalid") == "true"


def test_a_strategy_brings_the_form_of_its_options(page, served):
    page.get_by_label("Strategy", exact=True).select_option("soft-blend")
    page.click("#strategy-options summary")
    page.get_by_label("Power").fill("2.5")
    page.keyboard.press("Tab")
    paint(page, [(300, 300)])
    render(page)
    session = list(served[1].sessions._open.values())[-1].session
    assert session.arguments["power"] == 2.5
    page.get_by_label("Strategy", exact=True).select_option("blend")
    assert page.locator("[data-setting=power]").count() == 0
    assert page.locator("[data-setting=hard_mask] input[type=checkbox]").count() == 1
    render(page)  # an option that blend does not have would be refused
    used = list(served[1].sessions._open.values())[-1].session.arguments
    assert used["strategy"] == "blend"
    assert "power" not in used


def test_candidates_are_shown_sorted_and_one_that_left_can_be_finished(page):
    page.evaluate("document.querySelector('#group-candidates').open = true")
    page.get_by_label("Candidates").fill("3")
    page.keyboard.press("Tab")
    page.get_by_label("Enough").fill("0")  # those that stop stay where they are
    page.keyboard.press("Tab")
    page.get_by_label("Inference steps").fill("4")
    page.keyboard.press("Tab")
    paint(page, [(300, 300)])
    render(page)
    thumbs = page.locator("#judge .thumbs button")
    assert thumbs.count() == 3
    assert page.locator("#judge .thumbs .left").count() == 2
    worth = {}
    for by in ("total", "seam"):
        page.locator("#judge .pick select").select_option(by)
        worth[by] = [
            float(text) for text in page.locator("#judge .thumbs .score").all_inner_texts()
        ]
    left = page.locator("#judge .thumbs .left").first
    seed = left.locator("span").first.inner_text()
    # The finished one stands first, then those that left, the best first.
    assert worth["total"][1] >= worth["total"][2]
    assert worth["seam"][1] <= worth["seam"][2]
    left.click()
    page.wait_for_selector(".thumbs", state="detached")
    assert page.get_by_label("Seed").input_value() == seed


def test_two_fingers_move_and_enlarge_and_paint_nothing(page):
    shown = "document.querySelector('#world').getBoundingClientRect().toJSON()"
    before = page.evaluate(shown)
    fingers = page.context.new_cdp_session(page)
    pane = page.locator("#pane").bounding_box()
    x, y = pane["x"] + 300, pane["y"] + 300

    def touch(kind, *points):
        fingers.send(
            "Input.dispatchTouchEvent",
            {
                "type": kind,
                "touchPoints": [{"x": px, "y": py, "id": k} for k, (px, py) in enumerate(points)],
            },
        )

    touch("touchStart", (x, y))
    touch("touchMove", (x + 30, y))  # the first finger paints until the second one comes
    touch("touchStart", (x + 30, y), (x + 130, y))
    for step in range(1, 6):  # apart: from 100 to 200 px; and 30 px down
        down = y + 6 * step
        touch("touchMove", (x + 30 - 10 * step, down), (x + 130 + 10 * step, down))
    touch("touchEnd")
    after = page.evaluate(shown)
    assert after["width"] == pytest.approx(2 * before["width"], rel=0.02)
    centre = x + 80
    assert after["x"] - centre == pytest.approx(2 * (before["x"] - centre), abs=3)
    assert after["y"] - (y + 30) == pytest.approx(2 * (before["y"] - y), abs=3)
    assert exported(page).max() == 0
    touch("touchStart", (x, y))  # and one finger paints
    touch("touchMove", (x + 30, y))
    touch("touchEnd")
    assert exported(page).max() > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page, theme):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    paint(page, [(300, 300)])
    if theme == "light":
        render(page)
    parts = (None, "#view-menu", "#map-menu", "#help", "#compare")
    for button in parts if theme == "light" else (None, "#compare"):
        if button:
            page.click(button)
            page.wait_for_timeout(50)
        found = Axe().run(page).response["violations"]
        serious = [
            (fault["id"], [node["html"] for node in fault["nodes"]][:3])
            for fault in found
            if fault["impact"] in {"serious", "critical"}
        ]
        assert serious == [], (button, serious)
        page.keyboard.press("Escape")


def test_nothing_moves_where_motion_is_reduced(page):
    """No short transitions either: of every property and element, as `transition-duration` alone
    makes them, they carried each colour of another theme from parent to child frame by frame, and
    a pulse of .01 ms flickers.
    """
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    moving = """theme => {
      const bar = document.querySelector(".progress");
      const list = bar.className;
      bar.hidden = false;
      bar.classList.add("waiting");
      document.documentElement.dataset.theme = theme;
      const soft = getComputedStyle(document.documentElement).getPropertyValue("--soft");
      const probe = document.createElement("i");
      probe.style.color = soft;
      document.body.append(probe);
      const label = getComputedStyle(document.querySelector(".slider label")).color;
      const found = [document.getAnimations().length, label === getComputedStyle(probe).color];
      probe.remove();
      bar.className = list;
      return found;
    }"""
    for theme in ("dark", "light"):
        assert page.evaluate(moving, theme) == [0, True], theme


def test_a_browser_that_keeps_nothing_is_good_enough(browser, served):
    with visit(browser, served[0], kept=False) as page:
        open_picture(page, picture())
        paint(page, [(300, 300)])
        render(page)
        page.focus("#stage")
        page.keyboard.press("n")
        page.wait_for_selector("#judge", state="hidden")
        page.locator("#strip .shot").click()
        page.wait_for_selector("#judge:not([hidden])")
        assert exported(page).max() == 1


def test_nothing_is_cut_off_from_360_px_to_4k(page):
    for width, height in ((360, 640), (390, 844), (768, 1024), (1440, 900), (3840, 2160)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(60)
        wide, cut = page.evaluate(
            """() => [document.documentElement.scrollWidth,
              [...document.querySelectorAll("button, label, h2, summary, .slider")]
                .filter(part => part.checkVisibility() && part.clientWidth
                  && !part.classList.contains("hidden") && part.scrollWidth > part.clientWidth + 1)
                .map(part => part.id || part.textContent)]"""
        )
        assert wide <= width
        assert cut == [], width
        stage = page.locator("#stage").bounding_box()
        assert stage["height"] >= 0.25 * height


def test_a_killed_server_is_noticed_and_nothing_painted_is_lost(browser, pocket, victim):
    process, port = victim
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    with visit(browser, url) as page:
        open_picture(page, picture(), steps=100)
        _set_brush(page)
        page.check("#live", force=True)
        paint(page, [(300, 300)])
        until(page, "document.querySelector('#progress').ariaValueNow > 0")
        process.kill()  # SIGKILL
        page.wait_for_selector("#server.lost")
        assert re.search("kept", page.inner_text("#notice"))
        page.get_by_label("Inference steps").fill("2")
        page.keyboard.press("Tab")
        paint(page)
        painted = exported(page)
        with serving(pocket, port) as (_, service):
            page.wait_for_selector("#server.there")
            page.wait_for_selector("#strip .shot canvas")
            assert np.abs(_posted(service) - painted).max() <= 1 / 255
        assert painted.max() > 0.7
