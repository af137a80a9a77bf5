"""Settings that are given as texts: the fields of a form, the cells of a table."""

from __future__ import annotations

import json
from typing import Any, Literal, get_origin

from engine.request.field import Field, fields_of
from engine.request.fields import Fields

_WORDS = {"True", "False", "None", "TRUE", "FALSE"}
"""What Python and spreadsheets write, which JSON spells small."""
_TEXTS = {"prompt", "negative_prompt", "strategy"}
"""Settings that take other things than words too, and from a text words only."""


def value_of(name: str, text: str) -> Any:
    """The value that a text means for the setting ``name``, or for an option of that name: itself
    where that takes words or a file, else what it is as JSON; itself too where it is none, to be
    refused by whoever checks the setting. Numbers of several may stand with commas between, as on
    the command line.
    """
    field, given = fields_of(Fields).get(name), text
    if field is not None and _is_word(field):
        return text
    if field is not None and get_origin(field.kind) is tuple and not text.lstrip().startswith("["):
        text = f"[{text}]"
    try:
        return json.loads(text.lower() if text in _WORDS else text)
    except (ValueError, RecursionError):
        return given


def _is_word(field: Field) -> bool:
    """Whether a setting's texts are not read any further."""
    words = field.kind is str or field.name in _TEXTS or get_origin(field.kind) is Literal
    picture = field.json is not None and "contentMediaType" in field.json.schema
    return words or picture or field.names is not None
