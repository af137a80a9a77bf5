"""What a picture is, it stays: transparency, 16 bits, greyness, colours, what its file says."""

from __future__ import annotations

import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from engine.errors import InputError, OutputError
from engine.picture.deep import deepened, shallow
from engine.picture.geometry import check_canvas
from engine.picture.metadata import read_metadata
from engine.picture.paste import list_pastes, stitch
from engine.picture.read import Picture, load_image
from engine.picture.transparency import hole_of, opacity_after, settled, with_visible_colours
from engine.picture.write import check_fits, check_writable, save_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOSSLESS = [".png", ".tif"]


def noise16(channels: int = 3) -> NDArray[np.uint16]:
    return np.random.default_rng(3).integers(0, 65536, (24, 32, channels), np.uint16)


def saved(tmp_path: Path, picture: Picture, name: str, **options: Any) -> Picture:
    path = tmp_path / name
    save_image(picture.to_pil(), path, **options)
    return load_image(path)


# --- sixteen bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_written_and_read_back(tmp_path: Path, suffix: str, channels: int) -> None:
    values = noise16(channels)
    picture = load_image(values)
    again = saved(tmp_path, picture, f"deep{suffix}", metadata={"edit": "{}"})
    assert again.deep is not None
    np.testing.assert_array_equal(again.deep[:, :, : min(channels, 3)], values[:, :, :3])
    assert again.grey == (channels == 1)
    np.testing.assert_array_equal(again.rgb, picture.rgb)
    if channels == 4:
        assert again.alpha is not None
        np.testing.assert_array_equal(again.alpha, shallow(values[:, :, 3]))
    assert read_metadata(tmp_path / f"deep{suffix}") == {"edit": "{}"}


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_formats_of_eight_bits_say_what_they_lose(tmp_path: Path, suffix: str) -> None:
    with pytest.warns(UserWarning, match="without the lower 8 of its 16 bits"):
        save_image(load_image(noise16()).to_pil(), tmp_path / f"deep{suffix}")


@pytest.mark.parametrize("rule", list_pastes())
def test_every_paste_keeps_sixteen_bits_outside_and_blends_in_them(rule: str) -> None:
    original = noise16()
    edited = np.full((24, 32, 3), 100, np.uint8)
    alpha = np.zeros((24, 32), np.float32)
    alpha[6:18, 8:24] = 0.5
    alpha[9:15, 12:20] = 1
    pasted = stitch(rule, original, edited, alpha)
    assert pasted.dtype == np.uint16
    np.testing.assert_array_equal(pasted[alpha == 0], original[alpha == 0])
    if rule == "alpha":
        np.testing.assert_array_equal(pasted[alpha == 1], deepened(edited)[alpha == 1])
        half = (original[alpha == 0.5] + 25700.0) / 2
        assert np.abs(pasted[alpha == 0.5] - half).max() <= 0.5


def test_a_changed_pillow_image_does_not_bring_old_bits_along(tmp_path: Path) -> None:
    image = load_image(noise16()).to_pil()
    image.paste((1, 2, 3), (0, 0, 5, 5))
    save_image(image, tmp_path / "out.png")
    np.testing.assert_array_equal(load_image(tmp_path / "out.png").rgb, np.asarray(image))


# --- transparency --------------------------------------------------------------------------------


def cut_out() -> Picture:
    """A picture with a hole, black beneath."""
    rgb = np.full((40, 40, 3), (200, 120, 40), np.uint8)
    alpha = np.full((40, 40), 255, np.uint8)
    rgb[10:30, 10:30], alpha[10:30, 10:30] = 0, 0
    return Picture(rgb, alpha)


def test_invisible_pixels_are_no_context() -> None:
    seen = with_visible_colours(cut_out())
    assert np.abs(seen.rgb.astype(int) - (200, 120, 40)).max() <= 1
    opaque = Picture(cut_out().rgb)
    assert with_visible_colours(opaque) is opaque


def test_what_is_painted_into_a_hole_is_visible_and_the_rest_stays_to_the_bit() -> None:
    picture = cut_out()
    seen = with_visible_colours(picture)
    strength = np.zeros((40, 40), np.float32)
    strength[:, :20] = 1
    painted = seen.rgb.copy()
    painted[:, :20] = 77
    pixels, alpha = settled(seen, painted, strength, feather=4)
    assert alpha is not None
    assert (alpha[:, :15] == 255).all()
    assert (np.diff(alpha[20, 15:20].astype(int)) <= 0).all()  # it fades towards what is unseen
    invisible = alpha == 0
    assert invisible[10:30, 20:30].all()
    np.testing.assert_array_equal(pixels[invisible], picture.rgb[invisible])
    whole, alpha = settled(seen, painted, np.asarray(picture.alpha == 0, np.float32), feather=4)
    assert alpha is not None
    assert (alpha == 255).all()
    np.testing.assert_array_equal(whole, painted)


