"""Previews: a look at a run for a small part of a decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from engine import ModelError
from engine.denoise.loop import Loop
from engine.models.previews import SIDE
from engine.pocket import world
from engine.request.request import EditRequest
from tests.kit.jobs import jobs_of

if TYPE_CHECKING:
    from engine.types import Snapshot


@pytest.fixture
def scene():
    return world.sample_edits()[0]


def edit(engine, scene, **changes):
    settings = {
        "image": scene.image,
        "mask": scene.mask,
        "prompt": scene.prompt,
        "num_inference_steps": 6,
        "seed": 1,
        "progress": False,
        **changes,
    }
    return engine.edit(**settings)


def off(preview, picture) -> float:
    """Root mean square of the difference of two pictures' cells of 8 px, in values of 0 to 255."""

    def cells(image):
        values = np.asarray(image.convert("RGB"), np.float64)
        return values.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))

    return float(np.sqrt(((cells(preview) - cells(picture)) ** 2).mean()))


def tiny_vae(channels: int = 4):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths, blocks = (8,) * 4, (1,) * 4
    return AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )


def test_previews_come_close_to_the_result(pocket, scene):
    previews = []
    result = edit(pocket, scene, callback=lambda shot: previews.append(shot.preview()))
    assert [each.size for each in previews] == [(128, 128)] * 6
    grey = np.asarray(result.images[0], np.float64).std()
    errors = [off(each, result.images[0]) for each in previews]
    assert errors[-1] < 0.6 * grey
    assert errors[-1] < errors[0]


def test_a_watched_run_has_the_same_pixels_and_decodes_no_more(pocket, scene, monkeypatch):
    want = edit(pocket, scene)
    decodes, decode = [], pocket.pipe.vae.decode

    def counted(*args, **kwargs):
        decodes.append(1)
        return decode(*args, **kwargs)

    monkeypatch.setattr(pocket.pipe.vae, "decode", counted)
    got = edit(pocket, scene, callback=lambda shot: shot.preview() and None)
    assert np.array_equal(np.asarray(got.images[0]), np.asarray(want.images[0]))
    assert len(decodes) == 1


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "dpmpp-2m", "heun"])
def test_the_prediction_of_the_last_step_is_the_result(pocket, scene, scheduler):
    shots: list[Snapshot] = []
    arguments = {"scheduler": scheduler, "strategy": "blend", "output_type": "latent"}
    everywhere = {"mask": None, "strength_map": np.ones((128, 128))}
    result = edit(pocket, scene, **everywhere, callback=shots.append, **arguments)
    assert shots[-1].denoised is not None
    assert torch.allclose(shots[-1].denoised, result.latents, atol=0.05)


def test_large_previews_are_made_smaller(pocket):
    picture = pocket.backbone.previewer.picture(torch.zeros(1, 4, 40, 100))
    assert picture.size == (SIDE, round(SIDE * 0.4))


def test_a_tiny_vae_draws_them(pocket, scene, tmp_path):
    vae = tiny_vae()
    seen: list[Snapshot] = []
    vae.save_pretrained(tmp_path / "tiny")
    before = pocket.backbone.previewer
    try:
        assert pocket.preview_with(tmp_path / "tiny") is pocket
        edit(pocket, scene, callback=seen.append)
        with torch.no_grad():
            want = vae.decode(seen[-1].denoised, return_dict=False)[0]
        pixels = (want[0].movedim(0, -1).numpy() * 127.5 + 127.5).clip(0, 255)
        assert np.abs(np.asarray(seen[-1].preview(), np.float64) - pixels).max() <= 1
    finally:
        pocket.backbone.previewer = before


def test_what_makes_no_previews_is_refused(pocket, tmp_path):
    tiny_vae(16).save_pretrained(tmp_path / "flux")
    pocket.pipe.vae.save_pretrained(tmp_path / "large")
    for model, message in (
        (tmp_path / "flux", "16 channels"),
        (tmp_path / "large", "no AutoencoderTiny"),
        (tmp_path / "none", "no model at"),
    ):
        with pytest.raises(ModelError, match=message):
            pocket.preview_with(model)


def test_a_bare_loop_has_no_model_to_show(pocket, scene):
    shots: list[Snapshot] = []
    request = EditRequest(image=scene.image, mask=scene.mask, prompt="", num_inference_steps=1)
    (job,) = jobs_of(pocket, request)
    job.observer = shots.append
    loop = Loop()
    loop.submit([job])
    loop.run()
    with pytest.raises(ValueError, match="no model"):
        shots[0].preview()
