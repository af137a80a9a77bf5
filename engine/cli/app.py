"""The application: its commands' home, its exit codes, and one line for each error."""

from __future__ import annotations

import difflib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated

import typer

from engine.errors import InputError, SoftpaintError, SoftpaintWarning, StoppedError

EXIT_FAILED, EXIT_BAD_USE, EXIT_INTERRUPTED = 1, 2, 130
_SPINS = "20000"
"""As quick as the default on a machine of its own, and 2.3 times as quick beside another program
on two cores."""
_REMEMBERED = 1000
"""Warnings that are known to have been shown."""

app = typer.Typer(
    name="softpaint",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help costs more than the rest of --help together
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"softpaint {version('softpaint')}")
        raise typer.Exit


@app.callback(epilog="Begin with: softpaint demo")
def _softpaint(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Repaint parts of pictures with diffusion models: soft strength maps, several strategies."""


# What a terminal obeys, or what changes the order in which it is read: control characters but tab
# and line feed, halves of surrogate pairs, and Unicode's marks of direction and of line ends.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""``text`` with ``\uXXXX`` in place of what a terminal would obey; JSON stays equal JSON."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def note(text: str, *, quiet: bool = False) -> None:
    """Print a line for the person who waits, to stderr."""
    if not quiet:
        typer.echo(printable(text), err=True)


def say(text: str = "", *, err: bool = False) -> None:
    """Print what was asked for, to stdout; to stderr where that carries a picture."""
    typer.echo(printable(text), err=err)


@cache
def flags() -> dict[str, str]:
    """The flags of the engine's settings, by the engine's names."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    several = [commands[name] for name in ("evaluate", "compare", "edit") if name in commands]
    found = {"image": "PHOTO"}
    for parameter in (each for command in several for each in command.params):
        if long := [name for name in parameter.opts if name.startswith("--")]:
            found[parameter.name] = long[0]
    return found


def main() -> None:
    """Run the command line: one line for each error, never a traceback."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run ``arguments`` (default: the process's own); the exit code."""
    debug = os.environ.get("SOFTPAINT_DEBUG", "") not in {"", "0"}
    # The libraries below log and warn about matters of their own.
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads of one product wait for each other by spinning, milliseconds by default: where
        # another program has a core, that takes from it what they wait for.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if not sys.stderr.isatty():  # their progress bars too are for a person who waits
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
    if not debug:
        warnings.showwarning = _Warnings()  # type: ignore[assignment]
    try:
        return _run(arguments)
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    except KeyboardInterrupt:
        if debug:
            raise
        note("softpaint: interrupted; nothing was written")
        return EXIT_INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = app(given or ["--help"], prog_name="softpaint", standalone_mode=False)
    if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into an exit code of its own
        raise KeyboardInterrupt
    sys.stdout.flush()
    return code or 0


def _explain(error: Exception) -> int:
    """Say ``error`` in one line; the exit code."""
    if isinstance(error, typer.TyperException):
        message, code = error.format_message(), error.exit_code
        command = getattr(getattr(error, "ctx", None), "info_name", None)
        if "extra argument" in message and command in {"edit", "compare", "advise"}:
            message += "; one picture is edited at a time, a folder of them by softpaint batch"
        message = _meant(error) or message
    elif isinstance(error, StoppedError):
        note(f"softpaint: {error}")
        return EXIT_INTERRUPTED
    elif isinstance(error, SoftpaintError):
        message = error.for_command(flags())
        code = EXIT_BAD_USE if isinstance(error, InputError) else EXIT_FAILED
    elif isinstance(error, BrokenPipeError):
        # The reader left (`softpaint strategies | head -1`): the rest has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    elif isinstance(error, OSError):
        message, code = f"{error.strerror or error}: {error.filename or ''}", EXIT_FAILED
    else:
        message, code = f"unexpected {type(error).__name__}: {error}", EXIT_FAILED
        message += " (SOFTPAINT_DEBUG=1 shows where)"
    note(f"softpaint: error: {' '.join(message.split())}")
    return code


def _meant(error: typer.TyperException) -> str:
    """What to say of an option that is not there because it is called otherwise; empty if it is
    no such option.
    """
    from engine.request.elsewhere import CALLED

    name = str(getattr(error, "option_name", None) or "")
    command = getattr(getattr(error, "ctx", None), "command", None)
    own = CALLED.get(name.lstrip("-").replace("-", "_"), "")
    known = {flag for each in getattr(command, "params", ()) for flag in each.opts}
    flag = flags().get(own or name.lstrip("-").replace("-", "_"), "")
    if not error.format_message().startswith("No such option") or not flag:
        return ""
    if flag in known:
        return f"No such option: {name}. Here it is called {flag}."
    if flag not in _of_edit() or difflib.get_close_matches(name, known, n=1, cutoff=0.8):
        return ""
    has = "it is one of softpaint edit's" if flag == name else f"softpaint edit has {flag}"
    return f"No such option: {name}; {has}."


def _of_edit() -> set[str]:
    """The flags of `softpaint edit`."""
    edit = getattr(typer.main.get_command(app), "commands", {}).get("edit")
    return {flag for each in getattr(edit, "params", ()) for flag in each.opts}


class _Warnings:
    """Shows what concerns the user in one line, once however often it is said, and nothing of the
    libraries' own housekeeping.
    """

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *_: object) -> None:
        if not issubclass(category, UserWarning):
            return
        text = str(message)
        if isinstance(message, SoftpaintWarning):
            text = message.for_command(flags())
        if text in self._shown:
            return
        if len(self._shown) >= _REMEMBERED:  # of a batch of millions, with figures in them
            self._shown.clear()
        self._shown.add(text)
        note(f"softpaint: warning: {' '.join(text.split())}")
