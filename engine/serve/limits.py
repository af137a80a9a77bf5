"""What a server takes on at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a request, and of what a server keeps. All are inclusive."""

    pixels: int = 4096 * 4096
    """Of a picture, a map, and the canvas that an edit grows to."""
    bytes: int = 64 * 2**20
    """Of a request's body."""
    steps: int = 200
    """``num_inference_steps`` of a request."""
    n: int = 16
    """Pictures that one request asks for."""
    candidates: int = 32
    """Starts of which a request keeps the best."""
    queue: int = 64
    """Jobs that wait; a further one is refused with 429."""
    running: int = 8
    """Edits that are denoised at a time, in shared model calls."""
    sessions: int = 16
    session_bytes: int = 2 * 2**30
    """Of all sessions' steps together."""
    jobs: int = 512
    """Finished jobs that are remembered with their pictures."""
    job_bytes: int = 2**30
    """Of their pictures and inputs together."""
    prompt: int = 8192
    """Characters of a prompt."""
    patience: float = 10.0
    """Seconds that a client may be silent in the middle of a body."""
    pace: int = 16 * 1024
    """Bytes a second that a body has to come with, once ``patience`` has passed."""
