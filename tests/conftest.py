"""What the tests share: the pocket engine, a tiny one, a photograph, a small scene."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

# No test may depend on a hub, and none may wait for one that does not answer.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# The suite is about CPUs; tests/gpu is asked for by naming its device.
if not os.environ.get("SOFTPAINT_TEST_DEVICE", "").startswith("cuda"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Without the compiled files each command that a test starts compiles torch and diffusers anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Thread pools of several processes on the same cores spin against each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

import numpy as np
import pytest
from PIL import Image

QUICK = (
    "batch/test_items",
    "cli/test_cli_formats",
    "cli/test_doctor",
    *(f"controls/test_{name}" for name in ("forms", "lines", "steering")),
    *(f"denoise/test_{name}" for name in ("flow", "think")),
    "edit/test_advice",
    *(f"engine/test_{name}" for name in ("conditioning", "registry")),
    *(f"evaluate/test_evaluate.py::test_{name}" for name in ("bad_use", "pocket_cases", "a_peer")),
    "examples/test_measure_controls",
    "fuzz/",
    *(f"laws/test_exact.py::test_{name}_is" for name in ("batched", "skipped", "retuned")),
    *(f"models/test_{name}" for name in ("embeddings", "families", "unheard", "upsampling")),
    "parity/test_parity.py::test_v_prediction",
    *(f"picture/test_{name}" for name in ("frame", "grain", "kept", "map_readings", "masks")),
    *(f"picture/test_{name}" for name in ("metrics", "paste", "read", "sheet")),
    "pocket/test_pocket_world.py::test_render",
    "report/test_report.py::test_sheet",
    *(f"request/test_{name}" for name in ("aliases", "foreign", "names", "result")),
    "runtime/test_kept_in_edits",
    *(f"serve/test_{name}" for name in ("page_arithmetic", "security")),
    "solvers/test_parameterisation",
    "test_imports",
    "tune/test_convert",
)
"""How the tests begin that are marked ``quick``: something of every room. Of the laws only
Euler's.
"""


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name.startswith(QUICK) and ("laws/" not in name or "[euler]" in name):
            item.add_marker("quick")


@pytest.fixture(scope="session")
def pocket():
    """The embedded model, loaded once, CPU, float32."""
    from engine import InpaintEngine

    return InpaintEngine.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def engine():
    """A tiny SDXL with both networks, a new one for each module of tests."""
    from tests.kit import tiny

    return tiny.engine()


@pytest.fixture(scope="module")
def net(engine):
    """A ControlNet for its base network."""
    from tests.kit import tiny_controls

    return tiny_controls.controlnet(engine.backbone.network("base").unet)


@pytest.fixture(scope="session")
def cat() -> Image.Image:
    """An ordinary photograph of odd size: 451 x 300."""
    from skimage.data import chelsea

    return Image.fromarray(chelsea())


@pytest.fixture(autouse=True)
def usual_arithmetic():
    """A benchmark flushes denormal numbers for its whole process: not for the tests after it."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture
def files(tmp_path: Path) -> SimpleNamespace:
    """A folder with a 72 x 56 picture, a mask and a strength map of the same size."""
    rng = np.random.default_rng(0)
    height, width = 56, 72
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[16:40, 20:52] = 255
    ramp = np.zeros((height, width), np.uint8)
    ramp[:, 24:] = np.linspace(0, 255, width - 24).astype(np.uint8)
    names = {"photo": picture, "mask": mask, "map": ramp}
    for name, pixels in names.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return SimpleNamespace(
        folder=tmp_path,
        picture=picture,
        **{name: tmp_path / f"{name}.png" for name in names},
    )
