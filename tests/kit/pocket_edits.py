"""Edits with the pocket models that touch every part of the engine that meets a device."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from controls import Control
from tests.kit.devices import box, hard, ramp, soft

SCENE = hard()
RAMP_PICTURE = Image.fromarray((ramp() * 255).astype("uint8")).convert("RGB")
TWO = [
    {"map": box(0, 32, 56, 112), "prompt": "a red house"},
    {"map": box(40, 32, 100, 112), "prompt": "a white boat"},
]


def _large(masks: list[np.ndarray]) -> np.ndarray:
    """Masks of the scene together, three times as large."""
    return np.kron(np.any(masks, axis=0), np.ones((3, 3), bool))


EDITS: dict[str, tuple[str, dict[str, Any]]] = {
    name: ("pocket", settings)
    for name, settings in {
        "blend": hard(strategy="blend"),
        "differential": soft(strategy="differential"),
        "soft-blend": soft(strategy="soft-blend"),
        "think": hard(strategy="think"),
        "think+differential": soft(strategy="think+differential"),
        "think+blend": hard(strategy="think+blend"),
        "inpaint9": hard(strategy="inpaint9"),
        "inpaint9+differential": soft(strategy="inpaint9+differential"),
        "staged": hard(strategy="staged"),
        "staged, smaller first": hard(strategy="staged", scales="0.5,1"),
        "remove": hard(strategy="remove", prompt="", task="remove"),
        "erase": hard(strategy="erase", prompt=""),
        "erase+blend": hard(strategy="erase+blend", away=3.0),
        "whole": hard(strategy="whole"),
        "canny": hard(controls="canny"),
        "canny, masked": hard(controls=Control("canny", mask=box(0, 0, 64, 128))),
        "depth": hard(controls=Control("depth", image=RAMP_PICTURE, scale=0.7)),
        "two controls": hard(controls=["canny", Control("depth", image=RAMP_PICTURE)]),
        "guess mode": hard(controls="canny", guess_mode=True),
        "inpaint9, canny": hard(strategy="inpaint9", controls="canny"),
        "regions": hard(mask=None, regions=TWO),
        "regions by latents": hard(mask=None, regions=TWO, coupling="latents"),
        "candidates": hard(candidates=4, keep=2),
        "auto": hard(strategy="auto"),
        "unguided": hard(guidance_scale=1.0),
        "guided in part": hard(guidance_start=0.2, guidance_end=0.7, guidance_rescale=0.5),
        "strength": hard(strength=0.6),
        "two seeds": hard(num_images=2),
        "expand": hard(expand=(16, 0, 8, 24)),
        "odd size": hard(
            image=SCENE["image"].crop((0, 0, 123, 101)), mask=SCENE["mask"][:101, :123]
        ),
        "islands": hard(
            image=SCENE["image"].resize((384, 384)),
            mask=_large([box(8, 8, 24, 20), box(100, 100, 120, 124)]),
            region="mask",
        ),
        "weighted prompt": hard(prompt="a (red house:1.4) by the sea", negative_prompt="night"),
        "gan": hard(prefill="gan", strategy="blend"),
        "ddim": soft(scheduler="ddim"),
        "dpmpp-2m-karras": hard(scheduler="dpmpp-2m-karras"),
        "euler-a": hard(scheduler="euler-a"),
        "unipc": hard(scheduler="unipc"),
        "compat": hard(compat="diffusers", strategy="blend"),
        "compat, inpaint9": hard(compat="diffusers", strategy="inpaint9"),
    }.items()
} | {
    f"flow, {name}": ("pocket-flow", settings)
    for name, settings in {
        "blend": hard(strategy="blend"),
        "differential": soft(strategy="differential"),
        "think": hard(strategy="think"),
        "regions": hard(mask=None, regions=TWO),
    }.items()
}
"""By a name: the model, and the edit's settings."""
