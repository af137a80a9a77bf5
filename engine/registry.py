"""Plug-ins by name: built-in ones, this package's own plug-ins, and other packages'.

Everything that there are kinds of is a frozen record in a :class:`Registry`: its name, a line about
it, what it can do and how it is built. The module that defines the record registers the built-in
ones; other packages name theirs as entry points of the registry's group, which are read when a
registry is first asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from engine.errors import InputError, UnknownNameError


class Named(Protocol):
    """What can be registered: a record with a name."""

    @property
    def name(self) -> str: ...


Info = TypeVar("Info", bound=Named)

OWN: Mapping[str, Mapping[str, str]] = {
    "softpaint.checkpoints": {
        "pocket": "engine.pocket.plugin:CHECKPOINT",
        "pocket-flow": "engine.pocket.plugin:FLOW",
    },
    "softpaint.families": {
        "sdxl": "engine.models.families.sdxl:SDXL",
        "sd": "engine.models.families.sd:SD",
        "sd3": "engine.models.families.sd3:SD3",
        "flux-kontext": "engine.models.families.flux:KONTEXT",
        "flux": "engine.models.families.flux:FLUX",
        "chroma": "engine.models.families.chroma:CHROMA",
        "flux2": "engine.models.families.flux2:FLUX2",
        "qwen-image": "engine.models.families.qwen_image:QWEN_IMAGE",
        "qwen-image-edit": "engine.models.families.qwen_image:QWEN_EDIT",
        "z-image": "engine.models.families.z_image:Z_IMAGE",
    },
    "softpaint.gans": {"pocket": "engine.pocket.plugin:GAN"},
    "softpaint.judges": {
        "clip": "engine.evaluate.judges:CLIP",
        "pocket": "engine.pocket.plugin:JUDGE",
    },
    "softpaint.metrics": {"prompt": "engine.pocket.plugin:PROMPT"},
}
"""Group -> name -> ``module:record``: what rooms of this package bring to registries of rooms that
do not know them. Read as entry points are, in a checkout that is not installed too."""


class Registry(Generic[Info]):
    """Records by name, in the order in which they came. Iterating gives the records.

    Args:
        kind: what messages call one of them, such as ``"strategy"``.
        record: the records' class.
        group: the entry-point group that is read on first use; each entry point names a record.
        reserved: characters that mean something where names are written, so no name has them.
    """

    def __init__(self, kind: str, record: type[Info], group: str, reserved: str = "") -> None:
        self.kind = kind
        self.record = record
        self.group = group
        self.reserved = reserved
        self._infos: dict[str, Info] = {}
        self._read = False
        self._lock = threading.RLock()

    def register(self, info: Info) -> Info:
        """Add a record, and return it.

        Raises:
            InputError: its name is taken, empty or has a reserved character, or :meth:`check`
                refuses it.
        """
        with self._lock:
            self._add(self._infos, info)
        return info

    def check(self, info: Info) -> None:
        """Raise ``InputError`` if a record cannot be registered; a subclass may say why."""

    def names(self) -> list[str]:
        """The registered names, built-in ones first.

        Example:
            >>> from engine import list_controls, list_strategies
            >>> "differential" in list_strategies(), "canny" in list_controls()
            (True, True)
        """
        return list(self._all())

    def get(self, name: str) -> Info:
        """What is registered under ``name``.

        Raises:
            UnknownNameError: nothing is; it lists what is there and the nearest match.
            InputError: ``name`` is no string.
        """
        if not isinstance(name, str):
            raise InputError(f"{self.kind} must be a name, not {type(name).__name__}.")
        infos = self._all()
        if name not in infos:
            raise UnknownNameError(self.kind, name, infos)
        return infos[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[Info]:
        return iter(list(self._all().values()))

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Info]:
        if self._read:
            return self._infos
        with self._lock:
            if not self._read:
                # A plug-in's module may ask for what is built in while it is being imported.
                self._read = True
                try:
                    known = dict(self._infos)
                    for point in self._entry_points():
                        self._add(known, self._load(point))
                    self._infos = known
                except BaseException:
                    self._read = False
                    raise
        return self._infos

    def _entry_points(self) -> list[EntryPoint]:
        own = OWN.get(self.group, {}).items()
        return [
            *(EntryPoint(name, value, self.group) for name, value in own),
            *entry_points(group=self.group),
        ]

    def _add(self, known: dict[str, Info], info: Info) -> None:
        if not info.name or set(self.reserved) & set(info.name):
            characters = " or ".join(map(repr, self.reserved))
            has = f" and has no {characters}" if characters else ""
            raise InputError(f"the name of a {self.kind} is not empty{has}: {info.name!r}.")
        if info.name in known:
            raise InputError(f"a {self.kind} named {info.name!r} is registered already.")
        self.check(info)
        known[info.name] = info

    def _load(self, point: EntryPoint) -> Info:
        try:
            info = point.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"entry point {point.name!r} of {self.group} cannot be loaded: {error}."
            ) from error
        if not isinstance(info, self.record):
            raise InputError(
                f"entry point {point.name!r} of {self.group} is no {self.record.__name__}."
            )
        return info
