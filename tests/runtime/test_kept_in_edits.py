"""Edits of pictures that are more than opaque 8-bit RGB, and inputs that could mean two things."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InputError
from engine.picture.deep import KEY
from tests.kit import tiny

SIZE = tiny.SIZE
OUTSIDE = np.asarray(tiny.box_mask().convert("L")) == 0


def noise16(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 65536, (SIZE, SIZE, channels), np.uint16)


def edited(engine: Any, **changes: Any) -> Any:
    settings = {
        "image": tiny.picture(),
        "mask": tiny.box_mask(),
        "prompt": "a red house",
        "num_inference_steps": 2,
        "seed": 2,
    }
    return engine.edit(**{**settings, **changes})


@pytest.mark.parametrize("paste", ["alpha", "multiband"])
def test_sixteen_bits_are_kept_outside_the_edit(engine, paste):
    values = noise16()
    image = edited(engine, image=values, paste=paste).images[0]
    np.testing.assert_array_equal(image.info[KEY][OUTSIDE], values[OUTSIDE])
    assert (image.info[KEY][~OUTSIDE] != values[~OUTSIDE]).any()
    array = edited(engine, image=values, paste=paste, output_type="np").images[0]
    np.testing.assert_array_equal(array[OUTSIDE], (values[OUTSIDE] / np.float32(65535)))


def test_new_canvas_beside_sixteen_bits(engine):
    values = noise16()
    image = edited(engine, image=values, mask=None, expand=(0, 0, 16, 0)).images[0]
    np.testing.assert_array_equal(image.info[KEY][:, :SIZE], values)
    assert image.size == (SIZE + 16, SIZE)


@pytest.mark.parametrize("paste", ["alpha", "adaptive", "multiband", "poisson"])
def test_a_grey_picture_gives_a_grey_result_unless_asked_otherwise(engine, paste):
    grey = tiny.picture().convert("L")
    image = edited(engine, image=grey, paste=paste).images[0]
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image)[OUTSIDE], np.asarray(grey)[OUTSIDE])
    coloured = edited(engine, image=grey, paste=paste, keep_grey=False).images[0]
    assert coloured.mode == "RGB"
    assert np.ptp(np.asarray(coloured), axis=2).max() > 0


def with_hole(beneath: int = 0) -> Image.Image:
    """The tiny picture with a hole where the mask is, ``beneath`` under it."""
    rgba = np.array(tiny.picture().convert("RGBA"))
    rgba[~OUTSIDE] = (*[beneath] * 3, 0)
    return Image.fromarray(rgba)


def test_the_word_alpha_repaints_the_hole_and_makes_it_visible(engine):
    image = edited(engine, image=with_hole(), mask="alpha").images[0]
    assert image.mode == "RGBA"
    assert np.asarray(image)[..., 3].min() == 255
    np.testing.assert_array_equal(np.asarray(image)[OUTSIDE], np.asarray(with_hole())[OUTSIDE])
    again = edited(engine, image=with_hole(), mask=with_hole(), invert=True).images[0]
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))
    with pytest.raises(InputError, match="no transparent pixel"):
        edited(engine, mask="alpha")


def test_each_picture_has_its_own_hole(engine):
    moved = Image.fromarray(np.roll(np.asarray(with_hole()), 9, axis=1))
    together = edited(engine, image=[with_hole(), moved], mask="alpha").images
    for image, alone in zip(together, (with_hole(), moved), strict=True):
        kept = np.asarray(alone)[..., 3] > 0
        np.testing.assert_array_equal(np.asarray(image)[kept], np.asarray(alone)[kept])
        assert np.asarray(image)[..., 3].min() == 255


@pytest.mark.parametrize("mask", ["alpha", "beside"])
def test_what_lies_under_invisible_pixels_changes_nothing(engine, mask):
    beside = np.zeros((SIZE, SIZE), np.uint8)
    beside[:, :12] = 255
    given = "alpha" if mask == "alpha" else beside
    results = [
        np.asarray(edited(engine, image=with_hole(beneath), mask=given).images[0])
        for beneath in (0, 255)
    ]
    visible = results[0][..., 3] > 0
    np.testing.assert_array_equal(results[0][visible], results[1][visible])
    if mask == "beside":  # untouched, and as it was
        assert (results[1][~visible] == (255, 255, 255, 0)).all()


def test_a_tensor_of_rgba_is_no_latents(engine):
    rgba = torch.rand(1, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert edited(engine, image=rgba).images[0].size == (SIZE, SIZE)
    with pytest.raises(InputError, match=r"latents .* or an RGBA picture"):
        edited(engine, image=torch.zeros(1, 4, SIZE, SIZE))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert edited(engine, image=latents).images[0].size == (SIZE, SIZE)


def test_maps_of_three_dimensions(engine):
    pictures = [tiny.picture(seed=1), tiny.picture(seed=2)]
    masks = np.stack([~OUTSIDE, np.roll(~OUTSIDE, 11, axis=0)])
    for given in (masks, torch.from_numpy(masks)):
        images = edited(engine, image=pictures, mask=given).images
        for image, picture, mask in zip(images, pictures, masks, strict=True):
            kept = np.asarray(picture)[~mask]
            np.testing.assert_array_equal(np.asarray(image)[~mask], kept)
    with pytest.raises(InputError, match="can be 2 maps"):
        edited(engine, mask=torch.from_numpy(masks))


def test_strength_maps_that_change_nothing_or_hardly_anything(engine):
    with pytest.raises(InputError, match="is empty"):
        edited(engine, mask=None, strength_map=np.zeros((SIZE, SIZE)))
    with pytest.warns(UserWarning, match="is weak"):
        edited(engine, mask=None, strength_map=np.full((SIZE, SIZE), 0.1))


def test_the_limit_is_that_of_the_grown_canvas(engine):
    with pytest.raises(InputError, match="would grow to"):
        edited(engine, expand=(16384, 16384, 16384, 16384))
