"""ControlNets of Flux in the engine's own mode; parity is held in ``tests/parity``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from controls import Control
from controls.flux import spread
from engine import InpaintEngine
from engine.errors import InputError, ModelError
from tests.kit import tiny, tiny_controls, tiny_flux
from tests.kit.tiny import SIZE, edited

HINT = tiny.picture(seed=7)


@pytest.fixture(scope="module")
def model():
    return InpaintEngine.from_pipe(FluxPipeline(**tiny_flux.modules()))


@pytest.fixture(scope="module")
def net():
    return tiny_flux.controlnet()


def test_it_steers_and_scale_0_is_none(model, net):
    plain = edited(model).latents
    steered = edited(model, controls=[Control(net, image=HINT)]).latents
    assert not torch.equal(steered, plain)
    assert torch.equal(edited(model, controls=[Control(net, image=HINT, scale=0)]).latents, plain)


def test_two_halves_are_a_whole(model, net):
    whole = edited(model, controls=[Control(net, image=HINT, scale=0.8)]).latents
    half = Control(net, image=HINT, scale=0.4)
    torch.testing.assert_close(
        edited(model, controls=[half, half]).latents, whole, atol=1e-4, rtol=0
    )


def test_outside_its_mask_the_edit_is_the_one_without_it(model, net):
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[:, : SIZE // 2] = 1
    plain = edited(model, strategy="blend").latents
    control = Control(net, image=HINT, mask=mask, exact=True)
    steered = edited(model, strategy="blend", controls=[control]).latents
    half = plain.shape[-1] // 2
    # The run without it is another row of the same call: last bits.
    torch.testing.assert_close(steered[..., half:], plain[..., half:], atol=1e-4, rtol=0)
    assert (steered[..., :half] - plain[..., :half]).abs().max() > 1e-2


def test_networks_of_other_depths_share_a_call(model, net):
    """Each adds to every block, however many it has itself."""
    deep = tiny_flux.controlnet(num_layers=2, num_single_layers=0, seed=6)
    run = {
        "image": tiny.picture(),
        "prompt": "a",
        "num_inference_steps": 3,
        "output_type": "latent",
    }
    run["strength_map"] = np.ones((SIZE, SIZE), np.float32)
    edits = [
        {**run, "seed": seed, "controls": controls}
        for seed, controls in enumerate(
            ([], [Control(net, image=HINT)], [Control(deep, image=HINT)])
        )
    ]
    for each, shared in zip(edits, model.edit_many(edits).unwrap(), strict=True):
        alone = model.edit(**each).latents
        torch.testing.assert_close(shared.latents, alone, atol=1e-4, rtol=1e-4)


def test_a_union_is_told_the_kind_by_name_or_number(model):
    union = tiny_flux.controlnet(num_mode=7)
    named = edited(model, controls=[Control(union, image=HINT, mode="depth")]).latents
    numbered = edited(model, controls=[Control(union, image=HINT, mode=2)]).latents
    other = edited(model, controls=[Control(union, image=HINT, mode="canny")]).latents
    assert torch.equal(named, numbered)
    assert not torch.equal(named, other)
    with pytest.raises(InputError, match="must be told"):
        edited(model, controls=[Control(union, image=HINT)])


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed.*:FutureWarning")
def test_from_a_folder(model, net, tmp_path):
    net.save_pretrained(tmp_path)
    loaded = edited(model, controls=[Control(str(tmp_path), image=HINT)]).latents
    assert torch.equal(loaded, edited(model, controls=[Control(net, image=HINT)]).latents)


def test_what_does_not_fit_is_refused(model, net):
    unet = tiny.engine(inpaint=False)
    with pytest.raises(InputError, match="a diffusers FluxControlNetModel"):
        edited(
            model,
            controls=[Control(tiny_controls.controlnet(unet.backbone.main.module), image=HINT)],
        )
    with pytest.raises(InputError, match="ControlNetModel or ControlNetUnionModel"):
        edited(unet, controls=[Control(net, image=HINT)])
    wide = tiny_flux.controlnet(num_attention_heads=4)
    with pytest.raises(ModelError, match="heads are 4, 2 are needed"):
        edited(model, controls=[Control(wide, image=HINT)])


def test_residuals_are_spread_as_diffusers_spreads_them():
    samples = [torch.tensor(0), torch.tensor(1)]
    assert [int(each) for each in spread(samples, 5, repeats=False)] == [0, 0, 0, 1, 1]
    assert [int(each) for each in spread(samples, 5, repeats=True)] == [0, 1, 0, 1, 0]
