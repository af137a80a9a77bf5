"""OpenAI's image edits, for the clients that speak them, and vLLM-Omni's names beside.

The mask is honoured pixel by pixel: a pixel of opacity a (0 to 255) is edited with the strength
``1 - a / 255``. Every setting of an edit may stand in the form too (``extra_body`` of the SDK).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from engine.errors import InputError
from engine.picture.map_files import load_strength_map
from engine.picture.read import load_image
from engine.picture.source import OWN_ALPHA, Source
from engine.picture.transparency import opacity_after
from engine.picture.write import is_transparent
from engine.request.request import EditRequest
from engine.serve import wire
from engine.serve.errors import NotFoundError
from engine.serve.finisher import encoded
from engine.serve.jobs import Job, JobState, failure
from engine.serve.references import SETTING, with_files
from engine.serve.requests import (
    Form,
    ServiceOf,
    ended,
    form_schema,
    read_form,
    settings_schema,
)

if TYPE_CHECKING:
    from engine.serve.service import Service

router = APIRouter(prefix="/v1", tags=["openai"])

IGNORED = frozenset(
    "model background quality input_fidelity user moderation safety_identifier style".split()
)
"""What OpenAI's models know, and this one has no use for."""
OURS = frozenset("image prompt mask n size output_format output_compression".split()) | frozenset(
    "response_format stream partial_images image[] mask_image".split()
)
NAMES = {"num_outputs_per_prompt": "num_images", "n": "num_images"}
"""vLLM-Omni's and OpenAI's names of settings; its others are ours."""
FORMATS = {"png": "png", "jpeg": "jpeg", "webp": "webp"}

FIELDS: dict[str, Any] = {
    "prompt": {"type": "string"},
    "n": {"type": "integer", "minimum": 1},
    "size": {"type": "string", "description": "auto, or WxH of the picture's aspect ratio."},
    "output_format": {"type": "string", "enum": list(FORMATS)},
    "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
    "response_format": {"type": "string", "enum": ["b64_json", "url"]},
    "stream": {"type": "boolean"},
    "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
}


@router.get("/models")
async def models(service: ServiceOf) -> dict[str, Any]:
    """The one model that is loaded."""
    return {"object": "list", "data": [_model(service)]}


@router.get("/models/{name:path}")
async def model(name: str, service: ServiceOf) -> dict[str, Any]:
    """That model."""
    if name != service.model:
        raise NotFoundError(f"the model {name!r} is not loaded; {service.model!r} is.")
    return _model(service)


@router.post(
    "/images/edits",
    openapi_extra=form_schema(
        {
            "image": "The picture to edit; further ones are what the server's IP-Adapter reads.",
            "mask": "A PNG with transparency: what is transparent is edited, and as strongly.",
        },
        FIELDS | {name: each for name, each in settings_schema().items() if name not in FIELDS},
        ["image", "prompt"],
        {"prompt": "a red house", "n": 1},
    ),
)
async def edits(request: Request, service: ServiceOf) -> Response:
    """Edit a picture."""
    service.worker.check_room()
    form = await read_form(request, service.limits)
    wanted = _Wanted(form)
    job = await service.submit(await asyncio.to_thread(_job, form, service, wanted))
    if wanted.stream:
        return StreamingResponse(
            _stream(request, service, job, wanted), media_type="text/event-stream"
        )
    await ended(request, service, job)
    data = [await asyncio.to_thread(_datum, request, job, k, wanted) for k in _numbers(job)]
    size = job.outputs[0].picture.size
    return JSONResponse(
        {
            "created": int(job.created),
            "data": data,
            "output_format": wanted.format,
            "background": _background(job),
            "quality": "high",
            "size": f"{size[0]}x{size[1]}",
            "usage": _USAGE,
        }
    )


