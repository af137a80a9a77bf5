"""Who is let in: host, origin and token are checked, and how much comes how fast is bounded,
before anything of a request is read.

A page of another site cannot reach a server on this machine: its browser says the other origin, or,
where the other site's name was made to lead here (DNS rebinding), the other host.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import json
import math
import socket
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.serve.errors import (
    ForbiddenError,
    ServeError,
    SlowError,
    TooLargeError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from engine.serve.limits import Limits

Scope = MutableMapping[str, Any]
COOKIE = "softpaint-token"
OPEN = ("/", "/healthz", "/readyz", "/api/about", "/api/token", "/favicon.ico")
"""Paths that are told to everybody; those of the page too."""
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Args:
        token: what requests have to bear; empty where the server is for this machine alone.
        hosts: names under which it is reached, beside this machine's own and plain addresses.
        origins: other sites' pages that may use it, such as ``https://paint.example``.
    """

    token: str = ""
    hosts: Collection[str] = ()
    origins: Collection[str] = ()

    def check(self, path: str, headers: Callable[[str], str | None]) -> None:
        """Raise what a request is refused with.

        Raises:
            ForbiddenError: another host, or a page of another origin.
            UnauthorizedError: no token, or not this one.
        """
        host = headers("host") or ""
        if not self._is_ours(host):
            raise ForbiddenError("this server has another name (--allow-host takes more).")
        origin = headers("origin")
        if origin is not None:
            if origin not in self.origins and urlsplit(origin).netloc.lower() != host.lower():
                raise ForbiddenError("a page of another origin (--allow-origin takes more).")
        elif headers("sec-fetch-site") == "cross-site" and headers("sec-fetch-mode") != "navigate":
            raise ForbiddenError("a page of another site.")
        if self.token and not (path in OPEN or path.startswith("/page/")):
            self._check_token(headers)

    def is_token(self, given: str) -> bool:
        """Whether it is the token; takes as long where it is not."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _check_token(self, headers: Callable[[str], str | None]) -> None:
        kind, _, given = (headers("authorization") or "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return
        if kind.lower() == "basic" and self.is_token(_password(given)):
            return
        try:
            cookie = SimpleCookie(headers("cookie") or "").get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is None or not self.is_token(cookie.value):
            raise UnauthorizedError("a token is needed: Authorization: Bearer TOKEN.")

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine: by an address, which no other site's name can
        be, or by a name that it is known under.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in {"localhost", socket.gethostname().lower(), *map(str.lower, self.hosts)}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _password(given: str) -> str:
    """That of HTTP's basic scheme, in which A1111's clients bear a token."""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


class Guard:
    """The outermost layer of the application (ASGI)."""

    def __init__(
        self, app: Any, access: Access, limits: Limits, refused: Callable[[int], None]
    ) -> None:
        self.app = app
        self.access = access
        self.limits = limits
        self.refused = refused

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no web sockets here
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        body = Body(receive, self.limits)
        begun = False

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = list(message.get("headers", []))
                named = {name for name, _ in own}
                message["headers"] = own + [each for each in HEADERS if each[0] not in named]
            await send(message)

        try:
            self.access.check(scope["path"], headers.get)
            body.check(headers.get("content-length"))
            await self.app(scope, body.receive, answer)
        except ServeError as error:
            if not begun:
                await _refuse(answer, error)
            self.refused(error.status)


class Body:
    """A request's body as it comes: bounded in size, and not slower than a pace."""

    def __init__(self, receive: Any, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._bytes = 0
        self._began = math.nan
        self._whole = False

    def check(self, length: str | None) -> None:
        """Raise ``TooLargeError`` for a body that says beforehand that it is."""
        if length is not None and (not length.isdecimal() or int(length) > self._limits.bytes):
            raise TooLargeError(f"at most {self._limits.bytes} bytes are taken.")

    async def receive(self) -> Any:
        """The next message.

        Raises:
            TooLargeError: more bytes than are taken.
            SlowError: the client is silent for too long, or too slow.
        """
        if self._whole:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if math.isnan(self._began):
            self._began = now
        due = self._began + self._limits.patience + self._bytes / self._limits.pace
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, due - now))
        except TimeoutError:
            raise SlowError("the request's body comes too slowly.") from None
        self._bytes += len(message.get("body", b""))
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        if self._bytes > self._limits.bytes:
            raise TooLargeError(f"at most {self._limits.bytes} bytes are taken.")
        return message


async def _refuse(send: Any, error: ServeError) -> None:
    body = json.dumps({"error": {"code": error.code, "message": str(error)}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
