"""A file that is read once: what becomes of it later changes nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


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
