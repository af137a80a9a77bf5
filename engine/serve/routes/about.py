"""The page, and what it and other clients have to know: the model, the settings, the samples."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from engine.request.schema import json_schema
from engine.serve.errors import NotFoundError, UnauthorizedError
from engine.serve.finisher import encoded
from engine.serve.guard import COOKIE
from engine.serve.requests import ServiceOf, read_json, settings_schema
from engine.serve.wire import FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.models.network import Network
    from engine.pocket.world import DemoEdit
    from strategies import StrategyInfo

PAGE = Path(__file__).parent.parent / "page"
_SIDE = 128
"""Of the samples, in px: the pocket model's own."""

router = APIRouter(tags=["about"])


@router.get("/", include_in_schema=False)
async def index() -> FileResponse:
    """The page."""
    return _file("index.html")


@router.get("/page/{path:path}", include_in_schema=False)
async def page(path: str) -> FileResponse:
    """The page's own files."""
    return _file(path)


@router.get("/api/about")
async def about(request: Request, service: ServiceOf) -> dict[str, Any]:
    """The model, the server's limits and the samples."""
    backbone, limits = service.engine.backbone, service.limits
    return {
        "name": "softpaint",
        "version": version("softpaint"),
        "model": service.model,
        "family": backbone.family.name,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "native": [backbone.native_size, backbone.native_size],
        "multiple": backbone.align,
        "limits": {
            name: getattr(limits, name)
            for name in ("pixels", "bytes", "steps", "n", "candidates", "queue")
        },
        "ip_adapters": list(service.adapters),
        "token_required": bool(request.app.state.access.token),
        "samples": [
            {
                "name": name,
                "url": f"/api/samples/{name}/picture.png",
                "map": f"/api/samples/{name}/map.png",
                "prompt": scene.prompt,
                "settings": _settings_of(scene),
                "width": scene.image.shape[1],
                "height": scene.image.shape[0],
            }
            for name, scene in _samples().items()
        ],
    }


