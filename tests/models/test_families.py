"""Families are records: how they are recognised, and one that comes from outside in one file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

from engine import InpaintEngine
from engine.errors import ModelError
from engine.models import FAMILIES
from engine.models.codec import KLCodec
from engine.models.family import family_of
from engine.models.formats.folders import load_pipeline
from engine.picture.geometry import Size
from strategies import get_strategy
from tests.kit import tiny, toy_family

SIZE = 64
FOUR_CHANNEL = [
    name
    for name in tiny.STRATEGIES
    if get_strategy(name).network == "base" and name != "erase"  # it is for UNets
]


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(FAMILIES, "_infos", dict(FAMILIES._all()))
    FAMILIES.register(toy_family.TOY)
    return InpaintEngine.from_pipe(toy_family.ToyPipeline())


def request(**changes):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[16:48, 8:40] = 255
    settings = {
        "image": tiny.picture(SIZE),
        "mask": Image.fromarray(mask),
        "prompt": "teal wall",
        "num_inference_steps": 6,
        "guidance_scale": 2.0,
        "seed": 1,
        "region": "full",
    }
    return {**settings, **changes}


class TestAFamilyFromOutside:
    @pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
    @pytest.mark.parametrize("strategy", FOUR_CHANNEL)
    def test_every_strategy_runs_and_holds_what_it_must(self, toy, strategy):
        only = get_strategy(strategy).only
        changes = {"expand": (0, 0, 16, 0), "mask": None} if only == "expand" else {}
        result = toy.edit(strategy=strategy, **request(**changes))
        assert result.settings["family"] == "toy"
        pixels = np.asarray(result.images[0])
        before = np.asarray(tiny.picture(SIZE))
        assert np.array_equal(pixels[:16, :SIZE], before[:16])
        if not changes:
            assert not np.array_equal(pixels[16:48, 8:40], before[16:48, 8:40])

    def test_a_plain_edit_reaches_what_the_network_knows(self, toy):
        """Unguided Euler of a linear flow ends at the last call's own denoised latents."""
        ones = np.ones((SIZE, SIZE), np.float32)
        settings = {"mask": None, "strength_map": ones, "guidance_scale": 1.0}
        latents = toy.edit(strategy="blend", output_type="latent", **request(**settings)).latents
        cond, _ = toy.backbone.encode_prompt("teal wall", None, guided=False, size=Size(SIZE, SIZE))
        # x0 = .7 colour + .3 x has the colour itself as its fixed point.
        colour = cond.text.mean(1)[0]
        assert (latents.mean((0, 2, 3)) - colour).abs().max() < 0.3

    def test_a_shared_call_of_prompts_of_unequal_length(self, toy):
        edits = [
            request(
                prompt=prompt,
                seed=seed,
                output_type="latent",
                mask=None,
                strength_map=np.ones((SIZE, SIZE), np.float32),
            )
            for seed, prompt in enumerate(("teal", "a dark red wall of stone"))
        ]
        together = toy.edit_many(edits)
        for edit, shared in zip(edits, together, strict=True):
            assert torch.allclose(shared.latents, toy.edit(**edit).latents, atol=1e-5)

    @pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
    def test_a_session_resumes_to_the_bits_of_a_full_run(self, toy):
        ramp = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
        plain = request(mask=None)
        session = toy.session(**plain)
        session.render(strength_map=ramp)
        changed = ramp.copy()
        changed[:8] = np.minimum(changed[:8], 0.4)
        again = session.render(strength_map=changed)
        alone = toy.edit(strength_map=changed, **plain)
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(alone.images[0]))

    def test_the_nine_channel_strategy_says_what_is_missing(self, toy):
        from engine.errors import InputError

        with pytest.raises(InputError, match="9-channel"):
            toy.edit(strategy="inpaint9", **request())


class TestRecognition:
    def test_pipelines_by_their_class_or_by_their_parts(self):
        for kind, sdxl in ((StableDiffusionXLPipeline, True), (StableDiffusionPipeline, False)):
            pipe: Any = kind(**tiny.modules(sdxl=sdxl))
            name = "sdxl" if sdxl else "sd"
            assert family_of(pipe).name == name
            other = type("Community", (), dict(pipe.components))()
            assert family_of(other).name == name

    @pytest.mark.parametrize("kind", ["CogVideoXPipeline", "SanaPipeline"])
    def test_other_families_are_refused_by_name_before_anything_is_loaded(self, tmp_path, kind):
        index = {"_class_name": kind, "transformer": ["diffusers", "T"], "vae": ["diffusers", "V"]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=f"{kind}.{{,3}} is of a family that is not"):
            load_pipeline(tmp_path, torch.float32, "cpu")

    def test_a_folder_with_fp16_weights_only_is_loaded(self, tmp_path):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
        loaded = load_pipeline(tmp_path, torch.float32, "cpu").pipe
        want, got = pipe.unet.conv_in.weight, loaded.unet.conv_in.weight
        assert torch.equal(want.float(), got)


def test_a_codecs_shift_and_statistics_are_undone():
    pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
    latents = torch.randn(1, 4, 8, 8)
    codec = KLCodec(pipe)
    pipe.vae.register_to_config(shift_factor=0.3)
    shifted = codec._scaled(latents)
    torch.testing.assert_close(shifted, pipe.vae.config.scaling_factor * (latents - 0.3))
    torch.testing.assert_close(codec._unscaled(shifted), latents)
    pipe.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    assert (codec._scaled(latents) - shifted).abs().max() > 0.01
    torch.testing.assert_close(codec._unscaled(codec._scaled(latents)), latents)
