"""LoRAs of every form: what diffusers' loader makes of them, on both networks, noticed, undone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from engine import InpaintEngine, InputError, ModelError
from engine.errors import SoftpaintWarning
from engine.models.formats.adapters import Embedding, Lora
from tests.kit import tiny, tiny_adapters

NEAR = 1e-4  # of latents about 1: the same sums in another order, four steps long


def made(*, sdxl: bool = True, inpaint: bool = False) -> InpaintEngine:
    kind = StableDiffusionXLPipeline if sdxl else StableDiffusionPipeline
    extra = {} if sdxl else {"requires_safety_checker": False}
    second = tiny.unet(9, sdxl=sdxl, seed=1) if inpaint else None
    return InpaintEngine.from_pipe(kind(**tiny.modules(sdxl=sdxl), **extra), second)


@pytest.fixture(scope="module")
def plain() -> InpaintEngine:
    return made(inpaint=True)


@pytest.fixture
def engine(plain):
    yield plain
    plain.unload_lora()


@pytest.fixture(scope="module")
def file(plain, tmp_path_factory) -> Path:
    state = tiny_adapters.lora(tiny_adapters.kohya(plain.pipe))
    return tiny_adapters.saved(state, tmp_path_factory.mktemp("lora") / "style.safetensors")


def latents(engine: InpaintEngine, **changes) -> Any:
    return tiny.edited(engine, num_inference_steps=2, **changes).latents


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("sdxl", [True, False], ids=["sdxl", "sd"])
@pytest.mark.parametrize("convolutions", [False, True], ids=["lora", "locon"])
def test_kohyas_files_do_what_diffusers_loader_does(tmp_path, sdxl, convolutions):
    ours, theirs = made(sdxl=sdxl), made(sdxl=sdxl)
    named = tiny_adapters.kohya(ours.pipe, convolutions=convolutions, original=sdxl)
    path = tiny_adapters.saved(tiny_adapters.lora(named), tmp_path / "a.safetensors")
    before = latents(ours)
    ours.load_lora(path)
    theirs.pipe.load_lora_weights(str(path))
    got, want = latents(ours), latents(theirs)
    assert apart(got, before) > 0.01
    assert apart(got, want) < NEAR


@pytest.mark.parametrize("channels", [4, 9])
def test_an_edit_with_one_is_diffusers_to_the_bit(file, channels):
    """On the same weights: the LoRA's layers are in the modules that both run."""
    engine = InpaintEngine.from_pipe(StableDiffusionXLPipeline(**tiny.modules()))
    engine.load_lora(file)
    parts = {name: part for name, part in engine.pipe.components.items() if part is not None}
    strategy = "blend"
    if channels == 9:
        nine = made(inpaint=True)
        nine.load_lora(file)
        tiny.edited(nine, strategy="inpaint9", num_inference_steps=1)  # it is lent when it is used
        parts = {name: part for name, part in nine.pipe.components.items() if part is not None}
        parts["unet"], strategy = nine.backbone.network("inpaint").module, "inpaint9"
    pair = tiny.both(StableDiffusionXLInpaintPipeline, parts, strategy)
    assert tiny.difference(pair) == 0.0


def test_diffusers_own_files_and_their_alphas(tmp_path, engine):
    other = made()
    names = tiny_adapters.shapes(other.pipe.unet)
    state = {}
    for name, each in tiny_adapters.lora(names, alpha=None).items():
        for old, new in (("lora_down", "lora_A"), ("lora_up", "lora_B")):
            if old in name:
                state[f"unet.{name.replace(old, new)}"] = each
    path = tiny_adapters.saved(
        state, tmp_path / "d.safetensors", **tiny_adapters.diffusers_metadata(names, 2, 6)
    )
    engine.load_lora(path)
    other.pipe.load_lora_weights(str(path))
    assert apart(latents(engine), latents(other)) < NEAR


def changed_by_hand(engine: InpaintEngine, deltas: dict[str, torch.Tensor]) -> InpaintEngine:
    """The same model with ``deltas`` added to its UNet's weights."""
    other = copy.deepcopy(engine.pipe.unet)
    with torch.no_grad():
        for name, delta in deltas.items():
            weight = other.get_submodule(name).weight
            weight += delta.reshape(weight.shape)
    return InpaintEngine.from_pipe(
        StableDiffusionXLPipeline(**{**engine.pipe.components, "unet": other})
    )


@pytest.mark.parametrize("rank", [2, 40], ids=["low", "full"])
def test_a_loha_is_its_product(tmp_path, engine, rank):
    names = tiny_adapters.shapes(engine.pipe.unet, convolutions=True)
    state = tiny_adapters.loha(names, rank=rank)
    scale = 1 / rank
    deltas = {
        name: scale
        * (state[f"{name}.hada_w1_a"] @ state[f"{name}.hada_w1_b"])
        * (state[f"{name}.hada_w2_a"] @ state[f"{name}.hada_w2_b"])
        for name in names
    }
    want = latents(changed_by_hand(engine, deltas))
    named = {f"lora_unet_{k.replace('.', '_', k.count('.') - 1)}": v for k, v in state.items()}
    engine.load_lora(tiny_adapters.saved(named, tmp_path / "h.safetensors"))
    assert apart(latents(engine), want) < NEAR


