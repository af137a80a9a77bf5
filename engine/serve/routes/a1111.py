"""A1111's ``/sdapi/v1``, as far as the plug-ins of picture editors need it.

What it names is translated: ``mask_blur`` makes the mask a soft strength map, ``inpainting_fill``
is a prefill, ``inpaint_full_res`` edits a cut-out around the mask. Settings of this engine go into
``alwayson_scripts: {"softpaint": {"args": [{...}]}}``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from fastapi import APIRouter, Request
from PIL import Image

from engine.errors import CancelledError, InputError
from engine.picture.map_files import load_strength_map
from engine.picture.write import is_transparent
from engine.request import infotext
from engine.request.field import Range, check_number
from engine.serve import wire
from engine.serve.finisher import encoded
from engine.serve.jobs import Job
from engine.serve.requests import ServiceOf, ended, read_json
from engine.serve.webui import FILLS, UNSERVED, img2img_schema, scheduler_of, takes_eta

if TYPE_CHECKING:
    from engine.picture.map_channels import AlphaRule
    from engine.serve.limits import Limits
    from engine.serve.service import Service

_ZOOM = 16.0
"""The most that a cut-out may be enlarged."""
_DRAWN = (512, 512)
"""What A1111 takes for a width or a height that is not given."""

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])


@router.post("/img2img", openapi_extra=img2img_schema())
async def img2img(request: Request, service: ServiceOf) -> dict[str, Any]:
    """Edit a picture."""
    service.worker.check_room()
    body = await read_json(request)
    job = await asyncio.to_thread(_job, body, service)
    request.app.state.webui.append(job)
    try:
        await service.submit(job)
        await ended(request, service, job)
    except CancelledError:
        return {"images": [], "parameters": _shown(body), "info": json.dumps({"all_seeds": []})}
    finally:
        request.app.state.webui.remove(job)
    return await asyncio.to_thread(_answer, body, job, service)


@router.get("/progress")
async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
    """How far the oldest edit of these clients has come."""
    job = next(iter(request.app.state.webui), None)
    if job is None:
        state = {"sampling_step": 0, "sampling_steps": 0, "job_count": 0, "job": ""}
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None}
    share = job.done / job.total if job.total else 0.0
    spent = job.seconds or 0.0
    preview = None if skip_current_image else job.last_preview
    picture = preview and await asyncio.to_thread(encoded, preview.image, "png")
    return {
        "progress": share,
        "eta_relative": spent * (1 - share) / share if share else 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "job": job.id,
            "job_count": len(request.app.state.webui),
            "job_no": 0,
            "sampling_step": job.done,
            "sampling_steps": job.total,
        },
        "current_image": base64.b64encode(picture).decode() if picture else None,
        "textinfo": None,
    }


@router.post("/interrupt")
@router.post("/skip", include_in_schema=False)
async def interrupt(request: Request, service: ServiceOf) -> dict[str, Any]:
    """End the edits of these clients."""
    for job in list(request.app.state.webui):
        await service.cancel(job)
    return {}


# --- the edit -------------------------------------------------------------------------------------


def _job(body: dict[str, Any], service: Service) -> Job:
    """The job that an img2img body asks for.

    Raises:
        InputError: what of it is not accepted.
    """
    limits = service.limits
    _flag(body, "send_images", True)  # read when the work is done, and refused before it
    images = body.get("init_images")
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str):
        raise InputError("init_images must hold one picture, as base64.")
    data = wire.from_base64(images[0], "init_images")
    source, size = wire.picture(data, "init_images", limits)
    arguments: dict[str, Any] = {"image": source, **_settings(body, limits)}
    strength_map = _map(body, size, service)
    full = _flag(body, "inpaint_full_res", True) and bool(body.get("mask"))
    canvas = size
    if not full and (target := _target(body, size, service)) != size:
        canvas = target
        box = _part(body, size, target)
        arguments["image"] = wire.resized(source, "init_images", target, box)
        # Pillow's box may lie between pixels, and its bilinear filter averages where it shrinks
        soft = Image.fromarray(strength_map).resize(target, Image.Resampling.BILINEAR, box=box)
        strength_map = np.asarray(soft).clip(0, 1)
    arguments["strength_map"] = strength_map
    arguments |= {"region": "mask" if full else "full"}
    if full:
        arguments["padding"] = _number(body, "inpaint_full_res_padding", 0, 0, 16384, whole=True)
        if body.get("width") is not None or body.get("height") is not None:
            # the size at which A1111 draws what is masked, and enlarges small things to
            width, height = _target(body, _DRAWN, service)
            arguments |= {"native_size": round(math.sqrt(width * height)), "zoom": _ZOOM}
    for name, own in (("steps", "num_inference_steps"), ("cfg_scale", "guidance_scale")):
        if body.get(name) is None and own in service.engine.backbone.defaults:
            arguments.pop(own)  # a few-step checkpoint has its own
    arguments |= wire.settings(_own(body), limits, service.adapters)
    request = service.engine.read(arguments)
    wire.check_canvas(canvas, request, limits)
    return Job({"": request}, nbytes=len(data), measured=False, previews=0.5)


def _settings(body: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Those of its settings that have a name of ours."""
    name, spacing = body.get("sampler_name") or body.get("sampler_index"), body.get("scheduler")
    scheduler = scheduler_of(name, spacing)
    count = _number(body, "batch_size", 1, 1, 1024, whole=True)
    given = {
        "prompt": body.get("prompt") or "",
        "negative_prompt": body.get("negative_prompt") or None,
        "num_inference_steps": _number(body, "steps", 30, 1, 1000, whole=True),
        "guidance_scale": _number(body, "cfg_scale", 7.0, 0, 1000),
        "strength": _number(body, "denoising_strength", 0.75, 0, 1),
        "seed": _seed(body),
        "num_images": count * _number(body, "n_iter", 1, 1, 1024, whole=True),
        "prefill": FILLS[int(_number(body, "inpainting_fill", 0, 0, len(FILLS) - 1, whole=True))],
        "scheduler": scheduler,
    }
    if body.get("eta") is not None and scheduler is not None and takes_eta(scheduler):
        given["eta"] = body["eta"]
    return wire.settings(given, limits)


