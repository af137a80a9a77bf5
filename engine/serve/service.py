"""Jobs and sessions: what the routes ask, and the worker does."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine.runtime.session import Session
from engine.serve.errors import GoneError, LeavingError, NotFoundError, UnprocessableError
from engine.serve.finisher import Finisher
from engine.serve.heap import Heap
from engine.serve.ids import NAMING
from engine.serve.jobs import Job, JobState, failure
from engine.serve.limits import Limits
from engine.serve.metering import Meters
from engine.serve.references import adapters_of
from engine.serve.sessions import Opened, Sessions
from engine.serve.worker import Worker

if TYPE_CHECKING:
    from engine.engine import InpaintEngine
    from engine.request.request import EditRequest

Value = TypeVar("Value")

STACK = 9
"""Pictures of a stack; the strengths are k/9."""
KEYS = 1024
"""Idempotency keys that are remembered."""
LIVE_PREVIEWS = 0.1
"""Seconds between a session's previews, which are made before anybody can listen."""
UNHURRIED = 3.0
"""Seconds that are waited for a step to end, when the server has no more time."""
ADMISSION = 2.0
"""Seconds that a client waits for its inputs to be read, before it is told that they were taken."""


class Service:
    """One engine, served.

    Args:
        engine: the model.
        limits: what is taken on.
        discreet: results do not tell where the model is on this machine.
    """

    def __init__(
        self, engine: InpaintEngine, limits: Limits | None = None, *, discreet: bool = False
    ) -> None:
        self.engine = engine
        self.model = Path(engine.name).name if discreet else engine.name
        """Its name, for clients."""
        self.adapters = adapters_of(engine)
        """Names of the IP-Adapters that requests may give pictures for."""
        self.limits = limits or Limits()
        self.sessions = Sessions(self.limits.sessions, self.limits.session_bytes)
        self.finisher = Finisher(discreet=discreet, left=self._left, limit=self.limits.running)
        self.worker = Worker(engine, self.limits, self.finisher, self.sessions.trim)
        self.meters = Meters(self)
        self._heap = Heap()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._over: OrderedDict[str, int] = OrderedDict()
        """Jobs that are over, with the bytes that they hold; the one that ended first stands first.
        """
        self._gone: deque[str] = deque(maxlen=8192)
        self._keys: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Idempotency key -> fingerprint of its request, and the job."""
        self._lock = threading.Lock()
        self.worker.start()

    # --- the process -----------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a job would be taken on."""
        return self.worker.is_alive() and not self.worker.leaving

    def drain(self, grace: float) -> None:
        """Take no more jobs; what waits is told, and what runs has ``grace`` seconds to end in."""
        if self.worker.leaving:
            return
        self.worker.leaving = True
        self.worker.call(self.worker.drain)
        timer = threading.Timer(grace, self._expire)
        timer.daemon = True
        timer.start()

    def _expire(self) -> None:
        """Fail what still runs, and tell its clients even while a long step goes on."""
        running = list(self.worker.running)
        with suppress(TimeoutError):
            self.worker.call(self.worker.end_all).result(UNHURRIED)
        for job in running:
            if not job.over:
                job.error = LeavingError("the server went down while this ran.", retry_after=30)
                job.publish("failed", failure(job.error), JobState.FAILED)

    async def settle(self, seconds: float) -> None:
        """Wait until what runs has ended, at most so long."""
        with self._lock:
            running = [asyncio.ensure_future(job.wait()) for job in self._jobs.values()]
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
            for waiting in late:
                waiting.cancel()

    def close(self) -> None:
        """End the worker; what has not ended fails."""
        self.worker.close()
        self.worker.join(UNHURRIED)
        self.finisher.close()

    async def ask(self, act: Callable[[], Value]) -> Value:
        """Do something in the worker's thread, between two steps."""
        return await asyncio.wrap_future(self.worker.call(act))

    # --- jobs ------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Job:
        """Take a job on.

        Raises:
            Exception: what it was refused with.
        """
        self.worker.check_room()
        with self._lock:
            self._jobs[job.id] = job
        # A step that takes long is not waited for: the job's events will tell then.
        admission = asyncio.wrap_future(self.worker.call(lambda: self.worker.admit(job)))
        await asyncio.wait({admission}, timeout=ADMISSION)
        self._check_taken(job)
        return job

    def _check_taken(self, job: Job) -> None:
        """Raise what a job was refused with, and forget it."""
        if job.error is not None and not job.total:
            with self._lock:
                self._jobs.pop(job.id, None)
                self._over.pop(job.id, None)
            raise job.error

    def job(self, name: str) -> Job:
        """The job of that id.

        Raises:
            GoneError: it ended long ago.
            NotFoundError: there was never such a one.
        """
        with self._lock:
            if name in self._jobs:
                return self._jobs[name]
            if name in self._gone:
                raise GoneError("this job ended, and its pictures had to make room for others'.")
        if NAMING.is_elsewhere(name):
            raise GoneError("this job's replica has ended, and its pictures with it.")
        raise NotFoundError("there is no such job.")

    async def cancel(self, job: Job) -> None:
        """End a job at the next step's end."""
        await self.ask(lambda: self.worker.cancel(job))

    def remembered(self, key: str | None, fingerprint: str) -> Job | None:
        """The job that came with this idempotency key before.

        Raises:
            UnprocessableError: another request had this key.
        """
        if key is None:
            return None
        with self._lock:
            known, name = self._keys.get(key, ("", ""))
            job = self._jobs.get(name)
        if job is None:
            return None
        if known != fingerprint:
            raise UnprocessableError("this Idempotency-Key came with another request before.")
        return job

    def remember(self, key: str | None, fingerprint: str, job: Job) -> None:
        """Keep a job under its idempotency key."""
        if key is None:
            return
        with self._lock:
            self._keys[key] = fingerprint, job.id
            while len(self._keys) > KEYS:
                self._keys.popitem(last=False)

    def _left(self, job: Job) -> None:
        """Count a job that is over, and forget the oldest beyond the limits."""
        self.meters.left(job)
        self._count(job)
        self._heap.give_back()

    def _count(self, job: Job) -> None:
        with self._lock:
            if job.id not in self._jobs:
                return
            shown = [output.picture for output in job.outputs]
            shown += [look.preview for each in job.candidates for look in each.judged]
            pixels = sum(4 * picture.width * picture.height for picture in shown)
            self._over[job.id] = job.nbytes + pixels
            while len(self._over) > 1 and (
                len(self._over) > self.limits.jobs
                or sum(self._over.values()) > self.limits.job_bytes
            ):
                name, _ = self._over.popitem(last=False)
                self._jobs.pop(name, None)
                self._gone.append(name)

    # --- sessions --------------------------------------------------------------------------------

    async def open(
        self, arguments: Mapping[str, Any], size: tuple[int, int], nbytes: int
    ) -> Opened:
        """Open a session of a picture (width, height) with an edit's settings."""
        each = self.limits.session_bytes // 2

        def make() -> Opened:
            session = Session(self.engine.backbone, self.engine.name, arguments, max_bytes=each)
            opened = Opened(session, *size, nbytes)
            self.sessions.add(opened)
            return opened

        return await self.ask(make)

    async def render(
        self,
        name: str,
        changes: Mapping[str, Any],
        patch: np.ndarray[Any, np.dtype[np.float32]] | None,
        rect: tuple[int, int, int, int] | None,
    ) -> Job:
        """A session's picture with changes; ends the render before it.

        Raises:
            Exception: what it is refused with.
        """

        def begin() -> Job:
            opened = self.sessions.get(name)
            self.worker.check_room()
            given = dict(changes)
            if patch is not None:
                given["strength_map"] = opened.mapped(patch, rect)
            elif opened.strength_map is not None and "mask" not in given:
                given["strength_map"] = opened.strength_map
            regions = given.get("regions", opened.session.arguments.get("regions"))
            if regions and _is_empty(given.get("strength_map")):
                del given["strength_map"]  # nothing but the regions is to be repainted
            if opened.job is not None and not opened.job.over:
                self.worker.cancel(opened.job, "a later render of its session took its place.")
            request = opened.session.request(given)
            opened.job = Job(
                {"": request},
                memory=opened.session.memory,
                nbytes=opened.nbytes,
                previews=LIVE_PREVIEWS,
            )
            with self._lock:
                self._jobs[opened.job.id] = opened.job
            self.worker.admit(opened.job)
            self.sessions.trim()
            return opened.job

        job = await self.ask(begin)
        self._check_taken(job)
        return job

    async def stack(self, name: str) -> Job:
        """A session's picture at uniform strengths, when there is nothing else to do."""
        opened = await self.ask(lambda: self.sessions.get(name))
        arguments = opened.session.arguments
        requests = {}
        for k in range(1, STACK + 1):
            strength_map = np.full((opened.height, opened.width), k / STACK, np.float32)
            own = {**arguments, "strength_map": strength_map, "region": "full"}
            requests[f"{k / STACK:.6g}"] = self.engine.read(own)
        return await self.submit(
            Job(requests, background=True, measured=False, nbytes=opened.nbytes)
        )

    async def close_session(self, name: str) -> None:
        """Close a session; its render ends."""

        def close() -> None:
            opened = self.sessions.close(name)
            if opened.job is not None:
                self.worker.cancel(opened.job)

        await self.ask(close)


def _is_empty(strength_map: Any) -> bool:
    return isinstance(strength_map, np.ndarray) and not strength_map.any()


def one_each(request: EditRequest, seeds: list[int]) -> dict[str, EditRequest]:
    """A request for each of several seeds."""
    return {f"seed {seed}": replace(request, seed=seed, num_images=1) for seed in seeds}
