"""The loop: shared calls, admission, cancellation, failures; on tiny real models."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch

from engine import CancelledError
from engine.denoise.loop import Loop
from engine.denoise.question import add_residuals, join_residuals
from engine.errors import MemoryLimitError
from engine.request.request import EditRequest
from engine.solvers.names import fresh_scheduler
from tests.kit import tiny
from tests.kit.jobs import jobs_of


def jobs_for(engine, *names, **changes):
    request = EditRequest(
        image=tiny.picture(),
        mask=tiny.box_mask(),
        **{"prompt": "a red house", "num_inference_steps": 4, "seed": 1, **changes},
    )
    return jobs_of(engine, request, names)


def solo(engine, name, **changes):
    (job,) = jobs_for(engine, name, **changes)
    loop = Loop()
    loop.submit([job])
    loop.run()
    assert job.error is None
    return job.latents


def count_calls(engine, monkeypatch):
    """Batch sizes of the base network's forwards."""
    unet, sizes = engine.backbone.network("base").unet, []
    forward = unet.forward

    def counted(sample, *args, **kwargs):
        sizes.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", counted)
    return sizes


# Rows of one batch go through the same matrix products in other blocks: float32 rounding of
# activations of order 10, over a few steps.
TOLERANCE = 5e-4


def test_jobs_with_different_schedules_share_one_call(engine, monkeypatch):
    first = jobs_for(engine, "blend", scheduler="euler", num_inference_steps=4)
    second = jobs_for(engine, "differential", scheduler="heun", num_inference_steps=3, strength=0.7)
    third = jobs_for(engine, "blend", scheduler="dpmpp-2m-karras", prompt="a boat", seed=9)
    alone = [
        solo(engine, "blend", scheduler="euler", num_inference_steps=4),
        solo(engine, "differential", scheduler="heun", num_inference_steps=3, strength=0.7),
        solo(engine, "blend", scheduler="dpmpp-2m-karras", prompt="a boat", seed=9),
    ]
    sizes = count_calls(engine, monkeypatch)
    loop = Loop()
    loop.submit([*first, *second, *third])
    loop.run()
    assert sizes == [6, 6, 6, 4]  # 4, 3 and 4 calls of 2 rows each, together
    for job, want in zip([*first, *second, *third], alone, strict=True):
        assert torch.allclose(job.latents, want, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_job_enters_while_others_run(engine):
    (first,) = jobs_for(engine, "blend")
    (second,) = jobs_for(engine, "differential", prompt="a tree")
    loop = Loop()
    loop.submit([first])
    loop.step()
    loop.step()
    loop.submit([second])
    loop.run()
    assert loop.calls == 6
    assert torch.allclose(first.latents, solo(engine, "blend"), atol=TOLERANCE)
    want = solo(engine, "differential", prompt="a tree")
    assert torch.allclose(second.latents, want, atol=TOLERANCE)


def test_networks_of_other_channels_get_their_own_call(engine, monkeypatch):
    sizes = count_calls(engine, monkeypatch)
    loop = Loop()
    loop.submit(jobs_for(engine, "blend", "inpaint9"))
    loop.run()
    assert sizes == [2, 2, 2, 2]
    assert loop.calls == 8


def test_guided_and_unguided_jobs_share(engine, monkeypatch):
    sizes = count_calls(engine, monkeypatch)
    loop = Loop()
    loop.submit(
        [*jobs_for(engine, "blend"), *jobs_for(engine, "blend", guidance_scale=1.0, seed=2)]
    )
    loop.run()
    assert sizes == [3] * 4


def test_the_limit_splits_a_batch_in_order(engine, monkeypatch):
    sizes = count_calls(engine, monkeypatch)
    jobs = jobs_for(engine, "blend", num_images=5)
    loop = Loop(max_cells=4 * 64)
    loop.submit(jobs)
    loop.step()
    assert [job.index for job in jobs] == [1, 1, 0, 0, 0]
    loop.run()
    assert sizes == [4] * 8 + [2] * 4


def test_places_go_to_who_came_first(engine):
    """A job that fits is not let past one that does not yet: it would wait for ever."""
    (long,) = jobs_for(engine, "blend", num_inference_steps=4)
    (short,) = jobs_for(engine, "blend", num_inference_steps=2)
    (guided,) = jobs_for(engine, "blend", num_inference_steps=3)
    (small,) = jobs_for(engine, "blend", num_inference_steps=1, guidance_scale=1.0)
    (other,) = jobs_for(engine, "inpaint9", num_inference_steps=1)
    loop, left = Loop(max_cells=5 * 64), []
    loop.submit([long, short, guided, small, other])
    while loop.active:
        loop.step()
        left.append([job.index for job in (long, short, guided, small, other)])
    assert left == [
        [1, 1, 0, 0, 1],
        [2, 2, 0, 0, 1],
        [3, 2, 1, 1, 1],
        [4, 2, 2, 1, 1],
        [4, 2, 3, 1, 1],
    ]


def test_a_call_takes_what_memory_has_room_for(engine, monkeypatch):
    sizes = count_calls(engine, monkeypatch)
    network = engine.backbone.network("base")
    assert network.cells_at_hand() > 1e9  # a CPU's is not known
    for room, rows in ((4 * 64, 4), (1, 2)):  # a job alone is tried in any case
        monkeypatch.setattr(network, "cells_at_hand", lambda room=room: room)
        loop = Loop()
        loop.submit(jobs_for(engine, "blend", num_images=3))
        loop.step()
        assert sizes.pop() == rows


def test_free_memory_is_counted_in_latent_positions(engine, monkeypatch):
    network = engine.backbone.network("base")

    class OnCuda:
        device = torch.device("cuda")

        @staticmethod
        def element_size():
            return 2

    monkeypatch.setattr(network.unet, "parameters", lambda: iter([OnCuda()]))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000_000, 9_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 904_000)
    assert network.cells_at_hand() == 4_096_000 // (32 * 32 * 2)


