"""Strength maps: polarity, ranges, sizes, and the laws that 0 stays 0 and 1 stays 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from engine.canvas import paste
from engine.errors import InputError
from engine.masks import (
    SNAP,
    distance_to,
    is_hard,
    load_mask,
    load_strength_map,
    paste_alpha,
    to_latent_grid,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

quick = settings(max_examples=60, deadline=None)

levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
soft_maps = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=levels
)
hard_maps = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    elements=st.sampled_from([0.0, 1.0]),
)


def size_of(array: NDArray[Any]) -> tuple[int, int]:
    return array.shape[1], array.shape[0]


def half(height: int = 24, width: int = 32) -> NDArray[np.bool_]:
    """A mask whose left half is to be repainted."""
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


# --- one map, every form it comes in -------------------------------------------------------------


def forms() -> dict[str, Any]:
    mask = half()
    byte = mask.astype(np.uint8) * 255
    red = np.zeros((24, 32, 4), np.uint8)
    red[mask] = (255, 0, 0, 255)  # strokes in red on an empty layer
    palette = Image.new("P", (32, 24))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.putdata(mask.astype(np.uint8).ravel().tolist())
    return {
        "1": Image.fromarray(mask),
        "L": Image.fromarray(byte),
        "L of 0 and 1": Image.fromarray(mask.astype(np.uint8)),
        "RGB": Image.fromarray(byte).convert("RGB"),
        "RGBA, opaque": Image.fromarray(byte).convert("RGBA"),
        "RGBA, strokes": Image.fromarray(red),
        "LA, opaque": Image.fromarray(byte).convert("LA"),
        "P": palette,
        "CMYK": Image.fromarray(byte).convert("RGB").convert("CMYK"),
        "I;16": Image.fromarray(mask.astype(np.uint16) * 65535),
        "I": Image.fromarray(mask.astype(np.int32) * 65535),
        "F": Image.fromarray(mask.astype(np.float32)),
        "bool": mask,
        "uint8": byte,
        "uint8 of 0 and 1": mask.astype(np.uint8),
        "uint16": mask.astype(np.uint16) * 65535,
        "int64 of 0 and 1": mask.astype(np.int64),
        "float16": mask.astype(np.float16),
        "float32": mask.astype(np.float32),
        "float64": mask.astype(np.float64),
        "H W 1": mask.astype(np.float32)[:, :, None],
        "1 H W": mask.astype(np.float32)[None],
        "H W 2": np.dstack([np.zeros_like(byte), byte]),
        "H W 3": np.dstack([byte] * 3),
        "H W 4": red,
        "torch h w": torch.from_numpy(mask.astype(np.float32)),
        "torch 1 h w": torch.from_numpy(mask.astype(np.float32))[None],
        "torch b c h w": torch.from_numpy(mask.astype(np.float32))[None, None],
        "torch 1 3 h w": torch.from_numpy(mask.astype(np.float32)).expand(1, 3, 24, 32),
        "torch bool": torch.from_numpy(mask),
        "torch uint8": torch.from_numpy(byte),
        "torch bfloat16": torch.from_numpy(mask.astype(np.float32)).bfloat16(),
        "torch with grad": torch.from_numpy(mask.astype(np.float32)).requires_grad_(),
    }


@pytest.mark.parametrize("form", forms())
def test_every_form_of_a_map_gives_the_same_map(form: str) -> None:
    source = forms()[form]
    result = load_strength_map(source, (32, 24))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, half().astype(np.float32))
    np.testing.assert_array_equal(load_mask(source, (32, 24)), half().astype(np.float32))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map.{suffix}"
    Image.fromarray(half().astype(np.uint8) * 255).save(path)
    expected = half().astype(np.float32)
    np.testing.assert_array_equal(load_strength_map(path, (32, 24)), expected)
    np.testing.assert_array_equal(load_mask(str(path), (32, 24)), expected)


def test_invert_flips_the_polarity_exactly() -> None:
    grey = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)
    straight = load_strength_map(grey, (32, 24))
    inverted = load_strength_map(grey, (32, 24), invert=True)
    np.testing.assert_array_equal(inverted, 1 - straight)
    np.testing.assert_array_equal(load_mask(half(), (32, 24), invert=True), 1 - half())


def test_values_keep_their_meaning() -> None:
    for source in (
        np.full((8, 8), 128, np.uint8),
        np.full((8, 8), 32896, np.uint16),
        np.full((8, 8), 128 / 255),
        Image.new("L", (8, 8), 128),
        Image.new("I", (8, 8), 32896),
        Image.new("RGB", (8, 8), (128, 128, 128)),
    ):
        result = load_strength_map(source, (8, 8))
        np.testing.assert_array_equal(result, np.full((8, 8), np.float32(128) / np.float32(255)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    upright = half(24, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright).astype(np.uint8) * 255).save(path, exif=exif)
    np.testing.assert_array_equal(load_strength_map(path, (32, 24)), upright)


# --- transparency --------------------------------------------------------------------------------


def test_strokes_at_98_percent_opacity_count_as_full() -> None:
    for opacity in (249, 250, 251):
        layer = np.zeros((24, 32, 4), np.uint8)
        layer[half()] = (0, 0, 0, opacity)
        np.testing.assert_array_equal(load_strength_map(Image.fromarray(layer), (32, 24)), half())


def test_an_alpha_channel_of_one_value_says_nothing() -> None:
    image = Image.fromarray(half().astype(np.uint8) * 255).convert("RGBA")
    image.putalpha(200)
    np.testing.assert_array_equal(load_strength_map(image, (32, 24)), half())


def test_an_empty_layer_is_an_empty_map() -> None:
    layer = Image.new("RGBA", (32, 24), (255, 255, 255, 0))
    assert not load_strength_map(layer, (32, 24)).any()
    with pytest.raises(InputError, match="nothing to repaint"):
        load_mask(layer, (32, 24))


def test_alpha_can_be_chosen() -> None:
    layer = np.zeros((24, 32, 4), np.uint8)
    layer[half()] = (0, 0, 0, 255)
    layer[~half()] = (255, 255, 255, 0)
    image = Image.fromarray(layer)
    np.testing.assert_array_equal(load_strength_map(image, (32, 24), alpha="alpha"), half())
    np.testing.assert_array_equal(load_strength_map(image, (32, 24), alpha="luminance"), ~half())
    with pytest.raises(InputError, match="no alpha channel"):
        load_strength_map(image.convert("RGB"), (32, 24), alpha="alpha")
    with pytest.raises(InputError, match="'auto', 'alpha' or 'luminance'"):
        load_strength_map(image, (32, 24), alpha="red")  # type: ignore[arg-type]


def test_transparent_palettes(tmp_path: Path) -> None:
    path = tmp_path / "strokes.gif"
    image = Image.new("P", (32, 24), 0)
    image.putpalette([10, 10, 10, 200, 0, 0])
    image.paste(1, (0, 0, 16, 24))
    image.save(path, transparency=0)
    np.testing.assert_array_equal(load_strength_map(path, (32, 24)), half())


# --- cleaning ------------------------------------------------------------------------------------


def test_noise_near_the_ends_is_snapped() -> None:
    row = np.array([[0, 6, 7, 128, 248, 249, 255]], np.uint8).repeat(2, axis=0)
    for source in (row, row / 255, row.astype(np.uint16) * 257):
        result = load_strength_map(source, (7, 2))[0]
        assert list(result[:2]) == [0, 0]
        assert 0 < result[2] < result[3] < result[4] < 1
        assert list(result[5:]) == [1, 1]
    as_given = load_strength_map(row / 255, (7, 2), snap=0)
    np.testing.assert_array_equal(as_given, (row / 255).astype(np.float32))
    assert SNAP < 1 / 42


@pytest.mark.parametrize("quality", [95, 75, 50, 30])
def test_thin_strokes_survive_jpeg(tmp_path: Path, quality: int) -> None:
    path = tmp_path / "strokes.jpg"
    image = Image.new("L", (128, 128))
    draw = ImageDraw.Draw(image)
    for line in ((10, 20, 120, 24), (60, 5, 64, 120), (5, 5, 120, 120)):
        draw.line(line, 255, 1)
    image.convert("RGB").save(path, quality=quality)
    np.testing.assert_array_equal(load_mask(path, (128, 128)), np.asarray(image) > 0)


@pytest.mark.parametrize("name", ["", "int16", "int64", "uint32"])
def test_ambiguous_integers_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="uint8 \\(0 to 255\\)"):
        load_strength_map(np.full((8, 8), 100, name or np.int32), (8, 8))


# --- sizes ---------------------------------------------------------------------------------------


@given(hard_maps, st.integers(1, 5))
@quick
def test_hard_maps_stay_hard_and_strokes_survive_any_shrinking(
    mask: NDArray[np.float32], factor: int
) -> None:
    big = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(load_strength_map(big, size_of(mask)), mask)
    np.testing.assert_array_equal(load_strength_map(mask, size_of(big)), big)


@pytest.mark.parametrize("size", [(512, 341), (300, 200), (100, 67), (64, 43)])
@pytest.mark.parametrize("column", [0, 7, 333, 599])
def test_a_one_pixel_stroke_survives_shrinking_without_gaps(
    size: tuple[int, int], column: int
) -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[:, column] = 255
    for result in (load_strength_map(mask, size), load_mask(mask, size)):
        assert is_hard(result)
        assert result.any(axis=1).all()
        assert 1 <= result.sum() / size[1] <= 2


@given(soft_maps, st.integers(1, 4), st.integers(1, 4))
@quick
def test_resizing_keeps_0_and_1_exact(strength: NDArray[np.float32], up: int, down: int) -> None:
    block = np.zeros((12, 12), np.float32)
    block[:4], block[4:8] = 1, 0.5
    for source in (np.kron(strength, block), np.tile(strength, (2 * down, 2 * down))):
        width, height = size_of(source)
        for size in ((width * up, height * up), (max(1, width // down), max(1, height // down))):
            try:
                result = load_strength_map(source, size)
            except InputError:  # rounding of a very small map
                continue
            assert result.min() >= 0
            assert result.max() <= 1
            if not source.any():
                assert not result.any()
            if source.all() and is_hard(source):
                assert result.all()


def test_soft_maps_are_averaged_when_shrinking_and_interpolated_when_growing() -> None:
    ramp = np.linspace(0.1, 0.9, 64, dtype=np.float32)[None].repeat(64, axis=0)
    small = load_strength_map(ramp, (16, 16))
    np.testing.assert_allclose(small, ramp.reshape(16, 4, 16, 4).mean(axis=(1, 3)), atol=1e-6)
    large = load_strength_map(ramp, (256, 256))
    assert (np.diff(large, axis=1) >= -1e-7).all()
    assert large.min() >= 0.1 - 1e-6
    assert large.max() <= 0.9 + 1e-6


def test_ends_are_exact_after_resizing_a_soft_map() -> None:
    ramp = np.clip(np.linspace(-1, 2, 90, dtype=np.float32), 0, 1)[None].repeat(90, axis=0)
    for side in (31, 45, 89, 91, 200):
        result = load_strength_map(ramp, (side, side))
        scale = side / 90
        assert (result[:, : int(28 * scale)] == 0).all()
        assert (result[:, int(63 * scale) :] == 1).all()


@pytest.mark.parametrize(
    ("own", "image"),
    [
        ((512, 341), (512, 342)),
        ((512, 342), (1500, 1000)),
        ((64, 43), (1500, 1000)),
        ((250, 12), (2007, 103)),
        ((43, 64), (1000, 1500)),
        ((2, 1), (5, 2)),
        ((1, 1), (512, 512)),
    ],
)
def test_rounding_of_a_side_is_no_other_aspect_ratio(
    own: tuple[int, int], image: tuple[int, int]
) -> None:
    result = load_strength_map(np.full(own[::-1], 0.5), image)
    assert size_of(result) == image
    assert (result == 0.5).all()


@pytest.mark.parametrize(
    ("own", "image"),
    [
        ((512, 512), (512, 300)),
        ((300, 512), (512, 300)),
        ((2, 1), (512, 512)),
        ((100, 50), (100, 53)),
    ],
)
def test_another_aspect_ratio_is_refused(own: tuple[int, int], image: tuple[int, int]) -> None:
    with pytest.raises(InputError) as caught:
        load_strength_map(np.full(own[::-1], 0.5), image)
    assert f"{own[0]} x {own[1]} px" in str(caught.value)
    assert f"{image[0]} x {image[1]} px" in str(caught.value)
    assert ("turned by 90" in str(caught.value)) == (own == image[::-1])


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(value: float) -> None:
    array = np.zeros((8, 8), np.float32)
    array[3, 4] = value
    for source in (array, torch.from_numpy(array), Image.fromarray(array)):
        for load in (load_strength_map, load_mask):
            with pytest.raises(InputError, match="1 values that are NaN or infinite"):
                load(source, (8, 8))


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1), (0, 1.01), (0, 255), (-1, 1)])
def test_floats_outside_the_range(low: float, high: float) -> None:
    array = np.linspace(low, high, 64).reshape(8, 8)
    with pytest.raises(InputError, match=f"from {low:.6g} to {high:.6g}; 0 to 1 is accepted"):
        load_strength_map(array, (8, 8))


def test_rounding_noise_outside_the_range_is_clipped() -> None:
    array = np.array([[-1e-7, 0.5, 1 + 1e-6]])
    assert list(load_strength_map(array, (3, 1))[0]) == [0, 0.5, 1]


def test_empty_and_full_masks() -> None:
    with pytest.raises(InputError, match=r"nothing to repaint.*invert=True"):
        load_mask(np.zeros((8, 8)), (8, 8))
    with pytest.raises(InputError, match=r"nothing would be kept; pass strength_map="):
        load_mask(np.ones((8, 8)), (8, 8))
    with pytest.raises(InputError, match="leave out invert=True"):
        load_mask(np.ones((8, 8)), (8, 8), invert=True)
    assert load_strength_map(np.ones((8, 8)), (8, 8)).all()


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_thresholds(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        load_mask(half(), (32, 24), threshold=threshold)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((2, 8, 8)),
        np.zeros((8, 8, 5)),
        np.zeros(8),
        np.zeros((0, 8)),
        np.zeros((8, 8), complex),
        np.array([["a", "b"]]),
        torch.zeros(2, 1, 8, 8),
        [[0, 1], [1, 0]],
        None,
        3,
        Image.fromarray(np.full((8, 8), 70000, np.int32)),
        Image.new("L", (0, 8)),
    ],
    ids=str,
)
def test_shapes_and_types(source: Any) -> None:
    with pytest.raises(InputError):
        load_strength_map(source, (8, 8))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    text = tmp_path / "map.png"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    for path, message in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "not an image"),
        (cut, "damaged or truncated"),
    ):
        for load in (load_strength_map, load_mask):
            with pytest.raises(InputError, match=message) as caught:
                load(path, (64, 64))
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("snap", [-0.1, 0.5, float("nan")])
def test_snap_range(snap: float) -> None:
    with pytest.raises(InputError, match="snap"):
        load_strength_map(half(), (32, 24), snap=snap)


def test_the_source_is_not_changed() -> None:
    source = np.full((8, 8), 0.01, np.float32)
    load_strength_map(source, (8, 8))[:] = 1
    assert (source == np.float32(0.01)).all()


# --- the latent grid -----------------------------------------------------------------------------


@given(hard_maps, st.integers(1, 8))
@quick
def test_hard_cells_are_painted_when_any_pixel_is(mask: NDArray[np.float32], factor: int) -> None:
    height, width = mask.shape
    padded = np.zeros((-(-height // factor) * factor, -(-width // factor) * factor), np.float32)
    padded[:height, :width] = mask
    cells = to_latent_grid(padded, factor)
    assert cells.dtype == np.float32
    assert is_hard(cells)
    for row, column in np.ndindex(cells.shape):
        block = padded[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        assert cells[row, column] == block.max()


@given(
    hnp.arrays(
        np.float32,
        st.just((16, 24)),
        elements=st.floats(0, 1, width=32, allow_subnormal=False),
        fill=st.sampled_from([0.0, 1.0]),
    )
)
@quick
def test_soft_cells_are_means_with_exact_ends(strength: NDArray[np.float32]) -> None:
    cells = to_latent_grid(strength, 8, hard=False)
    blocks = strength.reshape(2, 8, 3, 8)
    np.testing.assert_allclose(cells, blocks.mean(axis=(1, 3)), atol=1e-6)
    assert (cells[blocks.min(axis=(1, 3)) == 1] == 1).all()
    assert (cells[blocks.max(axis=(1, 3)) == 0] == 0).all()
    assert cells.min() >= 0
    assert cells.max() <= 1


def test_hard_can_be_chosen() -> None:
    stroke = np.zeros((16, 16), np.float32)
    stroke[:, 3] = 1
    assert to_latent_grid(stroke, 8).tolist() == [[1, 0], [1, 0]]
    assert to_latent_grid(stroke, 8, hard=False).tolist() == [[0.125, 0], [0.125, 0]]
    assert to_latent_grid(stroke * np.float32(0.5), 8, hard=True).tolist() == [[0.5, 0], [0.5, 0]]
    np.testing.assert_array_equal(to_latent_grid(stroke, 1), stroke)


@pytest.mark.parametrize("shape", [(15, 16), (16, 15), (8, 8, 1), (0, 8)])
def test_the_grid_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        to_latent_grid(np.zeros(shape, np.float32), 8)
    with pytest.raises(InputError):
        to_latent_grid(np.zeros((8, 8), np.float32), 0)


def test_is_hard() -> None:
    assert is_hard(half().astype(np.float32))
    assert not is_hard(np.array([[0, 0.5, 1]], np.float32))
    assert not is_hard(np.array([[0, np.nan, 1]], np.float32))


@pytest.mark.parametrize("side", [1, 24, 300])
def test_distances_are_exact(side: int) -> None:
    """To the bit, of any layout in memory; OpenCV's own are off by a bit now and then."""
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(side)
    for _ in range(20):
        target = rng.random((side, 2 * side)) < 10.0 ** -rng.integers(1, 4)
        target[-1, -2] = True
        for each in (target, target[:, ::2]):
            expected = distance_transform_edt(~each).astype(np.float32)
            np.testing.assert_array_equal(distance_to(each), expected)
    assert (distance_to(np.zeros((3, 4), bool)) > 1e9).all()


