"""The server as a process: its socket, its signals, the address it prints, the browser it opens."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import uvicorn

from engine.errors import InputError
from engine.serve.app import create_app
from engine.serve.guard import Access
from engine.serve.service import Service

if TYPE_CHECKING:
    from engine.engine import InpaintEngine
    from engine.serve.limits import Limits

PORT = 7788
"""Always the same one: what a page keeps in its browser belongs to its address."""
NEARBY = 10
"""Ports that the studio tries where that is taken."""


class Server(uvicorn.Server):
    """A uvicorn server that lets what runs end: the first signal takes no more jobs and waits, a
    second one leaves at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        *,
        grace: float = 20.0,
        began: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self.service = service
        self.grace = grace
        self._began = began

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._began is not None:
            self._began()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.service.drain(self.grace)
        super().handle_exit(sig, frame)


def listen(host: str, port: int, *, nearby: int = 0) -> socket.socket:
    """A socket that listens at ``host`` and ``port`` (0 is any), or up to ``nearby`` ports further.

    Raises:
        InputError: it cannot be had.
    """
    problem: OSError | None = None
    for number in range(port, port + nearby + 1):
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, number), family=family, backlog=512)
        except OSError as error:
            problem = error
    reason = problem.strerror if problem is not None else "no such port"
    raise InputError(f"cannot listen at {host}, port {port}: {reason}; --port takes another one.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(host: str, sock: socket.socket) -> str:
    """Where a browser finds what listens at ``sock``."""
    port = sock.getsockname()[1]
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - the question, not the answer
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    engine: InpaintEngine,
    sock: socket.socket,
    *,
    host: str,
    token: str = "",
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    limits: Limits | None = None,
    grace: float = 20.0,
    browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model until a signal ends it.

    Args:
        engine: the model.
        sock: where it listens.
        host: the name or address that it listens at.
        token: what requests have to bear; one is made where others than this machine reach it.
        hosts: further names of this machine.
        origins: other sites' pages that may use it.
        limits: what is taken on.
        grace: seconds that what runs has to end in.
        browser: open the page.
        say: tells the address, and a token that was made.
    """
    local = is_loopback(host)
    if not local and not token:
        token = secrets.token_urlsafe(24)
        say(f"token: {token}")
    _quiet()
    service = Service(engine, limits, discreet=not local)
    own = [host] if host not in {"0.0.0.0", "::", ""} else []  # noqa: S104
    app = create_app(service, Access(token, [*own, *hosts], origins), grace=grace)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(grace) + 5,
        backlog=512,
    )
    url = address(host, sock)

    def began() -> None:
        say(url)
        if browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    Server(config, service, grace=grace, began=began).run(sockets=[sock])


def _quiet() -> None:
    """Log what goes wrong, a line each, to standard error."""
    logging.basicConfig(format="softpaint: %(levelname)s: %(message)s", level=logging.WARNING)
    if find_spec("pi_heif"):
        import_module("pi_heif").register_heif_opener()
