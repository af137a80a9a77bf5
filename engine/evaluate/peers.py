"""Diffusers' own inpainting pipelines around an engine's modules: what strategies are held against.

Only the modules are shared: the pipeline has its own scheduler and its own processors.
"""

from __future__ import annotations

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
        backbone.family.denoiser: backbone.network(PEERS[name]).module,
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


def run_peer(
    pipe: Any,
    *,
    images: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
) -> list[Image.Image]:
    """One call of the pipeline for several pictures of one size, everything else as it comes.

    Its own default strength is kept, which is 0.9999 for SDXL (one step less) and 1 for SD.
    Sides that are no multiple of 8 are rounded down, as the pipeline demands, and the results
    brought back to size.
    """
    import torch
    from PIL import Image

    size = images[0].size
    made: list[Image.Image] = pipe(
        prompt=list(prompts),
        image=list(images),
        mask_image=list(masks),
        width=size[0] // 8 * 8,
        height=size[1] // 8 * 8,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images
    return [each.resize(size, Image.Resampling.BICUBIC) for each in made]
