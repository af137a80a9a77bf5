"""Where files are: a folder of this machine, or what fsspec reaches (``s3://``, ``gs://``,
``hdfs://`` and the like), with the same promises.

A file is written whole or not at all. On a disk that is a temporary file, flushed and renamed; a
bucket shows an object only when all of it is there; on other remote file systems it is a temporary
file that is renamed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol, cast

from engine.errors import InputError, OutputError
from engine.picture.commit import Commit
from engine.picture.source import is_address

TEMPORARY: Final = ".softpaint-*.tmp"
"""How files are called while they are written."""
_BUCKETS: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})
"""Protocols whose objects appear whole."""
BEAT: Final = 15.0
"""Seconds between two signs of life of the process that works in a remote folder."""
_SILENT: Final = 4 * BEAT
"""Without any for so long, it is dead."""


class Held(Protocol):
    """A folder that no other process works in, until it is closed."""

    def close(self) -> None: ...


class Drive(Protocol):
    """Files below one folder. Names are relative to it, with ``/`` between folders."""

    place: str
    """The folder, as it was given."""
    appends: bool
    """Whether lines can be put to the end of a file."""

    def path(self, name: str) -> str:
        """A file's whole name, for :func:`read_file` and for people."""

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Each folder (``""`` is the top) and its files' names, both in order; hidden ones, which
        begin with a dot, are left out.
        """

    def names(self, folder: str) -> list[str]:
        """Names of the files in one folder, in order; none where there is no folder."""

    def exists(self, name: str) -> bool: ...

    def is_empty(self) -> bool:
        """Whether there is nothing, hidden or not."""

    def open(self, name: str) -> IO[bytes]:
        """A file for reading. Raises ``OSError``."""

    def write(self, name: str, data: bytes | Iterable[bytes]) -> None:
        """Write a file, in folders that are made. Raises ``OutputError``; its cause is the
        system's ``OSError``.
        """

    def append(self, name: str, data: bytes) -> None:
        """Put whole lines to a file's end, all or none. Raises ``OutputError``."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""

    def clear(self, folder: str) -> None:
        """Remove a folder and all in it, where there is one."""

    def sweep(self) -> None:
        """Remove what a killed process has left half written."""

    def take(self, name: str) -> Held:
        """Take the folder for this process, by a file of that name.

        Raises:
            InputError: another process has it.
            OutputError: it cannot be written.
        """


def drive_at(place: str | os.PathLike[str]) -> Drive:
    """The drive of a folder or an address.

    Raises:
        InputError: an address of a kind that fsspec does not know, or whose package is missing; a
            file's.
    """
    text = os.fspath(place)
    if is_address(text):
        return Remote(text)
    folder = Path(text.removeprefix("file://"))
    if folder.is_file():
        raise InputError(f"{text!r} is a file; a batch wants a folder of its own.")
    return Disk(folder)


def read_file(path: str) -> bytes:
    """The bytes of a file of this machine or at an address.

    Raises:
        InputError: no such kind of address.
        OSError: it cannot be read.
    """
    if not is_address(path):
        return Path(path.removeprefix("file://")).read_bytes()
    system, name = _system(path)
    return cast("bytes", system.cat_file(name))


def joined(folder: str, path: str) -> str:
    """``path``, beside the files of ``folder`` where it is relative."""
    if is_address(path) or Path(path).is_absolute():
        return path
    if is_address(folder):
        return f"{folder.rstrip('/')}/{path}"
    return os.path.join(folder, path)  # noqa: PTH118 - half a million times


def split(path: str) -> tuple[str, str]:
    """Folder and name of a file."""
    if is_address(path):
        folder, _, name = path.rpartition("/")
        return folder, name
    return os.path.split(path)


def _system(address: str) -> tuple[Any, str]:
    """Fsspec's file system of an address, and the path in it."""
    import fsspec

    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(address))
    except (ImportError, ValueError) as error:
        raise InputError(f"{address!r} cannot be reached: {error}") from error


# --- a disk --------------------------------------------------------------------------------------


