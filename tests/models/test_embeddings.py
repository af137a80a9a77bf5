"""Textual inversions of every form, for one text encoder and for two."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from engine import InpaintEngine, InputError, ModelError
from engine.errors import SoftpaintWarning
from engine.picture.geometry import Size
from tests.kit import tiny, tiny_adapters

SIZE = Size(tiny.SIZE, tiny.SIZE)


def made(*, sdxl: bool = True) -> InpaintEngine:
    kind = StableDiffusionXLPipeline if sdxl else StableDiffusionPipeline
    extra = {} if sdxl else {"requires_safety_checker": False}
    return InpaintEngine.from_pipe(kind(**tiny.modules(sdxl=sdxl), **extra))


@pytest.fixture(scope="module")
def engine():
    """SDXL's tokenizers are two, here and on disk."""
    engine = made()
    engine.pipe.tokenizer_2 = tiny.tokenizer()
    return engine


@pytest.fixture(autouse=True)
def clean(engine):
    yield
    engine.unload_embedding()


def text(engine: InpaintEngine, prompt: str) -> torch.Tensor:
    return engine.backbone.encode_prompt(prompt, "", guided=False, size=SIZE)[0].text


def forms(vectors: torch.Tensor) -> dict:
    """Of SD 1.5's files: stable-diffusion-webui's two, and diffusers'."""
    return {
        "aa.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "aa"},
        "bb.safetensors": {"emb_params": vectors},
        "c.bin": {"<c>": vectors[0]},
    }


@pytest.mark.parametrize("name", ["aa.pt", "bb.safetensors", "c.bin"])
def test_sds_files(tmp_path, name):
    engine = made(sdxl=False)
    vectors = tiny_adapters.embeddings(engine.pipe)["clip_l"]
    state = forms(vectors)[name]
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    before, plain = engine.backbone.fingerprint(), text(engine, "x")
    word = engine.load_embedding(path)
    assert word == {"c.bin": "<c>"}.get(name, path.stem)
    assert engine.backbone.fingerprint() != before
    known = engine.pipe.tokenizer(f"{word} x", add_special_tokens=False)["input_ids"]
    weight = engine.pipe.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(weight[known[0]], vectors[0])
    assert not torch.equal(text(engine, f"{word} x"), text(engine, "y x"))
    engine.unload_embedding(word)
    assert torch.equal(text(engine, "x"), plain)


def test_sdxls_for_both_encoders(tmp_path, engine):
    vectors = tiny_adapters.embeddings(engine.pipe)
    path = tmp_path / "cat-toy.safetensors"
    save_file(vectors, path)
    word = engine.load_embedding(f"{path}:catstyle")
    assert word == "catstyle"
    for number, name in (("", "clip_l"), ("_2", "clip_g")):
        token = getattr(engine.pipe, f"tokenizer{number}").convert_tokens_to_ids(word)
        weight = getattr(engine.pipe, f"text_encoder{number}").get_input_embeddings().weight
        torch.testing.assert_close(weight[token], vectors[name][0])
    result = tiny.edited(engine, prompt="a catstyle tent", num_inference_steps=1)
    assert result.load["embedding"] == [f"{path.resolve()}:catstyle"]
    # Weighted words of several vectors weigh as a whole, and need as many tokens.
    plain = engine.backbone.text._readers()[0].chunks("a (catstyle:1.5) b")[0]
    assert [weight for _, weight in plain] == [1, 1.5, 1.5, 1]


def test_for_one_of_two_encoders_is_told(tmp_path, engine):
    vectors = tiny_adapters.embeddings(engine.pipe)
    path = tmp_path / "half.safetensors"
    save_file({"clip_g": vectors["clip_g"]}, path)
    with pytest.warns(SoftpaintWarning, match="nothing for text_encoder, which reads 'half'"):
        engine.load_embedding(path)


def test_one_tokenizer_for_two_encoders(tmp_path):
    engine = made()
    path = tmp_path / "e.safetensors"
    save_file(tiny_adapters.embeddings(engine.pipe), path)
    assert engine.load_embedding(path, "word") == "word"


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_what_is_refused(tmp_path, engine, capsys):
    def saved(state, name):
        save_file(state, tmp_path / name)
        return tmp_path / name

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"string_to_param": Evil()}))
    (tmp_path / "no.safetensors").write_bytes(b"x")
    wide = saved({"emb_params": torch.zeros(1, 999)}, "wide.safetensors")
    lora = saved({"a.lora_down.weight": torch.zeros(2), "b": torch.zeros(2)}, "lora.safetensors")
    for path, message in (
        (tmp_path / "evil.pt", "as tensors alone"),
        (tmp_path / "no.safetensors", "not a readable .safetensors file"),
        (wide, "for text encoders of 999 dimensions; this model's have 32, 32"),
        (lora, "is a LoRA, not an embedding"),
        (tmp_path / "none.pt", "there is no file"),
    ):
        with pytest.raises(ModelError, match=message):
            engine.load_embedding(path)
    assert "run" not in capsys.readouterr().out
    good = saved(tiny_adapters.embeddings(engine.pipe), "two words.safetensors")
    with pytest.raises(InputError, match="no spaces"):
        engine.load_embedding(good)
    engine.load_embedding(good, "once")
    with pytest.raises(InputError, match="knows the word 'once'"):
        engine.load_embedding(good, "once")
    with pytest.raises(InputError, match="no embedding 'twice'; loaded: once"):
        engine.unload_embedding("twice")


def test_a_model_is_as_it_was_after_all(tmp_path, engine):
    before = text(engine, "a red tent")
    path = tmp_path / "gone.safetensors"
    save_file(tiny_adapters.embeddings(engine.pipe), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.load_embedding(path)
    engine.unload_embedding()
    assert torch.equal(text(engine, "a red tent"), before)
    assert "gone" not in engine.pipe.tokenizer.get_vocab()
    assert "embedding" not in engine.load


def test_a_damaged_embedding_is_refused_when_it_is_read(tmp_path):
    path = tmp_path / "damaged.safetensors"
    save_file({"emb_params": torch.full((2, 16), torch.nan)}, path)
    with pytest.raises(ModelError, match="damaged: it holds NaN"):
        made().load_embedding(path)


def test_an_embedding_of_several_vectors_goes_as_a_whole(engine, tmp_path):
    """Also its second token: it can be loaded again, and its word is free."""
    vectors = tiny_adapters.embeddings(engine.pipe)
    assert max(map(len, vectors.values())) > 1
    path = tmp_path / "glow.safetensors"
    save_file(vectors, path)
    before = engine.pipe.tokenizer.get_vocab()
    engine.load_embedding(path, "glow")
    first = text(engine, "a glow")
    engine.unload_embedding("glow")
    assert engine.pipe.tokenizer.get_vocab() == before
    engine.load_embedding(path, "glow")
    assert torch.equal(text(engine, "a glow"), first)


def test_a_taken_second_token_is_told(engine, tmp_path):
    vectors = tiny_adapters.embeddings(engine.pipe)
    path, other = tmp_path / "glow.safetensors", tmp_path / "one.safetensors"
    save_file(vectors, path)
    save_file({name: each[:1] for name, each in vectors.items()}, other)
    engine.load_embedding(other, "glow_1")
    with pytest.raises(InputError, match="glow_1"):
        engine.load_embedding(path, "glow")
