"""Diffusers' own inpainting pipelines around an engine's modules: what strategies are held against.

Only the modules are shared: the pipeline has its own scheduler and its own processors.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from engine.models import Backbone

PEERS = {"diffusers-4ch": "base", "diffusers-9ch": "inpaint"}
"""Names of the peers, and the network that each runs."""


def list_peers(backbone: Backbone) -> list[str]:
    """The peers whose network is loaded."""
    if backbone.family.inpaint_pipeline is None:
        return []
    return [name for name, network in PEERS.items() if network in backbone.networks]


def peer_pipeline(backbone: Backbone, name: str, scheduler: Any) -> Any:
    """Diffusers' inpainting pipeline of the backbone's family, on the network of peer ``name``."""
    import diffusers

    kind: Any = getattr(diffusers, str(backbone.family.inpaint_pipeline))
    parts = {
        **backbone.pipe.components,
        backbone.family.denoiser: _accepted(backbone, name),
        "scheduler": scheduler,
    }
    settings = {"requires_safety_checker": False, "requires_aesthetics_score": False}
    for key in ("force_zeros_for_empty_prompt",):
        if (value := backbone.pipe.config.get(key)) is not None:
            settings[key] = value
    accepted = set(inspect.signature(kind.__init__).parameters)
    pipe = kind(**{key: value for key, value in {**parts, **settings}.items() if key in accepted})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _accepted(backbone: Backbone, name: str) -> Any:
    """The denoiser of peer ``name``, whose config says what the pipeline insists on."""
    module, wanted = backbone.network(PEERS[name]).module, backbone.family.peer.latents
    if wanted is None or module.config.in_channels == wanted:
        return module
    told = copy.copy(module)  # the same weights, another config
    told._internal_dict = type(module.config)({**module.config, "in_channels": wanted})  # noqa: SLF001
    return told


def run_peer(
    pipe: Any,
    *,
    multiple: int = 8,
    images: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    strength: float | None = None,
) -> list[Image.Image]:
    """One call of the pipeline for several pictures of one size, everything else as it comes.

    Without a ``strength`` its own default is kept where it repaints, which is 0.9999 for SDXL (one
    step less) and 1 for SD; flow pipelines' .6 is raised to 1. Sides that are no multiple of
    ``multiple`` are rounded down, as the pipeline demands, and the results brought back to size.
    """
    import torch
    from PIL import Image

    size = images[0].size
    own = inspect.signature(pipe.__call__).parameters["strength"].default
    if strength is None:
        strength = own if own > 0.99 else 1.0
    made: list[Image.Image] = pipe(
        prompt=list(prompts),
        image=list(images),
        mask_image=list(masks),
        width=size[0] // multiple * multiple,
        height=size[1] // multiple * multiple,
        strength=strength,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images
    return [each.resize(size, Image.Resampling.BICUBIC) for each in made]
