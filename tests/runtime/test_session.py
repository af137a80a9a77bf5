"""Work that is left out because it cannot change a pixel: skipped = full, retuned = full."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from controls import Control
from engine import CancelledError, InputError, SoftpaintWarning
from engine.solvers.names import fresh_scheduler, list_schedulers
from engine.solvers.schedule import Schedule
from tests.kit import tiny, tiny_controls

STEPS = 10


def count_rows(engine, monkeypatch) -> list[int]:
    """Batch sizes of the base network's forwards."""
    unet, rows = engine.pipe.unet, []
    forward = unet.forward

    def counted(sample, *args, **kwargs):
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", counted)
    return rows


def ramp(low: float, high: float) -> np.ndarray:
    """A map from ``low`` on the left to ``high`` on the right."""
    return np.tile(np.linspace(low, high, tiny.SIZE, dtype=np.float32), (tiny.SIZE, 1))


def edit(engine, **changes):
    generator = torch.Generator().manual_seed(3)
    settings = {
        "image": tiny.picture(),
        "prompt": "a red house",
        "num_inference_steps": STEPS,
        "generator": generator,
        "output_type": "latent",
        **changes,
    }
    return engine.edit(**settings), generator.get_state()


@pytest.mark.parametrize("name", list_schedulers())
class TestLeadingSkip:
    def test_skipped_is_full(self, engine, name):
        arguments = {"strength_map": ramp(0.1, 0.5), "scheduler": name}
        full, drawn = edit(engine, skip=False, **arguments)
        quick, drawn_too = edit(engine, **arguments)
        assert torch.equal(quick.latents, full.latents)
        assert torch.equal(drawn, drawn_too)
        # Freed at step 6: 4 of 10 calls. Histories take one more (order 2) or three (order 4);
        # Heun's kind makes two calls a step, but for the last.
        calls = dict.fromkeys(("heun", "kdpm2", "kdpm2-a", "lms", "pndm"), 7)
        calls |= dict.fromkeys(("deis", "unipc", "sa-solver"), 5)
        assert quick.model_calls == calls.get(name, 5 if name.startswith("dpmpp-2m") else 4)
        assert full.model_calls == len(schedule_of(engine, name))


def schedule_of(engine, name):
    return Schedule(fresh_scheduler(name, engine.pipe.scheduler), STEPS)


def test_the_callback_sees_what_is_computed(engine):
    seen = []
    arguments = {"strength_map": ramp(0.0, 0.5), "callback": lambda shot: seen.append(shot.index)}
    edit(engine, **arguments)
    assert seen == [6, 7, 8, 9]
    seen.clear()
    edit(engine, skip=False, **arguments)
    assert seen == list(range(10))


def test_nothing_is_skipped_where_a_pixel_is_free_from_the_start(engine):
    result, _ = edit(engine, strength_map=ramp(0.5, 1.1).clip(0, 1))
    assert result.model_calls == STEPS