def test_one_jobs_failure_leaves_the_others_alone(engine):
    class TroubleError(RuntimeError):
        pass

    def fail(snapshot):
        if snapshot.index == 1:
            raise TroubleError

    (good,) = jobs_for(engine, "blend")
    (bad,) = jobs_for(engine, "differential", callback=fail)
    loop = Loop()
    loop.submit([bad, good])
    loop.run()
    assert isinstance(bad.error, TroubleError)
    assert bad.index == 2
    assert good.error is None
    assert torch.allclose(good.latents, solo(engine, "blend"), atol=TOLERANCE)


def test_cancelling_from_the_callback(engine):
    seen = []

    def stop(snapshot):
        seen.append(snapshot)
        return snapshot.index < 1

    with pytest.raises(CancelledError, match="after step 2"):
        engine.edit(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            prompt="a boat",
            num_inference_steps=4,
            callback=stop,
        )
    assert [snapshot.index for snapshot in seen] == [0, 1]
    assert seen[0].total == 4
    assert not torch.equal(seen[0].latents, seen[1].latents)


def test_a_snapshot_cannot_reach_into_the_run(engine):
    want = solo(engine, "blend")
    (job,) = jobs_for(engine, "blend", callback=lambda snapshot: snapshot.latents.zero_())
    loop = Loop()
    loop.submit([job])
    loop.run()
    assert torch.equal(job.latents, want)


class FixedResiduals:
    """A control that adds constants to the UNet's features."""

    def __init__(self, unet, amount):
        self.amount = amount
        config = unet.config
        first, second = config.block_out_channels
        self.channels = (first, first, first, second)
        self.sides = (8, 8, 4, 4)

    def residuals(self, scaled, timesteps, conditioning, step):
        assert scaled.shape[1] == 4
        rows = scaled.shape[0]
        assert timesteps.shape == (rows,)
        down = tuple(
            torch.full((rows, c, s, s), self.amount)
            for c, s in zip(self.channels, self.sides, strict=True)
        )
        middle = torch.full((rows, self.channels[-1], 4, 4), self.amount)
        return {
            "down_block_additional_residuals": down,
            "mid_block_additional_residual": middle,
        }


