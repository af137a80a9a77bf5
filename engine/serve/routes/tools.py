"""What a page needs beside edits: comparisons, annotated pictures, figures."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image

from engine.errors import InputError
from engine.serve import wire
from engine.serve.errors import NotFoundError
from engine.serve.finisher import encoded, figures
from engine.serve.jobs import Job
from engine.serve.requests import Form, ServiceOf, check_form, form_schema, read_form
from engine.serve.routes.jobs import EXAMPLE, FIELDS, FILES, PICTURES, maps, settings_of, taken

if TYPE_CHECKING:
    from engine.picture.source import Source
    from engine.serve.service import Service

router = APIRouter(prefix="/api", tags=["tools"])

STRATEGIES = {"type": "array", "items": {"type": "string"}, "description": "Of /api/settings."}


@router.post(
    "/compare",
    status_code=202,
    openapi_extra=form_schema(
        FILES,
        {"settings": FIELDS["settings"], "strategies": STRATEGIES},
        ["picture", "settings"],
        EXAMPLE | {"strategies": ["blend", "differential"]},
    ),
)
async def compare(request: Request, service: ServiceOf) -> Response:
    """The same edit through several strategies, a result each; all that the model can run if none
    are named.
    """
    service.worker.check_room()
    form = await read_form(request, service.limits)
    job = await asyncio.to_thread(_comparison, form, service)
    return taken(await service.submit(job))


@router.post(
    "/controls/{name}/annotate",
    response_class=Response,
    openapi_extra=form_schema({"picture": FILES["picture"]}, {}, ["picture"]),
)
async def annotated(name: str, request: Request, service: ServiceOf) -> Response:
    """What a control (or an annotator) reads from a picture, as a PNG."""
    form = await read_form(request, service.limits)
    annotator = _annotator(name)
    source = _picture(form, "picture", service)
    # In the worker's thread: a detector is a network too.
    drawn = await service.ask(lambda: _annotate(source, annotator))
    return Response(await asyncio.to_thread(encoded, drawn, "png"), media_type="image/png")


@router.post(
    "/figures",
    openapi_extra=form_schema(
        {"result": "The edited picture.", "original": "What it was.", "map": FILES["map"]},
        {"prompt": {"type": "string"}},
        ["result", "original", "map"],
    ),
)
async def measured(request: Request, service: ServiceOf) -> dict[str, Any]:
    """What can be measured of an edit without its right answer, with what each figure means."""
    from engine.picture.metrics import METRICS

    form = await read_form(request, service.limits)
    values = await asyncio.to_thread(_figures, form, service)
    return {
        "figures": values,
        "meaning": {
            name: {
                "help": METRICS.get(name).description,
                "unit": METRICS.get(name).unit,
                "better": METRICS.get(name).better,
            }
            for name in values
        },
    }


def _picture(form: Form, name: str, service: Service) -> Source:
    data = form.file(name)
    if data is None:
        raise InputError(f"{name} is missing: a file of the form.")
    return wire.picture(data, name, service.limits)[0]


def _comparison(form: Form, service: Service) -> Job:
    """The job of a comparison."""
    check_form(form, ["settings", "strategies"], PICTURES)
    source = _picture(form, "picture", service)
    limits = service.limits
    given = settings_of(form, service)
    if "strategy" in given:
        raise InputError("a comparison takes strategies, a list.")
    arguments = {**given, "image": source, **maps(form, service)}
    requests = service.engine.variants(strategies=_strategies(form, service), **arguments)
    size = wire.picture(source.data, "picture", limits)[1]
    for request in requests.values():
        wire.check_canvas(size, request, limits)
    count = sum(request.num_images for request in requests.values())
    if count > 2 * limits.n:
        raise InputError(f"{count} pictures; this server compares at most {2 * limits.n}.")
    nbytes = sum(len(each) for several in form.files.values() for each in several)
    return Job(requests, together=True, tolerant=True, nbytes=nbytes)


def _strategies(form: Form, service: Service) -> list[str] | None:
    """The names in a JSON list, or in several fields, or with commas between."""
    given = form.texts.get("strategies", [])
    if not given:
        return None
    if len(given) == 1 and given[0].lstrip().startswith("["):
        try:
            given = json.loads(given[0])
        except (ValueError, RecursionError):
            raise InputError("strategies must be a JSON list of names.") from None
    elif len(given) == 1:
        given = given[0].split(",")
    names = [wire.settings({"strategy": name}, service.limits)["strategy"] for name in given]
    if len(set(names)) < len(names):
        raise InputError("strategies must not be named twice.")
    return names


def _annotator(name: str) -> str:
    """The annotator of that name, or of the control of that name."""
    from controls import get_control, list_annotators, list_controls
    from controls.control import HOLES

    found = get_control(name).annotator if name in list_controls() else name
    if not isinstance(found, str) or found in HOLES or found not in list_annotators():
        known = ", ".join(sorted({*list_controls(), *list_annotators()} - set(HOLES)))
        raise NotFoundError(f"no annotator {name!r}; there are {known}.")
    return found


def _annotate(source: Source, annotator: str) -> Image.Image:
    from controls import annotate
    from engine.picture.read import load_image

    return Image.fromarray(annotate(load_image(source).rgb, annotator))


def _figures(form: Form, service: Service) -> dict[str, float]:
    result, original = (
        wire.decoded(_picture(form, name, service), name) for name in ("result", "original")
    )
    strength_map = wire.grey_map(_picture(form, "map", service))
    shapes = {image.size[::-1] for image in (result, original)} | {strength_map.shape}
    if len(shapes) > 1:
        raise InputError("result, original and map must be of one size.")
    return figures(result, original, np.asarray(strength_map), form.text("prompt") or None)
