"""T2I-Adapters: what diffusers does with them, to the bit; their files; what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image

from controls import Control
from controls.place import Place
from controls.t2i import BoundAdapter, features_of, places_of
from engine import InpaintEngine, ModelError
from engine.solvers.names import fresh_scheduler
from tests.kit import ldm, tiny, tiny_adapters, tiny_controls

PICTURE = tiny.picture(seed=8)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net(engine):
    return tiny_controls.t2i_adapter(engine.backbone.network("base").unet)


def sd_engine() -> Any:
    """An SD 1.x with its four levels."""
    parts = {**tiny.modules(sdxl=False), "unet": ldm.sd1_unet()}
    return InpaintEngine.from_pipe(StableDiffusionInpaintPipeline(**parts))


@pytest.mark.parametrize(("scale", "share"), [(0.7, 1.0), (1.3, 0.5)])
def test_diffusers_adapter_pipeline_to_the_bit(scale, share):
    """It draws whole pictures from noise: so does an edit of all of one at full strength."""
    parts = tiny.modules()
    net = tiny_controls.t2i_adapter(parts["unet"])
    said: dict[str, Any] = {"prompt": "a red house", "guidance_scale": 5.0}
    pipe: Any = StableDiffusionXLAdapterPipeline(**parts, adapter=net)
    pipe.scheduler = fresh_scheduler("euler", parts["scheduler"])
    pipe.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(2)
    torch.randn(1, 4, 8, 8, generator=drawn)  # diffusers' inpainting takes the VAE's sample first
    want = pipe(
        **said,
        # A picture as such is given in another memory format there, which rounds otherwise.
        image=pixels(),
        adapter_conditioning_scale=scale,
        adapter_conditioning_factor=share,
        num_inference_steps=4,
        latents=torch.randn(1, 4, 8, 8, generator=drawn),
        height=64,
        width=64,
        output_type="latent",
    ).images
    engine = InpaintEngine.from_pipe(StableDiffusionXLInpaintPipeline(**parts))
    ours: dict[str, Any] = {
        **said,
        "strength_map": None,
        "mask": Image.new("L", (64, 64), 255),
        "strategy": "blend",
        "strength": 1.0,
        "scheduler": "euler",
        "compat": "diffusers",
    }
    got = tiny.edited(engine, **ours, controls=Control(net, PICTURE, scale=scale, end=share))
    assert torch.equal(got.latents, want)
    assert not torch.equal(tiny.edited(engine, **ours).latents, want)


def pixels() -> torch.Tensor:
    """The control image, 1 3 H W in [0, 1]."""
    return torch.tensor(np.asarray(PICTURE)).permute(2, 0, 1)[None].contiguous() / 255


@pytest.mark.parametrize("channels", [4, 9])
def test_to_the_bit_in_diffusers_inpainting(monkeypatch, channels):
    """No pipeline of diffusers has both: its inpainting pipeline's UNet is given what its adapter
    pipeline makes.
    """
    parts = tiny.modules(channels)
    net = tiny_controls.t2i_adapter(parts["unet"])
    control = Control(net, PICTURE, scale=0.6)
    forward = type(parts["unet"]).forward
    with torch.no_grad():
        states = [torch.cat([each * 0.6] * 2) for each in net(pixels())]

    def steered(self, *given, **named):
        if "down_intrablock_additional_residuals" not in named:
            named["down_intrablock_additional_residuals"] = [each.clone() for each in states]
        return forward(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(type(parts["unet"]), "forward", steered)
        pair = tiny.both(
            StableDiffusionXLInpaintPipeline,
            parts,
            "blend" if channels == 4 else "inpaint9",
            ours={"controls": control},
        )
    assert tiny.difference(pair) == 0


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_file_is_what_its_folder_is(tmp_path, kind, layout):
    engine = sd_engine()
    net = tiny_controls.t2i_adapter(engine.backbone.network("base").unet, kind, inputs=1)
    state = net.state_dict() if layout == "diffusers" else tiny_controls.t2i_original(net)
    path = tiny_adapters.saved(state, tmp_path / "net.safetensors")
    net.save_pretrained(tmp_path / "folder")
    loaded = engine.backbone.controlnet(path)
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in net.config.items() if k[0] != "_"
    }
    both = [
        tiny.edited(engine, controls=Control(each, PICTURE), num_inference_steps=1).latents
        for each in (path, tmp_path / "folder")
    ]
    assert torch.equal(*both)
    plain = tiny.edited(engine, num_inference_steps=1).latents
    assert not torch.equal(plain, both[0])


def test_sdxls_file_in_diffusers_names(tmp_path, engine, net):
    path = tiny_adapters.saved(net.state_dict(), tmp_path / "net.safetensors")
    assert engine.backbone.controlnet(path).config.adapter_type == "full_adapter_xl"


def test_its_mask_holds(engine, net):
    """Outside the mask the edit is what it is without."""
    mask = tiny.box_mask()
    kept = tiny.edited(engine, controls=Control(net, PICTURE, mask=mask), strategy="blend").latents
    plain = tiny.edited(engine, strategy="blend").latents
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:6, 1:4] = False
    torch.testing.assert_close(kept[..., outside], plain[..., outside], rtol=0, atol=1e-3)
    assert (kept - plain)[..., ~outside].abs().max() > 0.01


def test_odd_sizes_are_rounded_up(net):
    image = torch.rand(1, 3, 40, 56)
    assert BoundAdapter.hint(net, image, 2, Place()).shape == (2, 3, 48, 64)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(ldm.sd1_unet, "full_adapter"), (ldm.sdxl_unet, "full_adapter_xl")],
    ids=["sd", "sdxl"],
)
def test_places_of_the_real_layouts(make, kind):
    unet = make()
    net = tiny_controls.t2i_adapter(unet, kind)
    places = places_of(unet.config, 8)
    assert features_of(net) == places[: len(unet.config.block_out_channels)]


def test_another_familys_is_refused(engine, tmp_path):
    net = tiny_controls.t2i_adapter(ldm.sd1_unet(), "full_adapter")
    with pytest.raises(ModelError, match=r"a T2I-Adapter for SD 1.x, which does not fit"):
        tiny.edited(engine, controls=Control(net, PICTURE))
    state = {name: each for name, each in net.state_dict().items() if "body.2" not in name}
    path = tiny_adapters.saved(state, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match="of an unknown form, or not whole"):
        engine.backbone.controlnet(path)
