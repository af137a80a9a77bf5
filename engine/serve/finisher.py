"""What is done with finished pictures beside the model's thread: figures, and the files."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.formats.places import PLACES
from engine.picture.metrics import METRICS, WITHOUT_TRUTH, Sample, measure
from engine.picture.source import STANDARD_INPUT
from engine.picture.write import write_image
from engine.request.record import EditRecord
from engine.serve.errors import NotFoundError
from engine.serve.jobs import Job, JobState, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

LOG = logging.getLogger("softpaint.serve")
MEASURED = (*(name for name in WITHOUT_TRUTH if name != "model_calls"), "prompt")
"""Figures of a picture whose right answer is not known."""
PROMPT_PIXELS = 512 * 512
"""Up to this size a session's picture is measured before it is shown: that takes no time to speak
of."""
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
        OutputError: the format cannot hold the picture.
    """
    if suffix not in FORMATS:
        raise NotFoundError(f"no format {suffix!r}; there are {', '.join(FORMATS)}.")
    kind = FORMATS[suffix][0]
    file = BytesIO()
    if quality is not None and kind in {"JPEG", "WEBP"}:
        flat = picture if kind == "WEBP" else picture.convert("RGB")
        flat.save(file, kind, quality=quality)
    else:
        name = f"result.{suffix}"
        write_image(file, picture, kind, metadata=record, name=name, warn=False, quick=True)
    return file.getvalue()


class Finisher:
    """Measures finished jobs, one after the other, and tells that they are finished.

    Args:
        discreet: results tell the model's name only, not where the server has it.
        left: is called with each job that is over.
    """

    def __init__(self, *, discreet: bool, left: Callable[[Job], None]) -> None:
        self.discreet = discreet
        self.left = left
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="softpaint-finish")

    def finish(self, job: Job, outputs: Sequence[Output]) -> None:
        """Measure what a job has made and publish it."""
        self._pool.submit(self._finish, job, outputs)

    def close(self) -> None:
        """Wait for what is being measured."""
        self._pool.shutdown()

    def record(self, output: Output) -> dict[str, str]:
        """What a result's file says of how it was made."""
        result = output.result
        record = EditRecord.of(result, index=output.index, beside=Path(STANDARD_INPUT))
        return record.metadata()

    def _finish(self, job: Job, outputs: Sequence[Output]) -> None:
        if self.discreet:
            for output in outputs:
                output.result = _without_places(output.result)
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
    return dataclasses.replace(result, load=load, settings={**result.settings, "model": model})
