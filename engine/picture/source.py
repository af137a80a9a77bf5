"""A file that is read once: what becomes of it later changes nothing."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO


@dataclass(frozen=True, eq=False)
class Source(os.PathLike[str]):
    """The bytes of a file as they were when it was read, under the file's name.

    Whatever takes the path of a picture or a map takes this in its place, and never looks at the
    file again. The record of an edit names the hash of these bytes.
    """

    path: str
    """As it was given; :data:`STANDARD_INPUT` where it has no name."""
    data: bytes = field(repr=False)

    def __fspath__(self) -> str:
        return self.path

    @property
    def is_stream(self) -> bool:
        """Whether it came through standard input and can never be read again."""
        return self.path == STANDARD_INPUT

    @property
    def is_address(self) -> bool:
        """Whether it was read from elsewhere (``s3://...``), which a record cannot open again."""
        return is_address(self.path)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hexadecimal (64 digits)."""
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Source:
        """Read a file.

        Raises:
            OSError: it cannot be read.
        """
        return cls(os.fspath(path), Path(path).read_bytes())


STANDARD_INPUT = "standard input"

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")

OWN_ALPHA = "alpha"
"""In place of a map's path: the transparency of the picture that is edited."""


def is_own_alpha(source: object) -> bool:
    """Whether a map is named that is the picture's own transparency."""
    return isinstance(source, str | os.PathLike) and os.fspath(source) == OWN_ALPHA


def is_address(place: str) -> bool:
    """Whether a place is no path of this machine."""
    return _ADDRESS.match(place) is not None and not place.startswith("file://")


def opened(file: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file, or the bytes of a :class:`Source`, for reading.

    Raises:
        OSError: it cannot be read.
    """
    return BytesIO(file.data) if isinstance(file, Source) else Path(file).open("rb")
