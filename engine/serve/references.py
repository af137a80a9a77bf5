"""The pictures that an IP-Adapter reads, as they come in requests: bytes, for an adapter that the
server was started with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from controls import Reference
    from engine.engine import InpaintEngine
    from engine.picture.source import Source

SETTING = "ip_adapter_image"
"""The setting, and the name of its files in a form."""
_TAKES = ("image", "scale", "mask", "adapter")


def adapters_of(engine: InpaintEngine) -> tuple[str, ...]:
    """The names of the IP-Adapters that are loaded: those of their files, without endings."""
    count = engine.backbone.ip_adapters
    names = [Path(place).stem for place in engine.adapters.ip_adapters]
    if len(names) != count:  # ``pipe.load_ip_adapter`` has loaded them, and keeps no names
        return tuple(f"ip-adapter-{number}" for number in range(1, count + 1))
    twice = Counter(names)
    return tuple(
        f"{name}-{number}" if twice[name] > 1 else name for number, name in enumerate(names, 1)
    )


def with_files(given: Mapping[str, Any], files: Sequence[bytes]) -> dict[str, Any]:
    """Settings with a form's files: each, in their order, is the picture of the next reference that
    has none; what is left are references of their own.
    """
    if not files:
        return dict(given)
    waiting, filled = list(files), []
    for each in _several(given.get(SETTING)):
        empty = isinstance(each, Mapping) and each.get("image") is None
        filled.append({**each, "image": waiting.pop(0)} if empty and waiting else each)
    filled += [{"image": data} for data in waiting]
    return {**given, SETTING: filled}


def references(
    value: Any, adapters: Sequence[str], read: Callable[[Any, str], Source], most: int
) -> list[list[Reference]]:
    """An edit's ``ip_adapter_image``: for each loaded adapter the pictures that it reads.

    Args:
        value: a picture (bytes, or base64), ``{"image", "scale", "mask", "adapter"}``, or a list
            of such.
        adapters: the names of those that are loaded.
        read: gives a picture by what was sent and its name in messages.
        most: pictures at most.

    Raises:
        InputError: no adapter is loaded, or a value that is not accepted.
    """
    if not adapters:
        raise InputError(
            f"{SETTING}: this server has no IP-Adapter; --ip-adapter FILE starts it with one."
        )
    several = _several(value)
    if not 1 <= len(several) <= most:
        raise InputError(f"{SETTING} has {len(several)} pictures; 1 to {most} are taken.")
    found: dict[str, list[Reference]] = {name: [] for name in adapters}
    for number, each in enumerate(several, 1):
        what = f"reference {number}"
        told = each if isinstance(each, Mapping) else {"image": each}
        if unknown := sorted(set(map(str, told)) - set(_TAKES)):
            raise InputError(f"{what}: {unknown[0]!r} is none of {', '.join(_TAKES)}.")
        found[_adapter(told.get("adapter"), adapters, what)].append(_reference(told, what, read))
    return [found[name] or [_nothing()] for name in adapters]


def reference(value: Any, adapters: Sequence[str], read: Callable[[Any, str], Source]) -> Reference:
    """One for the one adapter, as a region has it.

    Raises:
        InputError: as :func:`references` does; several adapters are loaded.
    """
    if len(adapters) > 1:
        raise InputError("a region's reference is for one IP-Adapter, and several are loaded.")
    return references(value, adapters, read, 1)[0][0]


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _adapter(name: Any, adapters: Sequence[str], what: str) -> str:
    if name is None:
        if len(adapters) > 1:
            raise InputError(f"{what} must name its adapter: one of {', '.join(adapters)}.")
        return adapters[0]
    if name not in adapters:
        raise UnknownNameError("IP-Adapter", str(name), list(adapters))
    return str(name)


def _reference(told: Mapping[str, Any], what: str, read: Callable[[Any, str], Source]) -> Reference:
    from controls import Reference

    mask = told.get("mask")
    return Reference(
        read(told.get("image"), f"{what}'s image"),
        told.get("scale", 1.0),
        mask=None if mask is None else read(mask, f"{what}'s mask"),
    )


def _nothing() -> Reference:
    """For an adapter that is given no picture and insists on one: at scale 0 it adds nothing."""
    from PIL import Image

    from controls import Reference

    return Reference(Image.new("RGB", (64, 64)), 0.0)