def test_a_lokr_is_its_kronecker_product(tmp_path, engine):
    names = {
        n: s
        for n, s in tiny_adapters.shapes(engine.pipe.unet, convolutions=True).items()
        if s[0] % 4 == s[1] % 4 == 0
    }
    state = tiny_adapters.lokr(names)
    deltas = {}
    for name, shape in names.items():
        a, b = (state[f"{name}.lokr_w2_{each}"] for each in "ab")
        right = (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])
        left = state[f"{name}.lokr_w1"].reshape(4, 4, *(1,) * (len(shape) - 2))
        deltas[name] = torch.kron(left, right) / 2
    want = latents(changed_by_hand(engine, deltas))
    named = {f"lycoris_{k.replace('.', '_', k.count('.') - 1)}": v for k, v in state.items()}
    engine.load_lora(tiny_adapters.saved(named, tmp_path / "k.safetensors"))
    assert apart(latents(engine), want) < NEAR


def test_a_dora_sets_the_norms_of_rows(tmp_path, engine):
    names = tiny_adapters.shapes(engine.pipe.unet)
    state = tiny_adapters.lora(names, alpha=1.0)
    torch.manual_seed(5)
    deltas = {}
    for number, name in enumerate(names):
        weight = engine.pipe.unet.get_submodule(name).weight.detach()
        low = state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"] / 2
        if number % 2:  # half of them are no DoRA
            deltas[name] = low
            continue
        norms = weight.norm(dim=1, keepdim=True) * (0.5 + torch.rand(len(weight), 1))
        state[f"{name}.dora_scale"] = norms
        total = weight + low
        deltas[name] = norms * total / total.norm(dim=1, keepdim=True) - weight
    want = latents(changed_by_hand(engine, deltas))
    ends = ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
    named = {}
    for key, each in state.items():
        end = next(end for end in ends if key.endswith(end))
        named[f"lora_unet_{key.removesuffix('.' + end).replace('.', '_')}.{end}"] = each
    engine.load_lora(tiny_adapters.saved(named, tmp_path / "d.safetensors"))
    assert apart(latents(engine), want) < NEAR


class TestTheInpaintingNetwork:
    def test_has_what_the_other_has(self, engine, file):
        before = latents(engine, strategy="inpaint9")
        name = engine.load_lora(file, 0.5)
        half = latents(engine, strategy="inpaint9")
        assert apart(half, before) > 0.005
        engine.load_lora(file, 1.0, name=name)
        assert apart(latents(engine, strategy="inpaint9"), half) > 0.005
        engine.load_lora(file, 0.0, name=name)
        assert apart(latents(engine, strategy="inpaint9"), before) < NEAR
        engine.unload_lora()
        assert torch.equal(latents(engine, strategy="inpaint9"), before)

    def test_is_its_own_weights_and_the_lora(self, engine, file):
        """As if both were one file that was loaded into a 9-channel pipeline."""
        engine.load_lora(file)
        got = latents(engine, strategy="inpaint9")
        alone = InpaintEngine.from_pipe(
            StableDiffusionXLPipeline(**{**tiny.modules(), "unet": tiny.unet(9, seed=1)})
        )
        alone.load_lora(file)
        assert torch.equal(got, latents(alone, strategy="inpaint9"))

    def test_a_lora_of_the_input_convolution_leaves_the_mask_alone(self, tmp_path, engine):
        named = {"lora_unet_conv_in": engine.pipe.unet.conv_in.weight.shape}
        path = tiny_adapters.saved(tiny_adapters.lora(named), tmp_path / "i.safetensors")
        own = engine.backbone.networks["inpaint"].module.conv_in.weight.detach().clone()
        engine.load_lora(path)
        engine.backbone.network("inpaint")
        layer = engine.backbone.networks["inpaint"].module.conv_in
        layer.merge()
        changed = (layer.base_layer.weight - own).flatten(2).abs().sum(dim=(0, 2))
        layer.unmerge()
        assert (changed[:4] > 0).all()
        assert (changed[4:] == 0).all()

    def test_is_fused_where_the_other_is(self, file):
        engine = made(inpaint=True)
        engine.load_lora(file)
        want = latents(engine, strategy="inpaint9")
        engine.pipe.fuse_lora()
        assert apart(latents(engine, strategy="inpaint9"), want) < NEAR
        engine.pipe.unload_lora_weights()
        assert apart(latents(engine, strategy="inpaint9"), want) < NEAR

    def test_is_fused_where_the_other_was_unseen(self, file):
        engine = made(inpaint=True)
        before = latents(engine, strategy="inpaint9")
        engine.pipe.load_lora_weights(str(file))
        engine.pipe.fuse_lora()
        engine.pipe.unload_lora_weights()
        with pytest.warns(SoftpaintWarning, match="changed in place"):
            after = latents(engine, strategy="inpaint9")
        assert apart(before, after) > 0.005  # the text encoders'


