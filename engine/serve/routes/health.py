"""Whether the server is alive and ready, and what it counts."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from engine.serve.requests import ServiceOf  # noqa: TC001 - FastAPI reads annotations

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz(service: ServiceOf) -> PlainTextResponse:
    """200 while the engine's thread lives."""
    alive = service.worker.is_alive()
    return PlainTextResponse(
        "ok" if alive else "the engine's thread has ended", 200 if alive else 503
    )


@router.get("/readyz")
async def readyz(service: ServiceOf) -> PlainTextResponse:
    """200 while jobs are taken."""
    return PlainTextResponse("ok" if service.ready else "leaving", 200 if service.ready else 503)


@router.get("/metrics")
async def metrics(service: ServiceOf) -> Response:
    """Prometheus' text format."""
    return Response(service.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
