"""What is done with finished pictures beside the model's thread: figures, and the files."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError
from engine.models.formats.places import PLACES
from engine.picture.metrics import METRICS, WITHOUT_TRUTH, Sample, measure
from engine.picture.source import STANDARD_INPUT
from engine.picture.write import is_transparent, write_image
from engine.request.record import EditRecord
from engine.serve.errors import NotFoundError
from engine.serve.jobs import Job, JobState, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from engine.request.result import EditResult
    from engine.runtime.progress import Running

LOG = logging.getLogger("softpaint.serve")
MEASURED = (*(name for name in WITHOUT_TRUTH if name != "model_calls"), "prompt")
"""Figures of a picture whose right answer is not known."""
PROMPT_PIXELS = 512 * 512
"""Up to this size a session's picture is measured before it is shown: that takes no time to speak
of."""
THREADS = 2
"""Large pictures' colours and files take longer than a fast model's steps."""
FORMATS: Mapping[str, tuple[str, str]] = {
    "png": ("PNG", "image/png"),
    "jpg": ("JPEG", "image/jpeg"),
    "jpeg": ("JPEG", "image/jpeg"),
    "webp": ("WEBP", "image/webp"),
    "tiff": ("TIFF", "image/tiff"),
}
"""By suffix: Pillow's name and the media type."""


def figures(
    result: Image.Image,
    original: Image.Image,
    strength_map: NDArray[np.float32],
    prompt: str | None = None,
) -> dict[str, float]:
    """What is measured of an edit without its right answer; those that are defined for it."""
    sample = Sample(
        result=np.asarray(result.convert("RGB")),
        original=np.asarray(original.convert("RGB")),
        strength_map=strength_map,
        prompt=prompt,
    )
    return measure(sample, [name for name in MEASURED if name in METRICS])


def encoded(
    picture: Image.Image,
    suffix: str,
    *,
    record: Mapping[str, str] | None = None,
    quality: int | None = None,
) -> bytes:
    """A picture's file.

    Args:
        picture: as a result has it.
        suffix: one of :data:`FORMATS`.
        record: what is written beside the pixels.
        quality: 0 to 100, of JPEG and WebP; None is the engine's own (95, and lossless).

    Raises:
        NotFoundError: an unknown suffix.
        InputError: JPEG, of a picture that is transparent somewhere.
        OutputError: the format cannot hold the picture.
    """
    if suffix not in FORMATS:
        raise NotFoundError(f"no format {suffix!r}; there are {', '.join(FORMATS)}.")
    kind = FORMATS[suffix][0]
    file = BytesIO()
    if kind == "JPEG" and is_transparent(picture):
        raise InputError("JPEG holds no transparency, and this picture has some: ask for png.")
    write_image(
        file,
        picture,
        kind,
        metadata=record,
        name=f"result.{suffix}",
        warn=False,
        quick=True,
        quality=quality,
    )
    return file.getvalue()


class Finisher:
    """Makes the pictures of jobs that the model is done with, measures them, and tells that they
    are finished; the model takes its next steps meanwhile.

    Args:
        discreet: results tell the model's name only, not where the server has it.
        left: is called with each job that is over.
        limit: how many jobs may wait for it before no further one is begun.
    """

    def __init__(self, *, discreet: bool, left: Callable[[Job], None], limit: int) -> None:
        self.discreet = discreet
        self.left = left
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="softpaint-finish")

    @property
    def full(self) -> bool:
        """Whether it has fallen behind."""
        return self._held >= self._limit

    def finish(
        self,
        job: Job,
        runs: Mapping[str, Running],
        done: Callable[[Job, Exception | None], None],
    ) -> None:
        """Make a job's pictures, measure and publish them.

        Args:
            job: that the model is done with.
            runs: by label, what it was.
            done: is called when this is over, with the job and what it failed with.
        """
        with self._lock:
            self._held += 1
        self._pool.submit(self._finish, job, runs, done)

    def close(self) -> None:
        """Wait for what is being finished."""
        self._pool.shutdown()

    def record(self, output: Output) -> dict[str, str]:
        """What a result's file says of how it was made."""
        result = output.result
        record = EditRecord.of(result, index=output.index, beside=Path(STANDARD_INPUT))
        return record.metadata()

    def _finish(
        self,
        job: Job,
        runs: Mapping[str, Running],
        done: Callable[[Job, Exception | None], None],
    ) -> None:
        failed: Exception | None = None
        try:
            self._publish(job, self._made(job, runs))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's alone
            failed = error
        with self._lock:
            self._held -= 1
        done(job, failed)

    def _made(self, job: Job, runs: Mapping[str, Running]) -> list[Output]:
        """The pictures of a job.

        Raises:
            Exception: of an edit of it; of a tolerant job only if there is no picture at all.
        """
        made: dict[str, EditResult] = {}
        for label, run in runs.items():
            try:
                made[label] = run.outcome()
            except Exception as error:
                if not job.tolerant:
                    raise
                job.errors[label] = error
        if not made:
            raise next(iter(job.errors.values()))
        job.candidates = [
            replace(each, judged=each.judged[-1:])  # earlier looks are of no use to anybody
            for result in made.values()
            for each in result.candidates
        ]
        return [
            Output(label, _without_places(part) if self.discreet else part, index)
            for label, result in made.items()
            for part in map(_unwatched, result.parts or [result])
            for index in range(len(part.seeds))
        ]

    def _publish(self, job: Job, outputs: Sequence[Output]) -> None:
        picture = outputs[0].picture
        # Who paints waits for the picture: its figures follow, for who asks for the job again.
        live = job.memory is not None and picture.width * picture.height > PROMPT_PIXELS
        if not live:
            self._measure(job, outputs)
        job.outputs, job.ended, job.done = list(outputs), time(), job.total
        told = job.told() | {"state": str(JobState.FINISHED)}
        job.publish("finished", told | {"results": job.told_results()}, JobState.FINISHED)
        self.left(job)
        if live:
            self._measure(job, outputs)
        job.grounds = {}

    @staticmethod
    def _measure(job: Job, outputs: Sequence[Output]) -> None:
        """Measure a job's pictures, if that was asked for."""
        try:
            for output in outputs:
                if job.measured and (ground := job.grounds.get(output.label)):
                    prompt = job.requests[output.label].text
                    output.figures = figures(output.picture, *ground, prompt)
        except Exception:  # figures are an extra: the pictures are there
            LOG.exception("figures of job %s", job.id)


def _unwatched(result: EditResult) -> EditResult:
    """A result whose request does not hold the job that holds the result: a forgotten job is free
    at once, and not when circles are looked for.
    """
    if result.request is None:
        return result
    return replace(result, request=replace(result.request, callback=None))


def _without_places(result: Any) -> Any:
    """A result that names its model, not the folder."""
    load = {
        name: [Path(each).name for each in value]
        if isinstance(value, list)
        else Path(value).name
        if name in PLACES
        else value
        for name, value in result.load.items()
    }
    model = Path(str(result.settings.get("model", ""))).name
    return replace(result, load=load, settings={**result.settings, "model": model})
