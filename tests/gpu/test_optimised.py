"""What makes a model faster or smaller leaves its pictures as they are."""

from __future__ import annotations

import shutil

import pytest
import torch

from engine import InpaintEngine, InputError, SoftpaintError
from engine.models.speed.optimise import OPTIMISATIONS
from tests.kit.devices import CUDA, DEVICE, HALF, cuda_only, hard, on_device, psnr, repainted
from tests.kit.pocket_edits import EDITS

pytestmark = on_device

NEAR = 40.0
"""dB: what float16 alone is off float32 at the most, see ``test_half.py``."""
OFFLOADS = {"cpu-offload", "memory"}
OPTIONS = [info.name for info in OPTIMISATIONS if info.name not in OFFLOADS]
WORK = ("blend", "inpaint9", "canny", "erase", "regions", "weighted prompt")


def compiles(name: str) -> bool:
    return "compile" in (name, *OPTIMISATIONS.get(name).includes)


@pytest.fixture(scope="module", params=OPTIONS)
def optimised(request):
    """A pocket engine with an option."""
    if compiles(request.param):
        if not any(map(shutil.which, ("c++", "g++", "clang++", "gcc"))):
            pytest.skip("torch needs a C++ compiler")
        if not CUDA:
            pytest.skip("minutes on a CPU; tests/models/test_optimise.py has a tiny one")
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF).optimise(request.param)
    yield engine
    torch.compiler.reset()


@pytest.mark.parametrize("name", WORK)
def test_an_optimised_model_paints_the_same(optimised, made, name):
    _, settings = EDITS[name]
    if name == "erase" and not optimised.backbone.main.redirects:
        with pytest.raises(InputError):  # fused and compiled layers are left as they are
            optimised.edit(**settings)
        return
    assert psnr(optimised.edit(**settings), made("cpu", name), repainted(settings)) > NEAR


def test_an_optimised_model_takes_several_edits(optimised, half):
    several = [hard(seed=seed) for seed in range(3)]
    for got, each in zip(optimised.edit_many(several).unwrap(), several, strict=True):
        assert psnr(got, half.edit(**each), repainted(each)) > NEAR


def test_an_optimised_model_takes_another_size(optimised, half):
    small = hard()
    small = {
        **small,
        "image": small["image"].crop((0, 0, 96, 128)),
        "mask": small["mask"][:, :96],
        "region": "full",
    }
    assert psnr(optimised.edit(**small), half.edit(**small), repainted(small)) > NEAR


def test_channels_last_is_the_weights_layout():
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF).optimise("channels-last")
    weight = engine.pipe.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_tiles_are_decoded():
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF).optimise("vae-tiling")
    settings = hard(region="full")
    settings["image"] = settings["image"].resize((256, 256))
    settings["mask"] = settings["mask"].repeat(2, 0).repeat(2, 1)
    assert engine.edit(**settings).images[0].size == (256, 256)


# --- offload -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["model", "sequential"])
def offloaded(request):
    """A pipeline that diffusers moves about, under an engine."""
    pipe = InpaintEngine.from_pretrained(device="cpu", dtype="float32").pipe
    getattr(pipe, f"enable_{request.param}_cpu_offload")()
    return InpaintEngine.from_pipe(pipe)


@cuda_only
@pytest.mark.parametrize(
    "name", ["blend", "differential", "think", "erase", "canny", "regions", "two seeds", "compat"]
)
def test_an_offloaded_model_paints_the_same(offloaded, made, name):
    """In float32: moving a module does nothing to its weights, so it is what float32 is."""
    _, settings = EDITS[name]
    assert psnr(offloaded.edit(**settings), made("cpu", name), repainted(settings)) > 55


@cuda_only
def test_an_offloaded_model_knows_where_it_runs(offloaded):
    assert offloaded.backbone.device.type == "cuda"


@cuda_only
def test_an_offloaded_model_paints_again_the_same(offloaded):
    one, other = offloaded.edit(**hard()), offloaded.edit(**hard())
    assert torch.equal(one.latents, other.latents)


@cuda_only
def test_an_offloaded_model_takes_several_edits(offloaded, single):
    several = [hard(seed=seed) for seed in range(3)]
    for got, each in zip(offloaded.edit_many(several).unwrap(), several, strict=True):
        assert psnr(got, single.edit(**each), repainted(each)) > 55


@cuda_only
def test_an_offloaded_models_session_reuses_what_was_computed(offloaded):
    """Weights that come and go are the same weights."""
    session = offloaded.session(**hard())
    session.render()
    assert session.render(feather=9).model_calls == 0


@cuda_only
@pytest.mark.parametrize("option", sorted(OFFLOADS))
def test_the_option_is_to_be_had_for_one_network(option, made):
    pipe = InpaintEngine.from_pretrained(device="cpu", dtype="float32").pipe
    engine = InpaintEngine.from_pipe(pipe).optimise(option)
    _, settings = EDITS["blend"]
    assert psnr(engine.edit(**settings), made("cpu", "blend"), repainted(settings)) > 55


# --- parts on several devices --------------------------------------------------------------------


@cuda_only
@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_a_part_that_lies_elsewhere_is_one_clear_line(part):
    engine = InpaintEngine.from_pretrained(device=DEVICE)
    getattr(engine.pipe, part).to("cpu")
    with pytest.raises(SoftpaintError) as caught:
        InpaintEngine.from_pipe(engine.pipe).edit(**hard())
    assert len(str(caught.value).splitlines()) == 1


@cuda_only
def test_a_second_network_that_lies_elsewhere_is_one_clear_line():
    engine = InpaintEngine.from_pretrained(device=DEVICE)
    second = engine.backbone.network("inpaint").module.to("cpu")
    with pytest.raises(SoftpaintError) as caught:
        InpaintEngine.from_pipe(engine.pipe, second).edit(**hard(strategy="inpaint9"))
    assert len(str(caught.value).splitlines()) == 1


@cuda_only
def test_a_controlnet_that_lies_elsewhere_is_one_clear_line(pocket):
    from controls import Control

    pocket.edit(**hard(controls="canny", num_inference_steps=1))
    (net, *_) = pocket.backbone._controlnets.values()
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype="float32")
    with pytest.raises(SoftpaintError, match="move it there"):
        engine.edit(**hard(controls=Control(net, image=hard()["image"])))


@cuda_only
def test_a_model_that_is_moved_paints_the_same(made):
    """``pipe.to`` after an edit: what was remembered on the CPU is not used on the GPU."""
    engine = InpaintEngine.from_pretrained(device="cpu", dtype="float32")
    _, settings = EDITS["blend"]
    engine.edit(**settings)
    engine.pipe.to(DEVICE)
    assert psnr(engine.edit(**settings), made("cpu", "blend"), repainted(settings)) > 55