@router.post("/api/token")
async def token(request: Request, response: Response) -> dict[str, bool]:
    """Exchange the token (JSON: ``{"token": ...}``) for a cookie that bears it, for a page."""
    given = (await read_json(request)).get("token")
    if not isinstance(given, str) or not request.app.state.access.is_token(given):
        raise UnauthorizedError("this is not the token.")
    response.set_cookie(
        COOKIE, given, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return {"ok": True}


@router.get("/api/settings")
async def settings(service: ServiceOf) -> dict[str, Any]:
    """Every setting, and everything that can be chosen by name."""
    from controls import list_controls
    from controls.annotators import ANNOTATORS
    from controls.registry import get_control
    from engine.picture.colour import COLOURS
    from engine.picture.fill import FILLS
    from engine.picture.paste import PASTES
    from engine.solvers.names import SCHEDULERS
    from strategies.registry import STRATEGIES

    networks = service.engine.backbone.networks
    return {
        "fields": _fields(),
        "strategies": [
            {
                "name": info.name,
                "help": info.description,
                "cost": info.cost,
                "needs": _needs(info, networks),
                "network": info.network,
                "paper": info.paper,
                "only": info.only,
                "options": [
                    {"name": name, "type": _kind(default), "default": default, "help": text}
                    for name, (default, text) in info.options.items()
                    if default is None or isinstance(default, str | int | float)
                ],
            }
            for info in STRATEGIES
        ],
        "schedulers": _named(SCHEDULERS),
        "controls": [
            {
                "name": name,
                "help": get_control(name).description,
                "annotator": get_control(name).annotator,
                "offline": _is_offline(service, name),
            }
            for name in list_controls()
        ],
        "annotators": [
            {"name": info.name, "help": info.description, "offline": info.offline}
            for info in ANNOTATORS
        ],
        "fills": [
            {"name": "auto", "help": "what suits the picture and its map"},
            *_named(info for info in FILLS),
        ],
        "colours": _named(COLOURS),
        "pastes": _named(PASTES),
        "schema": json_schema(),
    }


@router.get("/api/samples/{name}/picture.png", response_class=Response)
async def sample_picture(name: str) -> Response:
    """A sample's picture."""
    from PIL import Image

    return _png(Image.fromarray(_sample(name).image))


@router.get("/api/samples/{name}/map.png", response_class=Response)
async def sample_map(name: str) -> Response:
    """A sample's strength map: grey, white = repaint."""
    import numpy as np
    from PIL import Image

    scene = _sample(name)
    strength = scene.mask if scene.strength_map is None else scene.strength_map
    return _png(Image.fromarray(np.round(np.asarray(strength, np.float32) * 255).astype(np.uint8)))


# --------------------------------------------------------------------------------------------------


def _needs(info: StrategyInfo, networks: Mapping[str, Network]) -> str:
    """What the loaded model lacks for a strategy; empty where it can run it, or another stage of
    it.
    """
    if info.runs_on(networks):
        return ""
    if info.network in networks:
        return "a UNet"
    return "" if info.only else f"a {info.network} network"


def _file(path: str) -> FileResponse:
    """A file of the page, and of nothing beside it.

    Raises:
        NotFoundError: there is no such file.
    """
    file = _files().get(path)
    if file is None:
        raise NotFoundError("there is no such file.")
    return FileResponse(file, headers={"cache-control": "no-cache"})


def _files() -> dict[str, Path]:
    """The page's files by their names in an address: nothing else can be asked for."""
    kinds = {".html", ".js", ".mjs", ".css", ".svg", ".png", ".ico", ".json", ".webmanifest"}
    return {
        file.relative_to(PAGE).as_posix(): file
        for file in PAGE.rglob("*")
        if file.suffix in kinds and file.is_file() and "node_modules" not in file.parts
    }


@cache
def _samples() -> dict[str, DemoEdit]:
    from engine.pocket.world import sample_edits

    return {scene.name: scene for scene in sample_edits(_SIDE)}


def _sample(name: str) -> DemoEdit:
    if name not in _samples():
        raise NotFoundError(f"no sample {name!r}; there are {', '.join(_samples())}.")
    return _samples()[name]


def _settings_of(scene: DemoEdit) -> dict[str, Any]:
    """What a sample is to be edited with, besides its prompt."""
    return {} if scene.guidance_end == 1 else {"guidance_end": scene.guidance_end}


def _png(image: Any) -> Response:
    return Response(encoded(image, "png"), media_type="image/png")


def _named(infos: Iterable[Any]) -> list[dict[str, str]]:
    return [{"name": info.name, "help": info.description} for info in infos]


def _kind(default: Any) -> str:
    """The JSON type of an option, by its default; None stands for a number that is left open."""
    kinds = {bool: "boolean", int: "integer", str: "string"}
    return kinds.get(type(default), "number")


def _is_offline(service: Any, name: str) -> bool:
    """Whether a control's network is on this machine without a hub."""
    checkpoint = service.engine.backbone.checkpoint
    return checkpoint is not None and name in (checkpoint.controlnets or {})


def _fields() -> list[dict[str, Any]]:
    """The table of settings, a line each."""
    schema = settings_schema()
    return [_line(name, schema[name]) for name in FIELDS if name in schema]


def _line(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    field = FIELDS[name]
    form = schema
    nullable = False
    if "anyOf" in schema and {"type": "null"} in schema["anyOf"]:
        nullable = True
        form = next(each for each in schema["anyOf"] if each != {"type": "null"})
    if "anyOf" in form:
        form = form["anyOf"][0]
    kind = "image" if "contentMediaType" in form else form.get("type", "string")
    return {
        "name": name,
        "type": kind,
        "default": schema.get("default"),
        "nullable": nullable,
        "minimum": form.get("minimum", form.get("exclusiveMinimum")),
        "maximum": form.get("maximum", form.get("exclusiveMaximum")),
        "above": "exclusiveMinimum" in form,
        "below": "exclusiveMaximum" in form,
        "choices": form.get("enum", form.get("examples")),
        "items": form.get("minItems"),
        "help": field.help.text,
        "more": field.help.more,
        "group": str(field.group),
    }
