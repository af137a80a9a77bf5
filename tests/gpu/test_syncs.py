"""Between the first step and the last the host waits for nothing that the device computes.

A wait costs a step the time that the host takes to queue it, for the device stands idle then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from controls import Control
from engine.request.request import EditRequest
from engine.runtime.contest import Contest
from engine.solvers.names import list_schedulers
from tests.kit.devices import CUDA, box, hard, on_device, soft
from tests.kit.pocket_edits import RAMP_PICTURE, TWO

pytestmark = on_device

STEPS = 8
EDITS = {
    "blend": hard(strategy="blend"),
    "blend, unguided": hard(strategy="blend", guidance_scale=1.0),
    "differential": soft(strategy="differential"),
    "differential, unguided": soft(strategy="differential", guidance_scale=1.0),
    "guided in part": soft(guidance_start=0.2, guidance_end=0.6, guidance_rescale=0.5),
    "soft-blend": soft(strategy="soft-blend"),
    "inpaint9": hard(strategy="inpaint9"),
    "inpaint9+differential": soft(strategy="inpaint9+differential"),
    "think": hard(strategy="think"),
    "think+differential": soft(strategy="think+differential"),
    "erase": hard(strategy="erase", prompt=""),
    "canny": hard(controls="canny"),
    "canny, its window": hard(controls=Control("canny", start=0.3, end=0.7)),
    "canny, masked": hard(controls=Control("canny", mask=box(0, 0, 64, 128))),
    "two controls": hard(controls=["canny", Control("depth", image=RAMP_PICTURE)]),
    "guess mode": hard(controls="canny", guess_mode=True),
    "regions": hard(mask=None, regions=TWO),
    "regions by latents": hard(mask=None, regions=TWO, coupling="latents"),
    "two seeds": hard(num_images=2),
    "weighted prompt": hard(prompt="a (red house:1.4) by the sea"),
}
SCHEDULERS = list_schedulers()


@contextmanager
def no_waits() -> Iterator[None]:
    """Whatever waits for the device raises; on a CPU nothing can tell."""
    if not CUDA:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def stepped(engine: Any, *several: dict[str, Any], first: int = 1) -> None:
    """Edits in one runtime, of whose steps all but the ``first`` ones and the last wait for none.
    The first one encodes.
    """
    runtime = engine.runtime()
    tickets = [
        runtime.add(EditRequest(**{**each, "num_inference_steps": STEPS})) for each in several
    ]
    for _ in range(first):
        runtime.step()
    while runtime.busy:
        done, total = tickets[0].progress
        inner = total - done > len(tickets[0].jobs)
        if inner:
            with no_waits():
                runtime.step()
        else:
            runtime.step()
    for ticket in tickets:
        ticket.outcome()


def test_waits_are_noticed_at_all():
    if not CUDA:
        pytest.skip("a CPU waits for nobody")
    with no_waits(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device="cuda").item()


@pytest.mark.parametrize("name", EDITS)
def test_a_step_waits_for_nothing(half, name):
    stepped(half, EDITS[name])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_schedulers_step_waits_for_nothing(half, scheduler):
    """Those that draw noise at each step (euler-a, dpmpp-2m-sde) draw on the CPU, for a seed is to
    mean the same picture everywhere; to bring it over they need not wait either.
    """
    stepped(half, soft(scheduler=scheduler))


def test_shared_calls_wait_for_nothing(half):
    stepped(half, hard(seed=1), soft(seed=2, prompt="a boat"), hard(seed=3, strategy="blend"))


@pytest.mark.parametrize("name", ["blend", "differential", "regions"])
def test_a_flow_models_step_waits_for_nothing(flows, name):
    stepped(flows["half"], EDITS[name])


def test_a_recorded_step_waits_for_nothing(half):
    """A session keeps every step's latents."""
    session = half.session(**soft(num_inference_steps=STEPS))
    request = session.request({})
    runtime = half.runtime()
    ticket = runtime.add(request, session.memory)
    runtime.step()
    for _ in range(STEPS - 2):
        with no_waits():
            runtime.step()
    while not ticket.left:
        runtime.step()
    session.memory.keep()
    ticket.outcome()


def test_candidates_wait_only_to_be_judged(half):
    """Looking at them is a decode, after the step: the steps themselves wait for nothing."""
    runtime = half.runtime()
    contest = Contest(runtime, EditRequest(**hard(candidates=3, num_inference_steps=10)))
    runtime.step()
    contest.advance()
    while not contest.left:
        last = any(
            ticket.progress.total - ticket.progress.done <= 1
            for ticket in contest.tickets
            if not (ticket.left or ticket.held)
        )
        if last:
            runtime.step()
        else:
            with no_waits():
                runtime.step()
        contest.advance()
    assert len(contest.outcome().images) == 1
