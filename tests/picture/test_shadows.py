"""The shadow at a thing's foot: found where there is one, and nothing else; taken by an edit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from engine import InpaintEngine
from engine.cli.app import run
from engine.picture.shadows import shadow_of


def meadow(size: int = 128, factor: float = 0.7):
    """Ground with a texture, a red block on it and its shadow to the right: picture, the block's
    map, the shadow's.
    """
    rng = np.random.default_rng(0)
    ground = (
        np.array([96, 140, 70])
        + rng.normal(0, 3, (size, size, 3))
        + 12 * np.linspace(0, 1, size).reshape(-1, 1, 1)
    )
    unit = size // 16
    shadow = np.zeros((size, size), np.uint8)
    cv2.ellipse(shadow, (8 * unit, 11 * unit), (4 * unit, unit), 0, 0, 360, 1, -1)
    thing = np.zeros((size, size), np.float32)
    thing[4 * unit : 11 * unit, 5 * unit : 10 * unit] = 1
    picture = np.where(shadow[..., None] > 0, ground * factor, ground)
    picture = np.where(thing[..., None] > 0, np.array([190, 40, 40]), picture)
    return picture.clip(0, 255).astype(np.uint8), thing, (shadow > 0) & (thing == 0)


@pytest.mark.parametrize("size", [128, 640])
def test_it_is_found(size):
    picture, thing, shadow = meadow(size)
    found = shadow_of(picture, thing) > 0
    assert (found & shadow).sum() > 0.7 * shadow.sum()
    assert (found & shadow).sum() > 0.8 * found.sum()
    assert not found[thing > 0].any()


def test_where_there_is_none_none_is_found():
    picture, thing, _ = meadow(factor=1.0)
    assert not shadow_of(picture, thing).any()
    assert not shadow_of(picture, np.zeros_like(thing)).any()
    assert not shadow_of(picture, np.ones_like(thing)).any()


def test_it_is_as_strong_as_the_thing():
    picture, thing, _ = meadow()
    assert set(np.unique(shadow_of(picture, thing * np.float32(0.5)))) == {0.0, 0.5}


def test_an_edit_takes_it_along():
    """What is repainted is what the map with the shadow would have been; the rest stays."""
    picture, thing, _ = meadow()
    engine = InpaintEngine.from_pretrained(device="cpu")
    settings = {
        "image": picture,
        "prompt": "a meadow",
        "num_inference_steps": 2,
        "seed": 1,
        "output_type": "np",
    }
    taken = engine.edit(strength_map=thing, take="shadow", **settings)
    both = np.maximum(thing, shadow_of(picture, thing))
    told = engine.edit(strength_map=both, **settings)
    assert np.array_equal(taken.images[0], told.images[0])
    kept = both == 0
    assert np.array_equal(taken.images[0][kept], picture[kept] / np.float32(255))
    region = engine.edit(regions={"map": thing}, take="shadow", **settings)
    assert np.array_equal(region.images[0], taken.images[0])


def test_the_map_shows_it(tmp_path, capsys):
    picture, thing, _ = meadow()
    photo, mask, out = (tmp_path / f"{name}.png" for name in ("photo", "mask", "out"))
    Image.fromarray(picture).save(photo)
    Image.fromarray((255 * thing).astype(np.uint8)).save(mask)
    assert run(["map", str(mask), "--shadow", "-o", str(out)]) == 2
    assert "--shadow needs --photo" in capsys.readouterr().err
    assert run(["map", str(mask), "--photo", str(photo), "--shadow", "-q", "-o", str(out)]) == 0
    found = np.asarray(Image.open(out)) > 0
    assert np.array_equal(found, np.maximum(thing, shadow_of(picture, thing)) > 0)
