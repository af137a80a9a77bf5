"""``key=value`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine.errors import InputError


def parse_options(pairs: Sequence[str], where: str = "--option") -> dict[str, Any]:
    """``key=value`` pairs; a value is read as JSON where it is JSON, else it is text."""
    options: dict[str, Any] = {}
    for each in pairs:
        key, text = pair(each, where, "key=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        name = key.replace("-", "_")
        if name in options and options[name] != value:
            raise InputError(f"{where} gives {key} twice: {options[name]!r} and {value!r}.")
        options[name] = value
    return options


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    """Key and value of an option's ``text``. Raises ``InputError`` for another form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{option} takes {form}, not {text!r}.")
    return key.strip(), value
