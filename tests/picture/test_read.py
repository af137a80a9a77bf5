"""Pixels in and out: every kind of picture, every bad one, and exact round trips."""

from __future__ import annotations

import gc
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from engine.errors import InputError, ModelError
from engine.picture.arrays import MAX_PIXELS
from engine.picture.deep import KEY, shallow
from engine.picture.geometry import Box, crop, pad_to_multiple
from engine.picture.pixels import paste, to_pixels, to_tensor
from engine.picture.read import Picture, load_image
from engine.picture.write import save_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

quick = settings(max_examples=60, deadline=None)

pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))


def noise(height: int = 24, width: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


# --- pictures of every kind ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "ppm"])
def test_lossless_files_give_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(noise()).save(path, **options)
    for source in (path, str(path)):
        picture = load_image(source)
        np.testing.assert_array_equal(picture.rgb, noise())
        assert picture.rgb.dtype == np.uint8
        assert picture.alpha is None
        assert picture.size == (32, 24)


def test_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise()).save(path)
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir())) if folder.exists() else 0
    pictures = [load_image(path) for _ in range(5)]
    gc.collect()  # a forgotten handle would be a ResourceWarning, which is an error in these tests
    assert len(pictures) == 5
    if folder.exists():
        assert len(list(folder.iterdir())) == before


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a boat"
    upright = noise()
    # How a camera held that way stores the scene: the inverse of what EXIF asks for.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    picture = load_image(path)
    np.testing.assert_array_equal(picture.rgb, upright)
    kept = Image.Exif()
    kept.load(picture.info["exif"])
    assert kept.get(0x0112, 1) == 1
    assert kept[0x010E] == "a boat"


def test_a_broken_exif_block_is_ignored() -> None:
    image = Image.fromarray(noise())
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    np.testing.assert_array_equal(load_image(image).rgb, noise())


def test_alpha_is_kept_beside_the_pixels(tmp_path: Path) -> None:
    rgba = noise(channels=4)
    path = tmp_path / "photo.png"
    Image.fromarray(rgba).save(path)
    for source in (path, Image.fromarray(rgba), rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        picture = load_image(source)
        np.testing.assert_array_equal(picture.rgb, rgba[:, :, :3])
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, rgba[:, :, 3])
        np.testing.assert_array_equal(np.asarray(picture.to_pil()), rgba)


def grey_forms() -> dict[str, Any]:
    grey = noise(channels=1)
    # Not every level: 8-bit values that are exact in 16 bits and in floats.
    return {
        "L": Image.fromarray(grey),
        "LA": Image.fromarray(grey).convert("LA"),
        "RGB": Image.fromarray(grey).convert("RGB"),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "I": Image.fromarray(grey.astype(np.int32) * 257),
        "F": Image.fromarray((grey / 255).astype(np.float32)),
        "P": Image.fromarray(grey).convert("P"),
        "H W": grey,
        "H W 1": grey[:, :, None],
        "uint16": grey.astype(np.uint16) * 257,
        "uint16 of another machine": (grey.astype(np.uint16) * 257).astype(
            np.dtype(np.uint16).newbyteorder()
        ),
        "float16": (np.dstack([grey] * 3) / 255).astype(np.float16),
        "float32": np.dstack([grey] * 3).astype(np.float32) / 255,
        "float64": np.dstack([grey] * 3)[None] / 255,
        "torch h w": torch.from_numpy(grey),
        "torch 1 h w": torch.from_numpy(grey.astype(np.float32) / 255)[None],
        "torch 1 3 h w": torch.from_numpy(grey / 255).expand(1, 3, 24, 32),
        "torch float16": torch.from_numpy(grey / 255).half()[None],
    }


@pytest.mark.parametrize("form", grey_forms())
def test_every_form_of_a_grey_picture_gives_the_same_pixels(form: str) -> None:
    picture = load_image(grey_forms()[form])
    assert picture.rgb.shape == (24, 32, 3)
    np.testing.assert_array_equal(picture.rgb, np.dstack([noise(channels=1)] * 3))


