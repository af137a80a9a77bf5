"""Z-Image and Qwen-Image in the engine's own mode: tiny real models, random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline, ZImagePipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus

from engine import InpaintEngine
from engine.denoise.guidance import COND, UNCOND
from engine.errors import InputError, ModelError
from engine.models.families.qwen_image import QwenGuidance, QwenNetwork
from engine.models.families.z_image import ZImageGuidance
from engine.models.language import LENGTHS, MASK
from engine.models.packing import packed
from engine.models.unheard import PromptWarning
from engine.picture.geometry import Size
from tests.kit import tiny, tiny_qwen

SIZE = tiny.SIZE
PIPELINES = {
    "z-image": lambda: ZImagePipeline(**tiny_qwen.z_image()),
    "qwen-image": lambda: QwenImagePipeline(**tiny_qwen.qwen_image()),
}


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def flow(request):
    return InpaintEngine.from_pipe(PIPELINES[request.param]())


def settings(**changes) -> dict[str, Any]:
    return {
        "image": tiny.picture(),
        "strength_map": np.ones((SIZE, SIZE), np.float32),
        "prompt": "a red house",
        "num_inference_steps": 3,
        "seed": 2,
        "region": "full",
        "output_type": "latent",
        **changes,
    }


def soft() -> np.ndarray:
    return np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))


def test_prompts_of_unequal_lengths_share_a_call(flow):
    edits = [
        settings(prompt=prompt, negative_prompt=negative, seed=seed, guidance_scale=2.0)
        for seed, (prompt, negative) in enumerate([("sky", "fog"), ("a red house by the sea", "")])
    ]
    together = flow.edit_many(edits)
    for edit, shared in zip(edits, together, strict=True):
        alone = flow.edit(**edit)
        assert shared.model_calls == alone.model_calls == 3
        assert torch.allclose(shared.latents, alone.latents, atol=2e-5)
        assert not torch.equal(alone.latents, together[0].latents) or edit is edits[0]


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_outside_the_map_the_picture_stays_to_the_bit(flow):
    half = soft()
    half[:, : SIZE // 2] = 0
    made = flow.edit(**settings(strength_map=half, output_type="pil"))
    before, after = (np.asarray(each) for each in (tiny.picture(), made.images[0]))
    assert np.array_equal(after[:, : SIZE // 2], before[:, : SIZE // 2])
    assert not np.array_equal(after, before)


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_a_session_resumes_to_the_bits_of_a_full_run(flow):
    session = flow.session(**settings(strategy="differential", strength_map=None))
    session.render(strength_map=soft())
    changed = soft()
    changed[:16] = np.minimum(changed[:16], 0.3)
    again = session.render(strength_map=changed)
    alone = flow.edit(**settings(strategy="differential", strength_map=changed))
    assert torch.equal(again.latents, alone.latents)
    assert again.model_calls < alone.model_calls


def test_steps_and_guidance_are_the_families_own(flow):
    defaults = flow.backbone.defaults
    assert defaults["num_inference_steps"] == (8 if flow.backbone.family.name == "z-image" else 50)
    assert flow.backbone.native_size == 1024
    made = flow.edit(**settings())
    assert made.settings["guidance_scale"] == defaults["guidance_scale"]


def test_base_guides_where_turbo_does_not():
    base = InpaintEngine.from_pipe(ZImagePipeline(**tiny_qwen.z_image(shift=6.0)))
    assert base.backbone.defaults == {"num_inference_steps": 50, "guidance_scale": 4.0}


def test_embeddings_in_the_place_of_a_prompt(flow):
    plain = flow.edit(**settings(guidance_scale=2.0, negative_prompt="fog"))
    cond, uncond = flow.backbone.encode_prompt(
        "a red house", "fog", guided=True, size=Size(SIZE, SIZE)
    )
    given = {"prompt_embeds": cond.text, "negative_prompt_embeds": uncond.text}
    embedded = flow.edit(**settings(prompt=None, guidance_scale=2.0, **given))
    assert torch.equal(embedded.latents, plain.latents)
    with pytest.raises(InputError, match="1 n 16"):
        flow.edit(**settings(prompt=None, prompt_embeds=cond.text[..., :8]))


def test_a_prompt_beyond_what_is_read_is_told(flow):
    with pytest.warns(PromptWarning, match="longer than the model reads"):
        flow.edit(**settings(prompt="a word " * 90, num_inference_steps=2))


def test_what_no_picture_has_is_not_in_the_text(flow):
    """Each row knows its length, and a mask is made only where texts are padded."""
    of = flow.backbone.encode_prompt
    short, _ = of("sky", None, guided=False, size=Size(SIZE, SIZE))
    long, _ = of("a red house", None, guided=False, size=Size(SIZE, SIZE))
    assert MASK not in short.tensors
    joined = type(short).join([short, long])
    assert joined.tensors[LENGTHS].tolist() == joined.tensors[MASK].sum(1).tolist()
    assert joined.tensors[LENGTHS].device.type == "cpu"


def test_z_images_scale_is_one_less():
    """``c + s (c - u)`` is ``u + (s + 1) (c - u)``; weights of others count as theirs."""
    told = {COND: torch.tensor(3.0), UNCOND: torch.tensor(1.0)}
    guided = ZImageGuidance(4.0).combination()
    assert guided.combine(told) == 11.0
    assert guided.weighing(5.0).combine(told) == 11.0
    assert not ZImageGuidance(0.0).active
    assert ZImageGuidance(4.0).weakened(0.5).scale == 2.0


def test_qwens_guidance_keeps_each_tokens_norm():
    generator = torch.Generator().manual_seed(0)
    cond, uncond = torch.randn(2, 1, 4, 6, 8, generator=generator)
    guided = QwenGuidance(4.0).at(0.5).combine({COND: cond, UNCOND: uncond})
    want, got = packed(cond).norm(dim=-1), packed(guided).norm(dim=-1)
    torch.testing.assert_close(got, want)
    assert not torch.allclose(guided, cond, atol=0.1)


def test_qwens_vae_is_undone():
    codec: Any = InpaintEngine.from_pipe(PIPELINES["qwen-image"]()).backbone.codec
    assert (codec.cell, codec.channels) == (8, 4)
    latents = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(codec._scaled(codec._unscaled(latents)), latents)
    assert codec.decode(latents).shape == (2, 3, 40, 48)


def test_a_layered_model_is_refused():
    module = tiny_qwen.qwen_image()["transformer"]
    module.register_to_config(use_layer3d_rope=True)
    with pytest.raises(ModelError, match="Layered"):
        QwenNetwork(module)


def edit_plus(**settings) -> Any:
    pipe: Any = QwenImageEditPlusPipeline(**tiny_qwen.qwen_edit(**settings))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("zero_cond", [False, True])
def test_the_whole_picture_by_instruction_is_diffusers_edit_plus(monkeypatch, zero_cond):
    """That pipeline knows no map; of 2511's kind too, whose references count as clean."""
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", SIZE**2)
    pipe = edit_plus(zero_cond=zero_cond)
    want = pipe(
        image=tiny.picture(),
        prompt="make it red",
        negative_prompt="fog",
        height=SIZE,
        width=SIZE,
        true_cfg_scale=3.0,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(2),
        output_type="latent",
    ).images
    engine = InpaintEngine.from_pipe(pipe)
    assert engine.backbone.family.name == "qwen-image-edit"
    told = settings(prompt="make it red", negative_prompt="fog", guidance_scale=3.0)
    got: Any = engine.edit(strategy="whole", **told).latents
    assert torch.allclose(packed(got), want, atol=2e-5)
    blind: Any = engine.edit(strategy="whole", instruct=False, **told).latents
    assert not torch.allclose(blind, got, atol=1e-2)


