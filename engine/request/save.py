"""Results to files: numbered names, a record in each, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, UnknownNameError, setting
from engine.picture.commit import Commit
from engine.picture.metadata import EXIF_IFD, USER_COMMENT, clean_exif
from engine.picture.write import check_writable, save_image
from engine.request import infotext, invoke
from engine.request.record import EditRecord

if TYPE_CHECKING:
    from PIL import Image

    from engine.request.result import EditResult

METADATA = ("softpaint", "a1111", "invokeai")
"""What a file says of its edit: Softpaint's own record alone, or stable-diffusion-webui's or
InvokeAI's beside it."""
KEPT = "{} of the input"
"""The keyword under which a photo's own go on where the result has its own."""
Save = Callable[[Commit, "Image.Image", Path, Mapping[str, str]], None]


def numbered(output: Path, count: int) -> list[Path]:
    """Where ``count`` pictures go: ``out.png``, or ``out-0.png``, ``out-1.png`` and so on."""
    if count == 1:
        return [output]
    return [output.parent / f"{output.stem}-{index}{output.suffix}" for index in range(count)]


def save_result(result: EditResult, path: Path, *, metadata: str | None = None) -> list[Path]:
    """Write all pictures of a result, see :meth:`engine.request.result.EditResult.save`."""
    paths = numbered(path, len(result.seeds))
    inputs = list(_inputs(result))
    for output in paths:
        check_writable(output)
        for name in inputs:
            if output.exists() and Path(name).exists() and output.samefile(name):
                raise InputError(f"{str(output)!r} is an input of this edit; give another name.")
    write_pictures(result, range(len(paths)), paths, metadata=metadata)
    return paths


def write_pictures(
    result: EditResult,
    indices: Sequence[int],
    paths: Sequence[Path],
    save: Save | None = None,
    *,
    metadata: str | None = None,
) -> None:
    """Write the pictures with these ``indices`` to ``paths``, all of them or none.

    Args:
        save: writes one of them; None is as a file.
        metadata: see :func:`with_infotext`.
    """
    check_metadata(metadata, paths)
    pictures = [
        with_infotext(result, index, path, metadata)
        for index, path in zip(indices, paths, strict=True)
    ]
    records = [
        EditRecord.of(result, index=index, beside=path)
        for index, path in zip(indices, paths, strict=True)
    ]
    with Commit() as commit:
        for picture, path, record in zip(pictures, paths, records, strict=True):
            if save is not None:
                save(commit, picture, path, record.metadata())
            else:
                save_image(picture, path, metadata=record.metadata(), commit=commit)


def check_metadata(metadata: str | None, paths: Iterable[Path] = ()) -> None:
    """Raise ``InputError`` for what is none of :data:`METADATA`, or not for one of ``paths``."""
    if metadata is not None and metadata not in METADATA:
        raise UnknownNameError("metadata", str(metadata), METADATA)
    other = next((path for path in paths if not _is_png(path)), None)
    if metadata == "invokeai" and other is not None:
        raise InputError(
            f"InvokeAI reads settings from PNG files only: {str(other)!r} cannot hold them for "
            f"{setting('metadata', 'invokeai')}."
        )


def _is_png(path: Path) -> bool:
    """Standard output is one too."""
    return path.suffix.lower() in {".png", ""}


def with_infotext(
    result: EditResult, index: int, path: Path, metadata: str | None = None
) -> Image.Image:
    """A picture of ``result`` that carries the settings for other programs too: as they write
    them, in a PNG's text, stable-diffusion-webui's elsewhere in EXIF's user comment.

    Args:
        metadata: ``"a1111"`` in any file, ``"invokeai"`` in a PNG, what the photo came with under
            another keyword; ``"softpaint"`` not at all; None is stable-diffusion-webui's in a PNG
            whose photo came with none.
    """
    picture = result.picture(index)
    form = invoke if metadata == "invokeai" else infotext
    texts = picture.info.get("png_text", ())
    held = any(keyword == form.KEYWORD for keyword, _ in texts)
    png = _is_png(path)
    if metadata == "softpaint" or (metadata is None and (held or not png)):
        return picture
    used = {**result.settings, **_one_each(result, index)}
    text = form.written(used, result.load, result.seeds[index])
    own = picture.copy()
    own.info = dict(picture.info)
    if png:
        kept = ((KEPT.format(key) if key == form.KEYWORD else key, each) for key, each in texts)
        own.info["png_text"] = (*kept, (form.KEYWORD, text))
        return own
    exif = clean_exif(picture.info.get("exif"))
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    own.info["exif"] = exif.tobytes()
    return own


def _one_each(result: EditResult, index: int) -> dict[str, str]:
    """The picture's own of several prompts."""
    return {
        name: given[index * len(given) // len(result.seeds)]
        for name in ("prompt", "negative_prompt")
        if isinstance(given := result.settings.get(name), list) and given
    }


def _inputs(result: EditResult) -> Iterator[str]:
    """Names of the files that the edit was made from."""
    request = result.request
    if request is None:
        return
    for name in ("image", "mask", "strength_map"):
        value: Any = getattr(request, name)
        if isinstance(value, str | os.PathLike):
            yield os.fspath(value)
    for region in request.regions or ():
        if isinstance(region.map, str | os.PathLike):
            yield os.fspath(region.map)
