"""The command line: parse, call the engine, print. One module for each command.

Nothing heavy is imported before a command needs it, so ``softpaint --help`` stays quick.
"""

from engine.cli import demo, edit, batch, compare, evaluate  # isort: skip - the order of --help
from engine.cli import advise, annotate, mapping, info, tune, teach, serve, doctor  # isort: skip
from engine.cli.app import app, main, run

__all__ = [
    "advise",
    "annotate",
    "app",
    "batch",
    "compare",
    "demo",
    "doctor",
    "edit",
    "evaluate",
    "info",
    "main",
    "mapping",
    "run",
    "serve",
    "teach",
    "tune",
]
