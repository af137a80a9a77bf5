"""The application: routes, errors as JSON, and the guard around them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from engine.errors import SoftpaintError
from engine.serve.errors import ServeError, told
from engine.serve.guard import Access, Guard
from engine.serve.routes import a1111, a1111_about, about, health, jobs, openai, sessions, tools

if TYPE_CHECKING:
    from engine.serve.service import Service

LOG = logging.getLogger("softpaint.serve")

DESCRIPTION = """Inpainting with soft strength maps.

`POST /api/jobs` edits a picture; `/v1/images/edits` does so for OpenAI's clients and
`/sdapi/v1/img2img` for A1111's.
"""


def create_app(service: Service, access: Access | None = None, *, grace: float = 20.0) -> Guard:
    """The ASGI application of a service.

    Args:
        service: what it serves; closed when the application ends.
        access: who may ask; None is this machine.
        grace: seconds that what runs has when the application ends.
    """
    access = access or Access()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.drain(grace)
        await service.settle(grace)
        service.close()

    app = FastAPI(
        title="Softpaint",
        version=version("softpaint"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page comes from a CDN
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service, app.state.access = service, access
    app.state.webui = []  # jobs of A1111's clients, which know no names of theirs
    for module in (about, health, jobs, sessions, tools, openai, a1111, a1111_about):
        app.include_router(module.router)
    app.add_exception_handler(SoftpaintError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    if access.origins:
        from fastapi.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
        )
    return Guard(app, access, service.limits, service.meters.refuse)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """What a request was refused with, or what ended its job."""
    status, code, message = told(error)
    if status == 500:
        LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    request.app.state.service.meters.refuse(status)
    retry = error.retry_after if isinstance(error, ServeError) else None
    headers = {} if retry is None else {"retry-after": str(retry)}
    return JSONResponse(as_error(code, message), status, headers)


async def _http(_: Request, error: Exception) -> JSONResponse:
    """The framework's own refusals: unknown paths, methods, damaged forms."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return JSONResponse(as_error("http_error", str(error.detail)), error.status_code, error.headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """What stands in an address or a header and is none of its kind."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    first = error.errors()[0]
    message = f"{first['loc'][-1]}: {first['msg']}, not {first['input']!r:.80}."
    return JSONResponse(as_error("bad_input", message), 400)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """A fault of ours."""
    status, code, message = told(error)
    return JSONResponse(as_error(code, message), status)


def as_error(code: str, message: str) -> dict[str, Any]:
    """An error as all clients find it: OpenAI's under ``error``, A1111's under ``detail``."""
    kind = "server_error" if code == "server_error" else "invalid_request_error"
    return {
        "error": {"message": message, "type": kind, "code": code, "param": None},
        "detail": message,
    }
