"""Jobs: an edit is asked for, followed, fetched and ended."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from engine.errors import InputError
from engine.serve import wire
from engine.serve.errors import ConflictError, NotFoundError
from engine.serve.finisher import FORMATS, encoded
from engine.serve.jobs import Job, JobState
from engine.serve.references import SETTING, with_files
from engine.serve.requests import (
    Form,
    ServiceOf,
    check_form,
    ended,
    event_stream,
    form_schema,
    read_form,
    settings_schema,
)
from engine.serve.service import Service, one_each

router = APIRouter(prefix="/api", tags=["jobs"])

FILES = {
    "picture": "The picture to edit.",
    "map": "Grey PNG of 8 or 16 bits: the strength of every pixel, white = repaint.",
    "mask": "In its place: white is repainted, black is kept.",
    SETTING: "What the server's IP-Adapter reads, where it has one; may be repeated.",
}
FIELDS = {
    "settings": {
        "type": "object",
        "description": "The edit's settings as JSON; names that are none are the strategy's.",
        "properties": settings_schema(),
        "additionalProperties": True,
    },
    "n": {"type": "integer", "minimum": 1, "description": "How many pictures."},
    "seeds": {"type": "array", "items": {"type": "integer"}, "description": "A picture for each."},
    "figures": {"type": "boolean", "default": True, "description": "Measure the pictures."},
}
EXAMPLE = {"settings": {"prompt": "a red house", "num_inference_steps": 20, "seed": 7}}


@router.post(
    "/jobs",
    status_code=202,
    openapi_extra=form_schema(FILES, FIELDS, ["picture", "settings"], EXAMPLE),
)
async def start(
    request: Request,
    service: ServiceOf,
    wait: Annotated[bool, Query(description="Answer with the first picture.")] = False,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Ask for an edit.

    202 tells where its events are. With `wait=true` the answer is the first picture (a PNG with its
    recipe); a client that leaves then ends its edit.
    """
    service.worker.check_room()
    form = await read_form(request, service.limits)
    job = service.remembered(idempotency_key, form.fingerprint)
    if job is None:
        made = await asyncio.to_thread(edit_of, form, service)
        job = await service.submit(made)
        service.remember(idempotency_key, form.fingerprint, job)
    if wait:
        return await result(service, await ended(request, service, job), 0, "png")
    return taken(job)


@router.get("/jobs/{name}")
async def get(name: str, service: ServiceOf) -> dict[str, Any]:
    """Where a job stands, and its pictures once they are there."""
    return service.job(name).told()


@router.delete("/jobs/{name}")
async def cancel(name: str, service: ServiceOf) -> dict[str, Any]:
    """End a job when the step that runs has ended; no effect on one that is over."""
    job = service.job(name)
    await service.cancel(job)
    return job.told()


