"""What A1111's clients look at before they ask for an edit: options, models, samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from engine.errors import InputError
from engine.serve.requests import ServiceOf, read_json
from engine.serve.webui import samplers, schedulers

if TYPE_CHECKING:
    from engine.serve.service import Service

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])


@router.get("/options")
async def options(service: ServiceOf) -> dict[str, Any]:
    """What clients look at of the options."""
    return {
        "sd_model_checkpoint": service.model,
        "sd_checkpoint_hash": "",
        "samples_format": "png",
        "CLIP_stop_at_last_layers": 1,
        "inpainting_mask_weight": 1.0,
        "img2img_fix_steps": False,
    }


@router.post("/options")
async def set_options(request: Request, service: ServiceOf) -> dict[str, Any]:
    """One model is loaded, and stays: asking for another one is refused, the rest has no effect."""
    wanted = (await read_json(request)).get("sd_model_checkpoint")
    if wanted not in {None, "", service.model, *(each["title"] for each in _models(service))}:
        raise InputError(f"this server has the model {service.model!r} only.")
    return {}


@router.get("/sd-models")
async def sd_models(service: ServiceOf) -> list[dict[str, Any]]:
    """The one model that is loaded."""
    return _models(service)


@router.get("/samplers")
async def list_samplers() -> list[dict[str, Any]]:
    """Schedulers, by A1111's names where it has one."""
    return [{"name": name, "aliases": [own], "options": {}} for name, own in samplers().items()]


@router.get("/schedulers")
async def list_schedulers() -> list[dict[str, Any]]:
    """Spacings of noise levels, by A1111's names."""
    return [{"name": label.lower(), "label": label, "aliases": None} for label in schedulers()]


@router.get("/scripts")
async def scripts() -> dict[str, list[str]]:
    """The one script: settings of this engine."""
    return {"txt2img": [], "img2img": ["softpaint"]}


@router.get("/cmd-flags")
async def cmd_flags() -> dict[str, Any]:
    """Nothing that clients need."""
    return {"api": True}


@router.get("/loras")
@router.get("/upscalers")
@router.get("/sd-vae")
@router.get("/hypernetworks")
@router.get("/face-restorers")
@router.get("/realesrgan-models")
@router.get("/prompt-styles")
async def nothing() -> list[dict[str, Any]]:
    """None that a request could name."""
    return []


@router.get("/embeddings")
async def embeddings() -> dict[str, Any]:
    """None that a request could name."""
    return {"loaded": {}, "skipped": {}}


def _models(service: Service) -> list[dict[str, Any]]:
    name = service.model
    return [
        {
            "title": name,
            "model_name": name,
            "hash": None,
            "sha256": None,
            "filename": name,
            "config": None,
        }
    ]
