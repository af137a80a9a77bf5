"""The web pages: whole, self-contained, safe, and working in a real browser where one is here."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from engine.cli import run
from engine.evaluate import Row, open_suite
from engine.picture.metrics import METRICS
from engine.report.comparison import comparison_page
from engine.report.evaluation import evaluation_page

VOID = {"meta", "img", "br", "input"}
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


class Checker(HTMLParser):
    """Tags closed in order, and every address that the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.addresses
    assert all(address.startswith("data:") for address in checker.addresses)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    return checker


@pytest.fixture(scope="module")
def comparison(pocket):
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    return pocket.compare(
        image=rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        mask=mask,
        prompt="a red house",
        strategies=["blend", "soft-blend"],
        num_inference_steps=2,
        seed=1,
    )


@pytest.fixture(scope="module")
def evaluation() -> str:
    suite = open_suite("pocket", first_seed=1_050_000, size=64)
    cases = {"removal": suite.cases("removal", 3), "strength": suite.cases("strength", 2)}
    rows = []
    for task, each in cases.items():
        for i, case in enumerate(each):
            for j, name in enumerate(("blend", "a<b>&c", "diffusers-4ch")):
                metrics = {"seam": 10.0 * i + j, "seconds": 0.5}
                if case.truth is not None:
                    metrics["colour_inside"] = 5.0 * i + j
                rows.append(Row(name, name.startswith("diffusers"), task, case.scene, metrics))

    def picture(_task: str, _scene: str, name: str) -> Image.Image:
        return Image.new("RGB", (300, 200), "red" if name == "blend" else "blue")

    return evaluation_page(rows, cases, picture, {"steps": 2}, worst=2)


# ------------------------------------------------------------------------------ compared


def test_the_comparisons_page_is_whole_and_shows_every_picture(comparison):
    page = comparison_page(comparison, title='a <script>alert("x")</script> & more')
    checker = check(page)
    assert page.count("<script>") == 1
    assert checker.seen.count("figure") == 2
    assert checker.seen.count("img") == 2 * 2 + 1
    for name in ("untouched", "seam", "colour_ring", "saturation_ring", "model_calls"):
        assert f"<dt>{name}</dt>" in page
    after = re.findall(r'class="after" src="data:image/png;base64,([^"]+)"', page)
    for data, name in zip(after, comparison.results, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            np.testing.assert_array_equal(shown, comparison.picture(name))


def test_sheet_and_table_tell_the_metrics(comparison):
    measured = comparison.measure()
    assert all(each[0]["untouched"] == 0 for each in measured.values())
    seam = METRICS.get("seam").show(measured["blend"][0]["seam"])
    head, blend, _, last = comparison.table().splitlines()
    assert head.split() == ["strategy", *measured["blend"][0], "seeds"]
    assert blend.split()[:3] == ["blend", "0", seam]
    assert last.endswith("in shared model calls")
    assert comparison.grid().height > comparison.overlay().height


def test_compare_writes_the_page(files, capsys, monkeypatch, pocket):
    from engine import InpaintEngine

    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pocket)
    arguments = [
        "compare",
        files.photo,
        "--mask",
        files.mask,
        "--prompt",
        "the sea",
        "--steps",
        "2",
    ]
    arguments += ["--strategies", "blend", "-o", files.folder / "s.png"]
    page = files.folder / "s.html"
    assert run([str(each) for each in [*arguments, "--html", page]]) == 0
    told = capsys.readouterr()
    assert "seam" in told.out
    assert str(page) in told.err
    check(page.read_text(encoding="utf-8"))
    assert run([str(each) for each in [*arguments, "--html", "/nowhere/s.html"]]) == 2
    assert "/nowhere" in capsys.readouterr().err


# ----------------------------------------------------------------------------- evaluated


def test_the_evaluations_page_is_whole(evaluation):
    checker = check(evaluation)
    assert "a&lt;b&gt;&amp;c" in evaluation
    assert "<b>&c" not in evaluation
    assert checker.seen.count("table") == 2 + 2 + 1  # means, worst cases, every picture
    plots = [address for address in checker.addresses if address.startswith("data:image/svg")]
    assert len(plots) == 3  # seam, colour_inside, seconds
    assert b"</svg>" in base64.b64decode(plots[0].partition(",")[2])


def test_worst_cases_come_first_and_peers_do_not_decide(evaluation):
    suite = open_suite("pocket", first_seed=1_050_000, size=64)
    scenes = [case.scene for case in suite.cases("removal", 3)]
    sheet = evaluation.partition("<h2>Worst cases</h2>")[2].partition("<h2>")[0]
    removal = sheet.partition("<h3>strength")[0]
    assert re.findall(r"<small>(\d+):", removal) == scenes[:0:-1]
    worst = re.findall(r'<td class="worst">.*?alt="([^"]*), scene', removal)
    assert worst == ["a&lt;b&gt;&amp;c"] * 2
    sizes = {
        Image.open(io.BytesIO(base64.b64decode(d))).size
        for d in re.findall(r"png;base64,([^\"]+)\" alt=\"blend", sheet)
    }
    assert sizes == {(256, 171)}


# ------------------------------------------------------------------------------- browser


def in_browser(page: str, script: str, tmp_path) -> str:
    """The title that ``script`` leaves behind, run in the page after its own script."""
    assert BROWSER
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    return title[1]


@needs_browser
def test_columns_sort_both_ways_in_a_browser(evaluation, tmp_path):
    script = """
    const table = document.querySelector("table"), button = table.querySelectorAll("th button")[1];
    const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join();
    button.click(); const up = names() + table.querySelectorAll("th")[1].getAttribute("aria-sort");
    button.click(); document.title = up + " " + names();
    """
    names = ["blend", "a&lt;b&gt;&amp;c", "diffusers-4ch"]
    want = f"{','.join(names)}ascending {','.join(reversed(names))}"
    assert in_browser(evaluation, script, tmp_path) == want


@needs_browser
def test_the_slider_and_the_choice_of_picture_work_in_a_browser(comparison, tmp_path):
    script = """
    const figure = document.querySelector("figure"), range = figure.querySelector("input");
    range.focus(); range.value = 20; range.dispatchEvent(new Event("input"));
    const at = getComputedStyle(figure.querySelector(".after")).clipPath;
    const choice = document.getElementById("before"); choice.value = "1";
    choice.dispatchEvent(new Event("change"));
    const [under] = figure.querySelectorAll("img");
    const other = document.querySelectorAll(".after")[1];
    const same = under.src === other.src; choice.value = "";
    choice.dispatchEvent(new Event("change"));
    document.title = [document.activeElement === range, at, same,
                      under.src === under.dataset.original, under.alt].join(" ");
    """
    told = in_browser(comparison_page(comparison, title="x"), script, tmp_path)
    assert told == "true inset(0px 0px 0px 20%) true true original"