class Disk:
    """A folder of this machine."""

    appends = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = os.fspath(folder)
        self._above = os.path.join(self.place, "")  # noqa: PTH118 - for names, by the million

    def path(self, name: str) -> str:
        return f"{self._above}{name}" if name else self.place

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        top = len(self.place.rstrip(os.sep)) + 1
        for place, folders, names in os.walk(self.place):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            yield (
                place[top:].replace(os.sep, "/"),
                sorted(name for name in names if not name.startswith(".")),
            )

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name: str) -> bool:
        return Path(self.path(name)).exists()

    def is_empty(self) -> bool:
        return not self.folder.exists() or not any(self.folder.iterdir())

    def open(self, name: str) -> IO[bytes]:
        return Path(self.path(name)).open("rb")

    def write(self, name: str, data: bytes | Iterable[bytes]) -> None:
        path = Path(self.path(name))
        with _explained(self.path(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        with Commit() as commit:
            commit.write(
                path, lambda file: file.writelines((data,) if isinstance(data, bytes) else data)
            )

    def append(self, name: str, data: bytes) -> None:
        path = Path(self.path(name))
        with _explained(os.fspath(path)), path.open("ab") as file:
            start = file.tell()
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, start)  # what fitted of these lines goes
                raise

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            Path(self.path(name)).unlink(missing_ok=True)

    def clear(self, folder: str) -> None:
        shutil.rmtree(self.path(folder), ignore_errors=True)

    def sweep(self) -> None:
        # A walk bears that an actor whose driver was killed deletes a folder meanwhile.
        for place, _, names in os.walk(self.place):
            for name in fnmatch.filter(names, TEMPORARY):
                (Path(place) / name).unlink(missing_ok=True)

    def take(self, name: str) -> Held:
        path = Path(self.path(name))
        with _explained(self.place):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        try:
            _lock(file)
        except OSError:
            file.close()
            raise InputError(f"another process works on the batch in {self.place!r}.") from None
        return file


def _lock(file: IO[bytes]) -> None:
    """Keep an open file from other processes, until it is closed or this process ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- elsewhere -----------------------------------------------------------------------------------


class Remote:
    """A folder at an address that fsspec reaches."""

    appends = False

    def __init__(self, address: str) -> None:
        self.place = address.rstrip("/")
        self._fs, self._root = _system(self.place)
        self._root = self._root.rstrip("/")
        protocols = self._fs.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._whole = bool(names & _BUCKETS)

    def path(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = self._fs.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                continue
            kinds: dict[str, list[str]] = {"file": [], "directory": []}
            for entry in entries:
                name = PurePosixPath(entry["name"]).name
                if not name.startswith("."):
                    kinds.setdefault(entry["type"], []).append(name)
            yield folder, sorted(kinds["file"])
            above = f"{folder}/" if folder else ""
            waiting += [above + name for name in sorted(kinds["directory"], reverse=True)]

    def names(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError):
            self._fs.invalidate_cache()  # others write there too
            found = self._fs.ls(self._at(folder), detail=True)
            return sorted(PurePosixPath(e["name"]).name for e in found if e["type"] == "file")
        return []

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self._at(name)))

    def is_empty(self) -> bool:
        try:
            return not self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return True

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self._fs.open(self._at(name), "rb"))

    def write(self, name: str, data: bytes | Iterable[bytes]) -> None:
        final = self._at(name)
        target = final
        if not self._whole:
            folder, _, _ = final.rpartition("/")
            target = f"{folder}/.softpaint-{secrets.token_hex(8)}.tmp"
        with _explained(self.path(name)):
            if not self._whole:
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            try:
                self._put(target, data)
                if target != final:
                    self._fs.mv(target, final)
            except BaseException:
                if target != final:
                    with suppress(Exception):
                        self._fs.rm_file(target)
                raise

    def _put(self, target: str, data: bytes | Iterable[bytes]) -> None:
        if isinstance(data, bytes):
            self._fs.pipe_file(target, data)
            return
        with tempfile.NamedTemporaryFile() as spool:  # what is half sent would look whole
            spool.writelines(data)
            spool.flush()
            self._fs.put_file(spool.name, target)

    def append(self, name: str, data: bytes) -> None:
        raise NotImplementedError  # see `appends`

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._at(name))

    def clear(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(self._at(folder), recursive=True)

    def sweep(self) -> None:
        if not self._whole:
            for left in self._fs.glob(f"{self._root}/**/{TEMPORARY}"):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(left)

    def take(self, name: str) -> Held:
        return _Lease(self, name)


class _Lease:
    """A file that is written again and again as long as its process lives: what a lock is where
    there are none.
    """

    def __init__(self, drive: Remote, name: str) -> None:
        self._drive, self._name = drive, name
        self._own = secrets.token_hex(8)
        self._refuse_living()
        self._beat()
        self._check_own()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _told(self) -> dict[str, Any]:
        try:
            with self._drive.open(self._name) as file:
                told: dict[str, Any] = json.loads(file.read())
        except (OSError, ValueError):
            return {}
        return told

    def _refuse_living(self) -> None:
        told = self._told()
        silent = time.time() - told.get("at", 0.0)
        gone = told.get("host") == socket.gethostname() and not _runs(told.get("process", 0))
        if silent < _SILENT and not gone:
            raise InputError(
                f"another process works on the batch in {self._drive.place!r} (process "
                f"{told.get('process')} of {told.get('host')}, {max(0, round(silent))} s ago); if "
                f"it was killed, start again in {max(1, round(_SILENT - silent))} s."
            )

    def _beat(self) -> None:
        told = {
            "owner": self._own,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "at": time.time(),
        }
        self._drive.write(self._name, json.dumps(told).encode())

    def _check_own(self) -> None:
        """Two that begin together: the one that wrote last has it."""
        time.sleep(0.2)
        if self._told().get("owner") != self._own:
            raise InputError(f"another process works on the batch in {self._drive.place!r}.")

    def _live(self) -> None:
        while not self._closing.wait(BEAT):
            with suppress(Exception):  # the network may come back before it is held for dead
                self._beat()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        with suppress(Exception):
            self._drive.remove([self._name])


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; True where that cannot be known."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, TypeError):
        return True
    return True


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """What a drive says, as an ``OutputError`` that names the file."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path!r}: {error.strerror or error}.") from error
