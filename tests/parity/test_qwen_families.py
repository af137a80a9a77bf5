"""``compat="diffusers"`` equals diffusers' own inpainting pipelines of Z-Image and Qwen-Image."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    QwenImageEditInpaintPipeline,
    QwenImageInpaintPipeline,
    ZImageInpaintPipeline,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_inpaint as edit_inpaint

from engine.models.families import qwen_image
from engine.models.packing import packed
from tests.kit import tiny_qwen
from tests.kit.tiny import SIZE, both, difference

LAYOUT = 1e-5
"""Z-Image's latents come channels last to its VAE, ours do not: convolutions round otherwise."""
SEVERAL = [(1.0, 1), (0.6, 2), (0.3, 1)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def z_image():
    return ZImageInpaintPipeline, tiny_qwen.z_image(), "blend"


@pytest.fixture(scope="module")
def qwen():
    return QwenImageInpaintPipeline, tiny_qwen.qwen_image(), "blend"


def of_z_image(peer, **changes):
    return both(*peer, **{"num_inference_steps": 4, "negative_prompt": "fog", **changes})


def of_qwen(peer, scale, **changes):
    """``scale``: of the guidance, which that pipeline has another name for."""
    theirs = {"guidance_scale": None, "true_cfg_scale": scale}
    settings = {"num_inference_steps": 4, "guidance_scale": scale, **changes}
    return both(*peer, theirs=theirs, **settings)


@pytest.mark.parametrize(("strength", "images"), SEVERAL)
def test_z_image(z_image, strength, images):
    changes = {"guidance_scale": 3.0, "strength": strength, "num_images": images}
    want, got = of_z_image(z_image, output_type="latent", **changes)
    assert torch.equal(want, got)
    if images == 1:
        assert difference(of_z_image(z_image, **changes)) < LAYOUT


def test_z_image_counts_guidance_from_zero(z_image):
    for scale in (0.0, 0.5):
        want, got = of_z_image(z_image, output_type="latent", guidance_scale=scale)
        assert torch.equal(want, got)


@pytest.mark.parametrize(("strength", "images"), SEVERAL)
def test_qwen_image(qwen, strength, images):
    changes = {"strength": strength, "num_images": images}
    assert difference(of_qwen(qwen, 1.0, **changes)) == 0.0
    assert difference(of_qwen(qwen, 3.0, negative_prompt="fog", **changes)) == 0.0


def test_qwen_image_is_not_guided_without_a_negative_prompt(qwen):
    want, got = of_qwen(qwen, 3.0, output_type="latent")
    assert torch.equal(want, packed(got))


@pytest.mark.parametrize(("strength", "images"), SEVERAL)
def test_qwen_image_edit(monkeypatch, strength, images):
    """At the one size that the pipeline works at, which is a megapixel but for this test."""
    monkeypatch.setattr(edit_inpaint, "calculate_dimensions", lambda *_: (SIZE, SIZE, None))
    monkeypatch.setattr(qwen_image, "AREA", SIZE**2)
    peer = QwenImageEditInpaintPipeline, tiny_qwen.qwen_edit(zero_cond=images == 1), "blend"
    changes = {"strength": strength, "num_images": images, "negative_prompt": "fog"}
    assert difference(of_qwen(peer, 3.0, **changes)) == 0.0