def test_a_second_stage_skips_too(engine):
    halves = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    halves[:, tiny.SIZE // 2 :] = 0.5
    arguments = {"strength_map": halves, "strategy": "staged"}
    full, _ = edit(engine, skip=False, **arguments)
    quick, _ = edit(engine, **arguments)
    assert full.model_calls == 15
    assert quick.model_calls == 12  # the second stage's five steps: freed at 3
    assert torch.equal(quick.latents, full.latents)


# --- sessions ------------------------------------------------------------------------------------


def patch(strength: float, background: np.ndarray, left: int = 8) -> np.ndarray:
    """``background`` with a square of ``strength`` painted into it."""
    changed = background.copy()
    changed[16:32, left : left + 16] = strength
    return changed


def session_for(engine, **changes):
    settings = {
        "image": tiny.picture(),
        "prompt": "a red house",
        "num_inference_steps": STEPS,
        "seed": 3,
        "output_type": "latent",
        **changes,
    }
    return engine.session(**settings), settings


@pytest.mark.parametrize("name", list_schedulers())
def test_retuned_is_full(engine, name):
    session, settings = session_for(engine, scheduler=name)
    before = ramp(0.0, 1.0)
    after = patch(0.4, before)  # where the map was from .1 to .4
    session.render(strength_map=before)
    retuned = session.render(strength_map=after)
    full = engine.edit(**settings, strength_map=after)
    assert torch.equal(retuned.latents, full.latents)
    left_out = retuned.reused_calls + retuned.skipped_calls
    assert retuned.model_calls + left_out == full.model_calls + full.skipped_calls
    assert retuned.model_calls <= 0.4 * full.model_calls + 1
    # And back: the first render is still known to its end.
    again = session.render(strength_map=before)
    assert again.model_calls == 0
    assert torch.equal(again.latents, engine.edit(**settings, strength_map=before).latents)


@pytest.mark.parametrize("strategy", ["blend", "soft-blend", "inpaint9", "inpaint9+differential"])
def test_every_strategy_retunes_to_its_full_run(engine, strategy):
    session, settings = session_for(engine, strategy=strategy)
    session.render(strength_map=ramp(0.0, 1.0))
    after = patch(0.3, ramp(0.0, 1.0))
    retuned = session.render(strength_map=after)
    assert torch.equal(retuned.latents, engine.edit(**settings, strength_map=after).latents)


def test_a_staged_edit_retunes_both_stages(engine):
    halves = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    halves[:, tiny.SIZE // 2 :] = 1
    session, settings = session_for(engine, strategy="staged", num_inference_steps=20)
    session.render(strength_map=halves)
    assert session.render(strength_map=halves).model_calls == 0
    after = patch(1.0, halves)
    retuned = session.render(strength_map=after)
    assert torch.equal(retuned.latents, engine.edit(**settings, strength_map=after).latents)


def test_a_skipped_run_is_gone_on_from_and_fallen_short_of(engine):
    """The first render leaves out held steps; the second needs earlier ones, the third later."""
    session, settings = session_for(engine, scheduler="dpmpp-2m-sde")
    for strength, calls in ((0.5, 6), (0.8, 9), (0.6, 7), (0.5, 0)):
        changed = np.full((tiny.SIZE, tiny.SIZE), 0.2, np.float32)
        changed[:, 32:] = strength
        result = session.render(strength_map=changed)
        assert torch.equal(result.latents, engine.edit(**settings, strength_map=changed).latents)
        assert result.model_calls == calls
        assert result.model_calls + result.skipped_calls + result.reused_calls == STEPS


def test_later_changes_cost_what_comes_after_them(engine):
    net = tiny_controls.controlnet(engine.backbone.network("base").unet)
    session, settings = session_for(engine, strength_map=ramp(0.2, 1.0))

    def rendered(calls, **changes):
        result = session.render(**changes)
        assert torch.equal(result.latents, engine.edit(**settings | changes).latents)
        assert result.model_calls == calls

    control = partial(Control, net, tiny.picture(seed=2), start=0.7)
    rendered(9)
    rendered(9, guidance_scale=3.0)
    rendered(4, guidance_end=0.6)
    rendered(3, guidance_end=0.9, controls=control())
    rendered(1, controls=control(end=0.9))
    rendered(1, controls=control())
    rendered(0, controls=control())
    rendered(9, prompt="a boat")
    rendered(9, seed=4)


def test_what_is_done_to_the_finished_picture_costs_no_step(engine, monkeypatch):
    session, settings = session_for(engine, mask=tiny.box_mask(), output_type="np")
    session.render()
    for part in ("encode", "decode"):
        monkeypatch.setattr(engine.pipe.vae, part, None)
    result = session.render(feather=9.0)
    assert result.model_calls == 0
    monkeypatch.undo()
    assert np.array_equal(result.images, engine.edit(**settings, feather=9.0).images)


def test_a_cancelled_render_counts_for_its_steps(engine):
    session, settings = session_for(engine, mask=tiny.box_mask())
    with pytest.raises(CancelledError):
        session.render(callback=lambda shot: shot.index < 5)
    result = session.render()
    assert result.model_calls == STEPS - 6
    assert torch.equal(result.latents, engine.edit(**settings).latents)


def test_memory_is_bounded_and_stated(engine):
    session, _ = session_for(engine, scheduler="dpmpp-2m", mask=tiny.box_mask())
    session.render()
    latents = 4 * 8 * 8 * 4
    assert 3 * latents <= session.bytes_per_step <= 3 * latents + 1000  # result and two outputs
    one = session.cached_bytes
    session.max_bytes = int(2.5 * one)
    for seed in range(5):
        session.render(seed=seed)
    assert session.cached_bytes <= 2.5 * one
    assert session.render(seed=4).model_calls == 0
    assert session.render(seed=0).model_calls == STEPS
    session.max_bytes = one // 2
    with pytest.warns(UserWarning, match="nothing is kept"):
        session.render(seed=9)
    assert session.cached_bytes == 0


def test_the_callers_generator_is_not_advanced(engine):
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    session, _ = session_for(engine, seed=None, generator=generator, mask=tiny.box_mask())
    first = session.render(scheduler="euler-a")
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(session.render(scheduler="euler-a").latents, first.latents)


def test_new_weights_are_noticed(engine):
    session, _ = session_for(engine, mask=tiny.box_mask())
    first = session.render()
    weight = engine.pipe.unet.conv_out.weight
    with torch.no_grad():
        weight *= 2
    try:
        # The 9-channel network beside it stays as it was, and that is said.
        with pytest.warns(SoftpaintWarning, match="changed in place"):
            second = session.render()
        assert second.model_calls == STEPS
        assert not torch.equal(second.latents, first.latents)
    finally:
        with torch.no_grad():
            weight /= 2
        with pytest.warns(SoftpaintWarning, match="changed in place"):
            engine.backbone.fingerprint()


def test_several_pictures_are_retuned_one_by_one(engine):
    session, settings = session_for(engine, num_images=2, strength_map=ramp(0.0, 1.0))
    session.render()
    after = patch(0.4, ramp(0.0, 1.0))
    result = session.render(strength_map=after)
    assert result.model_calls == 6
    assert result.reused_calls + result.skipped_calls == 14
    full = engine.edit(**{**settings, "strength_map": after})
    assert torch.equal(result.latents, full.latents)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ({"compat": "diffusers"}, {}, "own mode"),
        ({}, {"compat": "diffusers"}, "own mode"),
        ({"max_bytes": -1}, {}, "max_bytes"),
        ({}, {}, "mask"),
        ({}, {"strenght": 1}, "strength"),
    ],
)
def test_bad_sessions(engine, arguments, changes, message):
    with pytest.raises(InputError, match=message):
        session_for(engine, **arguments)[0].render(**changes)


