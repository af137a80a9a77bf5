"""Every short example runs as it stands, and so does what the documents show."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import train_pocket

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


def test_a_training_stage_runs_from_any_folder(tmp_path):
    """The script finds its own modules."""
    script = str(ROOT / "examples" / "train_pocket.py")
    asked = "render --scenes 4 --threads 1 --out cache".split()
    done = subprocess.run(
        [sys.executable, script, *asked], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "cache" / "scenes.npy")) == 4


def test_a_training_stage_has_two_spellings():
    assert train_pocket.parsed(["render"]) == train_pocket.parsed(["--stage", "render"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "name a stage"), (["vae", "--stage", "gan"], "two stages"), (["ganz"], "invalid choice")],
)
def test_a_training_without_one_stage_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        train_pocket.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("document", "made"),
    [("README.md", {"out.png", "sheet.png"}), ("examples/using.md", {"out.png"})],
)
def test_the_documents_python_runs(document, made, files, pocket, monkeypatch):
    code = "\n".join(blocks(document, "python"))
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
        *(f"examples/{name}.md" for name in ("using", "measured", "choosing", "tuning")),
    )
    shown = "\n".join(each for name in documents for each in blocks(name, "bash"))
    shown = shown.replace("\\\n", " ")
    commands = re.findall(r"^(?:uv run |cat \S+ \| )?softpaint (.+)$", shown, re.MULTILINE)
    assert len(commands) >= 9
    texts = ((ROOT / name).read_text("utf-8") for name in documents)
    inside = [each for text in texts for each in re.findall(r"`softpaint ([a-z][^`]*)`", text)]
    assert len(inside) >= 9
    commands += [each.replace("\n", " ").replace("...", "") for each in inside]
    for command in commands:
        name, *words = shlex.split(command, comments=True)
        assert run([name, "--help"]) == 0
        listed = capsys.readouterr().out
        path = [name]
        while (
            words and "[ARGS]..." in listed and re.search(rf"^  {words[0]}\b", listed, re.MULTILINE)
        ):
            path.append(words.pop(0))
            assert run([*path, "--help"]) == 0
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
