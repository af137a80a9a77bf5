"""``compat="diffusers"`` equals diffusers' own inpainting pipelines of flow models to the bit.

The same module objects, CPU, float32, one thread, as for UNets in ``test_parity.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ChromaInpaintPipeline,
    Flux2KleinInpaintPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxControlNetInpaintPipeline,
    FluxFillPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
)

from controls import Control
from engine import InpaintEngine
from tests.kit import tiny, tiny_flux
from tests.kit.tiny import both, difference

RUNS = ((1.0, 2), (0.6, 2), (0.3, 1))
"""Strengths, and numbers of pictures."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["dev", "schnell", "fill"])
def flux(request: pytest.FixtureRequest) -> dict[str, Any]:
    fill = request.param == "fill"
    return {
        "kind": FluxFillPipeline if fill else FluxInpaintPipeline,
        "parts": tiny_flux.modules(guidance=request.param != "schnell", fill=fill),
        "strategy": "fill" if fill else "blend",
        "guidance_scale": 1.0 if request.param == "schnell" else 3.5,
    }


@pytest.mark.parametrize(("strength", "images"), RUNS)
def test_flux(flux, strength, images):
    assert difference(both(**flux, strength=strength, num_images=images)) == 0.0


@pytest.mark.parametrize("kind", [FluxInpaintPipeline, FluxFillPipeline])
def test_schnell_is_not_guided_whatever_the_scale(kind):
    fill = kind is FluxFillPipeline
    parts = tiny_flux.modules(guidance=False, fill=fill)
    assert difference(both(kind, parts, "fill" if fill else "blend", guidance_scale=6.0)) == 0.0


def test_a_distilled_klein_is_not_guided_whatever_the_scale():
    pair = both(
        Flux2KleinInpaintPipeline,
        tiny_flux.flux2_modules(),
        "blend",
        guidance_scale=4.0,
        prompt=None,
        prompt_embeds=tiny_flux.embedded(),
        extra={"is_distilled": True},
        ours={"negative_prompt_embeds": tiny_flux.embedded(seed=9)},
    )
    assert difference(pair) == 0.0


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("strength", "images"), RUNS)
def test_klein(guidance, strength, images):
    """The picture is shown to it; guided, it is called for each branch by itself."""
    pair = both(
        Flux2KleinInpaintPipeline,
        tiny_flux.flux2_modules(),
        "blend",
        strength=strength,
        num_images=images,
        guidance_scale=guidance,
        prompt=None,
        prompt_embeds=tiny_flux.embedded(),
        theirs={"negative_prompt_embeds": tiny_flux.embedded(seed=9)},
        ours={"negative_prompt_embeds": tiny_flux.embedded(seed=9)} if guidance > 1 else {},
    )
    assert difference(pair) == 0.0


@pytest.mark.parametrize(("strength", "images"), RUNS)
def test_chroma(strength, images):
    """Guided, with and without a negative prompt, and not: its scale is one of true guidance."""
    parts = tiny_flux.chroma_modules()
    runs: list[dict[str, Any]] = [
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0},
        {"negative_prompt": "fog"},
    ]
    for run in runs:
        run |= {"strength": strength, "num_images": images}
        assert difference(both(ChromaInpaintPipeline, parts, "blend", **run)) == 0.0


@pytest.mark.parametrize(("strength", "images"), RUNS)
def test_kontext(strength, images):
    pair = both(
        FluxKontextInpaintPipeline,
        tiny_flux.modules(),
        "blend",
        strength=strength,
        num_images=images,
        guidance_scale=2.5,
        theirs={"_auto_resize": False},
    )
    assert difference(pair) == 0.0


@pytest.mark.parametrize(
    ("kind", "told"), [(Flux2Pipeline, True), (Flux2KleinPipeline, False)], ids=["dev", "klein"]
)
def test_an_instruction_for_all_of_the_picture(kind, told):
    """Dev has no inpainting pipeline: its edit of the whole frame is a mask of all of it."""
    pipe = kind(**tiny_flux.flux2_modules(guidance=told))
    pipe.set_progress_bar_config(disable=True)
    request: dict[str, Any] = {
        "image": tiny.picture(),
        "prompt_embeds": tiny_flux.embedded(),
        "num_inference_steps": 3,
        "guidance_scale": 2.5 if told else 1.0,
        "output_type": "np",
    }
    want = pipe(**request, generator=torch.Generator().manual_seed(3)).images
    white = np.ones((tiny.SIZE, tiny.SIZE), np.float32)
    got = InpaintEngine.from_pipe(pipe).edit(
        **request, mask=white, strategy="blend", compat="diffusers", seed=3
    )
    assert difference((want, got.images)) == 0.0


@pytest.mark.parametrize("kind", ["latents", "pixels"])
@pytest.mark.parametrize(("strength", "images"), RUNS)
def test_flux_with_a_controlnet(kind, strength, images):
    """Control images are drawn first, one for each picture; XLabs' kind reads their pixels."""
    pixels = {"conditioning_embedding_channels": 4, "patch_size": 2} if kind == "pixels" else {}
    net, hint = tiny_flux.controlnet(**pixels), tiny.picture(seed=7)
    pair = both(
        FluxControlNetInpaintPipeline,
        tiny_flux.modules(),
        "blend",
        strength=strength,
        num_images=images,
        guidance_scale=3.5,
        extra={"controlnet": net},
        theirs={
            "control_image": hint,
            "controlnet_conditioning_scale": 0.7,
            "control_guidance_end": 0.8,
        },
        ours={"controls": [Control(net, image=hint, scale=0.7, end=0.8)]},
    )
    assert difference(pair) == 0.0


def test_a_list_of_generators(flux):
    def drawn() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(2)]

    pair = both(
        **flux,
        strength=0.6,
        num_images=2,
        theirs={"generator": drawn()},
        ours={"generator": drawn(), "seed": None},
    )
    assert difference(pair) == 0.0
