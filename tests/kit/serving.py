"""A server in a thread, and what its clients send and read."""

from __future__ import annotations

import io
import json
import threading
import time
import warnings
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import uvicorn
from PIL import Image

from engine.serve.app import create_app
from engine.serve.run import Server, listen
from engine.serve.service import Service

if TYPE_CHECKING:
    from engine.serve.guard import Access
    from engine.serve.limits import Limits

SETTINGS = {"prompt": "a blue house in the snow by day", "num_inference_steps": 2, "seed": 3}


def png(pixels) -> bytes:
    """A PNG of an array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """The pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(data)))


def edited(engine, **arguments):
    """The engine's own result, without its warnings of few steps and weak maps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return engine.edit(**arguments, progress=False)


@contextmanager
def serving(engine, limits: Limits | None = None, access: Access | None = None, **options):
    """A server in a thread, and a client of it."""
    service = Service(engine, limits, **options)
    sock = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(service, access, grace=5), log_level="error", ws="none", lifespan="on"
    )
    server = Server(config, service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield SimpleNamespace(
                service=service, url=url, client=client, port=sock.getsockname()[1], server=server
            )
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def form(**changes) -> dict[str, str]:
    """The settings as a form's field."""
    return {"settings": json.dumps({**SETTINGS, **changes})}


def ended(client, job: str, seconds: float = 60) -> dict:
    """The job once it is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        told: dict = client.get(f"/api/jobs/{job}").json()
        if told["state"] not in {"queued", "running"}:
            return told
        time.sleep(0.02)
    raise AssertionError(f"job {job} does not end: {told}")


def events(client, job: str, after: int = 0) -> list[tuple[int, str, dict]]:
    """A job's events to its end: number, kind, data."""
    heard, current = [], {}
    headers = {"last-event-id": str(after)} if after else {}
    with client.stream("GET", f"/api/jobs/{job}/events", headers=headers) as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                current[name] = value
            elif "event" in current:
                heard.append((int(current["id"]), current["event"], json.loads(current["data"])))
                current = {}
    return heard
