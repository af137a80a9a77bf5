"""A control's mask: outside it, an edit is what it is without the control."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controls import Control
from engine import CancelledError
from engine.denoise.loop import Loop
from engine.denoise.strategy import Stage, StagedStrategy, Strategy
from engine.request.request import EditRequest
from engine.solvers.names import list_schedulers
from strategies import create_strategy
from tests.kit import tiny, tiny_controls
from tests.kit.jobs import jobs_of

LEFT = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
LEFT[:, :24] = 1.0
IN, OUT = (..., slice(0, 3)), (..., slice(3, None))
"""The latents under ``LEFT``, and the others."""
ROUNDING = 5e-4
"""Latents of runs that share a call with other rows, as in test_loop: to the bit they are those of
the companion in the same call, and no run without the control has a companion."""


def edited(engine, controls=None, **changes):
    return tiny.edited(engine, controls=controls, **changes)


def canny(net, mask=LEFT, seed=11, **changes):
    return Control(net, tiny.picture(seed=seed), mask=mask, **changes)


def job_for(engine, *controls, strategy="blend", **changes):
    request = EditRequest(
        image=tiny.picture(),
        strength_map=np.ones((tiny.SIZE, tiny.SIZE), np.float32),
        strategy=strategy,
        controls=controls,
        **{"prompt": "a red house", "num_inference_steps": 4, "seed": 1, **changes},
    )
    (job,) = jobs_of(engine, request)
    return job


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=ROUNDING, rtol=ROUNDING)


def changes_its_half_only(masked: torch.Tensor, plain: torch.Tensor) -> bool:
    assert masked.shape == plain.shape
    return close(masked[OUT], plain[OUT]) and bool((masked[IN] - plain[IN]).abs().max() > 0.01)


@pytest.mark.parametrize("scheduler", list_schedulers())
def test_the_other_half_stays_under_every_scheduler(engine, net, scheduler):
    plain = edited(engine, scheduler=scheduler).latents
    masked = edited(engine, [canny(net)], scheduler=scheduler).latents
    assert changes_its_half_only(masked, plain)


@pytest.mark.parametrize("strategy", [*tiny.STRATEGIES, "inpaint9+differential"])
def test_the_other_half_stays_under_every_strategy(engine, net, strategy):
    plain = edited(engine, strategy=strategy, scheduler="euler-a").latents
    masked = edited(engine, [canny(net)], strategy=strategy, scheduler="euler-a").latents
    assert changes_its_half_only(masked, plain)


def test_a_companion_follows_its_own_chain_of_stages(engine, net):
    first, second = (create_strategy(name) for name in ("blend", "soft-blend"))
    assert isinstance(first, Strategy)
    assert isinstance(second, Strategy)
    small_first = StagedStrategy("small first", (Stage(first, scale=0.5), Stage(second, 0.5)))
    mask = np.zeros_like(LEFT)
    mask[:, :32] = 1  # whole cells, at half the size too
    run = {"strategy": small_first, "scheduler": "euler-a"}
    plain = edited(engine, **run).latents
    masked = edited(engine, [canny(net, mask)], **run).latents
    assert close(masked[..., 4:], plain[..., 4:])
    assert (masked - plain)[..., :4].abs().max() > 0.01


def test_to_the_bit_it_is_the_companion(engine, net):
    job = job_for(engine, canny(net))
    loop = Loop()
    loop.submit([job])
    loop.run()
    companion, own = job.latents
    assert torch.equal(own[OUT], companion[OUT])
    assert not torch.equal(own[IN], companion[IN])


@pytest.mark.parametrize(("region", "zoom"), [("full", 1.0), ("mask", 1.0), ("mask", 2.0)])
def test_in_a_cut_out(engine, net, region, zoom):
    hole = np.zeros((192, 192), np.float32)
    hole[40:88, 48:96] = 1
    half = np.zeros_like(hole)
    half[:, :72] = 1
    scene = {"image": tiny.picture(192), "mask": hole, "strength_map": None, "native_size": 128}
    run = {**scene, "region": region, "zoom": zoom, "output_type": "np"}
    plain = edited(engine, **run)
    masked = edited(engine, [Control(net, tiny.picture(192, seed=11), mask=half)], **run)
    assert masked.settings["regions"] == plain.settings["regions"]
    left, _, right, _, width, _ = masked.settings["regions"][0]
    edge = (72 - left) * width / (right - left) / 8
    assert edge == int(edge)
    out, inside = (..., slice(int(edge), None)), (..., slice(0, int(edge)))
    assert close(masked.latents[out], plain.latents[out])
    assert (masked.latents[inside] - plain.latents[inside]).abs().max() > 0.01
    assert masked.model_calls == 2 * plain.model_calls


def test_of_two_each_leaves_alone_what_is_outside_its_own_mask(engine, net):
    first, second = canny(net), canny(net, LEFT.T, seed=12, scale=0.8)
    rows, columns = (..., slice(3, None), slice(None)), OUT
    plain, one, two = (edited(engine, controls) for controls in ([], [first], [first, second]))
    assert two.model_calls == 3 * plain.model_calls
    assert close(two.latents[rows], one.latents[rows])
    assert (two.latents - one.latents)[..., :3, :].abs().max() > 0.01
    neither = (..., slice(3, None), slice(3, None))
    assert close(two.latents[neither], plain.latents[neither])
    assert not close(two.latents[columns], plain.latents[columns])


def test_a_control_without_a_mask_stands_beside_it(engine, net):
    """It acts on the companion too: the far half is that of the edit with it alone."""
    everywhere = canny(net, None, seed=12)
    plain = edited(engine, [everywhere]).latents
    for controls in ([everywhere, canny(net)], [canny(net), everywhere]):
        assert changes_its_half_only(edited(engine, controls).latents, plain)


def test_with_a_window_guess_mode_and_an_interval_of_guidance(engine, net):
    """Rows are left alone in calls of one and of two branches, by networks of either kind."""
    union = tiny_controls.union(engine.backbone.network("base").unet)
    pooled = tiny_controls.controlnet(
        engine.backbone.network("base").unet, 5, global_pool_conditions=True
    )
    run = {"guidance_end": 0.5, "num_images": 2}
    plain = edited(engine, **run).latents
    for each, mode in ((net, None), (union, 3), (pooled, None)):
        for guess_mode in (False, True):
            control = canny(each, end=0.75, mode=mode)
            masked = edited(engine, [control], guess_mode=guess_mode, **run).latents
            assert changes_its_half_only(masked, plain)


def test_pictures_of_a_batch_equal_their_single_runs(engine, net):
    several = edited(engine, [canny(net)], num_images=2, seed=5, scheduler="euler-a").latents
    single = edited(engine, [canny(net)], seed=6, scheduler="euler-a").latents
    assert close(several[1:], single)


def test_it_continues_latents_that_are_given(engine, net):
    noisy = edited(engine, denoising_end=0.5).latents
    run = {"latents": noisy, "denoising_start": 0.5}
    plain = edited(engine, **run).latents
    assert changes_its_half_only(edited(engine, [canny(net)], **run).latents, plain)


def test_the_callers_generator_advances_as_without_it(engine, net):
    drawn = []
    for controls in (None, [canny(net)]):
        generator = torch.Generator().manual_seed(4)
        edited(engine, controls, generator=generator, seed=None, scheduler="euler-a")
        drawn.append(generator.get_state())
    assert torch.equal(*drawn)


# --- what it costs -------------------------------------------------------------------------------


def test_not_exact_is_the_masked_residuals_alone(engine, net):
    plain = edited(engine)
    loose = edited(engine, [canny(net, exact=False)])
    assert loose.model_calls == plain.model_calls
    assert not close(loose.latents[OUT], plain.latents[OUT])
    assert [each["exact"] for each in loose.settings["controls"]] == [False]


@pytest.mark.parametrize("exact", [False, True])
def test_residuals_are_exactly_zero_beyond_the_mask(engine, net, exact):
    """At every resolution; where a feature straddles the edge, it counts by area. A companion's
    are zero everywhere.
    """
    whole = job_for(engine, canny(net, None)).question().parts[0].residuals
    masked = job_for(engine, canny(net, exact=exact)).question().parts[0].residuals
    for key in ("down_block_additional_residuals", "mid_block_additional_residual"):
        ours, theirs = (
            value[key] if isinstance(value[key], tuple) else (value[key],)
            for value in (masked, whole)
        )
        for rows, b in zip(ours, theirs, strict=True):
            companions, a = rows.unflatten(0, (2, -1)).tensor_split([int(exact)], dim=1)
            assert not companions.any()
            a = a.flatten(0, 1)
            edge = 24 * a.shape[-1] / tiny.SIZE
            assert not a[..., int(np.ceil(edge)) :].any()
            inside = int(edge)
            assert torch.equal(a[..., :inside], b[..., :inside])
            if inside < edge:
                assert torch.allclose(a[..., inside], b[..., inside] * (edge - inside))


def test_a_mask_over_all_that_is_repainted_has_no_companion(engine, net):
    """Outside what is repainted there is nothing to hold."""
    half = {"strength_map": LEFT * 0.7}
    exact = edited(engine, [canny(net)], **half)
    loose = edited(engine, [canny(net, exact=False)], **half)
    assert exact.model_calls == loose.model_calls == edited(engine, **half).model_calls
    assert torch.equal(exact.latents, loose.latents)


@pytest.mark.parametrize(
    "control",
    [{"mask": 1 - LEFT}, {"scale": 0.0}, {"scale": [0.0, 0.0]}],
    ids=["beside the edit", "scale 0", "a curve of zeros"],
)
def test_what_can_change_nothing_is_not_computed(engine, net, control, monkeypatch):
    half = {"strength_map": LEFT}
    plain = edited(engine, **half)
    monkeypatch.setattr(net, "forward", None)
    masked = edited(engine, [canny(net, **control)], **half)
    assert masked.model_calls == plain.model_calls
    assert torch.equal(masked.latents, plain.latents)


def test_the_edge_of_an_expanded_picture_costs_nothing(engine, net):
    """The control image ends there; nobody has asked for the new canvas to be as without it."""
    run = {"strength_map": None, "expand": (32, 0, 0, 0)}
    steered = edited(engine, [canny(net, None)], **run)
    assert steered.model_calls == edited(engine, **run).model_calls


# --- beside the loop -----------------------------------------------------------------------------


def test_the_callback_is_shown_the_picture_and_cancels_both(engine, net):
    shots = []

    def look(shot):
        shots.append(shot)
        return shot.index < 1

    masked = edited(engine, [canny(net)], callback=shots.append).latents
    assert [shot.index for shot in shots] == [0, 1, 2, 3]
    assert torch.equal(shots[-1].latents, masked)
    shots.clear()
    with pytest.raises(CancelledError):
        edited(engine, [canny(net)], callback=look)
    assert [shot.index for shot in shots] == [0, 1]


def test_a_broken_control_is_the_edits_error(engine, net, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(net, "forward", fail)
    with pytest.raises(RuntimeError, match="broken"):
        edited(engine, [canny(net)])


def test_skipped_is_full(engine, net):
    low = np.full((tiny.SIZE, tiny.SIZE), 0.5, np.float32)
    run = {"strength_map": low, "num_inference_steps": 8, "scheduler": "dpmpp-2m-sde"}
    full = edited(engine, [canny(net)], skip=False, **run)
    quick = edited(engine, [canny(net)], **run)
    assert torch.equal(quick.latents, full.latents)
    assert (quick.model_calls, quick.skipped_calls, full.model_calls) == (10, 6, 16)


@pytest.mark.parametrize("scheduler", ["euler-a", "dpmpp-2m-sde", "heun"])
def test_a_session_retunes_it_to_the_bit(engine, net, scheduler):
    settings = {
        "image": tiny.picture(),
        "prompt": "a red house",
        "strength_map": np.ones((tiny.SIZE, tiny.SIZE), np.float32),
        "num_inference_steps": 6,
        "scheduler": scheduler,
        "seed": 2,
        "output_type": "latent",
    }
    session = engine.session(**settings)
    held = settings["strength_map"].copy()
    held[:, 40:] = 0.5
    full = session.render(controls=[canny(net)]).model_calls
    for changes, most in (
        ({"controls": [canny(net)]}, 0),
        ({"controls": [canny(net, end=0.5)]}, 0.6),
        ({"controls": [canny(net)], "strength_map": held}, 1),
        ({"controls": [canny(net, start=0.5)], "strength_map": held}, 1),
        ({"controls": [canny(net, start=0.5, scale=0.5)], "strength_map": held}, 0.6),
        ({"strength_map": held}, 1),
    ):
        retuned = session.render(**changes)
        assert torch.equal(retuned.latents, engine.edit(**settings | changes).latents)
        assert retuned.model_calls <= most * full
