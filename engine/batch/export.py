"""A batch's pictures in the forms that training reads: Parquet files, WebDataset's archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Final

from engine.batch.drive import drive_at
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.batch.store import Store

ROWS: Final = 10_000
"""Pictures of a file."""
_GROUP: Final = 64
"""Pictures in memory at a time."""
_PIECE: Final = 1 << 22
_COLUMNS: Final = ("file_name", "prompt", "strategy", "seed", "id")
"""What is told of a picture beside its figures."""
_Row = Mapping[str, Any]


def export(store: Store, place: str, kind: str, rows: int = ROWS) -> list[str]:
    """Write a batch's pictures and what is known of them to files of so many each.

    Args:
        store: the batch.
        place: a folder, or an address; is made where it is not there. Files of the same names in
            it are replaced, each when it is whole.
        kind: a name of :data:`KINDS`.
        rows: pictures of a file.

    Returns:
        The files' names.

    Raises:
        InputError: an unknown kind, pyarrow is missing, or a picture is not as it was written.
        OutputError: a file cannot be written.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of export; there are {', '.join(KINDS)}.")
    fill, suffix = KINDS[kind]
    target = drive_at(place)
    count = max(1, -(-store.pictures // rows))
    pictures = _pictures(store)
    written = []
    for number in range(count):
        name = f"train-{number:05}-of-{count:05}.{suffix}"
        with TemporaryFile() as spool:
            fill(spool, islice(pictures, rows), number * rows)
            spool.seek(0)
            target.write(name, iter(lambda: spool.read(_PIECE), b""))
        written.append(name)
    return written


def _pictures(store: Store) -> Iterator[tuple[_Row, bytes]]:
    """Each line with its picture's bytes."""
    for line in store.lines():
        try:
            with store.drive.open(line["file_name"]) as file:
                data = file.read()
        except OSError:
            raise InputError(f"{line['file_name']} is missing (softpaint batch verify).") from None
        if hashlib.sha256(data).hexdigest() != line["sha256"]:
            raise InputError(
                f"{line['file_name']} was changed since it was written (softpaint batch verify)."
            )
        yield line, data


def _told(line: _Row) -> dict[str, Any]:
    return {name: line[name] for name in _COLUMNS} | dict(line["figures"])


def _webdataset(file: IO[bytes], pictures: Iterable[tuple[_Row, bytes]], first: int) -> None:
    """A picture, its prompt and what is known of it under one key: ``.png``, ``.txt``,
    ``.json``.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (line, data) in enumerate(pictures, first):
            suffix = PurePosixPath(line["file_name"]).suffix.lower()
            members = {
                suffix: data,
                ".txt": str(line["prompt"]).encode(),
                ".json": json.dumps(_told(line), ensure_ascii=False).encode(),
            }
            for end, content in members.items():
                # The key is all before the first dot, and may not be a file's own name.
                member = tarfile.TarInfo(f"{number:09}{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _parquet(file: IO[bytes], pictures: Iterable[tuple[_Row, bytes]], _: int) -> None:
    """A row for each picture; ``image`` is a picture to Hugging Face's ``datasets``."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError("Parquet needs pyarrow: pip install 'softpaint[parquet]'.") from None
    from engine.picture.metrics import WITHOUT_TRUTH

    texts = [(name, pa.string()) for name in _COLUMNS if name != "seed"]
    figures = [(name, pa.float64()) for name in WITHOUT_TRUTH]
    image = ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    schema = pa.schema([image, *texts, ("seed", pa.uint64()), *figures])
    features = {"info": {"features": _features(schema.names)}}
    schema = schema.with_metadata({"huggingface": json.dumps(features)})
    left = iter(pictures)
    with parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(left, _GROUP)):
            rows = [
                {**_told(line), "image": {"bytes": data, "path": line["file_name"]}}
                for line, data in some
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _features(names: Iterable[str]) -> dict[str, Any]:
    """What ``datasets`` is told of the columns."""
    kinds = dict.fromkeys(_COLUMNS, "string") | {"seed": "uint64"}
    return {
        name: {"_type": "Image"}
        if name == "image"
        else {"dtype": kinds.get(name, "float64"), "_type": "Value"}
        for name in names
    }


KINDS: Final[
    Mapping[str, tuple[Callable[[IO[bytes], Iterable[tuple[_Row, bytes]], int], None], str]]
] = {"parquet": (_parquet, "parquet"), "webdataset": (_webdataset, "tar")}
"""What fills an export's files, and their suffix."""
