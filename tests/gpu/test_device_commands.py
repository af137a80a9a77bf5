"""The command line on the device, as a user runs it: processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.kit.devices import DEVICE, cuda_only, hard, on_device

pytestmark = on_device
EDIT = ("-m", "mask.png", "-p", "a red house", "--steps", "4", "--seed", "5", "-q")
TEACH = "--steps 2 --batch 1 --rank 2 --size 64 --sample-every 0 -q".split()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a photo, its mask, and a folder of two photos and their masks."""
    scene = hard()
    mask = Image.fromarray(np.uint8(scene["mask"]) * 255)
    scene["image"].save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        scene["image"].save(tmp_path / "photos" / f"{name}.png")
        mask.save(tmp_path / "photos" / f"{name}_mask.png")
    return tmp_path


def softpaint(
    folder: Path, *words: str, device: str | None = DEVICE
) -> subprocess.CompletedProcess[str]:
    """A command that has ended."""
    chosen = [] if device is None else ["--device", device]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "engine.cli", *words, *chosen],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def works(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_edit(here):
    works(softpaint(here, "edit", "photo.png", *EDIT, "-o", "out.png"))
    assert opened(here / "out.png").shape == opened(here / "photo.png").shape


def test_edit_with_a_preview_and_progress(here):
    """Progress is drawn, and a preview of each step is written over the last."""
    loud = [each for each in EDIT if each != "-q"]
    works(softpaint(here, "edit", "photo.png", *loud, "--preview", "now.png", "-o", "out.png"))
    assert (here / "now.png").is_file()


def test_a_record_repeats_its_edit_to_the_bit(here):
    works(softpaint(here, "edit", "photo.png", *EDIT, "-o", "out.png"))
    works(softpaint(here, "edit", "--from", "out.png", "-q", "-o", "again.png", device=None))
    assert np.array_equal(opened(here / "out.png"), opened(here / "again.png"))


@cuda_only
def test_a_record_of_the_cpu_is_repeated_on_the_device(here):
    """In half precision there: within 40 dB, see ``test_half.py``."""
    works(softpaint(here, "edit", "photo.png", *EDIT, "-o", "out.png", device="cpu"))
    works(softpaint(here, "edit", "--from", "out.png", "-q", "-o", "again.png"))
    apart = opened(here / "out.png") - opened(here / "again.png")
    assert (apart**2).mean() < 255**2 / 1e4


def test_edit_with_all_that_steers(here):
    words = "--strategy think+differential --control canny --num-images 2".split()
    works(softpaint(here, "edit", "photo.png", *EDIT, *words, "-o", "out.png"))
    assert len(list(here.glob("out*.png"))) == 2


def test_edit_with_a_flow_model(here):
    works(softpaint(here, "edit", "photo.png", *EDIT, "--model", "pocket-flow", "-o", "out.png"))
    assert (here / "out.png").is_file()


def test_compare(here):
    works(
        softpaint(
            here, "compare", "photo.png", *EDIT, "--strategies", "blend,inpaint9", "-o", "sheet.png"
        )
    )
    assert (here / "sheet.png").is_file()


def test_doctor(here):
    done = works(softpaint(here, "doctor"))
    assert DEVICE in done.stdout


def test_doctor_chooses_a_device(here):
    works(softpaint(here, "doctor", device=None))


def test_advise(here):
    works(softpaint(here, "advise", "photo.png", "-m", "mask.png", "-p", "a red house"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_batch(here, workers):
    words = ["batch", "photos", "-o", "out", "-p", "a red house", "--steps", "3", "--seed", "5"]
    works(softpaint(here, *words, "--workers", workers))
    lines = (here / "out" / "metadata.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 2
    assert all((here / "out" / f"{name}.png").is_file() for name in ("a", "b"))


@pytest.mark.parametrize("network", ["base", "inpaint"])
def test_tune_content(here, network):
    words = ["tune", "content", "photo.png", "-p", "a red house", "-o", "taught.safetensors"]
    works(softpaint(here, *words, "--network", network, *TEACH))
    assert (here / "taught.safetensors").is_file()


def test_tune_content_in_all_its_forms(here):
    words = ["tune", "content", "photo.png", "-p", "a red house", "-o", "taught.safetensors"]
    more = ["--prior-prompt", "a green tree", "--prior-pictures", "1", "--checkpointing"]
    works(softpaint(here, *words, *more, *TEACH))
    assert (here / "taught.safetensors").is_file()


def test_what_was_taught_is_painted(here):
    words = ["tune", "content", "photo.png", "-p", "a red house", "-o", "taught.safetensors"]
    works(softpaint(here, *words, *TEACH))
    more = ["--lora", "taught.safetensors", "-o", "out.png"]
    works(softpaint(here, "edit", "photo.png", *EDIT, *more))
    assert (here / "out.png").is_file()


@pytest.mark.parametrize("part", ["network", "decoder"])
def test_tune_colour(here, part):
    output = "colour.safetensors" if part == "network" else "vae"
    works(softpaint(here, "tune", "colour", "photo.png", "--part", part, "-o", output, *TEACH))
    assert (here / output).exists()


@cuda_only
@pytest.mark.parametrize("command", ["edit", "doctor", "batch", "tune"])
def test_a_device_that_is_not_there_is_one_line(here, command):
    words = {
        "edit": ["edit", "photo.png", *EDIT, "-o", "out.png"],
        "doctor": ["doctor"],
        "batch": ["batch", "photos", "-o", "out", "-p", "a red house"],
        "tune": ["tune", "content", "photo.png", "-p", "a house", "-o", "t.safetensors", *TEACH],
    }[command]
    done = softpaint(here, *words, device="cuda:7")
    assert done.returncode != 0
    assert "cuda:7" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
