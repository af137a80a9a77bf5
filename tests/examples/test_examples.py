"""Every short example runs as it stands, and so does what the documents show."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*.py")
    # Hours of training, whose stages have tests of their own; a browser; 7 GB of disk.
    if path.name not in {"train_pocket.py", "studio_screenshots.py", "full_size_check.py"}
)


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, monkeypatch):
    from strategies.registry import STRATEGIES

    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr(STRATEGIES, "_infos", dict(STRATEGIES._infos))
    runpy.run_path(str(path), run_name="__main__")
    assert list(tmp_path.glob("*.png"))


def train(*arguments):
    command = [sys.executable, str(ROOT / "examples" / "train_pocket.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_training_stage_has_two_spellings(tmp_path):
    """From any folder: the script finds its own modules."""
    made: list[dict[str, bytes]] = []
    for name in (["render"], ["--stage", "render"]):
        out = tmp_path / str(len(made))
        done = train(*name, "--scenes", "4", "--threads", "1", "--out", str(out))
        assert done.returncode == 0, done.stderr
        made.append({each.name: each.read_bytes() for each in out.iterdir() if each.is_file()})
    assert made[0] == made[1] != {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "name a stage"), (["vae", "--stage", "gan"], "two stages"), (["ganz"], "invalid choice")],
)
def test_a_training_without_one_stage_is_refused(arguments, message):
    done = train(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("document", "made"),
    [("README.md", {"out.png", "sheet.png"}), ("examples/using.md", {"out.png"})],
)
def test_the_documents_python_runs(document, made, files, pocket, monkeypatch):
    (code,) = blocks(document, "python")
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr("engine.InpaintEngine.from_pretrained", lambda: pocket)
    Path("shown.py").write_text(code, encoding="utf-8")
    runpy.run_path("shown.py")
    assert {path.name for path in files.folder.glob("*.png")} >= made


def test_the_documents_commands_have_the_options_they_show(capsys):
    """Each command is looked up in its own help; test_cli.py runs the commands themselves."""
    from engine.cli import run

    documents = (
        "README.md",
        *(f"examples/{name}.md" for name in ("using", "measured", "choosing")),
    )
    shown = "\n".join(each for name in documents for each in blocks(name, "bash"))
    shown = shown.replace("\\\n", " ")
    commands = re.findall(r"^(?:uv run |cat \S+ \| )?softpaint (.+)$", shown, re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        name, *words = shlex.split(command, comments=True)
        assert run([name, "--help"]) == 0
        listed = capsys.readouterr().out
        for word in words:
            if word.startswith("-"):
                assert re.search(rf"(^| ){word}\b", listed, re.MULTILINE), f"{name} {word}"


def test_the_readme_tells_of_every_strategy():
    from strategies import list_strategies

    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert rows == list_strategies()


def test_contributings_strategy_is_the_examples():
    (code,) = blocks("CONTRIBUTING.md", "python")
    example = (ROOT / "examples" / "own_strategy.py").read_text("utf-8").splitlines()
    assert [line for line in code.splitlines() if line not in example] == []
    assert len(code.splitlines()) <= 35


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of ``language`` in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
