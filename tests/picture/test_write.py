"""Files out: whole or not at all, with their settings, and one clear line when it cannot be."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from engine.errors import InputError, OutputError
from engine.picture.metadata import FORMATS, read_metadata
from engine.picture.read import load_image
from engine.picture.source import Source
from engine.picture.write import check_fits, check_writable, save_image, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SETTINGS = {
    "softpaint": '{"prompt": "a red house", "seed": 7}',
    "prompt": "ein rotes Haus, 赤い家, 🏠\nsecond line",
    "empty": "",
    "long": "x" * 20000,
}

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def noise(channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (24, 32, channels), np.uint8)


def picture(channels: int = 3) -> Image.Image:
    return Image.fromarray(noise(channels))


def refusal(error: type[Exception], act: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        act(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*FORMATS, ".PNG", ".Jpg"])
def test_images_are_written_with_their_settings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    save_image(picture(), path, metadata=SETTINGS)
    assert read_metadata(path) == SETTINGS
    with Image.open(path) as image:
        assert image.format == FORMATS[suffix.lower()]
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - noise())
    assert difference.max() == 0 or (image.format in {"JPEG", "AVIF"} and difference.mean() < 4)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparent_pixels_keep_their_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    rgba = noise(4)
    rgba[:12, :, 3] = 0
    save_image(Image.fromarray(rgba), path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), rgba)


def test_jpeg_holds_no_transparency(tmp_path: Path) -> None:
    path = tmp_path / "out.jpg"
    assert "no transparency" in refusal(OutputError, save_image, picture(4), path)
    assert "no transparency" in refusal(InputError, check_fits, path, (32, 24), transparent=True)
    check_fits(path, (32, 24))
    check_fits(tmp_path / "out.png", (32, 24), transparent=True)
    assert not list(tmp_path.iterdir())
    opaque = picture().convert("RGBA")
    save_image(opaque.convert("RGB"), path)


def test_an_opaque_alpha_channel_is_no_reason_to_refuse_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "out.jpg"
    save_image(picture().convert("RGBA"), path)
    with Image.open(path) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_what_the_source_carried_is_kept(tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "a boat"
    exif[0x0112] = 6
    source = tmp_path / "source.png"
    picture().save(source, icc_profile=profile, exif=exif, dpi=(300, 300))
    path = tmp_path / f"out{suffix}"
    save_image(load_image(source).to_pil(), path, metadata=SETTINGS)
    again = load_image(path)
    assert again.size == (24, 32)  # turned once, not twice
    assert again.info["icc_profile"] == profile
    if suffix != ".webp":
        assert again.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    with Image.open(path) as image:
        assert image.getexif()[0x010E] == "a boat"
        assert image.getexif().get(0x0112, 1) == 1
    assert read_metadata(path) == SETTINGS


@pytest.mark.parametrize("exif", [b"", b"garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", "text"])
def test_broken_exif_is_left_out(tmp_path: Path, exif: Any) -> None:
    image = picture()
    image.info["exif"] = exif
    for suffix in FORMATS:
        save_image(image, tmp_path / f"out{suffix}")


@given(
    st.dictionaries(
        st.text(st.characters(max_codepoint=255, exclude_characters="\0"), min_size=1, max_size=60),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60),
        min_size=1,
        max_size=4,
    )
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_comes_back(tmp_path: Path, metadata: dict[str, str]) -> None:
    for suffix in (".png", ".webp"):
        save_image(picture(), tmp_path / f"out{suffix}", metadata=metadata)
        assert read_metadata(tmp_path / f"out{suffix}") == metadata


def test_other_programs_read_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    save_image(picture(), path, metadata=SETTINGS)
    with Image.open(path) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text["softpaint:prompt"] == SETTINGS["prompt"]
    assert path.read_bytes().count(b"iTXt") == len(SETTINGS)


@pytest.mark.parametrize(
    "metadata",
    [{"x" * 80: "y"}, {"赤": "y"}, {"a\0b": "y"}, {"a": "b\0c"}, {"a": "\ud800"}],
    ids=ascii,
)
def test_text_that_a_png_cannot_hold_is_left_out_and_named(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    path = tmp_path / "out.png"
    with pytest.warns(UserWarning, match="out.png .* is written without the text"):
        save_image(picture(), path, metadata={**metadata, "prompt": "a boat"})
    np.testing.assert_array_equal(load_image(path).rgb, noise())
    assert read_metadata(path) == {"prompt": "a boat"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_settings_have_any_length(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    metadata = {"prompt": "x" * 200_000 + "ü"}
    save_image(picture(), path, metadata=metadata)
    assert read_metadata(path) == metadata


def test_text_files(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_text(path, "zwölf\r\nlines\n")
    assert path.read_bytes() == "zwölf\r\nlines\n".encode()
    write_text(str(path), "other")
    assert path.read_text() == "other"
    assert len(list(tmp_path.iterdir())) == 1
    refusal(OutputError, write_text, path, "\ud800")
    assert path.read_text() == "other"


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"", b"abc", bytes(10**6)):
        path.write_bytes(data)
        source = Source.read(path)
        path.write_bytes(b"another")
        assert source.sha256 == hashlib.sha256(data).hexdigest()


def test_files_are_replaced_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_text("old")
    assert "exists already" in refusal(OutputError, save_image, picture(), path, overwrite=False)
    assert "exists already" in refusal(InputError, check_writable, path, overwrite=False)
    assert path.read_text() == "old"
    check_writable(path)
    assert path.read_text() == "old"
    save_image(picture(), path)
    assert load_image(path).size == (32, 24)


@linux
def test_the_umask_is_obeyed_and_links_are_followed(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_image(picture(), tmp_path / "out.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o640
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "link.png").symlink_to(other / "real.png")
    save_image(picture(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert load_image(other / "real.png").size == (32, 24)


def test_long_names_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    check_writable(path)
    save_image(picture(), path)
    assert load_image(path).size == (32, 24)


# --- what cannot be written ----------------------------------------------------------------------


def bad_targets(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "file").write_text("x")
    (folder / "folder.png").mkdir()
    return {
        "missing folder": (folder / "none" / "out.png", "does not exist"),
        "a file as folder": (folder / "file" / "out.png", "cannot write"),
        "a folder": (folder / "folder.png", "it is a folder"),
        "no suffix": (folder / "out", "the suffix '' is unknown; known: .png, .jpg"),
        "unknown suffix": (folder / "out.xyz", "the suffix '.xyz' is unknown"),
        "a name that is too long": (folder / ("x" * 300 + ".png"), "cannot write"),
        "NUL": (folder / "a\0b.png", "cannot write"),
        "empty": (Path(), "a file name is needed"),
    }


def test_bad_use(tmp_path: Path) -> None:
    for path, message in bad_targets(tmp_path).values():
        assert message in refusal(OutputError, save_image, picture(), path)
        assert message in refusal(InputError, check_writable, path)
        if "suffix" not in message:
            assert message in refusal(OutputError, write_text, path, "text")
            assert message in refusal(InputError, check_writable, path, image=False)
    check_writable(tmp_path / "report.xyz", image=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


@linux
def test_a_device_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "null.png").symlink_to("/dev/null")
    assert "not a regular file" in refusal(InputError, check_writable, tmp_path / "null.png")


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing can be created, for root too where the system allows it."""
    folder = tmp_path / "closed"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform == "win32":
        pytest.skip("needs POSIX permissions")
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if mount is None:
        pytest.skip("root may write everywhere, and there is no mount")
    command = [mount, "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("root may write everywhere, and a read-only folder cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def test_a_read_only_folder(closed_folder: Path) -> None:
    path = closed_folder / "out.png"
    expected = ("read-only", "permission denied")
    for message in (
        refusal(OutputError, check_writable, path),
        refusal(OutputError, save_image, picture(), path),
        refusal(OutputError, write_text, closed_folder / "report.html", "text"),
    ):
        assert str(path.parent) in message
        assert any(reason in message for reason in expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform == "win32" or os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "out.png"
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    save_image(picture(), path)
    before = path.read_bytes()
    for suffix in FORMATS:
        target = path if suffix == ".png" else small_disk / f"other{suffix}"
        assert "the disk is full" in refusal(OutputError, save_image, large, target)
    assert "the disk is full" in refusal(OutputError, write_text, small_disk / "t", "x" * 10**6)
    assert [file.name for file in small_disk.iterdir()] == ["out.png"]
    assert path.read_bytes() == before


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from engine.errors import OutputError
from engine.picture.write import save_image, write_text

folder = Path(sys.argv[1])
large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for act in (
    *(lambda suffix=suffix: save_image(large, folder / f"out{suffix}") for suffix in sys.argv[2:]),
    lambda: write_text(folder / "report.html", "x" * 100000),
):
    try:
        act()
    except OutputError as error:
        print(error)
"""


@linux
def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel stops every file at 20 kB: the same path as a full disk, without being root."""
    (tmp_path / "out.png").write_text("old")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path), *FORMATS],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert not result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(FORMATS) + 1
    assert all("larger than is allowed" in line for line in lines)
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_text() == "old"


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_image(picture(), tmp_path / "out.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_images_that_a_format_cannot_hold(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    refusal(OutputError, save_image, Image.new("F", (8, 8)), path)
    if suffix == ".webp":
        message = refusal(OutputError, save_image, Image.new("L", (16384, 1)), path)
        assert "16383" in message
    assert not list(tmp_path.iterdir())


# --- what cannot be read back --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_images_of_other_programs_hold_no_settings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"other{suffix}"
    picture().save(path)
    assert "holds no Softpaint settings" in refusal(InputError, read_metadata, path)
    save_image(picture(), path)
    assert "holds no Softpaint settings" in refusal(InputError, read_metadata, path)
    comments = (b"ASCII\0\0\0a comment", b"ASCII\0\0\0[1]", b'ASCII\0\0\0{"softpaint": 3}', b"x")
    for comment in comments if suffix != ".png" else ():
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = comment
        picture().save(path, exif=exif)
        assert "holds no Softpaint settings" in refusal(InputError, read_metadata, path)


def test_files_without_settings(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    picture().save(tmp_path / "other.bmp")
    save_image(picture(), tmp_path / "cut.png", metadata={"prompt": "x" * 5000})
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    for name, message in (
        ("none.png", "does not exist"),
        ("text.png", "not an image"),
        (
            "other.bmp",
            "is a BMP file; Softpaint writes its settings into PNG, JPEG, WebP, TIFF and AVIF",
        ),
        ("cut.png", "cut.png"),
    ):
        assert message in refusal(InputError, read_metadata, tmp_path / name)
    assert "is a folder" in refusal(InputError, read_metadata, tmp_path)
