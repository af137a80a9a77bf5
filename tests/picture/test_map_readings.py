"""A map that can be read in two ways is refused; a few odd pixels never decide about the others."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InputError
from engine.picture.deep import TURNS
from engine.picture.map_files import check_strength, load_mask, load_strength_map, split_batch
from engine.picture.read import Picture, load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = (64, 48)


def half() -> NDArray[np.bool_]:
    mask = np.zeros((48, 64), bool)
    mask[:, :32] = True
    return mask


def layer(colour: Any, *, opacity: Any = 255) -> NDArray[np.uint8]:
    """Strokes of ``colour`` over the left half of an empty layer."""
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[half(), :3], rgba[half(), 3] = colour, opacity
    return rgba


@pytest.mark.parametrize("pixels", [1, 9, 200])
def test_a_few_transparent_pixels_do_not_turn_a_mask(pixels: int) -> None:
    rgba = np.dstack([*[half().astype(np.uint8) * 255] * 3, np.full((48, 64), 255, np.uint8)])
    expected = half().astype(np.float32)
    rgba.reshape(-1, 4)[-pixels:, 3] = 0
    expected.reshape(-1)[-pixels:] = 0
    np.testing.assert_array_equal(load_mask(rgba, SIZE), expected)
    rgba.reshape(-1, 4)[:pixels, 3] = 0
    expected.reshape(-1)[:pixels] = 0
    np.testing.assert_array_equal(load_mask(rgba, SIZE), expected)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)])
def test_any_colour_on_black_counts_fully(colour: Any) -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[half()] = colour
    for load in (load_mask, load_strength_map):
        np.testing.assert_array_equal(load(rgb, SIZE), half())
        np.testing.assert_array_equal(load(layer(colour), SIZE), half())


def test_strokes_of_several_colours_count_by_their_opacity() -> None:
    rgba = layer((255, 0, 0))
    rgba[:20, :32, :3] = (0, 60, 0)
    np.testing.assert_array_equal(load_mask(rgba, SIZE), half())


def test_colours_without_black_are_refused() -> None:
    rgb = np.full((48, 64, 3), 255, np.uint8)
    rgb[half()] = (255, 0, 0)
    with pytest.raises(InputError, match="in colours and has no black"):
        load_strength_map(rgb, SIZE)


def photo() -> NDArray[np.uint8]:
    y, x = np.mgrid[:48, :64]
    rgb = np.dstack([4 * x, 5 * y, 255 - 2 * x - y]).astype(np.uint8)
    return np.dstack([rgb, np.where(half(), 0, 255).astype(np.uint8)])


def test_a_photo_with_a_hole_is_read_when_it_says_what_is_kept() -> None:
    np.testing.assert_array_equal(load_mask(photo(), SIZE, invert=True), half())
    with pytest.raises(InputError, match=r"photo with transparent pixels.*'alpha'.*invert"):
        load_mask(photo(), SIZE)
    picture = load_image(photo())
    for load in (load_mask, load_strength_map):
        np.testing.assert_array_equal(load("alpha", SIZE, picture=picture), half())
    with pytest.raises(InputError, match="not of use here"):
        load_strength_map("alpha", SIZE)
    grey = photo()
    grey[:, :, :3] = grey[:, :, :1]
    own = load_image(grey)
    with pytest.raises(InputError, match="photo with transparent pixels"):
        load_mask(grey, SIZE, picture=own)
    np.testing.assert_array_equal(load_mask(grey, SIZE, invert=True, picture=own), half())


def test_empty_and_weak_strength_maps() -> None:
    with pytest.raises(InputError, match="is empty: nothing to repaint"):
        check_strength(load_strength_map(np.full((48, 64), 6, np.uint8), SIZE))
    with pytest.warns(UserWarning, match=r"its strongest value is 0.11 of 1"):
        check_strength(np.full((4, 4), 28 / 255, np.float32))
    check_strength(np.full((4, 4), 0.2, np.float32))


@pytest.mark.parametrize("value", [4080, 10000])
def test_a_mask_that_is_too_dark_says_how_dark_it_is(value: int) -> None:
    mask = half().astype(np.uint16) * np.uint16(value)
    with pytest.raises(InputError, match=r"is empty.*strongest value is 0\.\d+ of 1"):
        load_mask(mask, SIZE)


@pytest.mark.parametrize("tensor", [False, True])
def test_three_dimensions_are_maps_where_their_number_fits(*, tensor: bool) -> None:
    maps = np.stack([np.roll(half(), shift, axis=1) for shift in (0, 5, 9)])
    source: Any = torch.from_numpy(maps) if tensor else maps
    taken = split_batch(source, 3, SIZE)
    for one, own in zip(taken, maps, strict=True):
        np.testing.assert_array_equal(load_mask(one, SIZE), own)
    for count in (1, 2):
        with pytest.raises(InputError, match=r"can be 3 maps.*or one map of 3 channels"):
            split_batch(source, count, SIZE)
    same = torch.from_numpy(np.stack([half()] * 3))
    assert len(split_batch(same, 1, SIZE)) == 1
    assert len(split_batch(source[None], 1, SIZE)) == 1
    with pytest.raises(InputError, match="2 maps for 3 pictures"):
        split_batch([half(), half()], 3, SIZE)


def test_a_layer_without_strokes_is_empty() -> None:
    blank = np.zeros((48, 64, 4), np.uint8)
    picture = Picture(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(InputError, match="is empty: nothing to repaint"):
        load_mask(blank, SIZE, picture=picture)


def test_a_map_that_may_be_painted_on_the_stored_photo_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(half()).save(path)
    rgb = np.zeros((48, 64, 3), np.uint8)
    with pytest.warns(UserWarning, match="turned by its EXIF orientation"):
        load_mask(path, SIZE, picture=Picture(rgb, orientation=3))
    load_mask(path, SIZE, picture=Picture(rgb))
    load_mask(path, SIZE, picture=Picture(rgb, orientation=6))  # its size tells that it is upright
    even = np.zeros((48, 64), np.uint8)
    even[10:38, 10:54] = 255
    Image.fromarray(even).save(path)
    load_mask(path, SIZE, picture=Picture(rgb, orientation=3))  # the same either way


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_and_says_so(tmp_path: Path, orientation: int, *, deep: bool) -> None:
    """Pillow and OpenCV, which reads 16 bits of colours, turn TIFFs while they decode them."""
    path = tmp_path / "photo.tif"
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 3))
    if deep:
        cv2.imwrite(str(path), (values * 257).astype(np.uint16)[:, :, ::-1])
        set_orientation(path, orientation)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(values.astype(np.uint8)).save(path, exif=exif)
    picture = load_image(path)
    upright = TURNS.get(orientation, lambda same: same)(values)
    np.testing.assert_array_equal(picture.rgb, upright)
    assert picture.orientation == orientation
    assert (picture.deep is not None) == deep
    if picture.deep is not None:
        np.testing.assert_array_equal(picture.deep, upright * 257)


def set_orientation(path: Path, orientation: int) -> None:
    """Write the tag into OpenCV's little-endian TIFF, in the place of one that says nothing new
    (PlanarConfiguration, 284, which is 1 anyway); tags are sorted, which readers do not ask for.
    """
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    for place in range(first + 2, first + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, place)[0] == 284:
            struct.pack_into("<HHII", data, place, 274, 3, 1, orientation)
    path.write_bytes(data)


def test_eight_bits_in_the_place_of_sixteen_are_told_of(tmp_path: Path) -> None:
    """Read by their range they would all be black, or all white where white is kept."""
    values = np.zeros((16, 16), np.uint16)
    values[4:8, 4:8] = 255
    Image.fromarray(values).save(tmp_path / "m.png")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "m.tif")
    for source in (values, tmp_path / "m.png", tmp_path / "m.tif"):
        for load in (load_mask, load_strength_map):
            with pytest.raises(InputError, match=r"up to 255 of 65535; if it holds 8 bits"):
                load(source, (16, 16), invert=True)


def test_labels_are_named_as_faint() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[4:8, 4:8] = 3
    with pytest.raises(InputError, match=r"is empty.*strongest value is 0.0118 of 1"):
        load_mask(labels, (16, 16))
