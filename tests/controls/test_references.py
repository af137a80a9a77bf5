"""IP-Adapter references: parity with diffusers' inpainting pipelines, laws, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.image_processor import IPAdapterMaskProcessor
from safetensors.torch import save_file

from controls import Control, Reference
from engine import InpaintEngine, InputError
from tests.kit import tiny, tiny_controls
from tests.kit.tiny import both, difference

PICTURES = [tiny.picture(48, seed=seed) for seed in (21, 22)]
LEFT = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
LEFT[:, : tiny.SIZE // 2] = 1


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(pipe: Any, *seeds: int) -> None:
    """Load tiny IP-Adapters as a user would, from what diffusers' loader takes."""
    weights = [tiny_controls.ip_adapter(pipe.unet, seed) for seed in seeds]
    pipe.load_ip_adapter(weights, subfolder=[""] * len(seeds), weight_name=[""] * len(seeds))


@pytest.fixture(scope="module", params=["sdxl-4", "sdxl-9", "sd-4"])
def peer(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    family, channels = request.param.split("-")
    kind = StableDiffusionXLInpaintPipeline if family == "sdxl" else StableDiffusionInpaintPipeline
    modules = tiny.modules(int(channels), sdxl=family == "sdxl") | tiny_controls.image_reader()
    load(kind(**modules), 3)
    return kind, modules, "blend" if channels == "4" else "inpaint9"


def masked(*masks: np.ndarray) -> dict[str, Any]:
    """diffusers' way to tell where each picture holds."""
    processed = IPAdapterMaskProcessor().preprocess(list(masks), tiny.SIZE, tiny.SIZE)
    stacked = processed.reshape(1, len(masks), tiny.SIZE, tiny.SIZE)
    return {"cross_attention_kwargs": {"ip_adapter_masks": [stacked]}}


class TestParity:
    @pytest.mark.parametrize("guidance", [5.0, 1.0])
    def test_a_picture(self, peer, guidance):
        for images, strength in ((1, 1.0), (2, 0.6)):
            pair = both(
                *peer,
                guidance_scale=guidance,
                num_images=images,
                strength=strength,
                ip_adapter_image=PICTURES[0],
            )
            assert difference(pair) == 0.0

    def test_two_pictures_with_masks(self, peer):
        pair = both(
            *peer,
            theirs={"ip_adapter_image": [PICTURES], **masked(LEFT, 1 - LEFT)},
            ours={
                "ip_adapter_image": [
                    [Reference(PICTURES[0], mask=LEFT), Reference(PICTURES[1], mask=1 - LEFT)]
                ]
            },
        )
        assert difference(pair) == 0.0

    def test_embeds(self, peer):
        kind, modules, _ = peer
        pipe = kind(**modules)
        (embeds,) = pipe.prepare_ip_adapter_image_embeds(PICTURES[0], None, "cpu", 1, True)
        pair = both(
            *peer,
            theirs={"ip_adapter_image_embeds": [embeds]},
            ours={"ip_adapter_image": Reference(embeds=embeds)},
        )
        assert difference(pair) == 0.0

    def test_with_a_controlnet(self):
        modules = tiny.modules() | tiny_controls.image_reader()
        net = tiny_controls.controlnet(modules["unet"])
        load(StableDiffusionXLInpaintPipeline(**modules), 3)
        pair = both(
            StableDiffusionXLControlNetInpaintPipeline,
            modules,
            "blend",
            extra={"controlnet": net},
            theirs={
                "control_image": PICTURES[0].resize((64, 64)),
                "controlnet_conditioning_scale": 1.0,
            },
            ours={"controls": [Control(net, PICTURES[0].resize((64, 64)))]},
            guess_mode=False,
            ip_adapter_image=PICTURES[1],
        )
        assert difference(pair) == 0.0

    def test_two_adapters_at_the_pipelines_own_scales(self):
        modules = tiny.modules() | tiny_controls.image_reader()
        pipe: Any = StableDiffusionXLInpaintPipeline(**modules)
        load(pipe, 3, 5)
        pipe.set_ip_adapter_scale([0.7, {"up": {"block_0": [0.0, 1.2]}}])
        pair = both(type(pipe), modules, "blend", ip_adapter_image=PICTURES)
        assert difference(pair) == 0.0


@pytest.fixture(scope="module")
def engine() -> InpaintEngine:
    """With an IP-Adapter in the pipeline, and another network that the loader knows nothing of."""
    pipe: Any = StableDiffusionXLPipeline(**tiny.modules(), **tiny_controls.image_reader())
    load(pipe, 3)
    return InpaintEngine.from_pipe(pipe, inpaint_unet=tiny.unet(9, seed=1))


@pytest.fixture(scope="module")
def bare() -> InpaintEngine:
    """The same without an IP-Adapter."""
    return tiny.engine()


def edit(engine: InpaintEngine, reference: Any = None, **changes: Any) -> torch.Tensor:
    latents: torch.Tensor = tiny.edited(engine, ip_adapter_image=reference, **changes).latents
    return latents


@pytest.mark.parametrize("strategy", tiny.STRATEGIES)
def test_every_strategy_takes_a_reference_and_none_or_scale_0_is_as_without(engine, bare, strategy):
    """To the bit, also where an adapter is loaded: it adds exact zeros."""
    plain = edit(bare, strategy=strategy)
    assert torch.equal(edit(engine, strategy=strategy), plain)
    assert torch.equal(edit(engine, Reference(PICTURES[0], 0.0), strategy=strategy), plain)
    steered = edit(engine, PICTURES[0], strategy=strategy)
    assert (steered - plain).abs().max() > 0.01
    assert not torch.equal(steered, edit(engine, PICTURES[1], strategy=strategy))


def test_scales_and_masks(engine):
    whole = edit(engine, PICTURES[0])
    ones = np.ones_like(LEFT)
    assert torch.allclose(edit(engine, Reference(PICTURES[0], mask=ones)), whole, atol=1e-4)
    half = edit(engine, Reference(PICTURES[0], 0.5))
    assert torch.equal(edit(engine, Reference(PICTURES[0], mask=ones / 2)), half)
    engine.pipe.set_ip_adapter_scale(0.5)
    try:
        assert torch.allclose(edit(engine, PICTURES[0]), half, atol=1e-4)
    finally:
        engine.pipe.set_ip_adapter_scale(1.0)


def test_a_masked_reference_changes_its_side_most(engine):
    """Behind the cross-attention that it is masked in, the network's own layers carry it on."""
    size = 256
    mask = np.zeros((size, size), np.float32)
    mask[:, : size // 2] = 1
    scene = {"image": tiny.picture(size), "strength_map": np.ones((size, size), np.float32)}
    plain = edit(engine, **scene)
    change = (edit(engine, Reference(PICTURES[0], mask=mask), **scene) - plain).abs()
    assert change[..., :16].mean() > 2 * change[..., 24:].mean()


def test_it_composes_with_a_control(engine):
    net = tiny_controls.controlnet(tiny.unet())
    controls = [Control(net, tiny.picture(seed=11))]
    two = edit(engine, PICTURES[0], controls=controls)
    assert not torch.equal(two, edit(engine, PICTURES[0]))
    assert not torch.equal(two, edit(engine, controls=controls))


def test_a_masked_control_leaves_it_alone_outside(engine):
    """The companion is told of the reference, with its mask."""
    mask = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    mask[:, :32] = 1
    reference = Reference(PICTURES[0], mask=mask.T)
    controls = [Control(tiny_controls.controlnet(tiny.unet()), tiny.picture(seed=11), mask=mask)]
    change = edit(engine, reference, controls=controls) - edit(engine, reference)
    assert change[..., 4:].abs().max() < 5e-4 < change[..., :4].abs().max()


def test_a_controlnet_from_a_file_beside_an_adapter(engine, tmp_path):
    """Its configuration is taken from the UNet's, which the adapter has changed."""
    save_file(tiny_controls.controlnet(tiny.unet()).state_dict(), tmp_path / "net.safetensors")
    controls = [Control(tmp_path / "net.safetensors", tiny.picture(seed=11))]
    assert edit(engine, controls=controls).isfinite().all()


def test_masks_follow_the_canvas_and_stages(engine):
    """47 x 61 px are padded, then expanded, then reduced for a first stage."""
    picture = np.asarray(tiny.picture())[:61, :47]
    mask = np.zeros((61, 47), np.float32)
    mask[:, :20] = 1
    scene = {"image": picture, "strength_map": np.ones_like(mask)}
    steered = edit(engine, Reference(PICTURES[0], mask=mask), **scene, expand=(0, 8, 24, 0))
    assert steered.isfinite().all()
    staged = {**scene, "strategy": "staged"}
    assert not torch.equal(
        edit(engine, Reference(PICTURES[0], mask=mask), **staged), edit(engine, **staged)
    )


def test_the_other_network_follows_the_pipelines_adapters():
    pipe: Any = StableDiffusionXLPipeline(**tiny.modules(), **tiny_controls.image_reader())
    engine = InpaintEngine.from_pipe(pipe, inpaint_unet=tiny.unet(9, seed=1))
    plain = edit(engine, strategy="inpaint9")
    load(pipe, 3)
    first = edit(engine, PICTURES[0], strategy="inpaint9")
    load(pipe, 5)
    second = edit(engine, PICTURES[0], strategy="inpaint9")
    assert not torch.equal(first, second)
    pipe.unload_ip_adapter()
    assert torch.equal(edit(engine, strategy="inpaint9"), plain)
    with pytest.raises(InputError, match="needs an IP-Adapter"):
        edit(engine, PICTURES[0], strategy="inpaint9")


def test_the_record_tells_of_them(engine):
    result = engine.edit(
        image=tiny.picture(),
        mask=tiny.box_mask(),
        prompt="",
        num_inference_steps=1,
        ip_adapter_image=Reference(PICTURES[0], 0.4, LEFT),
    )
    assert result.settings["ip_adapter_image"] == [
        [{"image": "image (Pillow image)", "scale": 0.4, "mask": True}]
    ]


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image": None}, "either an image or embeds"),
            ({"embeds": torch.ones(1, 1, 24)}, "either an image or embeds"),
            ({"scale": float("nan")}, "scale must be a finite number, not nan"),
            ({"scale": "much"}, "scale must be a finite number, not 'much'"),
            ({"image": None, "embeds": torch.ones(3, 1, 24)}, "1 or 2 rows"),
            ({"image": None, "embeds": torch.full((1, 1, 24), torch.nan)}, "finite tensor"),
        ],
    )
    def test_when_it_is_made(self, changes, message):
        with pytest.raises(InputError, match=message):
            Reference(**{"image": PICTURES[0], **changes})

    def test_when_it_is_used(self, engine, bare):
        for reference, message in (
            ([], "empty list"),
            ([[]], "empty list"),
            (PICTURES, "2 entries for 1 IP-Adapters"),
            ("/nowhere.png", "nowhere.png"),
            (Reference(PICTURES[0], mask=np.zeros_like(LEFT)), "is 0 everywhere"),
            (Reference(PICTURES[0], mask=LEFT[:, :20]), "same aspect ratio"),
        ):
            with pytest.raises(InputError, match=message):
                edit(engine, reference)
        with pytest.raises(InputError, match=r"needs an IP-Adapter: engine\.pipe\.load_ip_adapter"):
            edit(bare, PICTURES[0])

    def test_an_adapter_without_an_image_encoder(self):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        weights = tiny_controls.ip_adapter(pipe.unet)
        pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
        engine = InpaintEngine.from_pipe(pipe)
        with pytest.raises(InputError, match="without an image encoder"):
            edit(engine, PICTURES[0])
        assert edit(engine, Reference(embeds=torch.ones(1, 1, 24))).isfinite().all()