def test_an_instruction_with_a_map_changes_nothing_else():
    engine = InpaintEngine.from_pipe(edit_plus())
    told = settings(prompt="make it red", strength_map=None, mask=tiny.box_mask())
    made = engine.edit(**{**told, "output_type": "pil", "guidance_scale": 1.0})
    assert made.settings["instruct"] is True
    before, after = (np.asarray(each) for each in (tiny.picture(), made.images[0]))
    assert np.array_equal(after[:, SIZE // 2 + 8 :], before[:, SIZE // 2 + 8 :])
    assert not np.array_equal(after, before)


def test_pictures_are_part_of_what_is_remembered_of_a_text():
    engine = InpaintEngine.from_pipe(edit_plus())
    plain = settings(guidance_scale=1.0, num_inference_steps=2)
    one: Any = engine.edit(**plain).latents
    other: Any = engine.edit(**{**plain, "image": tiny.picture(seed=1)}).latents
    fresh: Any = InpaintEngine.from_pipe(engine.pipe).edit(
        **{**plain, "image": tiny.picture(seed=1)}
    )
    assert torch.equal(other, fresh.latents)
    assert not torch.equal(one, other)


def test_a_schedule_that_is_no_numbers_is_refused():
    """One step, whose only level is to be the first and the stretched last at once."""
    engine = InpaintEngine.from_pipe(PIPELINES["qwen-image"]())
    with pytest.raises(InputError, match="cannot run 1 steps"):
        engine.edit(**settings(num_inference_steps=1))
