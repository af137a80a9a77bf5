"""Regions with LoRAs of their own: as an edit of a model with these, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from engine import InpaintEngine, Region
from engine.cli.app import run
from engine.errors import InputError
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


def columns(left: int, right: int):
    strength_map = np.zeros((SIZE, SIZE), np.float32)
    strength_map[:, left:right] = 1
    return strength_map


LEFT, RIGHT, WIDE = columns(0, 24), columns(40, 64), columns(16, 64)


def edited(engine, photo, *regions, **changes):
    given = {"prompt": "a field", "num_inference_steps": STEPS, "seed": 3, "output_type": "np"}
    return engine.edit(image=photo, regions=list(regions), **{**given, **changes})


@pytest.mark.parametrize("strategy", ["differential", "inpaint9"])
def test_a_region_has_its_own_and_the_others_have_none(engine, file, photo, strategy):
    """Each as in an edit of the model that is so loaded; the text encoders' part counts too."""
    told = {"strategy": strategy}
    plain = edited(engine, photo, Region(LEFT, "a barn"), **told)
    engine.load_lora(file, 0.7)
    try:
        loaded = edited(engine, photo, Region(RIGHT, "a tent"), **told)
        engine.load_lora(file, 0, name="style")
        before = engine.backbone.fingerprint()
        styled = Region(RIGHT, "a tent", lora="style:0.7")
        result = edited(engine, photo, Region(LEFT, "a barn"), styled, **told)
        assert engine.backbone.fingerprint() == before
        none = edited(engine, photo, Region(LEFT, "a barn", lora="style:0"), **told)
        empty = edited(engine, photo, Region(LEFT, "a barn", lora=[]), **told)
    finally:
        engine.unload_lora()
    assert np.array_equal(none.images[0], plain.images[0])
    assert np.array_equal(empty.images[0], plain.images[0])
    assert (loaded.latents - plain.latents).abs().max() > 0.05
    assert torch.equal(result.latents[0], plain.latents[0])
    # It has the rows of a call for itself, but not the kernels of a plain edit: the last bits.
    assert torch.allclose(result.latents[1], loaded.latents[0], atol=1e-4)
    assert [each.get("lora") for each in result.settings["region_edits"]] == [None, ["style:0.7"]]


@pytest.mark.parametrize("strategy", ["differential", "inpaint9"])
def test_regions_of_several_choices_share_their_calls(engine, file, photo, strategy, monkeypatch):
    """In a call each region's rows have its own: as in runs by themselves, up to the last bits."""
    regions = [Region(LEFT, "a barn", lora="style:0.7"), Region(RIGHT, "a tent", lora="style:-0.4")]
    told = {"strategy": strategy}
    network = engine.backbone.networks["inpaint" if strategy == "inpaint9" else "base"]
    engine.load_lora(file, 0)
    try:
        with monkeypatch.context() as patched:
            rows = tiny.count_rows(patched, network.module)
            together = edited(engine, photo, *regions, **told)
        alone = [edited(engine, photo, region, **told) for region in regions]
    finally:
        engine.unload_lora()
    assert together.settings["runs"] == [[1], [2]]
    assert rows == [4] * STEPS
    for row, each in zip(together.latents, alone, strict=True):
        assert torch.allclose(row, each.latents[0], atol=1e-4)


# --- regions that touch --------------------------------------------------------------------------


def test_choices_that_come_to_the_same_are_one_edit(engine, file, photo):
    """Regions that touch and say the same, with LoRAs that say so in other words: an edit of their
    union by the model that is so loaded.
    """
    union = np.maximum(LEFT, WIDE)
    engine.load_lora(file, 0.7)
    try:
        plain = edited(engine, photo, Region(union, "a barn"))
        engine.load_lora(file, 0, name="style")
        engine.load_lora(file, 0, name="other")
        regions = [
            Region(LEFT, "a barn", lora="style:0.7"),
            Region(WIDE, "a barn", lora=["other:0", "style:0.7"]),
        ]
        joint = edited(engine, photo, *regions, prompt="a barn")
    finally:
        engine.unload_lora()
    assert joint.settings["runs"] == [[1, 2]]
    assert torch.allclose(joint.latents, plain.latents, atol=1e-4)


@pytest.mark.parametrize("base", [False, True])
def test_a_choice_acts_where_its_region_is(engine, file, photo, base):
    """A LoRA in one of two regions that touch changes the picture more there than in the other;
    what the edit's own map adds to them has what the model has by itself.
    """
    second = RIGHT if base else columns(24, 64)
    settings = {"num_inference_steps": 2, "colour": "none", "coupling": "latents"}
    settings |= {"strength_map": np.full((SIZE, SIZE), 0.5, np.float32)} if base else {}
    engine.load_lora(file, 0, name="style")
    try:
        none, left, right = (
            edited(
                engine,
                photo,
                Region(LEFT, "a barn", lora=one),
                Region(second, "a barn", lora=two),
                **settings,
            )
            for one, two in ((None, None), ("style:2", None), ([], "style:2"))
        )
    finally:
        engine.unload_lora()
    runs = [[0, 1, 2]] if base else [[1, 2]]
    assert none.settings["runs"] == left.settings["runs"] == right.settings["runs"] == runs
    for changed, here, there in ((left, LEFT, RIGHT), (right, RIGHT, LEFT)):
        change = np.abs(changed.images[0] - none.images[0]).mean(axis=-1)
        assert change[here > 0].mean() > 2 * change[there > 0].mean()


def test_one_call_has_one_set_for_several_prompts(engine, file, photo):
    engine.load_lora(file, 0, name="style")
    try:
        with pytest.raises(InputError, match=r"one set of LoRAs.*'latents'"):
            edited(
                engine,
                photo,
                Region(LEFT, "a barn", lora="style"),
                Region(WIDE, "a tent"),
                coupling="attention",
            )
    finally:
        engine.unload_lora()


# --- and the rest --------------------------------------------------------------------------------


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
