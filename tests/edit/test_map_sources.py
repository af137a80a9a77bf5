"""Maps from less than a mask: words, a change, points, transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import InputError, ModelError
from engine.cli.app import run
from engine.edit.map_sources import MAP_SOURCES, find_map
from engine.picture.cutout import cut_out, cut_out_at


def overlap(found, truth):
    """Intersection over union."""
    return ((found > 0.5) & truth).sum() / ((found > 0.5) | truth).sum()


@pytest.fixture(scope="module")
def disc():
    """A red disc on a green field with a little noise, and where it is."""
    rows, columns = np.mgrid[:96, :128]
    truth = (rows - 40) ** 2 + (columns - 70) ** 2 < 20**2
    noise = np.random.default_rng(0).integers(0, 24, (96, 128, 1), dtype=np.uint8)
    picture = np.where(truth[..., None], (190, 30, 30), (40, 120, 50)).astype(np.uint8) + noise
    return picture, truth


def test_a_rough_guess_becomes_the_thing(disc):
    picture, truth = disc
    rows, columns = np.mgrid[:96, :128]
    guess = np.exp(-((rows - 44) ** 2 + (columns - 66) ** 2) / 700).astype(np.float32)
    assert overlap(cut_out(picture, guess), truth) > 0.9
    assert np.array_equal(cut_out(picture, guess), cut_out(picture, guess))
    assert not cut_out(picture, np.zeros_like(guess)).any()


def test_a_click_is_the_thing_under_it(disc):
    picture, truth = disc
    large = np.asarray(Image.fromarray(picture).resize((1280, 960)))
    found = find_map("click", None, {"image": large, "inside": [(700, 400)]})
    assert found.shape == (960, 1280)
    assert overlap(found, np.kron(truth, np.ones((10, 10), bool))) > 0.9
    without = cut_out_at(picture, [(70, 40)], [(5, 5), (120, 90)])
    assert overlap(without, truth) > 0.9


def test_transparency_is_a_map(disc):
    picture, truth = disc
    alpha = np.where(truth, 0, 255).astype(np.uint8)
    found = find_map("alpha", None, {"image": np.dstack([picture, alpha])})
    assert np.array_equal(found > 0, truth)


@pytest.mark.parametrize("how", ["words", "change"])
def test_the_model_finds_what_is_named(pocket, how):
    """A large thing of the pocket world: what is found lies on it, and is the same every time."""
    from engine.pocket import world

    spec = world.SceneSpec(**{**vars_of(world.sample_scene(1_000_681)), "objects": ()})
    spec = spec.with_object(world.SceneObject("house", "red", 0.42, 0.88, 0.5))
    scene = world.render(spec, 128)
    every: dict[str, dict[str, Any]] = {
        "words": {"words": ("red house",), "prompt": spec.caption},
        "change": {"prompt": spec.recoloured(0, "blue").caption, "was": spec.caption},
    }
    wanted = every[how]
    found = pocket.map_from(how, image=scene.image, **wanted)
    assert overlap(found, np.asarray(scene.masks[0])) > 0.4
    assert np.array_equal(found, pocket.map_from(how, image=scene.image, **wanted))
    soft = pocket.map_from(how, image=scene.image, **wanted, refine=False)
    inside = np.asarray(scene.masks[0])
    assert soft[inside].mean() > 2 * soft[~inside].mean()


def vars_of(spec):
    import dataclasses

    return {each.name: getattr(spec, each.name) for each in dataclasses.fields(spec)}


def test_a_segmenter_that_is_named(disc):
    """A tiny Segment Anything of random weights: its surest mask, of the picture's size."""
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    side = 64
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=side,
        patch_size=16,
        mlp_dim=16,
        global_attn_indexes=[0],
        num_pos_feats=8,
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=16, image_size=side, patch_size=16, mask_input_channels=8
    )
    masks = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompts.to_dict(),
        mask_decoder_config=masks.to_dict(),
    )
    sizes: dict[str, Any] = {
        "size": {"longest_edge": side},
        "pad_size": {"height": side, "width": side},
    }
    segmenter = SamModel(config).eval(), SamProcessor(SamImageProcessor(**sizes))
    picture, _ = disc
    wanted = {"image": picture, "inside": [(70, 40)], "outside": [(5, 5)], "segmenter": segmenter}
    found = find_map("click", None, wanted)
    assert found.shape == picture.shape[:2]
    assert set(np.unique(found)) <= {0.0, 1.0}


def test_what_is_refused(pocket, disc):
    picture, _ = disc
    for how, wanted, said in (
        ("click", {}, "a point"),
        ("click", {"inside": [(500, 4)]}, "beside"),
        ("click", {"inside": (3, 3)}, r"pairs \(x, y\) of pixels in a list, not 3"),
        ("click", {"inside": [("a", "b")]}, "pairs"),
        ("words", {}, "needs the words"),
        ("words", {"words": ("house",), "prompt": "a boat"}, "does not stand"),
        ("change", {"prompt": "a boat", "was": "a boat"}, "two texts"),
        ("clicks", {}, "click"),
        ("alpha", {}, "transparen"),
    ):
        with pytest.raises(InputError, match=said):
            pocket.map_from(how, image=picture, **wanted)
    with pytest.raises(ModelError, match="Segment Anything"):
        find_map("click", None, {"image": picture, "inside": [(70, 40)], "segmenter": "/none"})
    assert {info.name for info in MAP_SOURCES} >= {"alpha", "change", "click", "words"}


def test_on_the_command_line(disc, tmp_path, capsys):
    picture, truth = disc
    photo, out = tmp_path / "photo.png", tmp_path / "map.png"
    Image.fromarray(picture).save(photo)
    command = ["map", "--photo", str(photo), "-o", str(out)]
    assert run([*command, "--from-click", "70,40", "--not-click", "4,4", "-q"]) == 0
    assert overlap(np.asarray(Image.open(out)) / 255, truth) > 0.9
    capsys.readouterr()
    for more, said in (
        (["--from-click", "70,40", "--from-alpha"], "begin with one"),
        (["--from-click", "70"], "2 numbers"),
    ):
        assert run([*command, *more]) == 2
        assert said in capsys.readouterr().err


def test_words_without_a_caption_are_looked_for_too(pocket):
    from engine.pocket import world

    spec = world.SceneSpec(**{**vars_of(world.sample_scene(1_000_681)), "objects": ()})
    scene = world.render(spec.with_object(world.SceneObject("house", "red", 0.42, 0.88, 0.5)), 128)
    inside = np.asarray(scene.masks[0])
    soft = pocket.map_from("words", image=scene.image, words=("red house",), refine=False)
    assert soft[inside].mean() > 2 * soft[~inside].mean()
