"""Controls: parity with diffusers' ControlNet inpainting pipelines, laws, registry, bad input."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
)
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.controlnets.multicontrolnet_union import MultiControlNetUnionModel
from safetensors.torch import save_file

from controls import (
    Control,
    annotate,
    get_control,
    list_controls,
    split_controls,
)
from engine import InputError, ModelError, UnknownNameError
from engine.denoise.loop import Loop
from engine.denoise.strategy import Stage, StagedStrategy, Strategy
from engine.request.request import EditRequest
from strategies import create_strategy
from tests.kit import tiny, tiny_controls
from tests.kit.jobs import jobs_of
from tests.kit.tiny import difference

PIPELINES = {
    "sdxl-4": (StableDiffusionXLControlNetInpaintPipeline, 4),
    "sdxl-9": (StableDiffusionXLControlNetInpaintPipeline, 9),
    "sd-4": (StableDiffusionControlNetInpaintPipeline, 4),
    "sd-9": (StableDiffusionControlNetInpaintPipeline, 9),
}
PICTURES = [tiny.picture(seed=seed) for seed in (11, 12)]
"""Control images: any will do for networks with random weights."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- parity --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(PIPELINES))
def peer(request: pytest.FixtureRequest) -> Any:
    """Modules of a family, two ControlNets for them, diffusers' pipeline and our strategy."""
    kind, channels = PIPELINES[request.param]
    modules = tiny.modules(channels, sdxl=request.param.startswith("sdxl"))
    nets = [tiny_controls.controlnet(modules["unet"], seed) for seed in (1, 2)]
    return kind, modules, nets, "blend" if channels == 4 else "inpaint9"


def both(
    kind: Any,
    modules: dict[str, Any],
    strategy: str,
    controlnet: Any,
    theirs: dict[str, Any],
    ours: list[Control],
    **changes: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """diffusers' result with ``controlnet`` and ours with the controls ``ours``."""
    return tiny.both(
        kind,
        modules,
        strategy,
        extra={"controlnet": controlnet},
        theirs=theirs,
        ours={"controls": ours},
        **{"guess_mode": False, **changes},
    )


@pytest.mark.parametrize(
    ("scheduler", "guess_mode"),
    [
        ("euler", False),
        ("euler", True),
        ("ddim", False),
        ("heun", True),
        ("dpmpp-2m-karras", False),
        ("euler-a", False),
    ],
)
def test_one_controlnet(peer, scheduler, guess_mode):
    kind, modules, nets, strategy = peer
    for strength, images, guidance in ((1.0, 1, 5.0), (0.7, 2, 5.0), (0.9999, 1, 1.0)):
        pair = both(
            kind,
            modules,
            strategy,
            nets[0],
            {"control_image": PICTURES[0], "controlnet_conditioning_scale": 0.7},
            [Control(nets[0], PICTURES[0], 0.7)],
            scheduler=scheduler,
            guess_mode=guess_mode,
            strength=strength,
            num_images=images,
            guidance_scale=guidance,
            num_inference_steps=3,
        )
        assert difference(pair) == 0.0, (strength, images, guidance)


def test_windows_in_a_run_that_ends_early():
    """diffusers measures them by the calls of the whole run."""
    kind, channels = PIPELINES["sdxl-4"]
    modules = tiny.modules(channels)
    net = tiny_controls.controlnet(modules["unet"], 1)
    for end in (0.4, 0.8):
        want, got = both(
            kind,
            modules,
            "blend",
            net,
            {
                "control_image": PICTURES[0],
                "control_guidance_start": 0.2,
                "control_guidance_end": 0.6,
            },
            [Control(net, PICTURES[0], 1.0, 0.2, 0.6)],
            denoising_end=end,
            output_type="latent",
        )
        assert np.array_equal(want, got), end


def test_the_control_does_something(peer):
    """Parity would also hold if neither did anything."""
    kind, modules, nets, strategy = peer
    off, on = (
        both(
            kind,
            modules,
            strategy,
            nets[0],
            {"control_image": PICTURES[0], "controlnet_conditioning_scale": scale},
            [Control(nets[0], PICTURES[0], scale)],
        )
        for scale in (0.0, 1.0)
    )
    assert difference(off) == difference(on) == 0.0
    assert np.abs(off[0] - on[0]).max() > 0.01


@pytest.mark.parametrize(("scheduler", "guess_mode"), [("euler", True), ("heun", False)])
def test_two_controlnets_with_windows(peer, guess_mode, scheduler):
    kind, modules, nets, strategy = peer
    pair = both(
        kind,
        modules,
        strategy,
        MultiControlNetModel(nets),
        {
            "control_image": PICTURES,
            "controlnet_conditioning_scale": [0.7, 1.3],
            "control_guidance_start": [0.0, 0.3],
            "control_guidance_end": [0.5, 1.0],
        },
        [
            Control(nets[0], PICTURES[0], 0.7, end=0.5),
            Control(nets[1], PICTURES[1], 1.3, start=0.3),
        ],
        scheduler=scheduler,
        guess_mode=guess_mode,
    )
    assert difference(pair) == 0.0


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.4), (0.2, 0.8), (0.5, 1.0), (0.41, 0.59)])
def test_a_window(peer, start, end):
    kind, modules, nets, strategy = peer
    scale = [1.0] if (start, end) == (0.41, 0.59) else 1.0
    ours = Control(nets[0], PICTURES[0], scale, start, end)
    edit = lambda: both(  # noqa: E731
        kind,
        modules,
        strategy,
        nets[0],
        {
            "control_image": PICTURES[0],
            "controlnet_conditioning_scale": 1.0,
            "control_guidance_start": start,
            "control_guidance_end": end,
        },
        [ours],
    )
    if (start, end) == (0.41, 0.59):  # no call lies wholly inside
        with pytest.warns(UserWarning, match="on at none of the 5 steps"):
            assert difference(edit()) == 0.0
    else:
        assert difference(edit()) == 0.0


