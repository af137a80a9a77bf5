"""Files out, by :mod:`engine.picture.commit`: whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from engine.errors import InputError, OutputError
from engine.picture.commit import Commit, try_out
from engine.picture.metadata import FORMATS, no_alpha, save_options
from engine.picture.read import FilePath, first_line

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMATS", "check_writable", "save_image", "write_image", "write_text"]

_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA")


def save_image(
    image: Image.Image,
    path: FilePath,
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
    commit: Commit | None = None,
) -> None:
    """Write an image, whole or not at all; the suffix decides the format.

    PNG and WebP are lossless and keep alpha (WebP also the colours under transparent pixels).
    JPEG is written at quality 95 without chroma subsampling: pixels that an edit left untouched
    change by a few levels there, as they do in any JPEG. ``icc_profile``, ``exif`` and ``dpi`` in
    ``image.info`` are kept (WebP has no field for dpi).

    Args:
        image: Mode 1, L, LA, P, RGB or RGBA, upright.
        path: Ends in one of :data:`FORMATS`; the folder exists. A symbolic link is followed.
        metadata: Text to be read back by :func:`read_metadata`. PNG: one iTXt chunk (UTF-8) for
            each entry, keyword ``softpaint:<key>``. JPEG and WebP: JSON in EXIF's UserComment.
        overwrite: False = an existing file is an error.
        commit: Files that take their places together; the image is one of them.

    Raises:
        OutputError: The suffix is unknown, the folder is missing or cannot be written, the path is
            a folder, the file exists and ``overwrite`` is False, the format cannot hold the image
            or the metadata, or writing failed (disk full). No partial file is left behind.
    """
    target = Path(path)
    _check_target(target, suffixes=True, overwrite=overwrite, error=OutputError)
    format_ = FORMATS[target.suffix.lower()]
    with Commit() if commit is None else nullcontext(commit) as together:
        together.write(
            target, lambda file: write_image(file, image, format_, metadata=metadata, name=target)
        )


def write_image(
    file: IO[bytes],
    image: Image.Image,
    format_: str,
    *,
    metadata: Mapping[str, str] | None = None,
    name: FilePath,
) -> None:
    """Write an image into an open file, as :func:`save_image` does into one of a path.

    Args:
        file: Open for writing and seekable.
        image: Mode 1, L, LA, P, RGB or RGBA, upright.
        format_: One of the values of :data:`FORMATS`.
        metadata: See :func:`save_image`.
        name: What error messages call the file.

    Raises:
        OutputError: The format cannot hold the image or the metadata.
    """
    if image.mode not in _MODES:
        raise OutputError(
            f"cannot write {str(name)!r}: an image of mode {image.mode!r} is none of "
            f"{', '.join(_MODES)}"
        )
    options = save_options(image, format_, metadata, Path(name))
    if format_ == "JPEG" and image.mode in {"LA", "P", "RGBA"}:
        image = image.convert("RGB")  # save_options saw to it that nothing is transparent
    image.save(file, format=format_, **options)


def write_text(path: FilePath, text: str, *, commit: Commit | None = None) -> None:
    """Write a UTF-8 text file (newlines as given), whole or not at all; ``commit`` as for
    :func:`save_image`.

    Raises:
        OutputError: The folder is missing or cannot be written, the path is a folder, the text
            cannot be encoded, or writing failed (disk full). No partial file is left behind.
    """
    target = Path(path)
    _check_target(target, suffixes=False, overwrite=True, error=OutputError)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(f"cannot write {str(target)!r}: {error}") from error
    with Commit() if commit is None else nullcontext(commit) as together:
        together.write(target, lambda file: file.write(data))


def check_writable(
    path: FilePath, *, image: bool = True, overwrite: bool = True, transparent: bool = False
) -> None:
    """Find out before any model work whether :func:`save_image` would be able to write ``path``.

    Creates an empty temporary file in the folder and removes it again: permission bits alone do
    not tell of read-only mounts, quotas and access lists.

    Args:
        path: Where the result is to go.
        image: False for other files (:func:`write_text`): any suffix is accepted.
        overwrite: False = an existing file is an error.
        transparent: The result has transparent pixels, which JPEG cannot hold.

    Raises:
        InputError: Bad use: an empty path, an unknown suffix, JPEG for a transparent picture, a
            missing folder, a folder in place of a file, an existing file without ``overwrite``.
        OutputError: Good use, but the folder cannot be written (permissions, read-only, full).
    """
    target = Path(path)
    _check_target(target, suffixes=image, overwrite=overwrite, error=InputError)
    if image and transparent and FORMATS[target.suffix.lower()] == "JPEG":
        raise InputError(no_alpha(target))
    try_out(target)


# --- what can be said before writing --------------------------------------------------------------


def _check_target(
    target: Path, *, suffixes: bool, overwrite: bool, error: type[InputError | OutputError]
) -> None:
    """Raise ``error`` where a target path cannot be right, whatever the disk holds."""
    shown = repr(str(target))
    try:
        if not target.name or "\0" in str(target):
            raise error(f"cannot write to {shown}: a file name is needed")
        if target.is_dir():
            raise error(f"cannot write to {shown}: it is a folder; a file name is needed")
        if suffixes and target.suffix.lower() not in FORMATS:
            raise error(
                f"cannot write {shown}: the suffix {target.suffix!r} is unknown; "
                f"known: {', '.join(FORMATS)}"
            )
        if not target.parent.exists():
            raise error(f"cannot write {shown}: the folder {str(target.parent)!r} does not exist")
        if not target.parent.is_dir():
            raise error(f"cannot write {shown}: {str(target.parent)!r} is not a folder")
        if target.exists() and not target.is_file():
            raise error(f"cannot write {shown}: it is not a regular file")
        if target.exists() and not overwrite:
            raise error(f"cannot write {shown}: the file exists already")
    except (InputError, OutputError):
        raise
    except (OSError, ValueError) as problem:  # a name that is too long, a NUL, a locked folder
        raise error(f"cannot write {shown}: {first_line(problem)}") from problem