def test_controls_change_their_own_job_only(engine):
    unet = engine.backbone.network("base").unet
    (plain,) = jobs_for(engine, "blend")
    (steered,) = jobs_for(engine, "blend")
    (twice,) = jobs_for(engine, "blend")
    (zero,) = jobs_for(engine, "blend")
    steered.controls = [FixedResiduals(unet, 0.5)]
    twice.controls = [FixedResiduals(unet, 0.25), FixedResiduals(unet, 0.25)]
    zero.controls = [FixedResiduals(unet, 0.0)]
    loop = Loop()
    loop.submit([plain, steered, twice, zero])
    loop.run()
    want = solo(engine, "blend")
    assert torch.allclose(plain.latents, want, atol=TOLERANCE)
    assert torch.allclose(zero.latents, want, atol=TOLERANCE)
    assert (steered.latents - want).abs().max() > 0.01
    assert torch.allclose(steered.latents, twice.latents, atol=TOLERANCE)


def test_residuals_add_and_join():
    one = {"mid": torch.ones(2, 3), "down": (torch.ones(2, 1),)}
    total = add_residuals([one, {}, one])
    assert torch.equal(total["mid"], torch.full((2, 3), 2.0))
    joined = join_residuals([one, {}], [2, 1])
    assert torch.equal(joined["mid"], torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3]))
    assert joined["down"][0].shape == (3, 1)


class Watched:
    """A network that notes the conditionings of its calls."""

    def __init__(self, network, seen):
        self.network, self.seen = network, seen

    def cells_at_hand(self):
        return self.network.cells_at_hand()

    def predict(self, sample, timesteps, conditioning, residuals):
        self.seen.append(conditioning)
        return self.network.predict(sample, timesteps, conditioning, residuals)


def test_the_conditioning_of_a_group_is_joined_once(engine):
    network = engine.backbone.network("base")
    seen: list = []
    jobs = jobs_for(engine, "blend", num_images=2)
    watched = Watched(network, seen)
    for job in jobs:
        job.network = watched
    loop = Loop()
    loop.submit(jobs)
    loop.run()
    assert len(seen) == 4
    assert all(conditioning is seen[0] for conditioning in seen)


def test_same_seed_same_pixels_and_images_equal_their_single_runs(engine):
    request = {
        "image": tiny.picture(),
        "mask": tiny.box_mask(),
        "prompt": "a red house",
        "num_inference_steps": 3,
        "output_type": "np",
    }
    several = engine.edit(**request, seed=5, num_images=2)
    again = engine.edit(**request, seed=5, num_images=2)
    assert several.seeds == [5, 6]
    assert np.array_equal(several.images, again.images)
    single = engine.edit(**request, seed=6)
    assert torch.allclose(several.latents[1:], single.latents, atol=TOLERANCE)
    assert dataclasses.is_dataclass(single)


class ScarceMemory:
    """A network that runs out of memory beyond so many rows, as CUDA does."""

    def __init__(self, network, rows):
        self.network, self.rows, self.sizes = network, rows, []

    def cells_at_hand(self):
        return self.network.cells_at_hand()

    def predict(self, sample, *others):
        self.sizes.append(len(sample))
        if len(sample) > self.rows:
            raise torch.OutOfMemoryError
        return self.network.predict(sample, *others)


def test_out_of_memory_splits_the_batch_and_remembers(engine):
    jobs = jobs_for(engine, "blend", num_images=3)
    unet = engine.backbone.network("base").unet
    jobs[1].controls = [FixedResiduals(unet, 0.5)]
    scarce = ScarceMemory(engine.backbone.network("base"), 3)
    for job in jobs:
        job.network = scarce
    loop = Loop()
    loop.submit(jobs)
    loop.run()
    # 6 rows fail, two halves fit; from then on a job of 2 rows at a time.
    assert scarce.sizes == [6, 3, 3, *[2] * 9]
    plain = [solo(engine, "blend", seed=seed) for seed in (1, 3)]
    for job, want in zip([jobs[0], jobs[2]], plain, strict=True):
        assert torch.allclose(job.latents, want, atol=TOLERANCE)
    assert (jobs[1].latents - solo(engine, "blend", seed=2)).abs().max() > 0.01


