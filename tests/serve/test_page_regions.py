"""The studio's editor of regions in a real browser: painted, sent, kept, undone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engine.picture.source import Source
from engine.serve.errors import BusyError
from tests.kit.serving import edited
from tests.serve.kit import CHROMIUM
from tests.serve.studio import (
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

pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's will do)")

LEFT, RIGHT = [(330, 300), (360, 380)], [(640, 300), (660, 380)]


@pytest.fixture
def page(browser, served):
    with visit(browser, served[0]) as page:
        open_picture(page, picture())
        page.get_by_role("spinbutton", name="Size", exact=True).fill("20")
        yield page


def _region(page, prompt: str, points):
    """A region of its own, painted; its map."""
    page.focus("#stage")
    page.keyboard.press("a")
    page.get_by_label("Prompt of this region").fill(prompt)
    paint(page, points)
    return exported(page)


def _names(page):
    return page.locator(".regions .name").all_inner_texts()


def _asked(service):
    """The last render's request."""
    return list(service.sessions._open.values())[-1].job.requests[""]


def test_regions_are_sent_as_painted_and_come_back_with_a_reload(page, served, pocket):
    service = served[1]
    one = _region(page, "a red house", LEFT)
    two = _region(page, "a tree", RIGHT)
    assert one.max() == two.max() == 1
    assert not (one * two).any()
    page.get_by_label("Name").fill("the tree")
    page.click(".regions summary")
    page.locator(".regions [data-setting=seed] input").fill("5")
    page.keyboard.press("Tab")
    render(page)
    asked = _asked(service)
    assert [each.prompt for each in asked.regions] == ["a red house", "a tree"]
    assert [each.seed for each in asked.regions] == [None, 5]
    for region, painted in zip(asked.regions, (one, two), strict=True):
        sent = np.asarray(Image.open(io.BytesIO(region.map.data)), np.float64) / 65535
        assert np.abs(sent - painted).max() <= 1e-4
    made = downloaded(page)[0]
    maps = [Source("m", png(np.rint(each * 65535).astype(np.uint16))) for each in (one, two)]
    own = edited(
        pocket,
        image=Source("p", picture()),
        regions=[
            {"map": maps[0], "prompt": "a red house"},
            {"map": maps[1], "prompt": "a tree", "seed": 5},
        ],
        prompt="a red house",
        num_inference_steps=2,
        seed=7,
    )
    assert np.array_equal(made, np.asarray(own.images[0]))

    page.wait_for_timeout(700)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert _names(page) == ["Everything else", "Region 1", "the tree"]
    assert page.locator(".regions [aria-current=true]").inner_text() == "the tree"
    assert page.get_by_label("Prompt of this region").input_value() == "a tree"
    assert np.array_equal(exported(page), two)
    page.get_by_role("button", name="Delete Region 1").click()
    page.locator("#strip .shot").click()
    page.wait_for_selector(".regions li:nth-child(3)")
    assert _names(page) == ["Everything else", "Region 1", "the tree"]
    assert not exported(page).any()
    page.locator(".regions .name").nth(1).click()
    assert np.array_equal(exported(page), one)


def test_what_a_render_is_asked_for_holds_for_the_next_stroke_too(page, served):
    paint(page, LEFT)
    render(page)
    page.fill("#prompt", "a tree")
    render(page)
    paint(page, RIGHT)
    render(page)
    assert _asked(served[1]).prompt == "a tree"


def test_a_hidden_region_takes_no_part_and_undo_goes_over_all_of_them(page, served):
    base = [(500, 520)]
    paint(page, base)
    _region(page, "a red house", LEFT)
    two = _region(page, "a tree", RIGHT)
    page.get_by_role("button", name="Hide Region 1").click()
    render(page)
    asked = _asked(served[1])
    assert [each.prompt for each in asked.regions] == ["a tree"]
    assert asked.strength_map.max() == 1
    page.get_by_role("button", name="Show Region 1").click()
    page.get_by_role("button", name="Move Region 2 up").click()
    assert _names(page) == ["Everything else", "Region 2", "Region 1"]
    # The keyboard's way: the list is walked with arrows, Delete deletes.
    page.locator(".regions .name").nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".regions [aria-current=true]").inner_text() == "Region 1"
    page.keyboard.press("Delete")
    assert _names(page) == ["Everything else", "Region 2"]
    assert "undo brings it back" in page.inner_text("#announce")
    page.focus("#stage")
    for expected in (["Region 2", "Region 1"], ["Region 1", "Region 2"]):
        page.keyboard.press("Control+z")
        assert _names(page)[1:] == expected
    page.keyboard.press("Control+z")  # the last stroke
    assert not exported(page).any()
    page.keyboard.press("Control+Shift+z")
    assert np.array_equal(exported(page), two)
    while page.locator("#undo").is_enabled():
        page.keyboard.press("Control+z")
    assert _names(page) == []
    assert not exported(page).any()


