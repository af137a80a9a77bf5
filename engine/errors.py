"""Softpaint's own errors.

Every error that a user can cause derives from :class:`SoftpaintError`. Bad input is an
:class:`InputError`, which is also a ``ValueError``; the command line exits with code 2 for it and
with code 1 for the others.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

# Marks around advice in a message. They are of Unicode's private use area, and never shown.
_TOLD, _SETTING, _OR, _END = "\ue0f0", "\ue0f1", "\ue0f2", "\ue0f3"
_MARKED = re.compile(f"([{_TOLD}{_SETTING}])([^{_OR}{_END}]*){_OR}([^{_END}]*){_END}")


def told(*, python: str, command: str) -> str:
    """Advice in a message that Python and the command line are given in other words."""
    return f"{_TOLD}{python}{_OR}{command}{_END}"


def setting(name: str, value: object = None) -> str:
    """A setting in a message: ``name`` or ``name=value`` in Python, its flag on the command line.

    ``value`` None is the setting itself, whatever it is set to.
    """
    if value is None:
        return f"{_SETTING}{name}{_OR}{_END}"
    return f"{_SETTING}{name}{_OR}{value if isinstance(value, bool) else repr(value)}{_END}"


def _for_python(mark: re.Match[str]) -> str:
    kind, first, second = mark.groups()
    return f"{first}={second}" if kind == _SETTING and second else first


class _Advising:
    """What may hold :func:`told` and :func:`setting` in its message."""

    def __str__(self) -> str:
        """The message as Python's caller is told."""
        return _MARKED.sub(_for_python, super().__str__())

    def for_command(self, flags: Mapping[str, str]) -> str:
        """The message as the command line's caller is told.

        Args:
            flags: the flag of each setting; settings without one keep their Python name.
        """

        def shown(mark: re.Match[str]) -> str:
            kind, first, second = mark.groups()
            if kind == _TOLD:
                return second
            flag = flags.get(first)
            if flag is None or not second:
                return flag or _for_python(mark)
            if second in {"True", "False"}:
                return flag if second == "True" else f"--no-{flag.removeprefix('--')}"
            return f"{flag} {second}"

        return _MARKED.sub(shown, super().__str__())


class SoftpaintError(_Advising, Exception):
    """Base class of Softpaint's errors.

    Example:
        >>> try:
        ...     engine.edit(image="photo.png", mask="nowhere.png", prompt="a red house")
        ... except SoftpaintError as error:
        ...     print(type(error).__name__)
        InputError
    """


class SoftpaintWarning(_Advising, UserWarning):
    """Something that was asked for and has another effect than it seems, or none.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", SoftpaintWarning)  # stop at what would have no effect
    """


class InputError(SoftpaintError, ValueError):
    """The caller asked for something that cannot be done; nothing was computed or written.

    Example:
        >>> engine.edit(image="photo.png", mask="mask.png", prompt="a boat", strength=2)
        Traceback (most recent call last):
        engine.errors.InputError: strength must be from 0 to 1 (and above 0), not 2.
    """


def _plain(name: str) -> str:
    """A name as those who write it otherwise mean it: small letters, and dashes between words."""
    return re.sub(r"[\s_-]+", "-", name.strip().casefold().replace("++", "pp"))


class UnknownNameError(InputError):
    """A name that is not registered. Lists what exists and the nearest match.

    Example:
        >>> raise UnknownNameError("strategy", "blond", ["blend", "remove"])
        Traceback (most recent call last):
        engine.errors.UnknownNameError: unknown strategy 'blond'. Did you mean 'blend'? ...
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        plain = {_plain(each): each for each in reversed(names)}
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f" Did you mean {plain[near[0]]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


class ModelError(SoftpaintError):
    """A model could not be found, loaded or used.

    Example:
        >>> try:
        ...     InpaintEngine.from_pretrained("no/such-model")
        ... except ModelError:
        ...     print("not there")
        not there
    """


class OutputError(SoftpaintError):
    """A result could not be written; no partial file is left behind.

    Example:
        >>> try:
        ...     files = result.save("out.png")
        ... except OutputError as error:
        ...     print(error)
    """


class MemoryLimitError(SoftpaintError):
    """The device's memory does not suffice for a single picture.

    Example:
        >>> try:
        ...     result = engine.edit(
        ...         image="photo.png", mask="mask.png", prompt="a boat", num_inference_steps=2
        ...     )
        ... except MemoryLimitError:
        ...     engine.optimise("memory")
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"out of memory in {where}. What helps: a smaller picture, dtype float16, "
            "engine.optimise('memory')."
        )


class CancelledError(SoftpaintError):
    """The edit was cancelled by its callback; other jobs in the loop went on.

    Example:
        >>> try:
        ...     engine.edit(
        ...         image="photo.png",
        ...         mask="mask.png",
        ...         prompt="a boat",
        ...         callback=lambda shot: shot.index < 2,
        ...     )
        ... except CancelledError:
        ...     print("stopped after three steps")
        stopped after three steps
    """


class StoppedError(SoftpaintError):
    """A long run was interrupted; what it has is kept, and the same command goes on from there.

    Example:
        >>> raise StoppedError("stopped at step 40 of 1000; the same command goes on there.")
        Traceback (most recent call last):
        engine.errors.StoppedError: stopped at step 40 of 1000; the same command goes on there.
    """