def test_an_inpaint_controlnet(peer):
    """What the SD 1.5 inpaint ControlNet's model card does by hand: -1 in the hole."""
    kind, modules, nets, strategy = peer
    hole = torch.from_numpy(np.array(tiny.box_mask()) > 127)
    pixels = torch.from_numpy(np.array(tiny.picture()).astype(np.float32) / 255)
    pixels[hole] = -1.0
    pair = both(
        kind,
        modules,
        strategy,
        nets[0],
        {"control_image": pixels.permute(2, 0, 1)[None], "controlnet_conditioning_scale": 1.0},
        [Control(nets[0], "inpaint")],
    )
    assert difference(pair) == 0.0


def test_a_pooled_controlnet(peer):
    """The shuffle kind: one value per channel, always in guess mode."""
    kind, modules, _, strategy = peer
    net = tiny_controls.controlnet(modules["unet"], 5, global_pool_conditions=True)
    theirs = {"control_image": PICTURES[0], "controlnet_conditioning_scale": 1.0}
    pair = both(kind, modules, strategy, net, theirs, [Control(net, PICTURES[0])], guess_mode=True)
    assert difference(pair) == 0.0


def test_annotators_see_the_picture_as_diffusers_resizes_it():
    kind, channels = PIPELINES["sdxl-4"]
    modules = tiny.modules(channels)
    net = tiny_controls.controlnet(modules["unet"])
    odd = tiny.picture(69)
    edges = annotate(np.asarray(odd.resize((64, 64), resample=1)), "canny")
    from PIL import Image

    pair = both(
        kind,
        modules,
        "blend",
        net,
        {"control_image": Image.fromarray(edges), "controlnet_conditioning_scale": 1.0},
        [Control(net, "canny")],
        image=odd,
    )
    assert difference(pair) == 0.0


@pytest.fixture(scope="module")
def union_peer() -> Any:
    modules = tiny.modules(4)
    nets = [tiny_controls.union(modules["unet"], seed) for seed in (1, 2)]
    return StableDiffusionXLControlNetUnionInpaintPipeline, modules, nets


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "heun"])
def test_union_with_one_control(union_peer, scheduler):
    kind, modules, nets = union_peer
    for window, images in (((0.0, 1.0), 2), ((0.2, 0.7), 1)):
        pair = both(
            kind,
            modules,
            "blend",
            nets[0],
            {
                "control_image": [PICTURES[0]],
                "control_mode": [3],
                "controlnet_conditioning_scale": 0.8,
                "control_guidance_start": window[0],
                "control_guidance_end": window[1],
            },
            [Control(nets[0], PICTURES[0], 0.8, *window, mode="canny")],
            scheduler=scheduler,
            num_images=images,
            strength=0.6 if images == 2 else 1.0,
        )
        assert difference(pair) == 0.0