def _map(body: dict[str, Any], size: tuple[int, int], service: Service) -> Any:
    """The strength map (H W) of the picture: its mask, blurred; ones where there is none."""
    text = body.get("mask")
    if not text:  # some clients send an empty text for none
        return np.ones(size[::-1], np.float32)
    if not isinstance(text, str):
        raise InputError("mask must be base64.")
    source, mask_size = wire.picture(wire.from_base64(text, "mask"), "mask", service.limits)
    mask = wire.decoded(source, "mask")
    # strokes on an empty layer count by their opacity, as in A1111
    channel: AlphaRule = "alpha" if is_transparent(mask) else "auto"
    strength: Any = load_strength_map(mask, mask_size, alpha=channel, snap=0.0)
    if mask_size != size:  # of any aspect, as A1111 takes it
        strength = cv2.resize(strength, size, interpolation=cv2.INTER_LINEAR)
    if _number(body, "inpainting_mask_invert", 0, 0, 1, whole=True):
        strength = np.float32(1) - strength
    both = body.get("mask_blur")
    across, down = (
        _number(body, "mask_blur" if both is not None else name, 4.0, 0, 512)
        for name in ("mask_blur_x", "mask_blur_y")
    )
    if across or down:
        sides = [2 * int(2.5 * each + 0.5) + 1 for each in (across, down)]  # A1111's kernels
        # a kernel of one pixel does nothing, and OpenCV takes a sigma of 0 for none given
        strength = cv2.GaussianBlur(strength, sides, across or 1e-6, sigmaY=down or 1e-6)
    return np.asarray(strength).clip(0, 1)


def _target(body: dict[str, Any], size: tuple[int, int], service: Service) -> tuple[int, int]:
    """(width, height) of the result, where the whole picture is edited."""
    width, height = (
        int(_number(body, name, default, 8, 65536, whole=True))
        for name, default in zip(("width", "height"), size, strict=True)
    )
    wire.check_pixels(width, height, "the result", service.limits)
    return width, height


