"""Regions with LoRAs of their own: as an edit of a model with these, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from engine import InpaintEngine, Region
from engine.cli.app import run
from engine.request.record import EditRecord
from tests.kit import tiny, tiny_adapters

STEPS, SIZE = 2, 64
pytestmark = pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")


@pytest.fixture(scope="module")
def engine() -> InpaintEngine:
    """A tiny SDXL with its inpainting UNet."""
    pipe = StableDiffusionXLPipeline(**tiny.modules(sdxl=True))
    return InpaintEngine.from_pipe(pipe, tiny.unet(9, sdxl=True, seed=1))


@pytest.fixture(scope="module")
def file(engine, tmp_path_factory):
    state = tiny_adapters.lora(tiny_adapters.kohya(engine.pipe))
    return tiny_adapters.saved(state, tmp_path_factory.mktemp("lora") / "style.safetensors")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def half(left: int):
    strength_map = np.zeros((SIZE, SIZE), np.float32)
    strength_map[:, left : left + 24] = 1
    return strength_map


LEFT, RIGHT = half(0), half(40)


def edited(engine, photo, *regions, **changes):
    given = {"prompt": "a field", "num_inference_steps": STEPS, "seed": 3, "output_type": "np"}
    return engine.edit(image=photo, regions=list(regions), **{**given, **changes})


@pytest.mark.parametrize("strategy", ["differential", "inpaint9"])
def test_a_region_has_its_own_and_the_others_have_none(engine, file, photo, strategy):
    """Each as in an edit of the model that is so loaded; the text encoders' part counts too."""
    told = {"strategy": strategy}
    plain = edited(engine, photo, Region(LEFT, "a barn"), **told).images[0]
    engine.load_lora(file, 0.7)
    try:
        loaded = edited(engine, photo, Region(RIGHT, "a tent"), **told).images[0]
        engine.load_lora(file, 0, name="style")
        before = engine.backbone.fingerprint()
        styled = Region(RIGHT, "a tent", lora="style:0.7")
        result = edited(engine, photo, Region(LEFT, "a barn"), styled, **told)
        assert engine.backbone.fingerprint() == before
        none = edited(engine, photo, Region(LEFT, "a barn", lora="style:0"), **told).images[0]
        empty = edited(engine, photo, Region(LEFT, "a barn", lora=[]), **told).images[0]
    finally:
        engine.unload_lora()
    left, right = LEFT > 0, RIGHT > 0
    assert np.array_equal(none, plain)
    assert np.array_equal(empty, plain)
    assert np.abs(loaded[right] - photo[right] / np.float32(255)).max() > 0.05
    # Rows that share a call, and rows that do not: the last bits.
    assert np.abs(result.images[0][left] - plain[left]).max() <= 2.01 / 255
    assert np.abs(result.images[0][right] - loaded[right]).max() <= 2.01 / 255
    assert [each.get("lora") for each in result.settings["region_edits"]] == [None, ["style:0.7"]]


def test_it_matters_and_what_is_active_otherwise_does_not(engine, file, photo):
    """An edit's LoRA is left out where a region names none."""
    plain = edited(engine, photo, Region(LEFT, "a barn")).images[0]
    engine.load_lora(file, 1.0)
    try:
        with_it = edited(engine, photo, Region(LEFT, "a barn")).images[0]
        without = edited(engine, photo, Region(LEFT, "a barn", lora=[])).images[0]
    finally:
        engine.unload_lora()
    assert np.array_equal(without, plain)
    assert np.abs(with_it - plain).max() > 0.02


def test_a_session_knows_them_apart(engine, file, photo):
    """The same LoRA again is no new run, another weight is."""
    engine.load_lora(file, 0)
    try:
        session = engine.session(
            image=photo, prompt="a barn", seed=3, num_inference_steps=STEPS, output_type="np"
        )
        calls = [
            session.render(regions=[Region(LEFT, lora=f"style:{weight}")]).model_calls
            for weight in (0.5, 0.5, 0.8)
        ]
    finally:
        engine.unload_lora()
    assert calls == [STEPS, 0, STEPS]


def test_on_the_command_line_and_repeated_from_its_record(files, tmp_path):
    """Loaded with weight 0, named by a region, and both are in the record."""
    pipe = InpaintEngine.from_pretrained(device="cpu").pipe
    lora = tiny_adapters.saved(
        tiny_adapters.lora(tiny_adapters.kohya(pipe)), tmp_path / "style.safetensors"
    )
    out, again, plain = (tmp_path / f"{name}.png" for name in ("out", "again", "plain"))
    command = ["edit", str(files.photo), "--steps", "2", "--seed", "7", "-q"]
    region = f"{files.mask}::a red barn"
    told = [*command, "--lora", f"{lora}:0", "--region-edit"]
    assert run([*told, f"{region}::lora=style:0.5", "-o", str(out)]) == 0
    assert run([*command, "--region-edit", region, "-o", str(plain)]) == 0
    assert run(["edit", "--from", str(out), "--trust", "-q", "-o", str(again)]) == 0
    pictures = [np.asarray(Image.open(each)) for each in (out, again, plain)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    assert EditRecord.read(out).regions[0].settings["lora"] == ["style:0.5"]