def test_union_with_two_controls_in_one_forward(union_peer):
    """diffusers also runs the network where both are off; so do we in this mode."""
    kind, modules, nets = union_peer
    pair = both(
        kind,
        modules,
        "blend",
        nets[0],
        {
            "control_image": list(PICTURES),
            "control_mode": [1, 7],
            "controlnet_conditioning_scale": [0.8, 0.5],
            "control_guidance_start": [0.0, 0.2],
            "control_guidance_end": [0.6, 0.8],
        },
        [
            Control(nets[0], PICTURES[0], 0.8, end=0.6, mode="depth"),
            Control(nets[0], PICTURES[1], 0.5, 0.2, 0.8, mode=7),
        ],
    )
    assert difference(pair) == 0.0


def test_two_unions(union_peer):
    kind, modules, nets = union_peer
    pair = both(
        kind,
        modules,
        "blend",
        MultiControlNetUnionModel(nets),
        {
            "control_image": list(PICTURES),
            "control_mode": [1, 3],
            "controlnet_conditioning_scale": [0.8, 0.5],
        },
        [
            Control(nets[0], PICTURES[0], 0.8, mode="depth"),
            Control(nets[1], PICTURES[1], 0.5, mode=3),
        ],
    )
    assert difference(pair) == 0.0


def test_union_in_guess_mode_without_guidance(union_peer):
    """With guidance diffusers' union pipeline fails in guess mode; ours does not (below)."""
    kind, modules, nets = union_peer
    theirs = {
        "control_image": [PICTURES[0]],
        "control_mode": [3],
        "controlnet_conditioning_scale": 1.0,
    }
    ours = [Control(nets[0], PICTURES[0], mode=3)]
    pair = both(kind, modules, "blend", nets[0], theirs, ours, guess_mode=True, guidance_scale=1.0)
    assert difference(pair) == 0.0


# --- the engine's own mode -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def union(engine) -> Any:
    return tiny_controls.union(engine.backbone.network("base").unet)


def edit(engine, controls=None, **changes):
    return tiny.edited(engine, controls=controls, **changes).latents


def calls_of(net, monkeypatch):
    """Rows of each of the network's forwards, by step."""
    rows, forward = [], net.forward

    def counted(sample, *args, **kwargs):
        assert sample.shape[1] == 4
        rows.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(net, "forward", counted)
    return rows


@pytest.mark.parametrize("strategy", tiny.STRATEGIES)
def test_every_strategy_takes_a_control_and_scale_0_is_none(engine, net, strategy, monkeypatch):
    plain = edit(engine, strategy=strategy)
    rows = calls_of(net, monkeypatch)
    assert torch.equal(edit(engine, [Control(net, PICTURES[0], 0.0)], strategy=strategy), plain)
    assert rows == []
    steered = edit(engine, [Control(net, PICTURES[0])], strategy=strategy)
    assert rows
    assert not torch.equal(steered, plain)


def test_two_halves_are_a_whole(engine, net):
    """Residuals add, also of one network twice."""
    whole = edit(engine, [Control(net, PICTURES[0], 1.0)])
    halves = edit(engine, [Control(net, PICTURES[0], 0.5)] * 2)
    assert torch.allclose(whole, halves, atol=1e-4)


@pytest.mark.parametrize("scheduler", ["heun", "dpmpp-2s"])
def test_windows_take_turns(engine, net, scheduler, monkeypatch):
    """Two windows that meet share no step and leave none out."""
    rows = calls_of(net, monkeypatch)
    run = {"scheduler": scheduler, "num_inference_steps": 5}
    whole = edit(engine, [Control(net, PICTURES[0])], **run)
    total = len(rows)
    for cut in (0.2, 0.75):
        rows.clear()
        turns = [Control(net, PICTURES[0], end=cut), Control(net, PICTURES[0], start=cut)]
        assert torch.equal(edit(engine, turns, **run), whole)
        assert len(rows) == total


def test_a_window_is_a_share_of_the_run(engine, net, monkeypatch):
    rows = calls_of(net, monkeypatch)
    for strength, calls in ((1.0, 5), (0.4, 2)):
        rows.clear()
        edit(
            engine, [Control(net, PICTURES[0], end=0.5)], num_inference_steps=10, strength=strength
        )
        assert len(rows) == calls


