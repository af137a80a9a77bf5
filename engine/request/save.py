"""Results to files: numbered names, a record in each, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.picture.commit import Commit
from engine.picture.write import check_writable, save_image
from engine.request.record import EditRecord

if TYPE_CHECKING:
    from PIL import Image

    from engine.request.result import EditResult

Save = Callable[[Commit, "Image.Image", Path, Mapping[str, str]], None]


def numbered(output: Path, count: int) -> list[Path]:
    """Where ``count`` pictures go: ``out.png``, or ``out-0.png``, ``out-1.png`` and so on."""
    if count == 1:
        return [output]
    return [output.parent / f"{output.stem}-{index}{output.suffix}" for index in range(count)]


def save_result(result: EditResult, path: Path) -> list[Path]:
    """Write all pictures of a result, see :meth:`engine.request.result.EditResult.save`."""
    paths = numbered(path, len(result.seeds))
    inputs = list(_inputs(result))
    for output in paths:
        check_writable(output)
        for name in inputs:
            if output.exists() and Path(name).exists() and output.samefile(name):
                raise InputError(f"{str(output)!r} is an input of this edit; give another name.")
    write_pictures(result, range(len(paths)), paths)
    return paths


def write_pictures(
    result: EditResult, indices: Sequence[int], paths: Sequence[Path], save: Save | None = None
) -> None:
    """Write the pictures with these ``indices`` to ``paths``, all of them or none.

    Args:
        save: writes one of them; None is as a file.
    """
    pictures = [result.picture(index) for index in indices]
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


def _inputs(result: EditResult) -> Iterator[str]:
    """Names of the files that the edit was made from."""
    request = result.request
    if request is None:
        return
    for name in ("image", "mask", "strength_map"):
        value: Any = getattr(request, name)
        if isinstance(value, str | os.PathLike):
            yield os.fspath(value)
