"""LPIPS and CLIP, with real networks of random weights: a judge of taste is not needed for that."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models import squeezenet1_1
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
)

from engine import InpaintEngine, InputError, ModelError, UnknownNameError
from engine.cli import run
from engine.evaluate.judges import ClipScore, Lpips
from engine.picture.metrics import Sample, lpips_outside, measure
from tests.kit import tiny

WEIGHTS = "squeezenet1_1-b8a52dc0.pth"  # torchvision's name


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder of torch's with SqueezeNet's weights, drawn at random."""
    home = tmp_path_factory.mktemp("torch")
    torch.manual_seed(0)
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(squeezenet1_1(weights=None).state_dict(), home / "hub" / "checkpoints" / WEIGHTS)
    return home


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with a tiny CLIP model and its processor."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny.tokenizer()
    layers: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **layers,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, num_hidden_layers=2, **layers)
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    )
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def lpips(backbone, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(backbone))
    return Lpips("squeeze")


def noisy(pixels, by):
    rough = np.random.default_rng(0).normal(0, by, pixels.shape)
    return (pixels + rough).round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def picture():
    return np.array(tiny.picture(96))


def test_lpips_grows_with_the_difference(lpips, picture):
    assert lpips(picture, picture) == pytest.approx(0, abs=1e-7)
    near, far = lpips(noisy(picture, 5), picture), lpips(noisy(picture, 50), picture)
    assert 0 < near < far
    assert lpips(noisy(picture, 5), picture) == near  # nothing is summed up
    assert np.isnan(lpips(picture[:8, :8], picture[:8, :8]))


def test_lpips_outside_does_not_see_the_inside(lpips, picture):
    mask = np.zeros(picture.shape[:2], bool)
    mask[20:60, 20:60] = True
    inside, outside = picture.copy(), picture.copy()
    inside[mask], outside[~mask] = 0, 255
    assert lpips_outside(inside, picture, mask, lpips) == pytest.approx(0, abs=1e-7)
    assert lpips_outside(outside, picture, mask, lpips) > 0
    assert np.isnan(lpips_outside(inside, picture, np.ones_like(mask), lpips))


def test_lpips_without_its_weights_says_where_they_go(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=rf"{WEIGHTS} into {tmp_path}"):
        Lpips("squeeze")
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(ModelError, match="could not be had"):
        Lpips("squeeze")


def test_lpips_refuses_what_it_cannot_do(monkeypatch):
    with pytest.raises(UnknownNameError, match="squeeze"):
        Lpips("squeez")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(InputError, match=r"softpaint\[metrics\]"):
        Lpips("alex")


def test_clip_scores_are_cosines(clip, picture):
    score = ClipScore(str(clip))
    words, long = "a red house", "a red house " * 60
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    given = processor(text=[words], images=[picture], return_tensors="pt")
    with torch.no_grad():
        output = model(**given)
    cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds).item()
    assert score(picture, words) == pytest.approx(max(0, 100 * cosine), abs=1e-3)
    assert 0 <= score(picture, long) <= 100


def test_no_clip_model(tmp_path):
    with pytest.raises(ModelError, match="no CLIP model"):
        ClipScore(str(tmp_path))


def test_a_sample_without_judges_has_none_of_their_measures(picture):
    sample = Sample(
        result=picture,
        original=picture,
        strength_map=np.zeros(picture.shape[:2]),
        truth=picture,
        prompt="a red house",
    )
    assert not {"lpips", "lpips_outside", "clip"} & set(measure(sample))


def test_the_command_asks_them_once(tmp_path, capsys, monkeypatch, pocket, clip, backbone):
    """Of pictures that were made before, too; of other weights anew."""
    monkeypatch.setenv("TORCH_HOME", str(backbone))
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pocket)
    asked = []

    def noted(_self, _pixels, text):
        asked.append(text)
        return float(len(asked))

    monkeypatch.setattr(ClipScore, "__call__", noted)
    out, means = tmp_path / "report", tmp_path / "means.json"
    common = ["evaluate", "--tasks", "removal,outpaint", "--count", "1", "--steps", "1"]
    common += ["--size", "64", "--strategies", "blend", "-o", str(out), "--json", str(means)]

    def measured(*more):
        assert run([*common, *more]) == 0, capsys.readouterr().err
        rows = json.loads(means.read_text())["rows"]
        return {(row["task"], row["metric"]): row["mean"] for row in rows}

    assert ("removal", "clip") not in measured()
    assert ("removal", "lpips") not in measured("--clip", str(clip))
    both = measured("--clip", str(clip), "--lpips", "squeeze")
    assert both["removal", "clip"] == 1
    assert both["outpaint", "lpips"] > 0
    # Untouched pixels are equal to the bit.
    assert both["removal", "lpips_outside"] == pytest.approx(0, abs=1e-7)
    assert measured("--clip", str(clip), "--lpips", "squeeze") == both
    assert len(asked) == 2
    other = clip.rename(tmp_path / "other")
    measured("--clip", str(other))
    assert len(asked) == 4
    other.rename(clip)
    told = capsys.readouterr().out
    assert " clip " in told
    assert "clip" in (out / "results.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [(["--lpips", "alexa"], 2, "Did you mean 'alex'"), (["--clip", "/nowhere"], 1, "/nowhere")],
)
def test_bad_judges_are_refused_before_a_model_is_loaded(
    arguments, code, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pytest.fail("loaded"))
    assert run(["evaluate", "--count", "1", "-o", str(tmp_path / "r"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