def test_a_window_that_no_step_begins_in_warns(engine, net):
    control = Control(net, PICTURES[0], start=0.3, end=0.4)
    with pytest.warns(UserWarning, match="on at none of the 4 steps"):
        assert torch.equal(edit(engine, [control]), edit(engine))


def test_curves_are_interpolated_over_the_run(net):
    curve = Control(net, PICTURES[0], [1.0, 0.5, 0.0])
    assert [curve.weight_at(i / 4) for i in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    function = Control(net, PICTURES[0], lambda progress: 1 - progress)
    assert function.weight_at(0.25) == 0.75
    assert Control(net, PICTURES[0], [0.3]).weight_at(1.0) == 0.3


def test_a_flat_curve_is_a_number(engine, net, monkeypatch):
    flat = edit(engine, [Control(net, PICTURES[0], [0.7, 0.7])])
    assert torch.equal(flat, edit(engine, [Control(net, PICTURES[0], 0.7)]))
    rows = calls_of(net, monkeypatch)
    edit(engine, [Control(net, PICTURES[0], [1.0, 0.0, 0.0, 0.0])])
    assert len(rows) == 1


def test_guess_mode_reads_the_conditional_rows_only(engine, net, union, monkeypatch):
    for each, mode in ((net, None), (union, 3)):
        rows = calls_of(each, monkeypatch)
        control = Control(each, PICTURES[0], mode=mode)
        guessed = edit(engine, [control], guess_mode=True)
        assert rows == [1] * 4
        assert not torch.equal(guessed, edit(engine, [control]))


def test_an_all_ones_mask_is_no_mask_and_a_grey_one_a_weight(engine, net):
    whole = edit(engine, [Control(net, PICTURES[0])])
    ones = np.ones((tiny.SIZE, tiny.SIZE), np.float32)
    masked = edit(engine, [Control(net, PICTURES[0], mask=ones)])
    assert torch.equal(masked, whole)
    half = edit(engine, [Control(net, PICTURES[0], mask=ones / 2)])
    assert torch.equal(half, edit(engine, [Control(net, PICTURES[0], 0.5)]))


def jobs_for(engine, *names, controls=(), **changes):
    request = EditRequest(
        image=tiny.picture(),
        mask=tiny.box_mask(),
        controls=controls,
        **{"prompt": "a red house", "num_inference_steps": 4, "seed": 1, **changes},
    )
    return jobs_of(engine, request, names)


def run(*jobs):
    loop = Loop()
    loop.submit(jobs)
    loop.run()
    for job in jobs:
        if job.error is not None:
            raise job.error
    return loop


def test_jobs_with_and_without_controls_share_a_call(engine, net, union):
    """float32 rounding in other blocks aside, each is what it is alone."""
    pooled = tiny_controls.controlnet(
        engine.backbone.network("base").unet, 5, global_pool_conditions=True
    )
    kinds = [(), [Control(net, PICTURES[0])], [Control(union, PICTURES[1], mode=3)]]
    kinds.append([Control(pooled, PICTURES[0])])
    alone = []
    for controls in kinds:
        (job,) = jobs_for(engine, "blend", controls=controls)
        run(job)
        alone.append(job.latents)
    together = [jobs_for(engine, "blend", controls=controls)[0] for controls in kinds]
    loop = run(*together)
    assert loop.calls == 4
    for job, want in zip(together, alone, strict=True):
        assert torch.allclose(job.latents, want, atol=5e-4, rtol=5e-4)
    for a, b in itertools.combinations(alone, 2):
        assert (a - b).abs().max() > 0.01


def test_one_broken_control_ends_its_own_job_only(engine, net, monkeypatch):
    (good,) = jobs_for(engine, "blend")
    (bad,) = jobs_for(engine, "blend", controls=[Control(net, PICTURES[0])])

    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(net, "forward", fail)
    loop = Loop()
    loop.submit([bad, good])
    loop.run()
    assert isinstance(bad.error, RuntimeError)
    assert good.error is None


def test_controls_of_one_union_network_share_its_forward(engine, union, monkeypatch):
    rows = calls_of(union, monkeypatch)
    two = [Control(union, PICTURES[0], mode=1), Control(union, PICTURES[1], mode=3)]
    edit(engine, two)
    assert len(rows) == 4
    rows.clear()
    mask = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    mask[:, :32] = 1.0
    edit(engine, [two[0], Control(union, PICTURES[1], mode=3, mask=mask)])
    assert len(rows) == 8


def test_images_of_a_batch_equal_their_single_runs(engine, net):
    control = Control(net, PICTURES[0])
    several = edit(engine, [control], num_images=2, seed=5)
    single = edit(engine, [control], seed=6)
    assert torch.allclose(several[1:], single, atol=5e-4)


def test_a_control_image_for_each_picture(engine, net):
    request = {"image": [tiny.picture(seed=1), tiny.picture(seed=2)]}
    both_pictures = edit(engine, [Control(net, PICTURES)], **request)
    second = edit(engine, [Control(net, PICTURES[1])], image=request["image"][1], seed=3)
    assert torch.allclose(both_pictures[1:], second, atol=5e-4)


@pytest.mark.parametrize("annotator", ["canny", "soft-edge", "inpaint", "repaint"])
def test_annotators_by_name(engine, net, annotator):
    half = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    half[:, 32:] = 1.0
    made = edit(engine, [Control(net, annotator)], strength_map=half)
    if annotator in {"canny", "soft-edge"}:
        image = annotate(np.asarray(tiny.picture()), annotator)
        assert torch.equal(made, edit(engine, [Control(net, image)], strength_map=half))
    assert not torch.equal(made, edit(engine, strength_map=half))


class TestCanvas:
    """The control image follows the picture, to the pixel."""

    def control_image(self, engine, net, image, **changes):
        control = Control(net, **changes.pop("control", {"image": "canny"}))
        request = EditRequest(
            image=image, prompt="", num_inference_steps=2, seed=0, controls=control, **changes
        )
        bound: Any
        (bound,) = jobs_of(engine, request)[0].controls
        pixels = (bound.branches[0].image[0].permute(1, 2, 0) * 255).round().byte().numpy()
        return pixels, bound

    def test_padding(self, engine, net):
        odd = np.asarray(tiny.picture(64))[:50, :43]
        flat = np.ones((50, 43), np.float32)
        pixels, _ = self.control_image(engine, net, odd, strength_map=flat)
        assert pixels.shape == (64, 48, 3)
        assert np.array_equal(pixels[:50, :43], annotate(odd, "canny"))
        assert np.array_equal(pixels[50:, :43], annotate(odd, "canny")[48:34:-1])

    def test_expanding(self, engine, net):
        """The control says nothing about the new canvas: edges end where the picture does."""
        picture = np.asarray(tiny.picture())
        pixels, bound = self.control_image(engine, net, picture, expand=(32, 0, 0, 16))
        assert pixels.shape == (80, 96, 3)
        assert np.array_equal(pixels[:64, 32:], annotate(picture, "canny"))
        expected = torch.zeros(80, 96)
        expected[:64, 32:] = 1
        assert torch.equal(bound._mask[0, 0], expected)

    def test_a_control_image_of_the_expanded_size_covers_it(self, engine, net):
        large = np.asarray(tiny.picture(96))[:80]
        pixels, bound = self.control_image(
            engine, net, tiny.picture(), expand=(32, 0, 0, 16), control={"image": large}
        )
        assert np.array_equal(pixels, large)
        assert bound._mask is None


class TestStages:
    def test_control_images_follow_a_stage_to_its_size(self, engine, net):
        blend = create_strategy("blend")
        assert isinstance(blend, Strategy)
        staged = StagedStrategy("small first", (Stage(blend, scale=0.5), Stage(blend, 0.5)))
        steered = edit(engine, [Control(net, PICTURES[0])], strategy=staged)
        assert steered.isfinite().all()
        assert not torch.equal(steered, edit(engine, strategy=staged))


class TestNames:
    def test_a_control_in_a_strategys_name(self, engine, net, monkeypatch):
        monkeypatch.setattr(engine.backbone, "controlnet", lambda _: net)
        named = edit(engine, strategy="differential+canny")
        assert torch.equal(named, edit(engine, ["canny"], strategy="differential"))
        assert not torch.equal(named, edit(engine, strategy="differential"))

    def test_compare_with_and_without(self, engine, net, monkeypatch):
        monkeypatch.setattr(engine.backbone, "controlnet", lambda _: net)
        compared = engine.compare(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            prompt="a boat",
            strategies=["differential", "differential+canny"],
            num_inference_steps=2,
            seed=1,
            strength_mode="relative",
        )
        assert list(compared.results) == ["differential", "differential+canny"]
        settings = [each.settings["controls"] for each in compared.results.values()]
        assert [len(each) for each in settings] == [0, 1]
        assert settings[1][0]["model"] == "canny"

    def test_strategies_go_before_controls(self):
        assert split_controls("differential+canny", ["differential"]) == ("differential", ["canny"])
        assert split_controls("a + canny+b", ["a", "b"]) == ("a+b", ["canny"])
        assert split_controls("canny+depth", ["canny"]) == ("canny", ["depth"])
        assert split_controls("canny", []) == ("canny", [])

    def test_the_command_lines_notation(self):
        (control,) = Control.parse("canny:0.8:0-0.6")
        assert (control.model, control.scale, control.start, control.end) == ("canny", 0.8, 0, 0.6)
        assert (control.image, control.file) == (None, None)
        (drawn,) = Control.parse("depth=C:\\pictures\\depth.png:.5")
        assert (drawn.model, drawn.scale) == ("depth", 0.5)
        assert drawn.file == Path("C:\\pictures\\depth.png")
        (own,) = Control.parse("some/folder=canny")
        assert (own.model, own.annotator, own.scale, own.file) == ("some/folder", "canny", 1, None)
        assert [each.scale for each in Control.parse("canny:0,0.5,1")] == [0, 0.5, 1]
        for text in ("canny:x", "canny:1:2", "canny:1:0.5-", "canny:1:0-1:2", "", "canny=", "=a"):
            with pytest.raises(InputError, match="NAME"):
                Control.parse(text)
        for text, message in (("canny:nan", "not nan"), ("canny=eges", "unknown annotator")):
            with pytest.raises(InputError, match=message):
                Control.parse(text)


class TestNetworks:
    def test_from_a_folder_and_once(self, engine, net, tmp_path):
        net.save_pretrained(tmp_path / "net")
        loaded = engine.backbone.controlnet(tmp_path / "net")
        assert engine.backbone.controlnet(tmp_path / "net") is loaded
        image = PICTURES[0]
        got = edit(engine, [Control(str(tmp_path / "net"), image)])
        assert torch.allclose(got, edit(engine, [Control(net, image)]), atol=1e-3)

    def test_a_union_from_a_folder(self, engine, union, tmp_path):
        union.save_pretrained(tmp_path)
        loaded = engine.backbone.controlnet(tmp_path)
        assert type(loaded).__name__ == "ControlNetUnionModel"

    @pytest.mark.parametrize("kind", ["net", "union"])
    def test_from_a_file_without_its_configuration(self, engine, kind, tmp_path, request):
        made = request.getfixturevalue(kind)
        path = tmp_path / "net.safetensors"
        save_file(made.state_dict(), path)
        loaded = engine.backbone.controlnet(path)
        assert type(loaded) is type(made)
        for name, value in made.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name

    def test_another_family_is_refused(self, engine, tmp_path):
        other = tiny_controls.controlnet(tiny.unet(sdxl=False))
        message = "another family: it takes text embeddings of 32 dimensions, the model's have 64"
        with pytest.raises(ModelError, match=message):
            edit(engine, [Control(other, PICTURES[0])])
        save_file(other.state_dict(), tmp_path / "net.safetensors")
        with pytest.raises(ModelError, match=message):
            edit(engine, [Control(tmp_path / "net.safetensors", PICTURES[0])])

    def test_one_that_does_not_fit_is_refused(self, engine, net):
        wide = tiny_controls.controlnet(engine.backbone.network("base").unet, layers_per_block=2)
        with pytest.raises(ModelError, match="layers per level are 2, 1 are needed"):
            edit(engine, [Control(wide, PICTURES[0])])
        six = tiny_controls.controlnet(
            engine.backbone.network("base").unet, conditioning_channels=6
        )
        with pytest.raises(ModelError, match="control image channels are 6"):
            edit(engine, [Control(six, PICTURES[0])])

    def test_what_cannot_be_loaded_says_so(self, engine, tmp_path):
        with pytest.raises(ModelError, match="no model at"):
            edit(engine, [Control(tmp_path / "none", PICTURES[0])])
        (tmp_path / "broken.safetensors").write_bytes(b"no")
        with pytest.raises(ModelError, match="not a readable"):
            edit(engine, [Control(tmp_path / "broken.safetensors", PICTURES[0])])
        with pytest.raises(ModelError, match="hub cannot be reached"):
            edit(engine, [Control("nobody/controlnet-of-nothing", PICTURES[0])])
        save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
        with pytest.raises(ModelError, match="is no ControlNet"):
            edit(engine, [Control(tmp_path / "other.safetensors", PICTURES[0])])

    def test_a_name_without_a_network_for_this_model(self, engine):
        with pytest.raises(InputError, match=r"no ControlNet for sdxl models .* 'shuffle'"):
            edit(engine, [Control("shuffle")])


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image": None}, "the control image is missing; give image="),
            ({"image": "cany"}, "unknown annotator 'cany'. Did you mean 'canny'"),
            ({"scale": float("nan")}, "scale must be a finite number, not nan"),
            ({"scale": [1.0, float("inf")]}, "scale must be a finite number, not inf"),
            ({"scale": []}, "list of scales is empty"),
            ({"scale": "strong"}, "scale must be a finite number, not 'strong'"),
            ({"start": 0.6, "end": 0.4}, r"start \(0.6\) must lie before end \(0.4\)"),
            ({"start": 0.5, "end": 0.5}, "must lie before"),
            ({"end": 1.2}, "end must be from 0 to 1, not 1.2"),
            ({"start": float("nan")}, "start must be a finite number"),
            ({"exact": 1}, "exact must be True or False, not 1"),
            ({"mode": -1}, "mode must be a number from 0"),
            ({"mode": "cany"}, "unknown control 'cany'"),
        ],
    )
    def test_when_it_is_made(self, net, changes, message):
        with pytest.raises(InputError, match=message):
            Control(net, **{"image": PICTURES[0], **changes})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image": tiny.picture(48)}, "48 x 48 px but the picture is 64 x 64 px"),
            ({"image": "/nowhere.png"}, "nowhere.png"),
            ({"image": [PICTURES[0]] * 3}, "3 control images for 1 pictures"),
            ({"mask": np.zeros((64, 64), np.float32)}, "is 0 everywhere"),
            ({"mask": np.ones((64, 32), np.float32)}, "same aspect ratio"),
            ({"scale": lambda _: float("nan")}, "scale must be a finite number, not nan"),
            ({"mode": 3}, "mode is for ControlNet-Union networks"),
        ],
    )
    def test_when_it_is_used(self, engine, net, changes, message):
        with pytest.raises(InputError, match=message):
            edit(engine, [Control(net, **{"image": PICTURES[0], **changes})])

    def test_union_networks_must_be_told_the_kind(self, engine, union):
        with pytest.raises(InputError, match="must be told what its control image shows"):
            edit(engine, [Control(union, PICTURES[0])])
        with pytest.raises(InputError, match="knows 8 kinds, 0 to 7"):
            edit(engine, [Control(union, PICTURES[0], mode=8)])
        assert Control(union, "canny").union_mode(8) == 3
        assert Control(union, "midas").union_mode(8) == 1

    def test_others(self, engine, net):
        with pytest.raises(UnknownNameError, match=r"unknown control 'cany'. Did you mean 'canny'"):
            Control("cany")
        with pytest.raises(InputError, match="controls must be Control objects or names, not int"):
            edit(engine, [3])
        with pytest.raises(InputError, match="a ControlNet is needed"):
            edit(engine, [Control(object(), PICTURES[0])])
        with pytest.raises(InputError, match="a control needs a name or a model"):
            Control(None)
        with pytest.raises(InputError, match="guess_mode must be True or False"):
            edit(engine, guess_mode=1)
        with pytest.raises(InputError, match="cannot be made from latents"):
            edit(engine, [Control(net, "canny")], image=torch.randn(1, 4, 8, 8))


class TestRegistry:
    @pytest.mark.parametrize("name", list_controls())
    def test_every_record_explains_itself(self, name):
        info = get_control(name)
        assert info.description
        assert "\n" not in info.description
        assert info.models
        assert Control(name).annotator == info.annotator
