"""The lines of the README, as they are printed: only the address and a job's name are put in."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import serve
from tests.kit import tiny
from tests.kit.serving import edited, serving

CURL = shutil.which("curl")
README = Path(serve.__file__).with_name("README.md")

pytestmark = pytest.mark.skipif(CURL is None, reason="needs curl")


def printed() -> list[str]:
    """The commands of the README that curl runs."""
    (shell,) = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = shell.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ")]


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the lines name."""
    square = np.zeros((tiny.SIZE, tiny.SIZE), np.uint8)
    square[16:48, 16:48] = 255
    tiny.picture().save(tmp_path / "picture.png")
    Image.fromarray(square).save(tmp_path / "map.png")
    mask = np.zeros((*square.shape, 4), np.uint8)
    mask[..., 3] = 255 - square  # OpenAI's: what is clear is repainted
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def test_the_lines_of_the_readme_work_as_printed(engine, folder):
    waited, begun, followed, openai = printed()
    with serving(engine) as server:

        def run(line: str, name: str = "") -> bytes:
            line = line.replace("http://127.0.0.1:7788", server.url).replace("/ID/", f"/{name}/")
            command = [str(CURL), "-sS", "--fail-with-body", *shlex.split(line, comments=True)[1:]]
            return subprocess.run(
                command, cwd=folder, check=True, timeout=60, capture_output=True
            ).stdout

        run(waited)
        asked = {"image": tiny.picture(), "prompt": "a blue house", "seed": 7}
        want = edited(engine, **asked, strength_map=folder / "map.png").images[0]
        made = Image.open(folder / "out.png").convert("RGB")
        assert np.array_equal(np.asarray(made), np.asarray(want))
        job = json.loads(run(begun))
        told = run(followed, job["id"]).decode()
        assert job["events"].endswith(f"{job['id']}/events")
        assert "event: finished" in told
        assert json.loads(run(openai))["data"][0]["b64_json"]