class _Wanted:
    """How the pictures are asked for.

    Raises:
        InputError: in a way that there is none of.
    """

    def __init__(self, form: Form) -> None:
        self.format = form.text("output_format") or "png"
        if self.format not in FORMATS:
            raise InputError(f"output_format must be one of {', '.join(FORMATS)}.")
        self.compression = _whole(form, "output_compression", 0, 100)
        self.quality = self.compression if self.format != "png" else None
        self.stream = form.flag("stream")
        self.partial = _whole(form, "partial_images", 0, 3) or 0
        form_of_answer = form.text("response_format") or "b64_json"
        if form_of_answer not in {"b64_json", "url"}:
            raise InputError(f"response_format is b64_json or url, not {form_of_answer!r}.")
        self.as_url = form_of_answer == "url"


def _job(form: Form, service: Service, wanted: _Wanted) -> Job:
    """The job that a form asks for."""
    limits = service.limits
    pictures = [*form.files.get("image", []), *form.files.get("image[]", [])]
    further = [*pictures[1:], *form.files.get(SETTING, [])]
    if not pictures or (pictures[1:] and not service.adapters):
        raise InputError(
            f"image must be one picture, not {len(pictures)}: further ones are for an IP-Adapter "
            "(--ip-adapter), which this server has not."
        )
    image, size = wire.picture(pictures[0], "image", limits)
    texts = {name: values[-1] for name, values in form.texts.items() if name not in IGNORED}
    given = {name: text for name, text in texts.items() if name not in OURS or name == "prompt"}
    given |= {own: texts[name] for name, own in NAMES.items() if name in texts}
    given = {name: text for name, text in given.items() if name not in NAMES}
    read = with_files(wire.read_texts(given), further)
    settings = wire.settings(read, limits, service.adapters)
    arguments = {"image": image, **settings, **_map(form, image, service)}
    _check_format(arguments, wanted.format)
    target = _target(form.text("size"), size, service)
    if target != size:
        arguments["image"] = wire.resized(image, "image", target)
    nbytes = sum(len(each) for several in form.files.values() for each in several)
    previews = 0.0 if wanted.stream and wanted.partial else None
    request = service.engine.read(arguments)
    wire.check_canvas(target, request, limits)
    return Job({"": request}, nbytes=nbytes, measured=False, previews=previews)


def _map(form: Form, image: Source, service: Service) -> dict[str, Any]:
    """The strengths: of the mask's opacity, or of the picture's own where there is no mask; or our
    own ``strength_map``, or vLLM-Omni's ``mask_image`` (white is edited).

    Raises:
        InputError: there is no opacity that could tell.
    """
    limits = service.limits
    for name, own in (("strength_map", "strength_map"), ("mask_image", "mask")):
        if (data := form.file(name)) is not None:
            return {own: wire.picture(data, name, limits)[0]}
    if (data := form.file("mask")) is not None:
        decoded = wire.decoded(wire.picture(data, "mask", limits)[0], "mask")
        if not decoded.has_transparency_data:
            raise InputError(
                "the mask has no alpha channel: what is transparent in it is edited. (A mask in "
                "which white is edited goes into mask_image.)"
            )
        opacity = np.asarray(decoded.convert("RGBA"))[:, :, 3]
        return {"strength_map": np.float32(1) - opacity.astype(np.float32) / np.float32(255)}
    if form.text("expand") is not None:
        return {}
    if not wire.decoded(image, "image").has_transparency_data:
        raise InputError(
            "there is no mask, and the image has no alpha channel that could be one: what is "
            "transparent is edited."
        )
    return {"strength_map": Source(OWN_ALPHA, b"")}


def _target(text: str | None, size: tuple[int, int], service: Service) -> tuple[int, int]:
    """(width, height) that the picture is to have.

    Raises:
        InputError: the size is none, or of another aspect ratio.
    """
    if text is None or text == "auto":
        return size
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(each.isdecimal() and 0 < len(each) < 6 for each in parts):
        raise InputError(f"size must be auto or WxH, not {text!r}.")
    width, height = (int(each) for each in parts)
    wire.check_pixels(width, height, "size", service.limits)
    if not width or not height or abs(size[0] * height - size[1] * width) > max(size):
        raise InputError(
            f"size {text} has another aspect ratio than the picture ({size[0]}x{size[1]}); auto "
            "keeps it."
        )
    return width, height


