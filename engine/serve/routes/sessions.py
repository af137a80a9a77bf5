"""Sessions: a picture that is rendered again and again while its map is painted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from engine.errors import InputError
from engine.picture.source import OWN_ALPHA
from engine.request.request import EditRequest
from engine.serve import wire
from engine.serve.references import SETTING
from engine.serve.requests import Form, ServiceOf, check_form, form_schema, read_form
from engine.serve.routes.jobs import EXAMPLE, FIELDS, FILES, PICTURES, maps, settings_of, taken
from engine.serve.sessions import Rect, session_arguments

if TYPE_CHECKING:
    from engine.serve.service import Service

router = APIRouter(prefix="/api", tags=["sessions"])

RECT = {"type": "string", "example": "16,16,64,48", "description": "left,top,width,height"}


@router.post(
    "/sessions",
    status_code=201,
    openapi_extra=form_schema(
        {name: FILES[name] for name in ("picture", SETTING)},
        {"settings": FIELDS["settings"]},
        ["picture", "settings"],
        EXAMPLE,
    ),
)
async def start(request: Request, service: ServiceOf) -> dict[str, Any]:
    """Open a session of a picture with the settings of its renders (a prompt at least)."""
    form = await read_form(request, service.limits)
    arguments, size, nbytes = await asyncio.to_thread(_opened, form, service)
    opened = await service.open(arguments, size, nbytes)
    return {
        "id": opened.id,
        "width": opened.width,
        "height": opened.height,
        "seed": opened.session.arguments.get("seed"),
    }


@router.post(
    "/sessions/{name}/render",
    status_code=202,
    openapi_extra=form_schema(
        {"map": FILES["map"], "patch": "A rectangle of it, where only that has changed."},
        {"rect": RECT, "settings": FIELDS["settings"]},
        ["map"],
    ),
)
async def render(name: str, request: Request, service: ServiceOf) -> Response:
    """Render it with a map and changed settings; both are optional after the first time. The render
    before it ends.
    """
    form = await read_form(request, service.limits)
    changes, patch, rect = await asyncio.to_thread(_changes, form, service)
    return taken(await service.render(name, changes, patch, rect))


@router.delete("/sessions/{name}")
async def close(name: str, service: ServiceOf) -> dict[str, bool]:
    """Close it; its render ends."""
    await service.close_session(name)
    return {"closed": True}


@router.post(
    "/stack",
    status_code=202,
    openapi_extra=form_schema({}, {"session": {"type": "string"}}, ["session"]),
)
async def stack(request: Request, service: ServiceOf) -> Response:
    """The session's picture at nine uniform strengths, each result labelled with its own; made
    while there is nothing else to do.
    """
    form = await read_form(request, service.limits)
    name = form.text("session") or request.query_params.get("session")
    if name is None:
        raise InputError("session is missing.")
    return taken(await service.stack(name))


def _opened(form: Form, service: Service) -> tuple[dict[str, Any], tuple[int, int], int]:
    """Arguments, size and bytes of the session that a form asks for."""
    check_form(form, ["settings"], ["picture", "image", SETTING])
    data = form.file("picture", "image")
    if data is None:
        raise InputError("picture is missing: a file of the form.")
    source, size = wire.picture(data, "picture", service.limits)
    given = settings_of(form, service)
    if given.get("num_images", 1) > 1:
        raise InputError("a session renders one picture at a time.")
    if given.get("expand"):
        raise InputError("a session's canvas does not grow; expand the picture first.")
    arguments = session_arguments({**given, "image": source})
    EditRequest.read({**arguments, "mask": OWN_ALPHA})  # refused here, or by no render
    return arguments, size, sum(len(each) for several in form.files.values() for each in several)


def _changes(form: Form, service: Service) -> tuple[dict[str, Any], Any, Rect | None]:
    """Changed settings, map or patch, and the patch's rectangle."""
    check_form(form, ["settings", "rect"], ["patch", *PICTURES])
    given = settings_of(form, service)
    if refused := given.keys() & {"image", "expand", "num_images"}:
        raise InputError(f"{min(refused)} belongs to a session, not to its renders.")
    given |= {k: v for k, v in maps(form, service).items() if k != "strength_map"}
    rect = _rect(form.text("rect"))
    data = form.file("patch", "map")
    if rect is not None and data is None:
        raise InputError("a rect comes with its patch.")
    if data is None:
        return given, None, None
    return given, wire.grey_map(wire.picture(data, "map", service.limits)[0]), rect


def _rect(text: str | None) -> Rect | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(each.strip().isdecimal() and len(each) < 8 for each in parts):
        raise InputError("rect must be left,top,width,height in px.")
    left, top, width, height = (int(each) for each in parts)
    return left, top, width, height
