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

from engine.errors import InputError
from engine.picture.fade import paste_alpha
from engine.picture.map_channels import SNAP
from engine.picture.map_files import load_mask, load_strength_map
from engine.picture.masks import distance_to, is_hard, to_latent_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.processors
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
    with pytest.raises(InputError, match=r"nothing to repaint.*use invert=True"):
        load_mask(np.zeros((8, 8)), (8, 8))
    with pytest.raises(InputError, match=r"nothing would be kept; give it as strength_map"):
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
    ids=lambda source: f"{type(source).__name__} {getattr(source, 'shape', '')}",
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


@pytest.mark.parametrize("answer", [0, 65536, 1.8446743e19, np.finfo(np.float32).max, np.nan])
def test_without_a_target_all_is_infinitely_far(
    answer: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV leaves that undefined: its answer depends on the processor, and some overflow."""
    real: Any = cv2.distanceTransform

    def elsewhere(away: NDArray[np.uint8], *settings: int) -> Any:
        return real(away, *settings) if not away.all() else np.full(away.shape, answer, np.float32)

    target = np.zeros((40, 50), bool)
    strength = np.zeros((40, 50), np.float32)
    strength[10:30, 20:30] = 1
    expected = paste_alpha(strength, 16)
    monkeypatch.setattr(cv2, "distanceTransform", elsewhere)
    assert (distance_to(target) == np.inf).all()
    # A mask thinner than its feather has no core.
    np.testing.assert_array_equal(paste_alpha(strength, 16), expected)