def test_live_strokes_on_a_region_follow(page):
    page.check("#live", force=True)
    _region(page, "a tree", LEFT)
    until(page, "document.querySelectorAll('#strip .shot canvas').length > 0")
    assert page.locator("#stage").get_attribute("data-stack") != "there"


def test_axe_finds_no_serious_fault_in_the_list(page):
    from axe_playwright_python.sync_playwright import Axe

    _region(page, "a tree", LEFT)
    page.click(".regions summary")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found = Axe().run(page).response["violations"]
        serious = [fault["id"] for fault in found if fault["impact"] in {"serious", "critical"}]
        assert serious == []


def test_a_busy_server_is_asked_again_and_an_error_stands_at_the_prompt(page, served, monkeypatch):
    worker = served[1].worker
    check = worker.check_room
    refused: list[int] = []

    def busy():
        if not refused:
            refused.append(True)
            raise BusyError("so many do wait.", retry_after=1)
        check()

    monkeypatch.setattr(worker, "check_room", busy)
    paint(page, LEFT)
    page.click("#render")
    page.wait_for_selector("#notice:not([hidden])")
    assert "It is asked again in 1 s." in page.inner_text("#notice")
    until(page, "document.querySelectorAll('#strip .shot canvas').length > 0")
    page.fill("#prompt", "x" * 9000)
    page.click("#render")
    page.wait_for_selector("#edit .error")
    assert "9000" in page.inner_text("#edit .error")
    assert page.get_attribute("#prompt", "aria-invalid") == "true"
    page.fill("#prompt", "a tree")
    assert page.locator("#edit .error").count() == 0


def test_each_region_has_candidates_of_its_own(page, served):
    """One that left is finished for its region; the other keeps the one that won. A region may have
    a strategy of its own.
    """
    page.evaluate("document.querySelector('#group-candidates').open = true")
    page.get_by_label("Candidates").fill("3")
    page.keyboard.press("Tab")
    page.get_by_label("Enough").fill("0")  # those that stop stay where they are
    page.keyboard.press("Tab")
    page.get_by_label("Inference steps").fill("4")
    page.keyboard.press("Tab")
    _region(page, "a red house", LEFT)
    _region(page, "a tree", RIGHT)
    page.get_by_label("Name").fill("the tree")
    page.click(".regions summary")
    page.locator(".regions [data-setting=strategy] select").select_option("blend")
    render(page)
    thumbs = page.locator("#judge .thumbs button")
    names = thumbs.locator("span:first-of-type").all_inner_texts()
    assert [name.split(":")[0] for name in names] == ["Region 1"] * 3 + ["the tree"] * 3
    pressed = page.locator("#judge .thumbs [aria-pressed=true] span:first-of-type")
    won = [int(name.split()[-1]) for name in pressed.all_inner_texts()]
    assert len(won) == 2
    left = page.locator("#judge .thumbs .left").last
    seed = int(left.locator("span").first.inner_text().split()[-1])
    assert seed != won[1]
    left.click()
    page.wait_for_selector(".thumbs", state="detached")
    asked = _asked(served[1])
    assert [region.seed for region in asked.regions] == [won[0], seed]
    assert (asked.regions[0].strategy, asked.regions[1].strategy) == (None, "blend")


def test_an_error_of_a_region_is_told_by_its_name(page):
    _region(page, "a tree", LEFT)
    page.get_by_label("Name").fill("the tree")
    _region(page, "a house", RIGHT)
    page.locator(".regions .name").nth(1).click()
    page.click(".regions summary")
    page.locator(".regions [data-setting=strength] input").fill("2")
    page.keyboard.press("Tab")
    page.locator(".regions .name").nth(2).click()
    page.click("#render")
    page.wait_for_selector("#notice:not([hidden])")
    assert page.inner_text("#notice").startswith("the tree")
    assert page.locator(".regions [aria-current=true]").inner_text() == "the tree"
