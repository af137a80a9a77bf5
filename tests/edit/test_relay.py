"""Stages of one edit on several models, through pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline

from engine import Control, InpaintEngine
from engine.errors import InputError, UnknownNameError
from tests.kit import tiny, tiny_qwen

STAGED = {"strategy": "staged", "stages": "blend,differential", "models": ",texture"}


@pytest.fixture(scope="module")
def texture():
    return InpaintEngine.from_pipe(ZImagePipeline(**tiny_qwen.z_image()))


@pytest.fixture(scope="module")
def both(engine, texture):
    """A tiny SDXL with a tiny Z-Image beside it."""
    engine.beside("texture", texture, num_inference_steps=4)
    return engine


def settings(**changes):
    return {
        "image": tiny.picture(),
        "mask": tiny.box_mask(),
        "prompt": "a red house",
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "seed": 2,
        "region": "full",
        **changes,
    }


@pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")
def test_one_lays_out_and_the_other_goes_on(both):
    seen: list[Any] = []
    made = both.edit(**settings(**STAGED, callback=seen.append))
    assert [shot.total for shot in seen] == [3, 3, 3, 2, 2]  # half of the other's own four
    assert [shot.latents.shape[1] for shot in seen] == [4, 4, 4, 16, 16]
    first = both.edit(**settings(strategy="blend", output_type="latent")).latents
    assert torch.equal(seen[2].latents, first)
    assert made.settings["options"]["models"] == ",texture"
    assert made.model_calls == 3 + 2
    before, after = (np.asarray(each) for each in (tiny.picture(), made.images[0]))
    assert np.array_equal(after[:, tiny.SIZE // 2 + 8 :], before[:, tiny.SIZE // 2 + 8 :])
    alone = both.edit(**settings(strategy="blend")).images[0]
    assert not np.array_equal(after, np.asarray(alone))
    again = both.edit(**settings(**STAGED)).images[0]
    assert np.array_equal(after, np.asarray(again))


@pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")
def test_half_the_size_first_and_several_pictures(both):
    pictures = both.edit(**settings(**STAGED, scales="0.5,1", num_images=2)).images
    assert [each.size for each in pictures] == [(tiny.SIZE, tiny.SIZE)] * 2
    one, two = map(np.asarray, pictures)
    assert not np.array_equal(one, two)


def test_bad_use(both, texture):
    with pytest.raises(UnknownNameError, match=r"'paint'.*texture"):
        both.edit(**settings(**{**STAGED, "models": ",paint"}))
    with pytest.raises(InputError, match="2 stages, but 1 models"):
        both.edit(**settings(**{**STAGED, "models": "texture"}))
    with pytest.raises(InputError, match="share no controls"):
        both.edit(**settings(**STAGED, controls=[Control("canny")]))
    with pytest.raises(InputError, match="share no compat"):
        both.edit(**settings(**STAGED, compat="diffusers"))
    with pytest.raises(InputError, match="not beside itself"):
        both.beside("self", both)
    with pytest.raises(InputError, match="without commas"):
        both.beside("a,b", texture)
    with pytest.raises(InputError, match="seed is the edit's"):
        both.beside("other", texture, seed=3)


@pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")
def test_a_retuned_map_is_a_full_edit(both):
    ramp = np.tile(np.linspace(0, 1, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))
    changed = ramp.copy()
    changed[:16] = np.minimum(changed[:16], 0.3)
    own = {**settings(**STAGED, output_type="latent"), "mask": None}
    session = both.session(**own)
    session.render(strength_map=ramp)
    again = session.render(strength_map=changed)
    assert torch.equal(again.latents, both.edit(**own, strength_map=changed).latents)
