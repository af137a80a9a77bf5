"""Names of jobs and sessions, which nobody guesses. Where several replicas serve, a name says whose
it is, so that what asks for it finds its replica.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

_OWN: Final = re.compile(r"([A-Za-z0-9]+)\.")


class Naming:
    """What the names of this process begin with.

    Args:
        replica: letters and digits; empty where there is one process.
    """

    def __init__(self, replica: str = "") -> None:
        self.replica = replica

    def new(self) -> str:
        """A name that there was never before."""
        token = secrets.token_urlsafe(12)
        return f"{self.replica}.{token}" if self.replica else token

    def is_elsewhere(self, name: str) -> bool:
        """Whether a name was given by another replica."""
        replica = replica_of(name)
        return bool(self.replica) and replica is not None and replica != self.replica


NAMING: Final = Naming()
"""Of this process."""


def serve_as(replica: str) -> None:
    """Say which replica this process is, before it serves."""
    NAMING.replica = replica


def replica_of(name: str) -> str | None:
    """Whose name it is; None where it says nothing."""
    found = _OWN.match(name)
    return found[1] if found else None