def _part(
    body: dict[str, Any], size: tuple[int, int], target: tuple[int, int]
) -> tuple[float, float, float, float]:
    """What of the picture is resized (left, top, right, bottom): all, or the middle of the result's
    aspect ratio with ``resize_mode`` 1.

    Raises:
        InputError: ``resize_mode`` 2, which is outpainting, where the ratio changes.
    """
    mode = _number(body, "resize_mode", 0, 0, 3, whole=True)
    width, height = size
    scale = min(width / target[0], height / target[1])
    same = abs(width * target[1] - height * target[0]) <= max(size)
    if mode == 2 and not same:
        raise InputError(
            "resize_mode 2 fills a frame of another aspect ratio, which is not served: give the "
            'script softpaint {"expand": [left, top, right, bottom]}, or resize_mode 0 or 1.'
        )
    if mode != 1 or same:
        return 0.0, 0.0, float(width), float(height)
    left, top = (width - scale * target[0]) / 2, (height - scale * target[1]) / 2
    return left, top, width - left, height - top


def _own(body: dict[str, Any]) -> dict[str, Any]:
    """This engine's own settings, as a script's arguments."""
    scripts = body.get("alwayson_scripts") or {}
    if not isinstance(scripts, dict):
        raise InputError('alwayson_scripts must be an object: {"softpaint": {"args": [{...}]}}.')
    own = scripts.get("softpaint")
    arguments = own.get("args") if isinstance(own, dict) else None
    if not arguments:
        return {}
    if not isinstance(arguments, list) or not isinstance(arguments[0], dict):
        raise InputError("softpaint's args must be a list with one object.")
    return dict(arguments[0])


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    """Yes or no, which A1111 takes as a number too."""
    value = body.get(name)
    if value is None:
        return default
    if value not in (0, 1):
        raise InputError(f"{name} must be true or false, not {value!r}.")
    return bool(value)


def _seed(body: dict[str, Any]) -> Any:
    """Its seed, which JavaScript's clients may write as a float; none is -1."""
    seed = _parsed(body.get("seed"))
    if isinstance(seed, float) and seed.is_integer():
        return int(seed)
    return -1 if seed is None else seed


def _parsed(value: Any) -> Any:
    """A number that is written as text, as A1111 takes it; all else as it is."""
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            return kind(value)
    return value


def _number(
    body: dict[str, Any], name: str, default: float, low: float, high: float, *, whole: bool = False
) -> Any:
    """A number of the body."""
    value = _parsed(body.get(name))
    if value is None:
        return default
    if whole and ((isinstance(value, float) and value.is_integer()) or isinstance(value, bool)):
        value = int(value)  # A1111 takes both
    check_number(name, value, Range(low, high), whole=whole)
    return value


# --- the answer -----------------------------------------------------------------------------------


def _answer(body: dict[str, Any], job: Job, service: Service) -> dict[str, Any]:
    pictures = [
        encoded(output.picture, "png", record=service.finisher.record(output))
        for output in job.outputs
    ]
    settings = job.outputs[0].result.settings
    seeds = [output.seed for output in job.outputs]
    width, height = job.outputs[0].picture.size
    info = {
        "prompt": settings["prompt"],
        "negative_prompt": settings["negative_prompt"] or "",
        "seed": seeds[0],
        "all_seeds": seeds,
        "all_prompts": [settings["prompt"]] * len(seeds),
        "width": width,
        "height": height,
        "steps": settings["num_inference_steps"],
        "cfg_scale": settings["guidance_scale"],
        "denoising_strength": settings["strength"],
        "sampler_name": settings["scheduler"],
        "batch_size": len(seeds),
        "sd_model_name": service.model,
        "index_of_first_image": 0,
        "unused": _unused(body),
        "infotexts": [
            infotext.written(output.result.settings, output.result.load, output.seed)
            for output in job.outputs
        ],
    }
    wanted = pictures if _flag(body, "send_images", True) else []
    return {
        "images": [base64.b64encode(each).decode() for each in wanted],
        "parameters": _shown(body),
        "info": json.dumps(info),
    }


def _unused(body: dict[str, Any]) -> list[str]:
    """What it asks for and nothing here does: scripts of other names, and settings that would
    change the picture.
    """
    scripts = body.get("alwayson_scripts")
    names = [*scripts] if isinstance(scripts, dict) else []
    others = [f"alwayson_scripts: {name}" for name in names if name != "softpaint"]
    return others + [name for name in UNSERVED if body.get(name)]


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """The body without its pictures, as A1111 returns it."""
    return {name: value for name, value in body.items() if name not in {"init_images", "mask"}}
