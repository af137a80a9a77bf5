"""A map from what an instruction changes, with models that edit: proposed, edited, rendered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine import InpaintEngine, InputError
from engine.edit.map_sources import Redrawn, drift_of, map_of_change
from engine.picture.geometry import Size
from tests.kit import tiny
from tests.kit.families import TINY

RUN = {"prompt": "a", "num_inference_steps": 3, "guidance_scale": 1.0, "seed": 2}


@pytest.fixture(scope="module", params=["flux-kontext", "flux2", "qwen-image-edit"])
def model(request):
    return InpaintEngine.from_pipe(TINY[request.param]())


def test_drift_is_no_change_and_a_change_is_where_it_is():
    """A picture of 96 x 80 px, scaled by two for the model and padded below."""
    draws = torch.Generator().manual_seed(0)
    before = torch.randn(1, 16, 24, 24, generator=draws)
    after = before + 0.2 + 0.05 * torch.randn(before.shape, generator=draws)
    after[..., 4:12, 6:14] += 1.5
    pixels = np.zeros((80, 96, 3), np.uint8)
    pixels[16:48, 24:56] = 200  # the thing that was made
    redrawn = Redrawn(
        before,
        after,
        original=np.zeros_like(pixels),
        made=pixels,
        size=Size(192, 192),
        shown=Size(192, 160),
    )
    truth = pixels[..., 0] > 0
    soft = map_of_change(redrawn, refine=False)
    assert soft.shape == (80, 96)
    assert soft[20:44, 28:52].min() > 0.5
    assert soft[:, 70:].max() < 0.1
    assert drift_of(redrawn, truth.astype(np.float32)) == 0
    darker = replace(redrawn, original=np.full_like(pixels, 20))
    assert 1 < drift_of(darker, truth.astype(np.float32)) < 10
    found = map_of_change(redrawn) > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_what_was_drawn_is_rendered_again_from_its_trace(model):
    session = model.session(image=tiny.picture(), **RUN)
    proposed = session.map_from_change(refine=False)
    assert proposed.shape == (tiny.SIZE, tiny.SIZE)
    assert proposed.min() == 0
    assert proposed.max() == pytest.approx(1, abs=0.05)
    assert session.drift > 0
    edited = proposed.copy()
    edited[:, : tiny.SIZE // 2] = 0
    again = session.render(strength_map=edited)
    assert (again.model_calls, again.reused_calls) == (0, 3)
    whole = {"strategy": "whole", "region": "full", "prefill": "original", "instruct": True}
    alone = model.edit(image=tiny.picture(), strength_map=edited, **RUN, **whole)
    pixels = np.asarray(again.images[0])
    assert np.array_equal(pixels, np.asarray(alone.images[0]))
    kept = edited == 0
    assert np.array_equal(pixels[kept], np.asarray(tiny.picture())[kept])


def test_without_a_session_it_is_the_same_map():
    model = InpaintEngine.from_pipe(TINY["flux-kontext"]())
    found = model.map_from("change", image=tiny.picture(), prompt="a", seed=2)
    session = model.session(image=tiny.picture(), prompt="a", seed=2)
    assert np.array_equal(found, session.map_from_change())


def test_a_frames_drift_is_taken_away_inside_the_map_too(monkeypatch):
    """All of the frame comes back 13 levels too light, as it may from models that edit."""
    model = InpaintEngine.from_pipe(TINY["flux-kontext"]())
    rows, columns = np.mgrid[: tiny.SIZE, : tiny.SIZE]
    pixels = np.stack([90 + rows, 80 + columns, np.full_like(rows, 120)], axis=-1).astype(np.uint8)
    drifted = torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 127.5 - 1 + 0.1
    monkeypatch.setattr(type(model.backbone), "decode", lambda *_, **__: drifted)
    off = {}
    for colour in ("field", "none"):
        run: dict[str, Any] = {**RUN, "image": pixels, "mask": tiny.box_mask(), "colour": colour}
        made = model.edit(**run, strategy="whole", instruct=True, region="full")
        error = np.abs(np.asarray(made.images[0], np.float64) - pixels)
        inside = np.asarray(tiny.box_mask()) > 0
        assert error[~inside].max() == 0
        off[colour] = error[inside].mean()
    assert off["none"] > 8
    assert off["field"] < off["none"] / 4


def test_others_are_told_what_is_seen_now(engine):
    with pytest.raises(InputError, match="for others was says what is seen"):
        engine.session(image=tiny.picture(), prompt="a").map_from_change()
