"""Laws that every registered strategy obeys, and the rules of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import InpaintEngine, InputError, UnknownNameError
from engine.denoise.strategy import Part, Strategy, StrategyContext
from engine.edit.growth import fade_opacity, underlay
from engine.evaluate import open_suite
from engine.picture.fade import paste_alpha
from engine.picture.geometry import Size
from engine.picture.metrics import colour_inside
from engine.request.request import EditRequest
from engine.solvers.names import fresh_scheduler, list_schedulers
from engine.solvers.schedule import Schedule
from engine.types import Conditioning
from strategies import (
    DifferentialDiffusion,
    FewStepsWarning,
    InpaintUNet,
    LatentBlend,
    SoftBlend,
    StrategyInfo,
    create_strategy,
    get_strategy,
    list_strategies,
    registry,
)
from strategies.soft_blend import mix_keeping_norm
from tests.kit import tiny

STEPS = 4
HOLDING = ["blend", "differential", "soft-blend", "inpaint9+blend", "inpaint9+differential"]


def edit(engine, strategy, strength_map, **changes):
    return engine.edit(
        image=tiny.picture(),
        strength_map=strength_map,
        **{
            "prompt": "a red house",
            "strategy": strategy,
            "num_inference_steps": STEPS,
            "seed": 2,
            "output_type": "np",
            **changes,
        },
    )


def flat(value: float) -> np.ndarray:
    return np.full((tiny.SIZE, tiny.SIZE), value, np.float32)


def original_latents(engine):
    from engine.picture.pixels import to_tensor

    with torch.no_grad():
        return engine.backbone.encode(to_tensor(np.asarray(tiny.picture())))


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
@pytest.mark.parametrize("strategy", tiny.STRATEGIES)
class TestEveryStrategy:
    def test_a_map_of_one_pixel_leaves_all_others_to_the_bit(self, engine, strategy):
        one = flat(0.0)
        one[0, 0] = 1.0
        kept = np.asarray(one) == 0
        got = edit(engine, strategy, one).images[0]
        want = np.asarray(tiny.picture()) / np.float32(255)
        assert np.array_equal(got[kept], want[kept])

    def test_a_map_of_zeros_is_refused(self, engine, strategy):
        with pytest.raises(InputError):
            edit(engine, strategy, flat(0.0))

    def test_pixels_of_strength_zero_are_untouched(self, engine, strategy):
        half = flat(0.0)
        half[:, 24:] = 0.7
        got = edit(engine, strategy, half).images[0]
        want = np.asarray(tiny.picture()) / np.float32(255)
        assert np.array_equal(got[:, :24], want[:, :24])
        assert not np.array_equal(got[:, 24:], want[:, 24:])

    def test_same_seed_same_pixels(self, engine, strategy):
        first, again = (edit(engine, strategy, flat(0.8)).images for _ in range(2))
        assert np.array_equal(first, again)

    def test_it_does_not_matter_what_else_is_in_the_batch(self, engine, strategy):
        """Rows of a larger batch are summed in other blocks: float32 rounding, then 8 bits."""
        request = {
            "image": tiny.picture(),
            "mask": tiny.box_mask(),
            "prompt": "a boat",
            "num_inference_steps": STEPS,
            "seed": 2,
            "output_type": "np",
        }
        alone = engine.edit(**request, strategy=strategy).images
        together = engine.compare(**request, strategies=tiny.STRATEGIES).results[strategy].images
        assert np.abs(alone - together).max() <= 1 / 255 + 1e-6

    def test_the_record_explains_itself(self, strategy):
        info = get_strategy(strategy)
        assert info.name == strategy
        assert info.description
        assert info.cost
        assert "\n" not in info.description
        assert all(help_text for _, help_text in info.options.values())

    def test_runs_under_every_scheduler(self, engine, strategy):
        ramp = np.tile(np.linspace(0, 1, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))
        for scheduler in list_schedulers():
            result = edit(engine, strategy, ramp, scheduler=scheduler, output_type="latent")
            assert result.latents.isfinite().all(), scheduler


@pytest.mark.parametrize("strategy", HOLDING)
@pytest.mark.parametrize("scheduler", list_schedulers())
def test_the_known_region_ends_as_the_original(engine, strategy, scheduler):
    """Under every scheduler, also those that throw composited latents away (UniPC, SASolver)."""
    binary = flat(0.0)
    binary[16:48, 16:48] = 1.0
    latents = edit(
        engine, strategy, binary, scheduler=scheduler, output_type="latent", strength=0.8
    ).latents
    kept = torch.ones(8, 8, dtype=torch.bool)
    margin = int(strategy == "inpaint9+blend")  # its blend grows the mask by one cell
    kept[2 - margin : 6 + margin, 2 - margin : 6 + margin] = False
    original = original_latents(engine)
    assert torch.equal(latents[:, :, kept], original[:, :, kept])
    assert (latents != original).any(dim=1)[0, ~kept].all()


@pytest.mark.parametrize("strategy", ["blend", "differential", "soft-blend"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_map_of_ones_is_plain_image_to_image(engine, strategy, strength):
    got = edit(engine, strategy, flat(1.0), strength=strength, output_type="latent")
    want = edit(engine, Strategy("plain", ()), flat(1.0), strength=strength, output_type="latent")
    # soft-blend takes the prediction apart and puts it together again: rounding.
    tolerance = 1e-4 if strategy == "soft-blend" else 0.0
    assert (got.latents - want.latents).abs().max() <= tolerance


def context(scheduler, steps, strength, values) -> StrategyContext:
    schedule = Schedule(fresh_scheduler(scheduler, tiny.modules()["scheduler"]), steps, strength)
    values = torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)
    x0 = torch.zeros(1, 4, 1, values.shape[-1])
    return StrategyContext(
        schedule=schedule,
        init_latents=x0,
        noise=torch.ones_like(x0),
        strength_map=values,
        network="base",
        masked_image_latents=lambda: x0,
        map_pixels=lambda: values,
    )


def release_steps(mode, values, *, scheduler="euler", steps=10, strength=1.0) -> list[int]:
    """The step from which on each position is free: the last one at whose start it was put on the
    original's trajectory, or for ``legacy`` the one after.
    """
    made = context(scheduler, steps, strength, values)
    part = DifferentialDiffusion(strength_mode=mode)
    state = part.prepare(made)
    marker = torch.full_like(made.init_latents, 123.0)
    released = [0] * len(values)
    for step in made.schedule.steps:
        if step.starts:
            held = (part.before_step(state, marker, step) != 123.0)[0, 0, 0]
            for i, here in enumerate(held.tolist()):
                if here:
                    released[i] = step.position + (mode == "legacy")
    never = (part.after_step(state, marker, made.schedule.steps[-1]) != 123.0)[0, 0, 0]
    return [
        made.schedule.num_steps if end else at
        for at, end in zip(released, never.tolist(), strict=True)
    ]


VALUES = [0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 1.0]


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_relative_strength_is_a_share_of_the_run():
    # e = 0.25 wants 2.5 of 10 steps and gets 2: e >= 1 - k/10 first holds at k = 8.
    assert release_steps("relative", VALUES) == [10, 9, 8, 7, 5, 3, 1, 0]
    assert release_steps("relative", VALUES, steps=10, strength=0.6) == [6, 6, 5, 5, 3, 2, 1, 0]


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_absolute_strength_is_the_smaller_of_both():
    assert release_steps("absolute", VALUES) == [10, 9, 8, 7, 5, 3, 1, 0]
    # At strength .6 a pixel of .5 still gets 5 of 10 steps, and all above .6 get the 6 there are.
    assert release_steps("absolute", VALUES, strength=0.6) == [6, 5, 4, 3, 1, 0, 0, 0]


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_legacy_is_the_papers_rule():
    """x is held where keep > i/N, with N before truncation (field: exx8/differential-diffusion)."""
    for steps, strength in ((10, 1.0), (50, 0.6)):
        n = int(steps * strength)
        want = []
        for value in VALUES:
            keep = 1 - value
            free = [i for i in range(n) if not keep > i / steps + 1e-9]
            want.append(free[0] if free else n)
        assert release_steps("legacy", VALUES, steps=steps, strength=strength) == want


def the_papers_loop(engine, strength_map, *, scheduler, steps, strength):
    """Algorithm 1 of Differential Diffusion as its authors' code runs it: at the start of step i
    the latents are the noised original wherever ``keep > i / N``, wholly so at step 0."""
    backbone = engine.backbone
    own = fresh_scheduler(scheduler, engine.pipe.scheduler)
    own.set_timesteps(steps)
    begin = steps - int(steps * strength)
    timesteps = own.timesteps[begin:]
    if hasattr(own, "set_begin_index"):
        own.set_begin_index(begin)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        x0 = original_latents(engine)
        noise = torch.randn(x0.shape, generator=generator)
        keep = 1 - torch.from_numpy(strength_map)[None, None, ::8, ::8]
        cond, uncond = backbone.encode_prompt("a red house", None, guided=True, size=Size(64, 64))
        rows = Conditioning.join([uncond, cond])
        # All levels from a scheduler that has not started: later add_noise ignores its timestep.
        other = fresh_scheduler(scheduler, engine.pipe.scheduler)
        other.set_timesteps(steps)
        noised = [other.add_noise(x0, noise, t[None]) for t in timesteps]
        latents = noised[0]
        for i, t in enumerate(timesteps):
            held = (keep > i / steps + 1e-6).float()
            latents = noised[i] if i == 0 else noised[i] * held + latents * (1 - held)
            scaled = own.scale_model_input(torch.cat([latents] * 2), t)
            output = backbone.network("base").predict(scaled, t.expand(2), rows, {})
            first, second = output.chunk(2)
            prediction = first + 5.0 * (second - first)
            latents = own.step(prediction, t, latents, return_dict=False)[0]
    return latents, keep <= (len(timesteps) - 1) / steps


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
@pytest.mark.parametrize("scheduler", ["euler", "euler-karras", "ddim", "dpmpp-2m", "lms", "deis"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_legacy_equals_the_papers_loop(engine, scheduler, strength):
    """To the bit wherever a position is released (the others end clean in ours, noisy in theirs).

    The tolerance is for schedulers whose add_noise computes its level in another precision.
    """
    levels = np.repeat(np.repeat(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), 8, 0), 8, 1)
    want, released = the_papers_loop(
        engine, levels, scheduler=scheduler, steps=10, strength=strength
    )
    got = edit(
        engine,
        "differential",
        levels,
        strength_mode="legacy",
        scheduler=scheduler,
        strength=strength,
        num_inference_steps=10,
        output_type="latent",
    ).latents
    assert released.any()
    difference = (got - want).abs().masked_select(released)
    assert difference.max() <= 1e-5


@pytest.mark.parametrize("scheduler", list_schedulers())
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_strength_means_the_same_share_under_every_scheduler(scheduler, strength):
    """Within one step, also where a solver groups steps (DPM-Solver singlestep)."""
    values = [i / 40 for i in range(41)]
    steps = context(scheduler, 20, strength, values).schedule.num_steps
    got = release_steps("relative", values, scheduler=scheduler, steps=20, strength=strength)
    for value, released in zip(values, got, strict=True):
        assert abs(released - (1 - value) * steps) <= 1 + 1e-9


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "euler-trailing", "heun"])
def test_a_flat_map_is_a_run_of_that_strength(engine, scheduler):
    """To the bit, where the solver has no memory of the steps before."""
    arguments = {"scheduler": scheduler, "num_inference_steps": 8, "output_type": "latent"}
    flat_map = edit(engine, "differential", flat(0.5), **arguments).latents
    whole = edit(engine, "differential", flat(1.0), strength=0.5, **arguments).latents
    assert torch.equal(flat_map, whole)


def test_few_steps_warn_when_the_map_is_finer():
    made = context("lcm", 4, 1.0, [i / 20 for i in range(21)])
    with pytest.warns(FewStepsWarning, match="21 different strengths, 4 steps can tell 5 apart"):
        DifferentialDiffusion().prepare(made)


@pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
def test_dithering_mixes_the_two_nearest_levels_in_their_share():
    made = context("euler", 4, 1.0, [0.0])
    values = torch.linspace(0, 1, 17, dtype=torch.float64).repeat_interleave(16)
    strength_map = values.view(17, 4, 4).transpose(0, 1).reshape(1, 1, 4, 68)
    state = DifferentialDiffusion(dither=True).prepare(replace(made, strength_map=strength_map))
    tiles = state.release[0, 0].view(4, 17, 4).transpose(0, 1).reshape(17, 16).double()
    ideal = 4 * (1 - values[::16])
    assert (tiles[::4] == ideal[::4, None]).all()  # levels that the steps know stay whole
    assert torch.allclose(tiles.mean(1), ideal, atol=1e-9)


def test_a_hard_blend_repaints_wherever_the_map_is_positive(engine):
    ramp = np.tile(np.linspace(0, 1, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))
    arguments = {"prefill": "original", "output_type": "latent"}
    hard = edit(engine, "blend", ramp, hard_mask=True, **arguments).latents
    full = edit(engine, "blend", np.ceil(ramp), **arguments).latents
    soft = edit(engine, "blend", ramp, **arguments).latents
    assert torch.equal(hard, full)
    assert not torch.equal(hard, soft)


class TestComposition:
    def test_names_compose(self):
        built = create_strategy("inpaint9+differential", strength_mode="absolute")
        assert isinstance(built, Strategy)
        assert built.network == "inpaint"
        assert isinstance(built.parts[0], InpaintUNet)
        assert built.parts[1] == DifferentialDiffusion(strength_mode="absolute")

    def test_two_holders_are_refused_with_the_reason(self):
        with pytest.raises(InputError, match="both decide what holds the known region"):
            create_strategy("blend+differential")

    def test_two_networks_are_refused(self):
        class Base(Part):
            network = "base"

        with pytest.raises(InputError, match="parts for different networks"):
            Strategy("odd", (Base(), InpaintUNet()))

    def test_a_network_that_is_not_loaded_is_refused(self):
        engine = tiny.engine(inpaint=False)
        assert engine.strategies() == ["blend", "differential", "soft-blend", "think", "staged"]
        with pytest.raises(InputError, match="9-channel inpainting UNet, which is not loaded"):
            edit(engine, "inpaint9", flat(0.5))
        with pytest.raises(InputError, match="not loaded"):
            edit(engine, "staged", flat(0.5), stages="inpaint9,differential")


class TestSoftBlend:
    """The formulae of A1111's soft inpainting (field: modules/soft_inpainting.py)."""

    def test_the_weight_falls_with_the_noise(self):
        made = context("euler", 10, 1.0, [0.0, 0.5, 1.0])
        part = SoftBlend()
        state = part.prepare(made)
        ones = torch.ones_like(made.init_latents)
        first, last = made.schedule.steps[0], made.schedule.steps[-1]
        # The original is 0 here, so the mix's norm tells the weight: norm * m ** (1 / d).
        for step in (first, last):
            got = part.denoised(state, ones, ones, step)[0, :, 0]
            weight = 0.5 ** (step.level.sigma * 0.5)
            want = torch.tensor([0.0, weight ** (1 / 4), 1.0])
            assert torch.allclose(got, want.expand_as(got), atol=1e-4)

    def test_opposite_vectors_keep_the_mean_norm(self):
        first = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        second = first.flip(1)
        weight = torch.full((1, 1, 3, 3), 0.5)
        mixed = mix_keeping_norm(first, second, weight, 2.0)
        assert torch.allclose(mixed.norm(dim=1), first.norm(dim=1), atol=1e-4)
        assert torch.equal(mix_keeping_norm(first, second, torch.zeros(1, 1, 3, 3), 4.0), first)
        assert torch.equal(mix_keeping_norm(first, second, torch.ones(1, 1, 3, 3), 4.0), second)

    def test_the_paste_is_transparent_where_nothing_changed(self):
        made = context("euler", 10, 1.0, [1.0] * 12)
        part = SoftBlend()
        state = part.prepare(made)
        latents = made.init_latents.clone()
        latents[..., 6:] = 3.0
        alpha = part.paste_alpha(state, latents)[0, 0, 0]
        assert alpha[0] == 0
        assert alpha[-1] > 0.99
        assert (alpha.diff() >= 0).all()

    @pytest.mark.parametrize(
        "options", [{"power": 0}, {"scale": -1}, {"detail": 0.5}, {"threshold": float("nan")}]
    )
    def test_bad_options(self, options):
        with pytest.raises(InputError, match="must be a finite number"):
            create_strategy("soft-blend", **options)