@router.get("/jobs/{name}/events", response_class=StreamingResponse)
async def events(
    name: str, service: ServiceOf, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """What happens to a job, as server-sent events: queued, step, preview, and at last finished,
    failed or cancelled. `Last-Event-ID` goes on after that one.
    """
    after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    followed = service.job(name).follow(after)
    return StreamingResponse(
        event_stream(followed),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


@router.get("/jobs/{name}/results/{file}", response_class=Response)
async def picture(
    name: str,
    file: str,
    service: ServiceOf,
    quality: Annotated[int | None, Query(ge=0, le=100)] = None,
) -> Response:
    """A picture, such as `0.png`: PNG (with its recipe), jpg, webp or tiff."""
    number, _, suffix = file.partition(".")
    return await result(service, service.job(name), _number(number), suffix, quality)


@router.get("/jobs/{name}/previews/{number}", response_class=Response)
async def preview(name: str, number: str, service: ServiceOf) -> Response:
    """A preview, as its event has named it. The last few are there."""
    shown = service.job(name).preview(_number(number))
    if shown is None:
        raise NotFoundError("this preview is not there (any more).")
    data = await asyncio.to_thread(encoded, shown.image, "jpg", quality=90)
    return Response(data, media_type="image/jpeg", headers={"cache-control": "no-store"})


@router.get("/jobs/{name}/candidates/{file}", response_class=Response)
async def candidate(name: str, file: str, service: ServiceOf) -> Response:
    """What a start was heading for when it was judged last, such as `0.jpg`: at most 512 px."""
    number, _, suffix = file.partition(".")
    wanted = _number(number)
    found = [each for each in service.job(name).candidates if each.number == wanted and each.judged]
    if not found:
        raise NotFoundError("there is no such candidate.")
    data = await asyncio.to_thread(encoded, found[0].judged[-1].preview, suffix, quality=90)
    return Response(data, media_type=FORMATS[suffix][1])


# --------------------------------------------------------------------------------------------------


PICTURES = ("picture", "image", "map", *(name for name in wire.IMAGES if name != "image"), SETTING)
"""The files that a form of an edit may hold."""


def edit_of(form: Form, service: Service) -> Job:
    """The job that a form asks for.

    Raises:
        InputError: what of it is not accepted.
    """
    check_form(form, tuple(FIELDS), PICTURES)
    limits = service.limits
    data = form.file("picture", "image")
    if data is None:
        raise InputError("picture is missing: a file of the form.")
    source, size = wire.picture(data, "picture", limits)
    arguments = {**settings_of(form, service), "image": source, **maps(form, service)}
    if (n := form.text("n")) is not None:
        arguments |= wire.settings(wire.read_texts({"num_images": n}), limits)
    asked = service.engine.read(arguments)
    wire.check_canvas(size, asked, limits)
    requests = {"": asked}
    if (text := form.text("seeds")) is not None:
        requests = one_each(asked, seeds(text, limits.n))
    nbytes = sum(len(each) for several in form.files.values() for each in several)
    measured = form.text("figures") is None or form.flag("figures")
    return Job(requests, nbytes=nbytes, measured=measured)


def settings_of(form: Form, service: Service) -> dict[str, Any]:
    """The engine's arguments of a form's settings, and of its references.

    Raises:
        InputError: what of them is not accepted.
    """
    given = wire.from_json(form.text("settings") or "{}")
    if "image" in given:
        raise InputError("image is no setting: the picture is a file of the form.")
    given = with_files(given, form.files.get(SETTING, []))
    return wire.settings(given, service.limits, service.adapters)


def maps(form: Form, service: Service) -> dict[str, Any]:
    """The map or mask of a form, and its other pictures, by the engine's names."""
    names = {"map": "strength_map", "strength_map": "strength_map", "mask": "mask"}
    names |= {name: name for name in wire.IMAGES if name not in {"image", *names}}
    return {
        own: wire.picture(data, name, service.limits)[0]
        for name, own in names.items()
        if (data := form.file(name)) is not None
    }


def seeds(text: str, most: int) -> list[int]:
    """The seeds in a JSON list.

    Raises:
        InputError: it is none, or they are too many.
    """
    found = wire.from_json(f'{{"seeds": {text}}}', "seeds")["seeds"]
    whole = isinstance(found, list) and all(
        isinstance(each, int) and not isinstance(each, bool) for each in found
    )
    if not whole or not 1 <= len(found) <= most or len(set(found)) < len(found):
        raise InputError(f"seeds must be a list of 1 to {most} different whole numbers.")
    return list(found)


def taken(job: Job) -> JSONResponse:
    """The answer to who has asked for a job."""
    told = job.told()
    return JSONResponse(told, 202, {"location": f"/api/jobs/{job.id}"})


async def result(
    service: Service, job: Job, number: int, suffix: str, quality: int | None = None
) -> Response:
    """A picture of a finished job as a file.

    Raises:
        ConflictError: it is not finished.
        NotFoundError: it has no such picture, or there is no such format.
    """
    if suffix not in FORMATS:
        raise NotFoundError(f"no format {suffix!r}; there are {', '.join(FORMATS)}.")
    if job.state is not JobState.FINISHED:
        raise job.error or ConflictError(f"this job is {job.state}.")
    if number >= len(job.outputs):
        raise NotFoundError(f"this job has {len(job.outputs)} pictures.")
    output = job.outputs[number]

    def write() -> bytes:
        record = service.finisher.record(output)
        return encoded(output.picture, suffix, record=record, quality=quality)

    data = await asyncio.to_thread(write)
    headers = {
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": f'inline; filename="softpaint-{output.seed}.{suffix}"',
        "x-softpaint-job": job.id,
        "x-softpaint-seed": str(output.seed),
    }
    return Response(data, media_type=FORMATS[suffix][1], headers=headers)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise NotFoundError("there is no such picture.")
    return int(text)
