"""Plug-ins by name: built-in ones, and those that other packages bring as entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from engine.errors import InputError, UnknownNameError


class Named(Protocol):
    """What can be registered: a record with a name."""

    @property
    def name(self) -> str: ...


Info = TypeVar("Info", bound=Named)


class Registry(Generic[Info]):
    """Records by name.

    Args:
        kind: what messages call one of them, such as ``"strategy"``.
        record: the records' class.
        group: the entry-point group that is read on first use; each entry point names a record.
        reserved: characters that mean something where names are written, so no name has them.
    """

    def __init__(self, kind: str, record: type[Info], group: str, reserved: str) -> None:
        self.kind = kind
        self.record = record
        self.group = group
        self.reserved = reserved
        self._infos: dict[str, Info] = {}
        self._read = False

    def register(self, info: Info) -> Info:
        """Add a record. Raises ``InputError`` if its name is taken, empty or has a reserved
        character.
        """
        if not info.name or set(self.reserved) & set(info.name):
            characters = " or ".join(map(repr, self.reserved))
            raise InputError(
                f"the name of a {self.kind} is not empty and has no {characters}: {info.name!r}."
            )
        if info.name in self._infos:
            raise InputError(f"a {self.kind} named {info.name!r} is registered already.")
        self._infos[info.name] = info
        return info

    def names(self) -> list[str]:
        """The registered names, built-in ones first."""
        return list(self._all())

    def get(self, name: str) -> Info:
        """What is registered under ``name``. Raises ``UnknownNameError`` with the nearest match."""
        infos = self._all()
        if name not in infos:
            raise UnknownNameError(self.kind, name, infos)
        return infos[name]

    def _all(self) -> dict[str, Info]:
        if not self._read:
            found = [self._load(point) for point in entry_points(group=self.group)]
            self._read = True
            for info in found:
                self.register(info)
        return self._infos

    def _load(self, point: EntryPoint) -> Info:
        info = point.load()
        if not isinstance(info, self.record):
            raise InputError(
                f"entry point {point.name!r} of {self.group} is no {self.record.__name__}."
            )
        return info
