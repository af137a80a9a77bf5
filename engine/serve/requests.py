"""What routes share: the service of a request, its form, its job's end, and events on the wire."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from starlette.datastructures import UploadFile

from engine.errors import InputError
from engine.request.schema import json_schema
from engine.serve.jobs import Event, Job, JobState
from engine.serve.service import Service
from engine.serve.wire import FIELDS

if TYPE_CHECKING:
    from engine.serve.limits import Limits

HEARTBEAT = 15.0
"""Seconds of silence after which a stream of events says that it is alive."""


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]


@dataclass(frozen=True)
class Form:
    """A form's fields: texts, and files as bytes. Several of one name are all there."""

    texts: Mapping[str, list[str]]
    files: Mapping[str, list[bytes]]

    def text(self, name: str) -> str | None:
        """A field's text; the last one given."""
        return self.texts[name][-1] if self.texts.get(name) else None

    def file(self, *names: str) -> bytes | None:
        """The first file under one of these names."""
        return next((self.files[name][0] for name in names if self.files.get(name)), None)

    def flag(self, name: str) -> bool:
        """Whether a field says yes.

        Raises:
            InputError: it says neither yes nor no.
        """
        text = (self.text(name) or "false").lower()
        if text not in {"true", "false", "1", "0"}:
            raise InputError(f"{name} must be true or false.")
        return text in {"true", "1"}

    @property
    def fingerprint(self) -> str:
        """What is equal for equal forms."""
        digest = hashlib.sha256()
        for kind in (self.texts, self.files):
            for name in sorted(kind):
                for value in kind[name]:
                    data = value.encode() if isinstance(value, str) else value
                    digest.update(f"{name}:{len(data)}:".encode() + data)
        return digest.hexdigest()


def check_form(form: Form, texts: Collection[str], files: Collection[str]) -> None:
    """Refuse what a form holds and nobody reads.

    Raises:
        InputError: a field of another name, or a text in a file's place.
    """
    for name in (*form.texts, *form.files):
        if name in texts or (name in files and name in form.files):
            continue
        if name in files:
            raise InputError(f"{name} must be a file of the form, not a text.")
        if name in FIELDS:
            raise InputError(f"{name} belongs into the form's field settings, a JSON object.")
        known = ", ".join(dict.fromkeys((*files, *texts)))
        raise InputError(f"the form has an unknown field {name!r}; it takes {known}.")


async def read_form(request: Request, limits: Limits) -> Form:
    """The multipart form (or the form's plain kind) of a request.

    Raises:
        InputError: it has another body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"multipart/form-data", "application/x-www-form-urlencoded"}:
        raise InputError("a body of multipart/form-data is needed.")
    texts: dict[str, list[str]] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=32, max_fields=128, max_part_size=limits.bytes) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            else:
                texts.setdefault(name, []).append(value)
    return Form(texts, files)


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        InputError: it has another body.
    """
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InputError("the body is not JSON.") from None
    if not isinstance(body, dict):
        raise InputError("the body must be a JSON object.")
    return body


async def ended(request: Request, service: Service, job: Job) -> Job:
    """A job's end, for a client that waits; one that has gone ends its job.

    Raises:
        Exception: what ended the job.
    """
    waiting = asyncio.ensure_future(job.wait())
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await service.cancel(job)
            await waiting
    except asyncio.CancelledError:
        await asyncio.shield(service.cancel(job))
        raise
    finally:
        for each in (waiting, leaving):
            each.cancel()
            with suppress(asyncio.CancelledError):
                await each
    if job.state is not JobState.FINISHED:
        raise job.error or RuntimeError("the job has no pictures")
    return job


async def _left(request: Request) -> None:
    """Until the client has gone. The request's body has been read."""
    message = await request.receive()
    while message["type"] != "http.disconnect":
        message = await request.receive()


async def event_stream(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """Events as text/event-stream, with a sign of life while there are none."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        yield "retry: 1000\n\n"
        while True:
            done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT)
            if not done:
                yield ": alive\n\n"
                continue
            event = coming.result()
            if event is None:
                return
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n"
            coming = asyncio.ensure_future(anext(events, None))
    finally:
        coming.cancel()


def settings_schema() -> dict[str, Any]:
    """The JSON schema of the settings that requests may give."""
    known = json_schema()["properties"]
    return {name: known[name] for name in FIELDS if name in known and name != "image"}


def form_schema(
    files: Mapping[str, str], fields: Mapping[str, Any], required: list[str], example: Any = None
) -> dict[str, Any]:
    """The request body of a route that reads a form, for the OpenAPI.

    Args:
        files: name -> description of the files.
        fields: name -> schema of the other fields.
        required: names that must be given.
        example: an example of the fields.
    """
    schema: dict[str, Any] = {
        "type": "object",
        "required": required,
        "properties": {
            **{
                name: {"type": "string", "format": "binary", "description": text}
                for name, text in files.items()
            },
            **fields,
        },
    }
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}
