"""Fooocus' inpaint patch: what it adds, as by hand."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch.nn import functional as F

from engine import InpaintEngine, InputError, ModelError
from engine.errors import SoftpaintWarning
from engine.models.formats.original_names import original_names
from engine.models.formats.patch import HEAD, patched_unet
from tests.kit import tiny, tiny_adapters

NEAR = 1e-5


def names(unet) -> dict[str, str]:
    """The original layout's name of each weight."""
    modules = original_names([n for n, _ in unet.named_modules()], 1)
    return {
        f"{name}.weight": f"diffusion_model.{modules[name]}.weight"
        for name, each in unet.named_modules()
        if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)
    }


@pytest.fixture(scope="module")
def unet():
    return tiny.unet()


def written(folder: Path, unet, **more) -> Path:
    torch.manual_seed(21)
    state = {
        original: (
            torch.randint(0, 256, unet.get_parameter(name).shape, dtype=torch.uint8),
            torch.tensor(-0.03, dtype=torch.float16),
            torch.tensor(0.04, dtype=torch.float16),
        )
        for name, original in names(unet).items()
    }
    torch.save({**state, **more}, folder / "inpaint_v26.fooocus.patch")
    torch.save({"head": torch.randn(32, 5, 3, 3) * 0.1}, folder / HEAD)
    return folder / "inpaint_v26.fooocus.patch"


@pytest.fixture(scope="module")
def patch(unet, tmp_path_factory):
    return written(tmp_path_factory.mktemp("inpaint"), unet)


def by_hand(unet, patch: Path):
    """The base UNet with the patch's sums, and the head's output added after its convolution."""
    held = torch.load(patch, weights_only=True)
    head = torch.load(patch.parent / HEAD, weights_only=True)["head"]
    changed = copy.deepcopy(unet)
    for name, original in names(unet).items():
        values, low, high = (each.float() for each in held[original])
        with torch.no_grad():
            changed.get_parameter(name).add_((values / 255) * (high - low) + low)

    def predict(sample, *given, **more):
        latents, told = sample[:, :4], sample[:, 4:]
        feature = F.conv2d(F.pad(told, (1, 1, 1, 1), mode="replicate"), head)
        hook = changed.conv_in.register_forward_hook(lambda _m, _i, made: made + feature)
        try:
            return changed(latents, *given, **more)
        finally:
            hook.remove()

    return predict


def test_it_equals_the_sum_by_hand(unet, patch):
    before = {name: each.clone() for name, each in unet.state_dict().items()}
    ours, theirs = patched_unet(unet, patch), by_hand(unet, patch)
    torch.manual_seed(1)
    more = {
        "timestep": torch.tensor([7, 500]),
        "encoder_hidden_states": torch.randn(2, 77, 64),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 32), "time_ids": torch.ones(2, 6)},
        "return_dict": False,
    }
    sample = torch.randn(2, 9, 8, 8)
    with torch.no_grad():
        got, want = ours(sample, **more)[0], theirs(sample, **more)[0]
    assert float((got - want).abs().max()) < NEAR
    assert all(torch.equal(before[name], each) for name, each in unet.state_dict().items())


def test_any_checkpoint_becomes_an_inpainting_one(tmp_path, unet, patch):
    """As ``inpaint_patch`` loads it, with the strategies of both kinds and LoRAs over both."""
    pipe: Any = StableDiffusionXLPipeline(**{**tiny.modules(), "unet": unet})
    pipe.save_pretrained(tmp_path / "m")
    engine = InpaintEngine.from_pretrained(tmp_path / "m", inpaint_patch=patch, device="cpu")
    assert engine.load["inpaint_patch"] == str(patch.resolve())
    assert {"inpaint9", "differential"} <= set(engine.strategies())
    plain = tiny.edited(engine, num_inference_steps=2).latents
    told = tiny.edited(engine, num_inference_steps=2, strategy="inpaint9").latents
    other = InpaintEngine.from_pipe(engine.pipe, patched_unet(engine.pipe.unet, patch))
    same = tiny.edited(other, num_inference_steps=2, strategy="inpaint9").latents
    assert torch.equal(told, same)
    named = tiny_adapters.kohya(engine.pipe) | {"lora_unet_conv_in": torch.Size((32, 4, 3, 3))}
    engine.load_lora(tiny_adapters.saved(tiny_adapters.lora(named), tmp_path / "a.safetensors"))
    changed = tiny.edited(engine, num_inference_steps=2, strategy="inpaint9").latents
    assert float((changed - told).abs().max()) > 0.01
    engine.unload_lora()
    for strategy, want in (("differential", plain), ("inpaint9", told)):
        again = tiny.edited(engine, num_inference_steps=2, strategy=strategy).latents
        assert torch.equal(again, want)


def test_what_is_refused(tmp_path, unet, patch):
    def error(given, kind=ModelError):
        with pytest.raises(kind) as caught:
            patched_unet(unet, given)
        return str(caught.value)

    assert "there is no file" in error(tmp_path / "none.patch")
    alone = tmp_path / "alone.patch"
    alone.write_bytes(patch.read_bytes())
    assert "needs its head" in error(alone)
    (tmp_path / HEAD).write_bytes(pickle.dumps({"head": Path("x")}))
    assert "as tensors alone" in error(alone)
    (tmp_path / HEAD).write_bytes((patch.parent / HEAD).read_bytes())
    torch.save({"diffusion_model.x.weight": torch.zeros(1)}, tmp_path / "other.patch")
    assert "holds something else" in error(tmp_path / "other.patch")
    torch.save({"diffusion_model.x.weight": (torch.zeros(1),) * 3}, tmp_path / "strange.patch")
    assert "for another network" in error(tmp_path / "strange.patch")
    torch.save({"head": torch.zeros(320, 5, 3, 3)}, tmp_path / "wide.pth")
    assert "32 x 5 x 3 x 3" in error((patch, tmp_path / "wide.pth"))
    assert "is a file" in error(3, InputError)
    with pytest.raises(InputError, match="takes 9 channels"):
        patched_unet(tiny.unet(9), patch)


def test_weights_that_fit_nothing_are_told(tmp_path, unet):
    path = written(tmp_path, unet, **{"diffusion_model.gone.weight": (torch.zeros(1),) * 3})
    with pytest.warns(SoftpaintWarning, match=r"1 of \d+ weights .*gone"):
        patched_unet(unet, path)