def _check_format(arguments: Mapping[str, Any], suffix: str) -> None:
    """Refuse JPEG for a result that stays transparent somewhere."""
    if suffix != "jpeg":
        return
    picture = load_image(arguments["image"])
    if not picture.is_transparent or picture.alpha is None:
        return
    invert = bool(arguments.get("invert", False))
    given = arguments.get("mask", arguments.get("strength_map"))
    strength = np.zeros(picture.size[::-1], np.float32)
    if given is not None:
        strength = load_strength_map(given, picture.size, invert=invert, picture=picture)
    feather = arguments.get("feather", EditRequest.feather)
    if opacity_after(picture.alpha, strength, feather).min() < 255:
        raise InputError(
            "the result stays transparent where the image is and nothing is repainted, and JPEG "
            "holds no transparency: output_format must be png or webp."
        )


def _whole(form: Form, name: str, low: int, high: int) -> int | None:
    """A whole number of the form."""
    text = form.text(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 6 or not low <= int(text) <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}.")
    return int(text)


# --- answers --------------------------------------------------------------------------------------

_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""Nothing is counted in tokens here; OpenAI's clients need the numbers."""


def _numbers(job: Job) -> range:
    return range(len(job.outputs))


def _datum(request: Request, job: Job, number: int, wanted: _Wanted) -> dict[str, Any]:
    """A picture of the answer."""
    if wanted.as_url:
        base = str(request.base_url).rstrip("/")
        return {"url": f"{base}/api/jobs/{job.id}/results/{number}.{wanted.format}"}
    return {"b64_json": _base64(request, job, number, wanted)}


def _base64(request: Request, job: Job, number: int, wanted: _Wanted) -> str:
    service: Service = request.app.state.service
    output = job.outputs[number]
    record = service.finisher.record(output)
    data = encoded(output.picture, wanted.format, record=record, quality=wanted.quality)
    return base64.b64encode(data).decode()


async def _stream(
    request: Request, service: Service, job: Job, wanted: _Wanted
) -> AsyncIterator[str]:
    """Partial pictures, as many as were asked for at even distances, and then the pictures."""
    sent, latest = 0, None
    try:
        async for event in job.follow():
            if event.kind == "preview":
                latest = job.preview(event.data["k"])
            due = (sent + 1) / (wanted.partial + 1) * job.total
            if latest is not None and sent < wanted.partial and job.done + 1 >= due:
                shown = await asyncio.to_thread(encoded, latest.image, wanted.format)
                text = base64.b64encode(shown).decode()
                told = _told(job, wanted, text, latest.image.size)
                yield _event("image_edit.partial_image", told | {"partial_image_index": sent})
                sent, latest = sent + 1, None
        if job.state is not JobState.FINISHED:
            error = job.error or RuntimeError("the job has no pictures")
            yield _event("error", {"error": failure(error) | {"type": "server_error"}})
            return
        for number in _numbers(job):
            text = await asyncio.to_thread(_base64, request, job, number, wanted)
            told = _told(job, wanted, text, job.outputs[number].picture.size)
            yield _event("image_edit.completed", told | {"usage": _USAGE})
    finally:
        if not job.over:
            await asyncio.shield(service.cancel(job))


def _background(job: Job) -> str:
    """OpenAI's word for whether the pictures have holes."""
    holes = any(is_transparent(output.picture) for output in job.outputs)
    return "transparent" if holes else "opaque"


def _told(job: Job, wanted: _Wanted, text: str, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "b64_json": text,
        "created_at": int(job.created),
        "size": f"{size[0]}x{size[1]}",
        "quality": "high",
        "background": _background(job),
        "output_format": wanted.format,
    }


def _event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.model, "object": "model", "created": 0, "owned_by": "softpaint"}
