"""The table of settings as a JSON schema, for an HTTP interface and the form of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from engine.request.field import REQUIRED, Field, fields_of
from engine.request.fields import Fields

_TYPES: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def json_schema(table: type = Fields) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of an edit's settings.

    Those that JSON cannot hold (a callback, a generator) are not in it. Names that plug-ins
    register are, so it is read anew where it is asked for.

    Example:
        >>> from engine.request.schema import json_schema
        >>> json_schema()["properties"]["guess_mode"]["default"]
        False
    """
    fields = [field for field in fields_of(table).values() if _has_form(field)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Edit",
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in fields if field.default is REQUIRED],
        "properties": {field.name: _property(field) for field in fields},
    }


def _has_form(field: Field) -> bool:
    kind = field.kind
    known = kind in _TYPES or get_origin(kind) in {Literal, tuple}
    return field.json is not None or field.names is not None or known


def _property(field: Field) -> dict[str, Any]:
    form = _form(field)
    if field.optional and field.default is None:
        form = {"anyOf": [form, {"type": "null"}]}
    told = {"description": field.help.text, "x-group": str(field.group)}
    if field.default is REQUIRED:
        return form | told
    default = field.default
    if isinstance(default, Mapping):
        default = dict(default)
    return form | told | {"default": default}


def _form(field: Field) -> dict[str, Any]:
    kind = field.kind
    if field.json is not None:
        return dict(field.json.schema)
    if field.names is not None:
        names = list(field.names.listed())
        # Where more is accepted than is listed, the list is only a help.
        return {"type": "string", "examples" if field.names.check else "enum": names}
    if get_origin(kind) is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        entries: Sequence[Any] = get_args(kind)
        item = {"type": _TYPES[entries[0]]} | _bounds(field)
        return {"type": "array", "items": item, "minItems": len(entries), "maxItems": len(entries)}
    return {"type": _TYPES[kind]} | _bounds(field)


def _bounds(field: Field) -> dict[str, float]:
    limits = field.limits
    if limits is None:
        return {}
    bounds = {"exclusiveMinimum" if limits.above else "minimum": limits.low}
    if limits.high != float("inf"):
        bounds["exclusiveMaximum" if limits.below else "maximum"] = limits.high
    return bounds