class TestStaged:
    def test_stages_follow_one_another_in_the_loop(self, engine):
        half = flat(0.0)
        half[:, 24:] = 1.0
        result = edit(engine, "staged", half, output_type="latent")
        assert result.model_calls == STEPS + STEPS // 2
        # By hand: the second stage continues from the first one's latents.
        generator = torch.Generator().manual_seed(2)
        first = edit(engine, "blend", half, seed=None, generator=generator, output_type="latent")
        second = engine.edit(
            image=first.latents,
            strength_map=half,
            prompt="a red house",
            num_inference_steps=STEPS,
            strength=0.5,
            generator=generator,
            output_type="latent",
        )
        assert torch.equal(result.latents, second.latents)

    def test_a_small_first_stage(self, engine):
        half = flat(0.0)
        half[16:48, 16:48] = 1.0
        seen = []
        result = edit(
            engine,
            "staged",
            half,
            stages="blend,blend,differential",
            strengths=(1.0, 0.6, 0.3),
            scales="0.5,0.5,1",
            callback=lambda shot: seen.append(tuple(shot.latents.shape[-2:])),
        )
        assert seen == [(4, 4)] * 6 + [(8, 8)]
        want = np.asarray(tiny.picture()) / np.float32(255)
        assert np.array_equal(result.images[0][half == 0], want[half == 0])
        assert result.settings["options"]["scales"] == "0.5,0.5,1.0"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stages": "blend"}, "1 stages, but 2 strengths"),
            ({"stages": "blend,nonsense"}, "unknown strategy 'nonsense'"),
            ({"stages": "blend,staged"}, "cannot be staged itself"),
            ({"strengths": "1,0"}, "above 0"),
            ({"strengths": "1,half"}, "numbers with commas"),
            ({"scales": "1,0.5"}, "last stage must run at scale 1"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(InputError, match=message):
            create_strategy("staged", **options)

    def test_it_does_not_compose(self):
        with pytest.raises(InputError, match="compose its stages"):
            create_strategy("inpaint9+staged")


class TestRemove:
    def test_it_fills_and_redraws_in_part(self, engine):
        hole = np.asarray(tiny.box_mask()) / np.float32(255)
        done = edit(engine, "remove", hole, num_inference_steps=20)
        assert done.model_calls == 4  # .2 of 20
        assert done.settings["prefilled"] == "patch"
        assert done.settings["options"] == {
            "stage": "inpaint9",
            "redraw": 0.2,
            "guidance": 0.25,
            "fill": "background",
        }
        same = edit(
            engine,
            "inpaint9",
            hole,
            num_inference_steps=20,
            strength=0.2,
            prefill="patch",
            guidance_scale=2,  # a quarter of the way from 1 to 5
        )
        assert np.array_equal(done.images, same.images)

    def test_its_share_of_the_guidance(self, engine):
        hole = np.asarray(tiny.box_mask()) / np.float32(255)
        done = {
            share: edit(engine, "remove", hole, num_inference_steps=20, guidance=share)
            for share in (0, 1)
        }
        plain = edit(engine, "remove", hole, num_inference_steps=20, guidance_scale=1)
        assert np.array_equal(done[0].images, plain.images)
        assert not np.array_equal(done[0].images, done[1].images)

    def test_the_pocket_model_fills_with_its_gan(self):
        scene = open_suite("pocket", first_seed=1_200_006, size=128).cases("removal", 1)[0]
        done = InpaintEngine.from_pretrained(device="cpu").edit(
            image=scene.image,
            mask=scene.strength_map,
            prompt=scene.prompt,
            strategy="remove",
            num_inference_steps=4,
        )
        assert done.settings["prefilled"] == "gan"

    def test_options_and_an_edits_own_fill(self, engine):
        hole = np.asarray(tiny.box_mask()) / np.float32(255)
        how = {"stage": "differential", "redraw": 0.5}
        done = edit(engine, "remove", hole, prefill="neutral", **how)
        assert done.settings["prefilled"] == "neutral"
        assert done.model_calls == STEPS // 2
        assert edit(engine, "remove", hole, fill="ns", **how).settings["prefilled"] == "ns"

    def test_it_runs_where_it_is_named(self, engine):
        assert "remove" in list_strategies()
        assert "remove" not in engine.strategies()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stage": "staged"}, "cannot be staged itself"),
            ({"redraw": 0}, "above 0"),
            ({"redraw": "half"}, "above 0"),
            ({"guidance": 1.5}, "from 0 to 1"),
            ({"guidance": "half"}, "from 0 to 1"),
            ({"fill": "patsh"}, "patch"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(InputError, match=message):
            create_strategy("remove", **options)

    def test_nothing_comes_in_its_place(self):
        """Of two balloons taken from an evening sky, a whole run makes suns. The scenes are picked
        for that: which is nearer to the truth in the mean, only hundreds of scenes tell.
        """
        engine = InpaintEngine.from_pretrained(device="cpu")
        seeds = (1_200_006, 1_200_011)
        suites = [open_suite("pocket", first_seed=seed, size=128) for seed in seeds]
        cases = [suite.cases("removal", 1)[0] for suite in suites]
        errors = {}
        for name in ("inpaint9", "remove"):
            results = engine.edit_many(
                [
                    {
                        "image": case.image,
                        "mask": case.strength_map,
                        "prompt": case.prompt,
                        "strategy": name,
                        "num_inference_steps": 12,
                        "seed": 6,
                    }
                    for case in cases
                ]
            ).unwrap()
            errors[name] = np.mean(
                [
                    colour_inside(np.asarray(each.images[0]), case.truth, case.strength_map > 0)
                    for each, case in zip(results, cases, strict=True)
                    if case.truth is not None
                ]
            )
        assert errors["remove"] < errors["inpaint9"] / 2


class TestExpand:
    @pytest.mark.parametrize("strategy", [*tiny.STRATEGIES, "inpaint9+blend"])
    def test_the_canvas_grows_and_the_picture_stays(self, engine, strategy):
        result = engine.edit(
            image=tiny.picture(),
            expand=(13, 0, 8, 5),
            prompt="a boat",
            strategy=strategy,
            num_inference_steps=2,
            seed=0,
        )
        got = np.asarray(result.images[0])
        assert got.shape == (64 + 5, 64 + 13 + 8, 3)
        assert np.array_equal(got[:64, 13 : 13 + 64], np.asarray(tiny.picture()))
        assert got[:, :9].std() > 0

    def test_the_new_canvas_goes_on_from_the_border(self):
        """A slope is levelled out under the fade, which is twice as wide as elsewhere."""
        slope = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
        under = underlay(np.pad(slope, ((0, 0), (8, 8), (0, 0)), mode="symmetric"), (8, 0, 8, 0))
        assert (under[:, :8] == 0).all()
        assert (under[:, -8:] == 190).all()
        assert np.array_equal(under[:, 8:-8], slope)
        strength_map = np.ones((16, 36), np.float32)
        strength_map[:, 8:28] = 0
        request = EditRequest(image="", mask="", prompt="", expand=(8, 0, 8, 0), feather=4)
        assert np.array_equal(
            fade_opacity(strength_map, under, request), paste_alpha(strength_map, 8)
        )

    def test_together_with_a_mask(self, engine):
        mask = np.asarray(tiny.box_mask())
        result = engine.edit(
            image=tiny.picture(),
            mask=mask,
            expand=(0, 16, 0, 0),
            prompt="a boat",
            num_inference_steps=2,
            seed=0,
        )
        got, want = np.asarray(result.images[0])[16:], np.asarray(tiny.picture())
        assert np.array_equal(got[mask == 0], want[mask == 0])
        assert not np.array_equal(got[mask > 0], want[mask > 0])

    @pytest.mark.parametrize(
        "expand", [(1, 2, 3), (0, 0, 0, 0), (-1, 0, 0, 0), "8", (0.5, 0, 0, 0)]
    )
    def test_bad_values(self, engine, expand):
        with pytest.raises(InputError, match="expand"):
            engine.edit(image=tiny.picture(), prompt="a boat", expand=expand)


def test_a_run_split_in_two_equals_the_whole(engine):
    """denoising_end leaves noisy latents, denoising_start continues from them."""
    box = np.zeros((64, 64), np.float32)
    box[16:48, 16:48] = 1
    whole = edit(engine, "blend", box, output_type="latent")
    first = edit(engine, "blend", box, output_type="latent", denoising_end=0.5)
    second = edit(
        engine, "blend", box, output_type="latent", denoising_start=0.5, latents=first.latents
    )
    assert first.model_calls + second.model_calls == whole.model_calls
    assert torch.allclose(second.latents, whole.latents, atol=1e-5)


class TestRegistry:
    def test_unknown_name_lists_the_nearest(self):
        with pytest.raises(UnknownNameError, match=r"Did you mean 'differential'\? Known: blend"):
            get_strategy("diferential")

    def test_unknown_option(self):
        with pytest.raises(UnknownNameError, match="strength_mode"):
            create_strategy("differential", strenght_mode="relative")

    def test_a_refused_value_says_what_is_accepted(self):
        with pytest.raises(InputError, match="relative, absolute, legacy"):
            create_strategy("differential", strength_mode="half")

    def test_an_option_that_hides_an_argument_of_edit_is_an_error(self):
        def build(mask: str = "soft") -> LatentBlend:
            return LatentBlend(hard_mask=mask == "hard")

        with pytest.raises(InputError, match="has an option 'mask'"):
            registry.register(StrategyInfo("hiding", "x", "y", build))