def test_16_bit_values_are_rounded(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 385, 386, 32767, 65406, 65407, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    for source in (path, values):
        np.testing.assert_array_equal(load_image(source).rgb[:, :, 0], expected)


def test_one_bit_and_bool() -> None:
    mask = noise(channels=1) > 127
    for source in (Image.fromarray(mask), mask, torch.from_numpy(mask)):
        np.testing.assert_array_equal(load_image(source).rgb, np.dstack([mask * 255] * 3))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("RGB", (32, 24), (200, 60, 30)).convert("CMYK").save(path, quality=100)
    picture = load_image(path)
    assert picture.alpha is None
    assert np.abs(picture.rgb.astype(int) - (200, 60, 30)).max() <= 2


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB"])
def test_other_colour_spaces(mode: str) -> None:
    image = Image.new("RGB", (4, 4), (200, 60, 30))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB") or image
    else:
        image = image.convert(mode)
    assert load_image(image).rgb.shape == (4, 4, 3)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha(mode: str) -> None:
    image = Image.new("LA" if mode == "La" else "RGBA", (4, 4), 0)
    image.putalpha(128)
    picture = load_image(image.convert(mode))
    assert picture.alpha is not None
    assert (picture.alpha == 128).all()


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (2, 0, 4, 2))
    for name, transparency in (("one.png", 1), ("each.png", b"\xff\x40"), ("one.gif", 1)):
        path = tmp_path / name
        image.save(path, transparency=transparency)
        picture = load_image(path)
        assert picture.rgb[0, 0].tolist() == [255, 0, 0]
        assert picture.rgb[0, 3].tolist() == [0, 0, 255]
        assert picture.alpha is not None
        assert picture.alpha[0].tolist() in ([255, 255, 0, 0], [255, 255, 64, 64])


def test_a_transparent_colour(tmp_path: Path) -> None:
    path = tmp_path / "key.png"
    image = Image.new("RGB", (4, 2), (1, 2, 3))
    image.paste((9, 9, 9), (0, 0, 2, 2))
    image.save(path, transparency=(1, 2, 3))
    picture = load_image(path)
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [255, 255, 0, 0]


def test_what_a_saved_file_should_keep(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "photo.png"
    Image.fromarray(noise()).save(path, icc_profile=profile, dpi=(300, 300))
    picture = load_image(path)
    assert picture.info["icc_profile"] == profile
    assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert "exif" not in picture.info
    edited = picture.to_pil(255 - picture.rgb)
    assert edited.info["icc_profile"] == profile
    np.testing.assert_array_equal(np.asarray(edited), 255 - noise())
    # A profile for other values would be wrong on the pixels that are saved.
    other = profile[:16] + b"CMYK" + profile[20:]
    Image.fromarray(noise(channels=1)).save(path, icc_profile=other)
    assert "icc_profile" not in load_image(path).info
    with pytest.raises(InputError, match="shape"):
        picture.to_pil(noise(8, 8))


def test_a_picture_can_be_made_by_hand() -> None:
    picture = Picture(noise())
    assert picture.size == (32, 24)
    assert not picture.info
    assert picture.to_pil().mode == "RGB"


def test_nothing_is_shared_with_the_source() -> None:
    array = noise()
    load_image(array).rgb[:] = 0
    image = Image.fromarray(array)
    load_image(image).rgb[:] = 0
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    load_image(tensor).rgb[:] = 0
    np.testing.assert_array_equal(array, noise())
    np.testing.assert_array_equal(np.asarray(image), noise())
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), noise())


def test_rounding_noise_of_floats_is_clipped() -> None:
    array = np.full((2, 2, 3), 1 + 1e-6)
    array[0, 0] = -1e-7
    assert load_image(array).rgb.ravel()[[0, -1]].tolist() == [0, 255]


# --- files that are refused ----------------------------------------------------------------------