@pytest.mark.parametrize("parts", ["unet", "text"])
def test_fusing_and_unloading_is_noticed(tmp_path, parts):
    """Nothing is left of the LoRA but the weights' values, which no counter tells."""
    engine = made()
    named = tiny_adapters.kohya(engine.pipe)
    kept = {n: s for n, s in named.items() if n.startswith("lora_unet") == (parts == "unet")}
    path = tiny_adapters.saved(tiny_adapters.lora(kept), tmp_path / "f.safetensors")
    session = engine.session(
        image=tiny.picture(),
        strength_map=np.ones((tiny.SIZE, tiny.SIZE), np.float32),
        prompt="a red house",
        num_inference_steps=2,
        seed=2,
        output_type="latent",
    )
    before: Any = session.render().latents
    kind = engine.backbone.fingerprint()
    engine.pipe.load_lora_weights(str(path))
    engine.pipe.fuse_lora()
    engine.pipe.unload_lora_weights()
    assert engine.backbone.fingerprint() != kind
    fresh = made()
    fresh.load_lora(path)
    want = latents(fresh)
    assert apart(want, before) > 0.01
    assert apart(latents(engine), want) < NEAR
    again: Any = session.render().latents
    assert apart(again, want) < NEAR


def test_several_and_their_record(engine, file):
    before = latents(engine)
    engine.load_lora(file)
    engine.load_lora(f"{file}:0.25")
    both = latents(engine)
    place = str(file.resolve())
    result = tiny.edited(engine, num_inference_steps=1)
    assert result.load["lora"] == [place, f"{place}:0.25"]
    engine.unload_lora("style_2")
    one = latents(engine)
    assert min(apart(both, one), apart(one, before)) > 0.005
    engine.unload_lora()
    assert torch.equal(latents(engine), before)
    assert "lora" not in engine.load


def test_what_fits_nothing_is_told(tmp_path, engine):
    named = dict(tiny_adapters.kohya(engine.pipe))
    named["lora_unet_input_blocks_9_1_proj_in"] = torch.Size((8, 8))
    path = tiny_adapters.saved(tiny_adapters.lora(named), tmp_path / "m.safetensors")
    with pytest.warns(SoftpaintWarning, match=r"1 of 69 modules .*input_blocks_9_1_proj_in"):
        engine.load_lora(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda _: {"model.diffusion_model.out.2.weight": torch.ones(2)},
            "a UNet alone",
        ),
        (
            lambda _: tiny_adapters.lora({"lora_unet_double_blocks_0_img": torch.Size((4, 4))}),
            "of another family",
        ),
        (
            lambda e: tiny_adapters.lora(
                {n: torch.Size((s[0], 3)) for n, s in tiny_adapters.kohya(e.pipe).items()}
            ),
            "of another family",
        ),
    ],
    ids=["checkpoint", "flux", "widths"],
)
def test_what_is_refused(tmp_path, engine, make, message):
    path = tiny_adapters.saved(make(engine), tmp_path / "x.safetensors")
    before = latents(engine)
    with pytest.raises(ModelError, match=message):
        engine.load_lora(path)
    assert torch.equal(latents(engine), before)


def test_files_that_are_none(tmp_path, engine):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"<html>")
    for place, message in (
        (bad, "is a web page"),
        (tmp_path / "no.safetensors", "there is no file"),
        (tmp_path, None),
    ):
        with pytest.raises(ModelError, match=message or "is a web page"):
            engine.load_lora(place)
    with pytest.raises(InputError, match="no LoRA 'other'; loaded: none"):
        engine.unload_lora("other")


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("a.safetensors:0.8", Lora("a.safetensors", 0.8)),
        ("a.safetensors:-1", Lora("a.safetensors", -1)),
        ("C:\\loras\\a.safetensors", Lora("C:\\loras\\a.safetensors")),
        (("a.safetensors", 2), Lora("a.safetensors", 2.0)),
        (Path("a.safetensors"), Lora("a.safetensors")),
    ],
)
def test_how_a_lora_is_written(given, want):
    assert Lora.of(given) == want
    assert Lora.of(str(want)) == want


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("a.pt:cat", Embedding("a.pt", "cat")),
        ("C:\\e\\a.pt", Embedding("C:\\e\\a.pt")),
        (("a.pt", "cat"), Embedding("a.pt", "cat")),
    ],
)
def test_how_an_embedding_is_written(given, want):
    assert Embedding.of(given) == want


@pytest.mark.parametrize("given", [3, "", ("a", "b"), ("a", float("nan"))])
def test_what_is_no_lora(given):
    with pytest.raises(InputError, match="LoRA"):
        Lora.of(given)