# --- text ----------------------------------------------------------------------------------------


def test_a_prompt_is_encoded_once(engine):
    engine.clear_cache()
    forwards = []
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(engine.pipe, name)
        encoder.register_forward_hook(lambda *_, name=name: forwards.append(name))
    request = {"image": tiny.picture(), "mask": tiny.box_mask(), "num_inference_steps": 1}
    engine.edit(**request, prompt="a tent")
    once = len(forwards)
    assert once
    engine.edit(**request, prompt="a tent", seed=9)
    assert len(forwards) == once
    with torch.no_grad():
        engine.pipe.text_encoder.get_input_embeddings().weight.mul_(1.0)
    engine.edit(**request, prompt="a tent")
    assert len(forwards) == 2 * once
    engine.clear_cache()
    engine.edit(**request, prompt="a tent")
    assert len(forwards) == 3 * once


def test_guidance_outside_its_interval_computes_one_branch(engine, monkeypatch):
    rows = count_rows(engine, monkeypatch)
    edit(engine, mask=tiny.box_mask(), guidance_start=0.2, guidance_end=0.5)
    assert rows == [1, 1, 2, 2, 2, 1, 1, 1, 1, 1]
    with pytest.raises(InputError, match="interval"):
        edit(engine, mask=tiny.box_mask(), guidance_end=0.5, compat="diffusers")
    with pytest.raises(InputError, match="guidance_start"):
        edit(engine, mask=tiny.box_mask(), guidance_start=0.6, guidance_end=0.5)


def test_threads_take_turns(engine):
    session = engine.session(
        image=tiny.picture(), mask=tiny.box_mask(), prompt="a", seed=3, num_inference_steps=4
    )
    alone = session.render().images[0].tobytes()
    session.clear()
    with ThreadPoolExecutor(3) as pool:
        strengths = [1.0, 0.5, 1.0, 0.5, 1.0]
        made = [*pool.map(lambda each: session.render(strength=each), strengths)]
    assert [each.images[0].tobytes() == alone for each in made] == [each == 1 for each in strengths]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 3}, "here it is called num_inference_steps"),
        ({"max_bytes": "1G"}, "max_bytes must be a whole number"),
        ({"max_bytes": -1}, "max_bytes must be at least 0"),
        ({"store": "nowhere"}, "unknown device 'nowhere'"),
    ],
)
def test_a_session_is_refused_where_it_is_opened(engine, given, said):
    arguments = {"image": tiny.picture(), "prompt": "a house", **given}
    with pytest.raises(InputError, match=said):
        engine.session(**arguments)


def test_a_session_needs_a_picture(engine):
    with pytest.raises(InputError, match="image is missing"):
        engine.session(prompt="a house")


def test_what_is_no_request_is_named(engine):
    with pytest.raises(InputError, match="a runtime takes EditRequests, not dict"):
        engine.runtime().add({"image": "photo.png"})
    with pytest.raises(InputError, match="max_running must be at least 1"):
        engine.runtime(max_running=0)
    with pytest.raises(InputError, match="beside takes another InpaintEngine, not str"):
        engine.beside("texture", "pocket")
