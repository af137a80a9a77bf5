"""What the tests of the page need: node, Chromium, a server, and the brush in numpy."""

from __future__ import annotations

import itertools
import math
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.picture.masks import smootherstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine import InpaintEngine
    from engine.serve.service import Service

PAGE = Path(__file__).parents[2] / "engine" / "serve" / "page"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def node() -> str | None:
    """The system's node, or the one that Playwright brings along."""
    found = shutil.which("node")
    if found is None:
        try:
            from playwright._impl._driver import compute_driver_executable
        except ImportError:
            return None
        found = str(compute_driver_executable()[0])
    return found


@contextmanager
def serving(engine: InpaintEngine, port: int = 0) -> Iterator[tuple[str, Service]]:
    """The real server on the loopback, in a thread of this process: its address and its service."""
    import uvicorn

    from engine.serve.app import create_app
    from engine.serve.run import listen
    from engine.serve.service import Service

    sock = listen("127.0.0.1", port)
    service = Service(engine)
    app = create_app(service, grace=1)
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", ws="none", lifespan="on", timeout_graceful_shutdown=1
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/", service
    finally:
        server.should_exit = True
        thread.join(30)


def stroke(
    size: tuple[int, int],
    points: Sequence[tuple[float, float, float]],
    *,
    diameter: float,
    strength: float,
    hardness: float,
    spacing: float,
) -> NDArray[np.float64]:
    """A stroke on an empty map of ``size`` (width, height) through ``points`` (x, y, pressure):
    strength x hardness falloff x pressure, its maximum over stamps ``spacing`` diameters apart.
    """
    radius = diameter / 2
    solid = max(0.0, min(hardness * radius, radius - 1))
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    cover = np.zeros(x.shape)
    for centre_x, centre_y, pressure in _stamps(points, max(0.5, spacing * diameter)):
        away = np.hypot(x - centre_x, y - centre_y)
        ramp = smootherstep(np.clip((radius - away) / (radius - solid), 0, 1))
        cover = np.maximum(cover, pressure * np.where(away <= solid, 1, ramp))
    return strength * cover


def _stamps(
    points: Sequence[tuple[float, float, float]], gap: float
) -> list[tuple[float, float, float]]:
    """Where a path is stamped: its start, and every ``gap`` px along it."""
    stamps, left = [points[0]], gap
    for one, two in itertools.pairwise(points):
        length = math.dist(one[:2], two[:2])
        if length == 0:
            stamps.append(two)
            continue
        while left <= length:
            share = left / length
            stamps.append(tuple(a + share * (b - a) for a, b in zip(one, two, strict=True)))  # type: ignore[arg-type]
            left += gap
        left -= length
    return stamps