def test_opacity_grows_by_the_strength() -> None:
    alpha = np.full((8, 8), 128, np.uint8)
    half = np.full((8, 8), 0.5, np.float32)
    assert (opacity_after(alpha, half, 0) == 255).all()
    assert (opacity_after(np.zeros_like(alpha), half, 0) == 128).all()
    assert (opacity_after(alpha, half * 0, 0) == 128).all()


def test_the_hole_of_a_picture() -> None:
    picture = cut_out()
    assert picture.alpha is not None
    picture.alpha[10, 10] = 100
    np.testing.assert_array_equal(hole_of(picture, hard=True), picture.alpha < 255)
    assert hole_of(picture, hard=False)[10, 10] == pytest.approx(155 / 255)
    with pytest.raises(InputError, match="no transparent pixel"):
        hole_of(Picture(picture.rgb), hard=True)


# --- greyness, colours, words --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_grey_picture_stays_grey_with_its_profile(tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = profile[:16] + b"GRAY" + profile[20:]
    source = tmp_path / "grey.png"
    Image.new("L", (8, 8), 90).save(source, icc_profile=grey)
    picture = load_image(source)
    again = saved(tmp_path, picture, f"out{suffix}")
    assert again.grey
    assert again.info["icc_profile"] == grey
    coloured = np.full((8, 8, 3), (200, 10, 10), np.uint8)
    with pytest.warns(UserWarning, match="colour profile"):
        save_image(picture.to_pil(coloured), tmp_path / "colour.png")
    assert not load_image(tmp_path / "colour.png").grey


def png_with(path: Path, **chunks: bytes) -> Picture:
    info = PngImagePlugin.PngInfo()
    for name, data in chunks.items():
        info.add(name.encode(), data)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.dstack([ramp, ramp, ramp])).save(path, pnginfo=info)
    return load_image(path)


@pytest.mark.parametrize(
    ("chunks", "value"),
    [
        ({"gAMA": struct.pack(">I", 100000)}, lambda v: v),
        ({"gAMA": struct.pack(">I", 55556)}, lambda v: v**1.8),
        ({"cICP": bytes([1, 8, 0, 1])}, lambda v: v),
        ({"cICP": bytes([12, 4, 0, 1])}, lambda v: v**2.2),
    ],
    ids=["gamma 1", "gamma 1.8", "linear", "P3 2.2"],
)
def test_the_numbers_mean_the_same_colours(tmp_path: Path, chunks: Any, value: Any) -> None:
    picture = png_with(tmp_path / "in.png", **chunks)
    again = saved(tmp_path, picture, "out.png")
    assert again.info["png_colour"] == {name.encode(): data for name, data in chunks.items()}
    for suffix in (".jpg", ".webp", ".tif", ".avif"):
        profile = saved(tmp_path, picture, f"out{suffix}").info["icc_profile"]
        assert profile[16:20] == b"RGB "
    # A colour engine of its own reads the profile: greys come out as light of that amount.
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    into = ImageCms.profileToProfile(
        picture.to_pil(), ImageCms.ImageCmsProfile(as_file(profile)), linear
    )
    assert into is not None
    light: NDArray[np.float64] = value(np.arange(256) / 255)
    encoded: NDArray[np.float64] = np.where(
        light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055
    )
    shown = np.asarray(into)[:, :, 1].ravel()
    assert np.abs(shown - 255 * encoded).max() <= 2  # rounding, and the profile's table at its foot


def as_file(data: bytes) -> Any:
    from io import BytesIO

    return BytesIO(data)


def test_hdr_curves_are_named_where_they_cannot_be_kept(tmp_path: Path) -> None:
    picture = png_with(tmp_path / "in.png", cICP=bytes([9, 16, 0, 1]))
    assert b"cICP" in saved(tmp_path, picture, "out.png").info["png_colour"]
    with pytest.warns(UserWarning, match="cICP"):
        save_image(picture.to_pil(), tmp_path / "out.jpg")


XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rights>mine</rights></x:xmpmeta>"


def photo_with_words(path: Path, *, orientation: int = 1) -> Picture:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a boat", orientation
    details = exif.get_ifd(0x8769)
    details[0x9286] = b"ASCII\0\0\0my own comment"
    details[0xA002], details[0xA003] = 32, 24
    iptc = b"\x1c\x02\x74\0\x04mine"
    segment = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0"
    extra = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    Image.new("RGB", (32, 24), (90, 120, 60)).save(
        path, exif=exif, xmp=XMP, comment=b"hello", extra=extra, dpi=(300, 300)
    )
    return load_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_what_the_photo_says_survives_beside_our_record(tmp_path: Path, suffix: str) -> None:
    picture = photo_with_words(tmp_path / "photo.jpg").grown((0, 0, 8, 0))
    path = tmp_path / f"out{suffix}"
    if suffix == ".tif":
        with pytest.warns(UserWarning, match="without its comment"):
            save_image(picture.to_pil(), path, metadata={"edit": "{}"})
    else:
        save_image(picture.to_pil(), path, metadata={"edit": "{}"})
    assert read_metadata(path) == {"edit": "{}"}
    with Image.open(path) as image:
        details = image.getexif().get_ifd(0x8769)
        assert image.getexif()[0x010E] == "a boat"
        assert details[0x9286] == b"ASCII\0\0\0my own comment"
        assert (details[0xA002], details[0xA003]) == (40, 24)
    info = load_image(path).info
    assert info["xmp"] == XMP
    assert info["dpi"] == pytest.approx((300, 300), abs=0.1)
    if suffix == ".jpg":
        assert info["comment"] == b"hello"
        assert info["iptc"] == b"\x1c\x02\x74\0\x04mine"
    if suffix == ".png":
        assert dict(info["png_text"])["Comment"] == "hello"


