"""The shipped pocket model: it loads in diffusers, draws what it is asked, and stays small."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from engine import pocket
from engine.pocket import world
from engine.pocket.classifier import (
    AttributeClassifier,
    asked_and_found,
    classifier_path,
    load_classifier,
    predict,
    prompt_score,
)

FOLDER = Path(pocket.__file__).parent / "model"

# diffusers' Euler scheduler hands a tensor to numpy, which complains about torch
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(pocket.model_path())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def held_out() -> list[world.Scene]:
    return [world.render(world.sample_scene(seed)) for seed in world.HELD_OUT_SEEDS[30_000:30_200]]


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, engine.pocket as p; p.model_path();"
        "sys.exit(bool({'torch', 'cv2', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pocket, "_HERE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        pocket.model_path()
    assert pocket.inpaint_unet_path() is None


def test_the_9_channel_unet_fills_a_hole_in_plain_diffusers() -> None:
    """At strength 1 from pure noise, a plain sky: what is missing is in the picture around it."""
    from diffusers import StableDiffusionXLInpaintPipeline, UNet2DConditionModel

    folder = pocket.inpaint_unet_path()
    assert folder is not None
    unet = UNet2DConditionModel.from_pretrained(folder)
    assert unet.config.in_channels == 9
    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(pocket.model_path(), unet=unet)
    pipe.set_progress_bar_config(disable=True)
    removal = world.sample_edits()[1]
    filled = pipe(
        removal.prompt,
        image=Image.fromarray(removal.image),
        mask_image=Image.fromarray(removal.mask.astype(np.uint8) * 255),
        strength=1.0,
        num_inference_steps=12,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        height=128,
        width=128,
        output_type="np",
    ).images[0]
    error = np.abs(filled * 255.0 - removal.truth)[removal.mask].mean()
    before = np.abs(removal.image.astype(float) - removal.truth)[removal.mask].mean()
    assert error < 0.5 * before


def test_the_wheel_stays_small() -> None:
    base = [path for path in FOLDER.rglob("*") if path.is_file()] + [classifier_path()]
    assert sum(path.stat().st_size for path in base) < 40e6
    family = [path for path in FOLDER.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in family) < 90e6


def test_weights_are_half_precision_and_finite() -> None:
    paths = [*FOLDER.rglob("*.safetensors"), classifier_path()]
    assert len(paths) == 5
    for path in paths:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                tensor = file.get_tensor(key)
                small = "text_encoder" in path.parent.name  # see stage_export
                allowed = torch.float32 if small else torch.float16
                assert tensor.dtype in {allowed, torch.int64}, (path, key)
                assert torch.isfinite(tensor).all(), (path, key)


def test_layout_is_that_of_sdxl(pipe: Any) -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert pipe.unet.config.addition_embed_type == "text_time"
    assert pipe.unet.config.cross_attention_dim == 2 * pipe.text_encoder.config.hidden_size
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert pipe.vae_scale_factor == 8
    assert pipe.default_sample_size * pipe.vae_scale_factor == 128


def test_each_word_of_the_world_is_one_token(pipe: Any) -> None:
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        assert tokenizer.model_max_length == 77
        for word in world.vocabulary():
            assert len(tokenizer.tokenize(word)) == 1, word


@pytest.mark.parametrize(
    "text",
    ["", "Schloß Übersee", "日本の城", "🎈" * 90, "x" * 500, "a\tb\n c"],
    ids=["empty", "german", "japanese", "emoji", "long", "blanks"],
)
def test_other_words_do_not_fail(pipe: Any, text: str) -> None:
    ids = pipe.tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert max(ids) < pipe.text_encoder.config.vocab_size
    embeddings, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False)
    assert embeddings.shape == (1, 77, 128)
    assert torch.isfinite(embeddings).all()
    assert torch.isfinite(pooled).all()


def test_autoencoder_keeps_scenes(pipe: Any, held_out: list[world.Scene]) -> None:
    images = np.stack([scene.image for scene in held_out[:24]])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mode()
        decoded = pipe.vae.decode(latents).sample.clamp(-1, 1)
    scaled = latents * pipe.vae.config.scaling_factor
    assert scaled.std().item() == pytest.approx(1, abs=0.15)
    error = ((decoded - pixels) / 2).square().mean((1, 2, 3))
    assert float((-10 * error.log10()).mean()) > 28.5


def test_samples_show_what_is_asked(pipe: Any) -> None:
    prompts = [
        "a red house on a green meadow at sunset",
        "a blue balloon over the sea by day",
        "a white tent in the snow at night",
        "a green tree in the desert by day",
        "a red boat on the sea at sunset",
        "a yellow balloon over the mountains by day",
    ]
    generators = [torch.Generator("cpu").manual_seed(i) for i in range(len(prompts))]
    settings = {"num_inference_steps": 20, "guidance_scale": 4.5, "output_type": "np"}
    images = np.round(pipe(prompts, generator=generators, **settings).images * 255).astype(np.uint8)
    assert images.shape == (6, 128, 128, 3)
    scores = [prompt_score(image, text)[0] for image, text in zip(images, prompts, strict=True)]
    assert float(np.mean(scores)) > 0.65, scores
    wrong = [
        prompt_score(image, text)[0] for image, text in zip(images, prompts[::-1], strict=True)
    ]
    assert float(np.mean(wrong)) < float(np.mean(scores)) - 0.25


def test_other_sizes_run(pipe: Any) -> None:
    image = pipe(
        "a red house", height=96, width=160, num_inference_steps=2, output_type="np"
    ).images
    assert image.shape == (1, 96, 160, 3)


def test_the_inpainting_pipeline_runs_on_the_folder_unchanged() -> None:
    from diffusers import StableDiffusionXLInpaintPipeline

    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    demo = world.sample_edits()[0]
    output = pipe(
        demo.prompt,
        image=Image.fromarray(demo.image),
        mask_image=Image.fromarray(demo.mask.astype(np.uint8) * 255),
        num_inference_steps=6,
        strength=1.0,
        height=128,
        width=128,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    )
    changed = np.abs(output.images[0] - demo.image / 255.0).mean(-1)
    far = ~world.grow(demo.mask, 16)
    assert changed[demo.mask].mean() > 2 * changed[far].mean()


def test_classifier_reads_held_out_renders(held_out: list[world.Scene]) -> None:
    found = predict(np.stack([scene.image for scene in held_out]))
    truth = [scene.spec.attributes for scene in held_out]
    pairs = list(zip(truth, found, strict=True))
    for name in ("time", "ground", "weather"):
        assert np.mean([getattr(t, name) == getattr(f, name) for t, f in pairs]) > 0.95, name
    assert np.mean([thing in f.objects for t, f in pairs for thing in t.objects]) > 0.95


def test_prompt_score_of_true_and_false_prompts(held_out: list[world.Scene]) -> None:
    true = [prompt_score(scene.image, scene.caption)[0] for scene in held_out[:40]]
    false = [
        prompt_score(scene.image, other.caption)[0]
        for scene, other in zip(held_out[:40], held_out[40:80], strict=True)
    ]
    assert np.mean(true) > 0.95
    assert np.mean(false) < 0.6
    assert math.isnan(prompt_score(held_out[0].image, "a castle of glass")[0])


def test_predict_takes_all_kinds_of_pictures(held_out: list[world.Scene]) -> None:
    scene = held_out[3]
    expected = predict(scene.image)
    assert predict(Image.fromarray(scene.image)) == expected
    assert predict([scene.image, Image.fromarray(scene.image)]) == expected * 2
    tensor = torch.from_numpy(scene.image).permute(2, 0, 1)[None] / 255
    assert predict(tensor) == expected
    bigger = world.render(scene.spec, 256)
    assert predict(bigger.image)[0].ground == expected[0].ground
    with pytest.raises(ValueError, match="uint8 pictures"):
        predict(scene.image.astype(np.float32))
    with pytest.raises(ValueError, match="no pictures"):
        predict([])
    with pytest.raises(ValueError, match="b 3 H W"):
        predict(tensor[0])


def test_what_is_asked_counts_point_by_point() -> None:
    asked = world.attributes_from_caption("a red house and a tree on the grass at night")
    found = world.Attributes("night", "snow", "clear", (("house", "blue"), ("tree", "green")))
    assert dict(asked_and_found(asked, found)[:2]) == {"time": True, "ground": False}
    assert asked_and_found(asked, found)[2:] == [
        ("object", True),
        ("colour", False),
        ("object", True),
    ]


def test_classifier_has_the_promised_outputs() -> None:
    assert load_classifier() is load_classifier()
    outputs = AttributeClassifier().eval()(torch.zeros(2, 3, 128, 128))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "time": (2, 4),
        "ground": (2, 5),
        "weather": (2, 4),
        "objects": (2, 5, 7),
    }