def test_a_picture_that_does_not_fit_at_all_says_what_helps(engine):
    (job,) = jobs_for(engine, "blend")
    job.network = ScarceMemory(engine.backbone.network("base"), 0)
    loop = Loop()
    loop.submit([job])
    loop.run()
    assert isinstance(job.error, MemoryLimitError)
    assert "optimise" in str(job.error)


def test_a_failing_model_call_is_one_jobs_own(engine):
    good, bad = jobs_for(engine, "blend"), jobs_for(engine, "blend", seed=2)
    wrong = FixedResiduals(engine.backbone.network("base").unet, 0.1)
    wrong.sides = (8, 8, 4, 3)
    bad[0].controls = [wrong]
    loop = Loop()
    loop.submit([*bad, *good])
    loop.run()
    assert isinstance(bad[0].error, RuntimeError)
    assert torch.allclose(good[0].latents, solo(engine, "blend"), atol=TOLERANCE)


def tensor_bytes() -> int:
    """Memory of all tensors that Python knows, what they share counted once."""
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if type(each) in {torch.Tensor, torch.nn.Parameter}:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_two_hundred_random_jobs(engine):
    """Random strategies, schedulers, steps, arrivals, cancellations and failures: every job that
    survives has its own run's result, and nothing is left behind."""
    engine.clear_cache()
    schedulers = ["euler", "ddim", "dpmpp-2m", "lcm"]
    for name in schedulers:  # one unused one of each kind is kept
        fresh_scheduler(name, engine.pipe.scheduler)
    before = tensor_bytes()
    rng = np.random.default_rng(5)
    names = ["blend", "differential", "soft-blend", "inpaint9", "staged"]
    asked: list[dict] = [
        {
            "strategy": names[rng.integers(len(names))],
            "num_inference_steps": int(rng.integers(1, 5)),
            "scheduler": schedulers[rng.integers(4)],
            "guidance_scale": [1.0, 5.0][rng.integers(2)],
            "seed": int(rng.integers(3)),
            "fate": ["", "", "cancel", "fail"][rng.integers(4)],
        }
        for _ in range(200)
    ]
    waiting, jobs, loop = list(asked), [], Loop(max_cells=32 * 64)
    alive: weakref.WeakSet = weakref.WeakSet()
    while waiting or loop.active:
        for _ in range(int(rng.integers(0, 12))):
            if waiting:
                edit = dict(waiting.pop(0))
                fate, strategy = edit.pop("fate"), edit.pop("strategy")
                made = jobs_for(engine, strategy, callback=FATES[fate], **edit)
                alive.update(made)
                loop.submit(made)
                jobs += made
        loop.step()
    alone: dict = {}
    for edit, job in zip(asked, jobs, strict=True):
        last = job.chain[-1]
        fate = edit.pop("fate")
        if fate:
            want = CancelledError if fate == "cancel" else ZeroDivisionError
            assert isinstance(job.error, want)
            continue
        key = tuple(edit.values())
        if key not in alone:
            name = edit.pop("strategy")
            (own,) = jobs_for(engine, name, **edit)
            single = Loop()
            single.submit([own])
            single.run()
            alone[key] = own.chain[-1].latents
        assert last.error is None
        assert torch.allclose(last.latents, alone[key], atol=TOLERANCE, rtol=TOLERANCE)
    assert not loop.active
    latents = max(job.latents.nbytes for job in jobs)
    del jobs, job, last, made, own, single, alone
    engine.clear_cache()
    assert tensor_bytes() - before < latents
    assert not alive, "the loop holds on to jobs that have left"


FATES = {"": None, "cancel": lambda _: False, "fail": lambda _: 1 / 0}