def test_png_text_survives_and_is_named_where_it_cannot(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Copyright", "me")
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png", pnginfo=text)
    picture = load_image(tmp_path / "in.png")
    assert saved(tmp_path, picture, "out.png").info["png_text"] == (("Copyright", "me"),)
    with pytest.warns(UserWarning, match=r"out.jpg .* without PNG text \(Copyright\)"):
        save_image(picture.to_pil(), tmp_path / "out.jpg")


def test_exif_that_fills_a_jpeg_leaves_room_for_the_record(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = b"x" * 63000
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    save_image(load_image(path).to_pil(), tmp_path / "out.jpg", metadata={"edit": "y" * 90000})
    assert read_metadata(tmp_path / "out.jpg") == {"edit": "y" * 90000}
    image = load_image(path).to_pil()
    exif.get_ifd(0x8769)[0x927C] = b"x" * 70000
    image.info["exif"] = exif.tobytes()
    with pytest.warns(UserWarning, match="without EXIF's maker note"):
        save_image(image, tmp_path / "out.jpg")


# --- what is known at the start ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "longest"), [(".webp", 16383), (".jpg", 65500), (".avif", 32768)]
)
def test_sizes_that_a_format_cannot_hold(tmp_path: Path, suffix: str, longest: int) -> None:
    path = tmp_path / f"out{suffix}"
    check_fits(path, (longest, 1))
    with pytest.raises(InputError, match=f"at most {longest} px"):
        check_fits(path, (1, longest + 1))
    check_fits(tmp_path / "out.png", (70000, 1))
    check_fits(tmp_path / "out.tiff", (70000, 1))


def test_the_limit_is_that_of_the_grown_canvas() -> None:
    assert check_canvas((100, 50), (1, 2, 3, 4)) == (104, 56)
    with pytest.raises(InputError, match="would grow to 32896 x 32896"):
        check_canvas((128, 128), (16384, 16384, 16384, 16384))
    with pytest.raises(InputError, match="would grow"):
        Picture(np.zeros((128, 128, 3), np.uint8)).grown((16384,) * 4)


def test_a_file_keeps_its_mode_and_a_protected_one_its_content(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_text("old")
    path.chmod(0o600)
    save_image(Image.new("RGB", (8, 8)), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o444)
    before = path.read_bytes()
    with pytest.raises(InputError, match="protected"):
        check_writable(path)
    with pytest.raises(OutputError, match="protected"):
        save_image(Image.new("RGB", (9, 9)), path)
    assert path.read_bytes() == before


def test_heic_names_what_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(12))
    with pytest.raises(InputError, match=r"pi-heif|cannot be read"):
        load_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_a_profile_of_other_channels_is_left_out_as_it_says(tmp_path: Path, suffix: str) -> None:
    grey = Image.new("L", (16, 16), 90)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey.info["icc_profile"] = profile
    with pytest.warns(UserWarning, match="without its colour profile, which is for other"):
        save_image(grey, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert not image.info.get("icc_profile")
    colours = grey.convert("RGB")
    colours.info["icc_profile"] = profile
    save_image(colours, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.info["icc_profile"] == profile


def test_odd_tiffs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV's own four channels of 16 bits, which it warns of itself, and its floats."""
    pixels = np.full((8, 8, 4), 12345, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.tif"), pixels)
    deep = load_image(tmp_path / "deep.tif").deep
    assert deep is not None
    assert (deep == 12345).all()
    assert capfd.readouterr().err == ""
    cv2.imwrite(str(tmp_path / "floats.tif"), np.zeros((8, 8, 3), np.float32))
    with pytest.raises(InputError, match="of a kind that Pillow cannot read, 32-bit floats"):
        load_image(tmp_path / "floats.tif")


def test_a_profile_that_says_nothing_of_these_channels_is_told_of(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for each in (profile, b"no profile" * 20):
        Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", icc_profile=each)
        picture = load_image(tmp_path / "in.jpg")
        with pytest.warns(UserWarning, match="without its colour profile, which is broken or for"):
            save_image(picture.to_pil(), tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as image:
            assert not image.info.get("icc_profile")
