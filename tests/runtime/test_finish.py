"""What happens to decoded pixels: what a low strength keeps, grain, frames beside new canvas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.kit import tiny


def edited(engine, **changes):
    settings = {
        "image": tiny.picture(),
        "prompt": "a red house",
        "num_inference_steps": 10,
        "guidance_scale": 1.0,
        "seed": 3,
    }
    return np.asarray(engine.edit(**{**settings, **changes}).images[0]).astype(float)


def hole():
    mask = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    mask[16:48, 16:48] = 1
    return mask


@pytest.mark.filterwarnings("ignore:the strength map is weak")
def test_a_low_strength_keeps_as_much_as_a_map_of_it(engine):
    """What the VAE loses is given back under both; the tiny one loses nearly all."""
    picture = np.asarray(tiny.picture()).astype(float)
    inside = hole() > 0
    by_strength, by_map = (
        np.abs(edited(engine, **how) - picture)[inside].mean()
        for how in ({"mask": hole(), "strength": 0.1}, {"strength_map": hole() * np.float32(0.1)})
    )
    assert by_strength <= 1.25 * by_map + 0.5
    full = np.abs(edited(engine, mask=hole()) - picture)[inside].mean()
    assert by_strength < 0.5 * full


@pytest.mark.parametrize(("strength", "steps", "told"), [(0.05, 10, True), (0.1, 10, False)])
def test_less_than_a_step_is_told(engine, strength, steps, told, recwarn):
    edited(engine, mask=hole(), strength=strength, num_inference_steps=steps)
    assert any("less than one step" in str(each.message) for each in recwarn) == told


@pytest.mark.filterwarnings("always:a run of 1")
@pytest.mark.parametrize(
    ("steps", "scheduler", "told"),
    [(1, "euler", True), (1, "euler-trailing", False), (2, "euler", False)],
)
def test_a_run_that_begins_where_nothing_can_be_drawn_is_told(
    engine, steps, scheduler, told, recwarn
):
    edited(engine, mask=hole(), num_inference_steps=steps, scheduler=scheduler)
    assert any("begins at the top" in str(each.message) for each in recwarn) == told


@pytest.mark.parametrize("kind", ["mask", "strength_map"])
def test_nothing_but_new_canvas_is_repainted_under_an_empty_map(engine, kind):
    picture = np.asarray(tiny.picture())
    grown = {"expand": (16, 0, 0, 0), "num_inference_steps": 2}
    result = edited(engine, **{kind: np.zeros((tiny.SIZE, tiny.SIZE), np.float32)}, **grown)
    np.testing.assert_array_equal(result[:, 16:], picture)
    np.testing.assert_array_equal(result, edited(engine, **grown))


def smooth():
    """A grey ramp of 128 px and the same with noise."""
    ramp = np.linspace(80, 170, 128)[None, :, None].repeat(128, 0).repeat(3, 2)
    noise = np.random.default_rng(0).normal(0, 8, ramp.shape)
    return [
        Image.fromarray(each.round().clip(0, 255).astype(np.uint8)) for each in (ramp, ramp + noise)
    ]


def test_grain_is_matched_from_the_seed_and_is_off_by_default(pocket):
    mask = np.zeros((128, 128), np.float32)
    mask[40:88, 40:88] = 1
    inside = np.s_[48:80, 48:80]
    clean, grainy = smooth()

    def run(image, **changes):
        return edited(pocket, image=image, mask=mask, num_inference_steps=2, **changes)

    plain, matched = run(grainy), run(grainy, grain="match")
    added = (matched - plain)[inside].std(axis=(0, 1))
    np.testing.assert_allclose(added, 8, rtol=0.2)  # the edit's own, which is taken off, is below 3
    np.testing.assert_array_equal(matched, run(grainy, grain="match"))
    np.testing.assert_array_equal(matched[mask == 0], np.asarray(grainy)[mask == 0])
    np.testing.assert_array_equal(run(clean, grain="match"), run(clean))


def test_a_frame_beside_new_canvas_is_told_of(engine):
    framed = np.asarray(tiny.picture()).copy()
    framed[:, :2] = 255
    grown = {"image": Image.fromarray(framed), "num_inference_steps": 1, "expand": (16, 0, 0, 0)}
    with pytest.warns(UserWarning, match="a frame of 2 px"):
        result = edited(engine, **grown)
    np.testing.assert_array_equal(result[:, 16:], framed)
    mask = np.zeros((tiny.SIZE, tiny.SIZE), np.float32)
    mask[:, :4] = 1
    edited(engine, **grown, mask=mask)  # repainted: nothing to tell


class TestLastTouches:
    """A runtime whose model waits for no picture: its ticket's outcome makes it, in any thread."""

    ARGUMENTS: ClassVar[dict[str, object]] = {
        "image": tiny.picture(),
        "strength_map": hole(),
        "prompt": "a red house",
        "num_inference_steps": 2,
        "seed": 3,
    }

    def left(self, engine):
        runtime = engine.runtime(touches=False)
        ticket = runtime.add(engine.read(self.ARGUMENTS))
        while runtime.busy:
            runtime.step()
        assert ticket.state == "finished"
        assert ticket.result is None
        return ticket

    def test_they_give_the_same_picture(self, engine):
        ticket = self.left(engine)
        with ThreadPoolExecutor(1) as beside:
            made = beside.submit(ticket.outcome).result()
        assert ticket.outcome() is made
        want = engine.edit(**self.ARGUMENTS, progress=False)
        assert np.array_equal(np.asarray(made.images[0]), np.asarray(want.images[0]))
        assert made.settings == want.settings

    def test_what_fails_there_is_the_tickets_error(self, engine, monkeypatch):
        ticket = self.left(engine)
        monkeypatch.setattr("engine.edit.after.stitch", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                ticket.outcome()
        assert ticket.state == "failed"
