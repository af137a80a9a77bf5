"""Results to files: numbered names, a record in each, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, UnknownNameError
from engine.picture.commit import Commit
from engine.picture.metadata import EXIF_IFD, USER_COMMENT, clean_exif
from engine.picture.write import check_writable, save_image
from engine.request import infotext
from engine.request.record import EditRecord

if TYPE_CHECKING:
    from PIL import Image

    from engine.request.result import EditResult

METADATA = ("softpaint", "a1111")
"""What a file says of its edit: Softpaint's own record alone, or stable-diffusion-webui's beside
it."""
KEPT = "parameters of the input"
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
    check_metadata(metadata)
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


def check_metadata(metadata: str | None) -> None:
    """Raise ``InputError`` for what is none of :data:`METADATA`."""
    if metadata is not None and metadata not in METADATA:
        raise UnknownNameError("metadata", str(metadata), METADATA)


def with_infotext(
    result: EditResult, index: int, path: Path, metadata: str | None = None
) -> Image.Image:
    """A picture of ``result`` that carries the settings for other programs too: as
    stable-diffusion-webui writes them, in a PNG's text, elsewhere in EXIF's user comment.

    Args:
        metadata: ``"a1111"`` in any file, what the photo came with under another keyword;
            ``"softpaint"`` not at all; None in a PNG whose photo came with none.
    """
    picture = result.picture(index)
    png = path.suffix.lower() in {".png", ""}
    texts = picture.info.get("png_text", ())
    held = any(keyword == infotext.KEYWORD for keyword, _ in texts)
    if metadata == "softpaint" or (metadata is None and (held or not png)):
        return picture
    used = {**result.settings, **_one_each(result, index)}
    text = infotext.written(used, result.load, result.seeds[index])
    own = picture.copy()
    own.info = dict(picture.info)
    if png:
        kept = tuple((KEPT if key == infotext.KEYWORD else key, each) for key, each in texts)
        own.info["png_text"] = (*kept, (infotext.KEYWORD, text))
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