def png_of_size(path: Path, width: int, height: int) -> None:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    if isinstance(source, (str, os.PathLike)):
        assert os.fspath(source) in message
    return message


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.png")
    assert "does not exist" in refusal(str(tmp_path / "no" / "where.png"))
    assert "is a folder" in refusal(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    refusal(file / "below.png")
    refusal(tmp_path / ("x" * 300 + ".png"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert "not a regular file" in refusal(tmp_path / "pipe.png")


def test_files_that_are_no_images(tmp_path: Path) -> None:
    for name, data in (("a.png", b"hello"), ("b.jpg", b"%PDF-1.7 ..."), ("c.png", b"\0" * 100)):
        (tmp_path / name).write_bytes(data)
        assert "not an image" in refusal(tmp_path / name)
    (tmp_path / "empty.png").touch()
    assert "empty file" in refusal(tmp_path / "empty.png")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    Image.fromarray(noise()).save(path)
    path.chmod(0)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif", "bmp"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(200, 200)).save(path)
    whole = path.read_bytes()
    for part in (0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif"])
def test_damaged_files_give_a_picture_or_an_input_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hurt.{suffix}"
    Image.fromarray(noise(40, 40)).save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, min(len(data), 500), 5):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            load_image(path)
        except InputError:
            continue


def test_a_png_whose_pixels_have_changed_is_refused(tmp_path: Path) -> None:
    """Stored as they are, so that Pillow decodes them without a word."""
    path = tmp_path / "hurt.png"
    Image.fromarray(noise(40, 40)).save(path, compress_level=0)
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 1000
    data[place] ^= 0x40
    path.write_bytes(data)
    assert "is damaged: its pixels do not match their checksum" in refusal(path)


def test_image_bombs(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    # Just above our limit, where Pillow only warns; above twice the limit, where it raises.
    for width, height in ((MAX_PIXELS // 100 + 1, 100), (20000, 20000), (200000, 100000)):
        png_of_size(path, width, height)
        assert "up to 89 megapixels" in refusal(path)
    png_of_size(path, MAX_PIXELS // 100, 100)  # small enough: the next complaint is of its pixels
    assert "damaged or truncated" in refusal(path)


def test_a_lower_limit_of_pillows_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "refused" in refusal(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.fromarray(noise() // k) for k in (1, 2, 3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    message = refusal(path)
    assert "3 frames" in message
    assert "image.seek(n)" in message
    with Image.open(path) as image:
        refusal(image)
        image.seek(1)
        assert load_image(image.copy()).size == (32, 24)


def test_a_still_gif_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "still.gif"
    Image.fromarray(noise(channels=1)).save(path)
    np.testing.assert_array_equal(load_image(path).rgb[:, :, 0], noise(channels=1))


def test_the_second_view_of_a_camera_file_is_no_animation(tmp_path: Path) -> None:
    path = tmp_path / "camera.mpo"
    image = Image.fromarray(noise())
    image.save(path, save_all=True, append_images=[image])
    assert load_image(path).size == (32, 24)


# --- arrays that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), "c = 1, 3 or 4"),
        (np.zeros((2, 4, 4, 3), np.uint8), "one picture"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.zeros((4, 4, 3), np.int64), "int64; accepted: bool, uint8"),
        (np.zeros((4, 4, 3), complex), "numbers"),
        (np.full((4, 4, 3), "x"), "numbers"),
        (torch.zeros(2, 3, 4, 4), "one picture"),
        (torch.zeros(8, 8, 3), "c h w"),
        (torch.zeros(3, 0, 4), "is empty"),
        (Image.new("RGB", (0, 4)), "is empty"),
        (Image.fromarray(np.full((4, 4), -1, np.int32)), "from -1 to -1"),
        (Image.fromarray(np.full((4, 4), 300, np.float32)), "300"),
        ([[0]], "a path, a Pillow image, a numpy array or a torch tensor"),
        (None, "NoneType"),
    ],
)
def test_arrays_of_other_shapes_and_types(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_image(source)


def test_tensors_without_plain_values() -> None:
    assert "a meta tensor; give a dense one" in refusal(torch.zeros(3, 4, 4, device="meta"))
    assert "a sparse_coo tensor" in refusal(torch.zeros(4, 4).to_sparse())


def test_sixteen_bits_that_hold_fewer_are_told_of() -> None:
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for source in (eight, Image.fromarray(eight.astype(np.int32))):
        with pytest.warns(UserWarning, match=r"all but black.* up to 255 .* multiply it by 257"):
            load_image(source)
    with pytest.warns(UserWarning, match="if it holds 12 bits a value, multiply it by 16"):
        load_image(eight * 16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(value: float) -> None:
    array = np.zeros((4, 4, 3), np.float32)
    array[1, 2, 0] = value
    for source in (array, torch.from_numpy(array).permute(2, 0, 1)):
        assert "1 values that are NaN or infinite" in refusal(source)
    assert "NaN" in refusal(Image.fromarray(array[:, :, 0]))


def test_floats_outside_the_range() -> None:
    assert "from 0 to 255; 0 to 1 is accepted; 8-bit" in refusal(np.array([[0.0, 255.0]]))
    assert "from -1 to 1; 0 to 1 is accepted; is it in [-1, 1]?" in refusal(np.array([[-1.0, 1.0]]))
    assert "from 0 to 1.01" in refusal(torch.tensor([[0, 1.01]]))


# --- padding and cropping ------------------------------------------------------------------------


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=20)), st.integers(1, 40)
)
@quick
def test_padding_and_cropping_give_the_picture_back(
    array: NDArray[np.uint8], multiple: int
) -> None:
    padded, box = pad_to_multiple(array, multiple)
    height, width = padded.shape[:2]
    assert height % multiple == 0
    assert width % multiple == 0
    assert height - array.shape[0] < multiple
    assert width - array.shape[1] < multiple
    assert padded.dtype == array.dtype
    assert (box.width, box.height) == (array.shape[1], array.shape[0])
    np.testing.assert_array_equal(crop(padded, box), array)
    assert set(padded.ravel()) == set(array.ravel())  # nothing is invented


def test_padding_mirrors_without_repeating_the_edge() -> None:
    padded, box = pad_to_multiple(np.arange(5)[None].repeat(8, axis=0), 8)
    assert padded[0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert box == Box(0, 0, 5, 8)
    short, _ = pad_to_multiple(np.arange(3)[None], 8)
    assert short.shape == (8, 8)
    assert short[5].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_nothing_to_pad() -> None:
    array = noise(24, 32)
    padded, box = pad_to_multiple(array, 8)
    assert padded is array
    assert box == Box(0, 0, 32, 24)


def test_crops() -> None:
    array = noise()
    cut = crop(array, Box(3, 2, 13, 9))
    np.testing.assert_array_equal(cut, array[2:9, 3:13])
    cut[:] = 0
    np.testing.assert_array_equal(array, noise())
    for box in (Box(0, 0, 33, 24), Box(-1, 0, 4, 4), Box(4, 4, 4, 8), Box(5, 5, 4, 8)):
        with pytest.raises(InputError, match="32 x 24"):
            crop(array, box)


def test_padding_of_what_cannot_be_padded() -> None:
    with pytest.raises(InputError, match="multiple"):
        pad_to_multiple(noise(), 0)
    for shape in ((4,), (0, 4), (1, 2, 3, 4)):
        with pytest.raises(InputError, match="shape"):
            pad_to_multiple(np.zeros(shape), 8)


# --- to the model and back -----------------------------------------------------------------------


def test_tensors_are_diffusers_own_to_the_bit_and_the_stride() -> None:
    pixels = noise(64, 48)
    ours = to_tensor(pixels)
    theirs = VaeImageProcessor(vae_scale_factor=8).preprocess(Image.fromarray(pixels))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
    assert ours.min().item() == -1
    assert ours.max().item() == 1


def test_pixels_are_diffusers_own_to_the_bit() -> None:
    decoded = torch.randn(3, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.7
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        ours = to_pixels(decoded.to(dtype))
        theirs = VaeImageProcessor(vae_scale_factor=8).postprocess(decoded.to(dtype))
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, np.stack([np.asarray(image) for image in theirs]))


@given(pictures)
@quick
def test_pixels_survive_the_way_to_the_model_and_back(pixels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(to_pixels(to_tensor(pixels))[0], pixels)


def test_tensors_of_other_shapes() -> None:
    for array in (noise(channels=4), noise(channels=1), noise().astype(np.float32)):
        with pytest.raises(InputError, match="uint8"):
            to_tensor(array)  # type: ignore[arg-type]
    for shape in ((3, 8, 8), (1, 4, 8, 8)):
        with pytest.raises(InputError, match="b 3 h w"):
            to_pixels(torch.zeros(shape))


def test_nan_from_the_vae_is_no_black_picture() -> None:
    decoded = torch.zeros(1, 3, 8, 8)
    decoded[0, 1, 2, 3] = torch.nan
    with pytest.raises(ModelError, match="guidance_scale"):
        to_pixels(decoded)
    with pytest.raises(ModelError, match="float32"):
        to_pixels(decoded.half())


# --- pasting -------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.uint8, (*shape, 3)),
            hnp.arrays(np.uint8, (*shape, 3)),
            hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
        )
    )
)
@quick
def test_pasting_is_exact_at_both_ends_and_between_them(
    values: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]],
) -> None:
    original, edited, alpha = values
    kept = original.copy()
    for over in (edited, edited.astype(np.float32) / 255):
        result = paste(original, over, alpha)
        np.testing.assert_array_equal(result[alpha == 0], original[alpha == 0])
        np.testing.assert_array_equal(result[alpha == 1], edited[alpha == 1])
        assert (result >= np.minimum(original, edited)).all()
        assert (result <= np.maximum(original, edited)).all()
        expected = original + alpha[:, :, None].astype(np.float64) * (
            edited.astype(float) - original
        )
        assert np.abs(result - expected).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(original, kept)


def test_pasting_the_same_grey_changes_nothing() -> None:
    grey = np.full((256, 3, 3), np.arange(256)[:, None, None], np.uint8)
    alpha = np.full((256, 3), [0.1, 0.5, 0.9], np.float32)
    np.testing.assert_array_equal(paste(grey, grey, alpha), grey)


def test_what_cannot_be_pasted() -> None:
    alpha = np.ones((24, 32), np.float32)
    with pytest.raises(InputError, match="shapes"):
        paste(noise(), noise(8, 8), alpha)
    with pytest.raises(InputError, match="shapes"):
        paste(noise(), noise(), alpha[:8])
    with pytest.raises(InputError, match="original"):
        paste(noise().astype(float), noise(), alpha)
    with pytest.raises(InputError, match="edited"):
        paste(noise(), noise().astype(np.int64), alpha)
    with pytest.raises(InputError, match="NaN"):
        paste(noise(), np.full((24, 32, 3), np.nan), alpha)
    with pytest.raises(InputError, match="alpha"):
        paste(noise(), noise(), alpha * 2)
    with pytest.raises(InputError, match="alpha"):
        paste(noise(), noise(), alpha * np.float32(np.nan))


def test_grey_palettes_and_deep_grey_with_opacity_are_grey(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    gif, deep = tmp_path / "grey.gif", tmp_path / "deep.png"
    Image.fromarray(values).save(gif)
    assert load_image(gif).grey
    Image.fromarray(np.dstack([values] * 2 + [255 - values])).quantize(16).save(gif)
    assert not load_image(gif).grey
    wide = np.dstack([values.astype(np.uint16) * 257, np.full((9, 7), 40000, np.uint16)])
    save_deep(wide, deep)
    picture = load_image(deep)
    assert picture.grey
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep[:, :, 2:], wide)


def save_deep(values: NDArray[np.uint16], path: Path) -> None:
    """Write grey and opacity of 16 bits, as a finished picture is."""
    image = Image.fromarray(shallow(values))
    image.info[KEY] = values
    save_image(image, path)
