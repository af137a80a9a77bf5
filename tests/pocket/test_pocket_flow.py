"""The shipped flow model: plain diffusers loads it, it stays small, and it draws what is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine import InpaintEngine, InputError, pocket
from engine.evaluate.peers import list_peers, peer_pipeline, run_peer
from engine.evaluate.suites import patches
from engine.picture.geometry import Size
from engine.pocket import world
from engine.pocket.classifier import prompt_score
from engine.solvers.names import fresh_scheduler
from engine.types import Conditioning

PROMPTS = (
    "a red house on a green meadow at sunset",
    "a white boat on the sea at night",
    "a snowy field in the morning",
    "a yellow balloon over the desert at noon",
)


@pytest.fixture(scope="module")
def flow() -> InpaintEngine:
    return InpaintEngine.from_pretrained("pocket-flow", device="cpu")


@pytest.fixture(scope="module")
def scene() -> world.Scene:
    return world.render(world.sample_scene(world.HELD_OUT_SEEDS[31_000]))


def test_its_weights_are_small_and_the_rest_is_the_other_models() -> None:
    folder = pocket.flow_folder()
    sizes = {file: file.stat().st_size for file in folder.rglob("*.safetensors")}
    assert sizes[folder / "transformer" / "diffusion_pytorch_model.safetensors"] < 8e6
    assert sum(sizes.values()) < 9e6
    assert not any((folder / part).exists() for part in pocket.FLOW_SHARES)


def test_plain_diffusers_loads_it_and_says_the_same(flow: InpaintEngine, tmp_path: Any) -> None:
    """The engine makes one of the 256 tokens in a T5's place; the softmax is the same."""
    from diffusers import StableDiffusion3Pipeline

    whole = pocket.save_flow(tmp_path / "flow")
    pipe = StableDiffusion3Pipeline.from_pretrained(whole, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    text, _, pooled, _ = pipe.encode_prompt(PROMPTS[0], None, None)
    sample, timesteps = torch.randn(1, 4, 16, 16), torch.tensor([700.0])
    own, _ = flow.backbone.encode_prompt(PROMPTS[0], None, guided=False, size=Size(128, 128))
    assert text.shape[1] == 32 + 256
    assert own.text.shape[1] == 32 + 1
    with torch.no_grad():
        theirs = pipe.transformer(
            sample, timestep=timesteps, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
        ours = flow.backbone.main.predict(sample, timesteps, own, {})
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_it_draws_what_it_is_asked(flow: InpaintEngine, scene: world.Scene) -> None:
    ones = np.ones((128, 128), np.float32)
    edits = [
        {"image": scene.image, "strength_map": ones, "prompt": prompt, "seed": seed}
        for seed, prompt in enumerate(PROMPTS)
    ]
    made = flow.edit_many([{**edit, "num_inference_steps": 10} for edit in edits]).unwrap()
    scores = [
        prompt_score(np.asarray(each.images[0]), prompt)[0]
        for each, prompt in zip(made, PROMPTS, strict=True)
    ]
    assert np.mean(scores) >= 0.7, scores


def test_diffusers_own_pipeline_runs_beside_it(flow: InpaintEngine, scene: world.Scene) -> None:
    """It insists on 16 channels and takes four; the model's own config is left alone."""
    from PIL import Image

    backbone = flow.backbone
    assert list_peers(backbone) == ["diffusers-4ch"]
    scheduler = fresh_scheduler(None, backbone.pipe.scheduler)
    pipe = peer_pipeline(backbone, "diffusers-4ch", scheduler)
    (made,) = run_peer(
        pipe,
        images=[Image.fromarray(scene.image)],
        masks=[Image.fromarray(np.full((128, 128), 255, np.uint8))],
        prompts=[PROMPTS[0]],
        seeds=[0],
        num_inference_steps=2,
        guidance_scale=4.0,
        multiple=16,
    )
    assert made.size == (128, 128)
    assert backbone.pipe.transformer.config.in_channels == 4


def test_a_soft_map_has_nine_outcomes_where_the_pipeline_has_two(
    flow: InpaintEngine, scene: world.Scene
) -> None:
    """How far latents end from the original's, by strength: more with each of ours; of the
    pipeline's, which rounds the mask, not at all below a half.
    """
    from PIL import Image
    from scipy.stats import spearmanr

    backbone, steps = flow.backbone, 8
    pixels = torch.from_numpy(np.array(scene.image)).movedim(-1, 0)[None] / 127.5 - 1
    with torch.no_grad():
        original = backbone.encode(pixels)
    ours, theirs = np.zeros(9), np.zeros(9)
    pipe = peer_pipeline(backbone, "diffusers-4ch", fresh_scheduler(None, backbone.pipe.scheduler))
    for turn in (0, 3, 6):
        strengths, which = patches(0, turn)
        common: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": 1.0,
            "output_type": "latent",
        }
        soft = flow.edit(
            image=scene.image,
            strength_map=strengths,
            prompt=PROMPTS[1],
            strategy="differential",
            prefill="original",
            seed=1,
            **common,
        ).latents
        assert soft is not None
        hard = pipe(
            image=Image.fromarray(scene.image),
            mask_image=Image.fromarray(np.round(strengths * 255).astype(np.uint8)),
            prompt=PROMPTS[1],
            height=128,
            width=128,
            strength=1.0,
            generator=torch.Generator().manual_seed(1),
            **common,
        ).images
        for change, latents in ((ours, soft), (theirs, hard)):
            moved = (latents - original).norm(dim=1)[0].numpy()
            change += [moved[which == level].mean() for level in range(9)]
    assert spearmanr(range(9), ours).statistic > 0.9, ours
    # What is held is the pipeline's own draw from the VAE's distribution, not its mode.
    assert theirs[:4].max() < 0.2 * theirs[4:].min(), theirs
    assert ours[3] > 2 * theirs[3]


def test_texts_of_any_length_share_a_call(flow: InpaintEngine) -> None:
    rows = [
        flow.backbone.encode_prompt(text, None, guided=False, size=Size(128, 128))[0]
        for text in PROMPTS[:2]
    ]
    assert Conditioning.join(rows).rows == 2


def test_what_it_predicts_is_no_choice() -> None:
    with pytest.raises(InputError, match="a flow model, which predicts velocities"):
        InpaintEngine.from_pretrained("pocket-flow", prediction_type="epsilon")
