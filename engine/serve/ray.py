"""Replicas of the service behind Ray Serve: the same HTTP application in several processes, on one
machine or a cluster.

``serve run serve.yaml`` deploys ``engine.serve.ray:app``; ``examples/serve.yaml`` is such a file.
Jobs and sessions live where they were made: their names say on which replica, and what asks for one
is sent there. A request that names none goes to the replica that its cookie names (a browser's,
from its first answer on), else to the less busy one of two.
"""

from __future__ import annotations

import os
import pickle
import random
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import (
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    RequestRouter,
    RunningReplica,
)

from engine.errors import InputError
from engine.serve.app import create_app
from engine.serve.guard import Access
from engine.serve.ids import replica_of, serve_as
from engine.serve.limits import Limits
from engine.serve.service import Service

COOKIE: Final = "softpaint-replica"
TOKEN: Final = "SOFTPAINT_TOKEN"  # noqa: S105 - where it is, not what
_NAMED: Final = re.compile(r"/api/(?:jobs|sessions)/([^/]+)")


class Router(LocalityMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]
    """Sends a request to the replica that has what it asks for."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas that may answer: one, or two of which the less busy one does."""
        by_name = {each.replica_id.unique_id: each for each in candidate_replicas}
        chosen = wanted(_scope(pending_request), list(by_name))
        if chosen is not None:
            return [[by_name[chosen]]]
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


def _scope(pending: PendingRequest | None) -> Mapping[str, Any]:
    """The request's ASGI scope; empty where it is no HTTP request."""
    request = pending.args[0] if pending is not None and pending.args else None
    if isinstance(request, bytes):  # as Serve's proxy sends it to the replica
        request = pickle.loads(request)  # noqa: S301 - of this process
    return getattr(request, "asgi_scope", None) or {}


def wanted(scope: Mapping[str, Any], replicas: Sequence[str]) -> str | None:
    """Which of the replicas a request is for.

    Args:
        scope: the request's (ASGI).
        replicas: their names.

    Returns:
        One of them; None where any will do, as also where the one that is meant has ended.
    """
    headers = {bytes(name).lower(): bytes(value) for name, value in scope.get("headers", ())}
    named = _NAMED.match(scope.get("path", ""))
    query = parse_qs(bytes(scope.get("query_string", b"")).decode("latin-1"))
    asked = [named[1]] if named else query.get("session", [])
    if asked:
        replica = replica_of(asked[0])
        return replica if replica in replicas else None
    if key := headers.get(b"idempotency-key"):  # to the same one each time
        return max(replicas, key=lambda each: blake2b(key + each.encode()).digest(), default=None)
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        cookie = None
    return cookie.value if cookie is not None and cookie.value in replicas else None


class Sticky:
    """Tells a browser which replica has answered it (ASGI)."""

    def __init__(self, app: Any, replica: str) -> None:
        self.app = app
        self._cookie = f"{COOKIE}={replica}; Path=/; HttpOnly; SameSite=Strict".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", self._cookie)]
            await send(message)

        await self.app(scope, receive, answer)


@serve.deployment(
    name="softpaint",
    max_ongoing_requests=1000,  # events are requests that stay; the service's queue has its bounds
    graceful_shutdown_timeout_s=30.0,
    request_router_config=RequestRouterConfig(request_router_class="engine.serve.ray.Router"),
)
@serve.ingress()
class Replica:
    """One engine, served.

    Args:
        load: arguments of ``InpaintEngine.from_pretrained``.
        limits: fields of :class:`engine.serve.limits.Limits`.
        access: fields of :class:`engine.serve.guard.Access`.
    """

    def __init__(
        self, load: Mapping[str, Any], limits: Mapping[str, Any], access: Mapping[str, Any]
    ) -> None:
        from engine.engine import InpaintEngine

        self.name = serve.get_replica_context().replica_id.unique_id
        serve_as(self.name)
        engine = InpaintEngine.from_pretrained(**load)
        self.service = Service(engine, Limits(**limits), discreet=True)
        self.access = Access(**access)

    def __serve_build_asgi_app__(self) -> Sticky:
        """The application; Serve runs its lifespan."""
        return Sticky(create_app(self.service, self.access), self.name)

    def check_health(self) -> None:
        """Let Serve replace a replica whose engine has ended."""
        if not self.service.worker.is_alive():
            raise RuntimeError("the engine's thread has ended")


def app(arguments: Mapping[str, Any]) -> Any:
    """The application for ``serve run``.

    Args:
        arguments: of the config file: ``load`` (model, device and the like), ``limits``, ``hosts``
            and ``origins`` as ``softpaint serve`` takes them, and ``token``, better in the
            environment as ``SOFTPAINT_TOKEN``; ``local: true`` is for no token, where only this
            machine reaches Serve.

    Raises:
        InputError: an argument that is unknown, or no token: replicas cannot each make their own.
    """
    known = {"load", "limits", "hosts", "origins", "token", "local"}
    if unknown := arguments.keys() - known:
        raise InputError(f"{min(unknown)!r} is none of {', '.join(sorted(known))}.")
    token = arguments.get("token") or os.environ.get(TOKEN, "")
    if not token and not arguments.get("local"):
        raise InputError(f"set {TOKEN}, or local: true where only this machine reaches Serve.")
    access = {
        "token": token,
        "hosts": list(arguments.get("hosts", ())),
        "origins": list(arguments.get("origins", ())),
    }
    deployment: Any = Replica
    return deployment.bind(
        dict(arguments.get("load", {})), dict(arguments.get("limits", {})), access
    )
