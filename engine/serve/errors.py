"""What the service refuses, with the HTTP status that says why."""

from __future__ import annotations

from engine.errors import CancelledError, InputError, SoftpaintError
from engine.picture.source import STANDARD_INPUT


class ServeError(SoftpaintError):
    """A refusal with its HTTP status."""

    status = 500
    code = "server_error"

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which the same request may be taken."""


class UnauthorizedError(ServeError):
    """No token, or a wrong one."""

    status, code = 401, "unauthorized"


class ForbiddenError(ServeError):
    """A host or an origin that is not this server's."""

    status, code = 403, "forbidden"


class NotFoundError(ServeError):
    """There is no such thing."""

    status, code = 404, "not_found"


class SlowError(ServeError):
    """A body that came too slowly."""

    status, code = 408, "too_slow"


class ConflictError(ServeError):
    """The thing is not in the state that this needs."""

    status, code = 409, "conflict"


class GoneError(ServeError):
    """It was there, and was dropped."""

    status, code = 410, "gone"


class TooLargeError(ServeError):
    """More bytes or pixels than are taken."""

    status, code = 413, "too_large"


class UnprocessableError(ServeError):
    """An idempotency key that came with another request before."""

    status, code = 422, "idempotency_key_reused"


class BusyError(ServeError):
    """The queue is full."""

    status, code = 429, "queue_full"


class LeavingError(ServeError):
    """The server is going down."""

    status, code = 503, "shutting_down"


def told(error: BaseException) -> tuple[int, str, str]:
    """HTTP status, code and message of what ended a request or a job.

    An unexpected error says its kind only: what it tells of the server's insides is for its log.
    """
    if isinstance(error, ServeError):
        return error.status, error.code, str(error)
    if isinstance(error, CancelledError):
        return 409, "cancelled", str(error)
    if isinstance(error, InputError):
        return 400, "bad_input", _as_sent(str(error))
    if isinstance(error, SoftpaintError):
        return 500, type(error).__name__, _as_sent(str(error))
    return 500, "server_error", f"unexpected {type(error).__name__}; the server's log says more"


def _as_sent(message: str) -> str:
    """A message about pictures that came with a request, which have no file's name."""
    return message.replace(f" '{STANDARD_INPUT}'", "")
