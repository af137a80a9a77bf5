"""The laws of the engine on the device: the same pixels for less work, and each edit for itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import CancelledError, InpaintEngine, InputError
from engine.request.request import EditRequest
from tests.kit.devices import (
    DEVICE,
    HALF,
    SIZE,
    hard,
    on_device,
    pixels,
    psnr,
    ramp,
    repainted,
    soft,
)

pytestmark = on_device

SAME = 5e-4
"""How far float32 latents (values up to 5) of shared calls may be off solo ones: libraries choose
other kernels for other numbers of rows, and six guided steps multiply their last bits by a hundred.
"""
SEVERAL = {
    "blend": hard(strategy="blend"),
    "differential": soft(strategy="differential", seed=4),
    "think": hard(strategy="think", seed=5),
    "fewer steps": hard(num_inference_steps=4, seed=6, guidance_scale=3.0),
    "inpaint9": hard(strategy="inpaint9", seed=7),
    "canny": hard(controls="canny", seed=8),
    "another prompt": hard(prompt="a white boat on the sea at night", seed=9),
}


def latents(result) -> torch.Tensor:
    found: torch.Tensor = result.latents.float().cpu()
    return found


@pytest.fixture(scope="module")
def alone(single):
    return {name: single.edit(**each) for name, each in SEVERAL.items()}


@pytest.fixture(scope="module")
def together(single):
    results = single.edit_many(list(SEVERAL.values())).unwrap()
    return dict(zip(SEVERAL, results, strict=True))


@pytest.mark.parametrize("name", SEVERAL)
def test_batched_is_solo(alone, together, name):
    torch.testing.assert_close(latents(together[name]), latents(alone[name]), atol=SAME, rtol=SAME)


def test_batched_is_solo_in_half_precision(half):
    """To what half precision is off float32, see ``test_half.py``."""
    several = [hard(seed=seed) for seed in range(4)]
    together = half.edit_many(several).unwrap()
    for got, each in zip(together, several, strict=True):
        assert psnr(got, half.edit(**each), repainted(each)) > 40


def test_same_bits_are_the_same_bits():
    """With an option that calls the network for each row by itself."""
    engine = InpaintEngine.from_pretrained(device=DEVICE, dtype=HALF).optimise("same-bits")
    several = [hard(seed=seed) for seed in range(3)]
    together = engine.edit_many(several).unwrap()
    for got, each in zip(together, several, strict=True):
        assert torch.equal(latents(got), latents(engine.edit(**each)))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("kind", ["single", "half"])
def test_an_edit_again_is_the_same_to_the_bit(request, kind, name):
    engine = request.getfixturevalue(kind)
    one, other = engine.edit(**SEVERAL[name]), engine.edit(**SEVERAL[name])
    assert torch.equal(latents(one), latents(other))


def test_what_is_encoded_again_is_the_same_to_the_bit(half):
    one = half.edit(**hard())
    half.clear_cache()
    assert torch.equal(latents(one), latents(half.edit(**hard())))


@pytest.mark.parametrize("strategy", ["blend", "differential", "soft-blend", "think+differential"])
@pytest.mark.parametrize("scheduler", ["euler", "dpmpp-2m", "euler-a", "unipc"])
def test_skipped_is_full(half, strategy, scheduler):
    settings = soft(strategy=strategy, scheduler=scheduler, strength_map=ramp() / 2)
    quick, full = half.edit(**settings), half.edit(**settings, skip=False)
    assert torch.equal(latents(quick), latents(full))


class TestASession:
    @pytest.fixture
    def changed(self):
        """A map that differs from the ramp where that is weak."""
        return np.where(ramp() <= 0.4, 0.4 - ramp(), ramp()).astype(np.float32)

    @pytest.mark.parametrize("store", [None, "cpu"])
    @pytest.mark.parametrize("scheduler", ["euler", "dpmpp-2m", "euler-a", "unipc"])
    def test_retuned_is_full(self, half, changed, store, scheduler):
        settings = soft(scheduler=scheduler, num_inference_steps=10)
        session = half.session(**settings, store=store)
        session.render()
        retuned = session.render(strength_map=changed)
        full = half.edit(**{**settings, "strength_map": changed})
        assert torch.equal(latents(retuned), latents(full))

    def test_spares_steps(self, half, changed):
        session = half.session(**soft(num_inference_steps=10))
        session.render()
        assert session.render(strength_map=changed).reused_calls > 0

    def test_finishes_anew_without_a_step(self, half):
        session = half.session(**soft())
        session.render()
        assert session.render(feather=9).model_calls == 0


def test_several_seeds_are_their_single_edits(single):
    pair = single.edit(**hard(num_images=2, seed=3)).latents
    for number, seed in enumerate((3, 4)):
        own = latents(single.edit(**hard(seed=seed)))
        got = pair[number : number + 1].float().cpu()
        torch.testing.assert_close(got, own, atol=SAME, rtol=SAME)


class TestWhatFailsFailsAlone:
    def test_a_bad_request(self, single, alone):
        outcomes = single.edit_many([SEVERAL["blend"], hard(strategy="nonsense")])
        assert isinstance(outcomes[1], InputError)
        torch.testing.assert_close(
            latents(outcomes[0]), latents(alone["blend"]), atol=SAME, rtol=SAME
        )

    def test_one_that_its_callback_cancels(self, single, alone):
        ended = hard(callback=lambda shot: shot.index < 2)
        outcomes = single.edit_many([SEVERAL["blend"], ended])
        assert isinstance(outcomes[1], CancelledError)
        torch.testing.assert_close(
            latents(outcomes[0]), latents(alone["blend"]), atol=SAME, rtol=SAME
        )

    def test_one_that_is_aborted(self, single, alone):
        runtime = single.runtime()
        kept, ended = (
            runtime.add(EditRequest(**each)) for each in (SEVERAL["blend"], hard(seed=5))
        )
        runtime.step()
        runtime.step()
        runtime.abort(ended)
        while not kept.left:
            runtime.step()
        torch.testing.assert_close(
            latents(kept.outcome()), latents(alone["blend"]), atol=SAME, rtol=SAME
        )


def test_one_that_comes_later_shares_calls(single, alone):
    runtime = single.runtime()
    first = runtime.add(EditRequest(**hard(seed=5)))
    runtime.step()
    late = runtime.add(EditRequest(**SEVERAL["blend"]))
    while not (first.left and late.left):
        runtime.step()
    torch.testing.assert_close(
        latents(late.outcome()), latents(alone["blend"]), atol=SAME, rtol=SAME
    )


def test_a_runtime_may_finish_in_another_thread(single, alone):
    """The service's way: the last touches are no work of the model."""
    from concurrent.futures import ThreadPoolExecutor

    runtime = single.runtime(touches=False)
    ticket = runtime.add(EditRequest(**SEVERAL["blend"]))
    while not ticket.left:
        runtime.step()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(ticket.outcome).result()
    assert np.array_equal(pixels(result), pixels(alone["blend"]))


def test_the_model_may_run_in_another_thread(single, alone):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(lambda: single.edit(**SEVERAL["blend"])).result()
    assert np.array_equal(pixels(result), pixels(alone["blend"]))


def test_a_map_of_zeros_is_refused(half):
    with pytest.raises(InputError):
        half.edit(**soft(strength_map=np.zeros((SIZE, SIZE), np.float32)))