# --- the paste alpha -----------------------------------------------------------------------------


def shapes_map() -> NDArray[np.float32]:
    """A thick disc with a thin tail, a square at the border, strokes of 1 and 3 px, a dot."""
    canvas = np.zeros((220, 420), np.uint8)
    cv2.circle(canvas, (110, 110), 80, 1, -1)
    cv2.line(canvas, (180, 110), (330, 130), 1, 7)
    canvas[150:220, 340:420] = 1
    canvas[5, 10:300] = 1
    canvas[205:208, 5:100] = 1
    canvas[20, 400] = 1
    return canvas.astype(np.float32)


@given(soft_maps, st.floats(0, 40))
@quick
def test_alpha_is_zero_exactly_where_the_map_is(
    strength: NDArray[np.float32], feather: float
) -> None:
    alpha = paste_alpha(strength, feather)
    assert alpha.dtype == np.float32
    assert alpha.shape == strength.shape
    np.testing.assert_array_equal(alpha > 0, strength > 0)
    assert alpha.max(initial=0) <= 1
    if strength.any():
        assert alpha.max() == 1  # every support has an opaque core


@given(soft_maps)
@quick
def test_no_feather_is_a_hard_cut(strength: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(paste_alpha(strength, 0), strength > 0)
    np.testing.assert_array_equal(paste_alpha(strength, 1), strength > 0)


@pytest.mark.parametrize("feather", [2, 5.5, 16, 32, 100])
def test_alpha_is_one_from_the_feather_on_and_smooth(feather: float) -> None:
    strength = shapes_map()
    alpha = paste_alpha(strength, feather)
    depth = distance_to(strength == 0)
    assert (alpha[depth >= feather] == 1).all()
    # Along the inner normal of the disc alpha only grows.
    assert (np.diff(alpha[110, 20:111]) >= 0).all()
    if feather >= 16:
        assert alpha[110, 31] < 0.02
        steps = np.abs(np.diff(alpha[60:160, 31:110], axis=1))
        assert steps.max() < 4 / feather + 0.1


def test_thick_parts_have_the_plain_ramp() -> None:
    strength = np.zeros((100, 100), np.float32)
    strength[20:81, 20:81] = 0.3
    t = np.arange(1, 17, dtype=np.float64) / 16
    expected = 6 * t**5 - 15 * t**4 + 10 * t**3
    alpha = paste_alpha(strength, 16)
    np.testing.assert_allclose(alpha[50, 20:36], expected, atol=1e-5)
    np.testing.assert_allclose(alpha[np.arange(20, 36), np.arange(20, 36)], expected, atol=1e-5)


@pytest.mark.parametrize("feather", [8, 16, 32])
def test_thin_parts_keep_a_meaningful_alpha(feather: float) -> None:
    alpha = paste_alpha(shapes_map(), feather)
    assert (alpha[5, 10:300] == 1).all()  # 1 px wide
    assert (alpha[206, 7:98] == 1).all()  # the middle of 3 px
    assert alpha[20, 400] == 1
    assert (alpha[110:140, 240:320].max(axis=0) > 0.99).all()  # the disc's tail


def test_the_picture_border_is_no_edge() -> None:
    strength = np.zeros((64, 64), np.float32)
    strength[32:, :] = 1
    alpha = paste_alpha(strength, 8)
    assert (alpha[40:] == 1).all()
    assert (alpha == alpha[:, :1]).all()
    assert (paste_alpha(np.ones((8, 8), np.float32), 16) == 1).all()
    assert not paste_alpha(np.zeros((8, 8), np.float32), 16).any()


# --- the paste alpha over an original ------------------------------------------------------------


def meadow(shape: tuple[int, int], *, texture: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(-texture, texture + 1, (*shape, 3))
    return np.asarray(np.array([90, 150, 70]) + noise, np.uint8)


@given(soft_maps, st.floats(0, 40), st.integers(0, 90))
@quick
def test_over_an_original_alpha_lies_between_the_ramps(
    strength: NDArray[np.float32], feather: float, texture: int
) -> None:
    alpha = paste_alpha(strength, feather, meadow(strength.shape, texture=texture))
    np.testing.assert_array_equal(alpha > 0, strength > 0)
    narrow = paste_alpha(strength, feather)
    wide = paste_alpha(strength, 2 * feather) if feather > 1 else narrow
    assert (alpha <= narrow).all()
    assert (alpha >= np.minimum(narrow, wide) - 1e-6).all()


@pytest.mark.parametrize("feather", [2, 5.5, 16, 100])
def test_a_plain_original_is_faded_into_over_twice_the_feather(feather: float) -> None:
    strength = shapes_map()
    alpha = paste_alpha(strength, feather, meadow(strength.shape))
    # A blur's weights add up to 1 but for float32's rounding.
    np.testing.assert_allclose(alpha, paste_alpha(strength, 2 * feather), rtol=0, atol=1e-5)


def test_a_texture_and_a_slope_go_on_too() -> None:
    strength = np.zeros((64, 64), np.float32)
    strength[16:48, 16:48] = 1
    narrow, wide = paste_alpha(strength, 4), paste_alpha(strength, 8)
    across = np.arange(64)[None, :, None]  # Delta-E .4 a px: 3 where the ramp ends
    slope = (meadow((64, 64)) + across).astype(np.uint8)
    for original in (meadow((64, 64), texture=25), slope):
        alpha = paste_alpha(strength, 4, original)
        assert (narrow - alpha).sum() > 0.7 * (narrow - wide).sum()


@pytest.mark.parametrize("far", [(0, 0), (3, 90), (120, 0)])
def test_what_else_is_repainted_far_away_does_not_matter(far: tuple[int, int]) -> None:
    """Large pictures are looked at in squares; a dot moves their borders."""
    original = meadow((600, 620), texture=12)
    cv2.circle(original, (330, 290), 30, (200, 40, 40), -1)
    strength = np.zeros((600, 620), np.float32)
    strength[200:400, 210:420] = 1
    alone = paste_alpha(strength, 4, original)
    strength[far] = 1
    together = paste_alpha(strength, 4, original)
    together[far] = 0
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_nothing_that_stood_there_shows_through_more() -> None:
    """A red ball in the mask, with room above it and none below."""
    strength, original = np.zeros((64, 64), np.float32), meadow((64, 64))
    strength[10:50, 10:54] = 1
    ball = cv2.circle(np.zeros((64, 64), np.uint8), (32, 35), 14, 1, -1) > 0
    original[ball] = (200, 40, 40)
    alpha, narrow = paste_alpha(strength, 4, original), paste_alpha(strength, 4)
    np.testing.assert_array_equal(alpha[ball], narrow[ball])
    # Beside the ball the fade is wide, and the step to it is softened.
    wide = paste_alpha(strength, 8)
    assert alpha[13, 13] == pytest.approx(wide[13, 13], abs=1e-5)
    beside = cv2.dilate(ball.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~ball
    assert (narrow - alpha)[beside].sum() < 0.8 * (narrow - wide)[beside].sum()


@pytest.mark.parametrize(("margin", "grows"), [(2, False), (4, False), (12, True)])
def test_the_margin_of_what_is_kept_does_not_grow(margin: int, grows: bool) -> None:
    """A ball is kept, all around it repainted: a halo of the old surroundings would be left."""
    original = meadow((96, 96), texture=6)
    ball = cv2.circle(np.zeros((96, 96), np.uint8), (48, 48), 20, 1, -1) > 0
    original[ball] = (200, 40, 40)
    strength = (distance_to(ball) > margin).astype(np.float32)
    given_up = paste_alpha(strength, 4) - paste_alpha(strength, 4, original)
    most = (paste_alpha(strength, 4) - paste_alpha(strength, 8)).sum()
    assert (given_up.sum() > 0.7 * most) if grows else (given_up.sum() < 0.05 * most)


def test_a_thing_painted_across_the_border_fades_away() -> None:
    """Steps are about half as large; what is asked for in the middle is untouched."""
    strength, original = np.zeros((64, 64), np.float32), meadow((64, 64))
    strength[16:48, 16:48] = 1
    edited = np.full_like(original, (200, 40, 40))
    hard, soft = (
        paste(original, edited, paste_alpha(strength, 4, under)) for under in (None, original)
    )
    steps = [np.abs(np.diff(each.astype(int), axis=1)).max() for each in (hard, soft)]
    assert steps[1] <= 0.6 * steps[0]  # a half, but for whole pixels
    assert np.array_equal(soft[24:40, 24:40], edited[24:40, 24:40])


@pytest.mark.parametrize("feather", [-1, float("nan"), float("inf")])
def test_feathers(feather: float) -> None:
    with pytest.raises(InputError, match="feather"):
        paste_alpha(np.ones((8, 8), np.float32), feather)
    with pytest.raises(InputError, match="shape"):
        paste_alpha(np.ones((8, 8, 1), np.float32), 4)
    with pytest.raises(InputError, match="fit"):
        paste_alpha(np.ones((8, 8), np.float32), 4, np.zeros((8, 9, 3), np.uint8))
