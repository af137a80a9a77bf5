"""The runtime: who comes, who leaves, when, and what is left of them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from engine import CancelledError, InputError, MemoryLimitError
from engine.denoise.strategy import Strategy
from engine.request.request import EditRequest
from engine.runtime.core import Runtime, State
from engine.runtime.progress import run
from strategies import LatentBlend
from tests.kit import tiny


def request(**changes):
    return EditRequest(
        **{
            "image": tiny.picture(),
            "mask": tiny.box_mask(),
            "prompt": "a red house",
            "num_inference_steps": 4,
            "seed": 1,
            **changes,
        }
    )


class Broken(LatentBlend):
    """Fails in its second step."""

    def after_step(self, state, latents, step):
        if step.index == 1:
            raise LookupError("broken")
        return super().after_step(state, latents, step)


@pytest.fixture
def runtime(engine):
    return engine.runtime()


def drained(runtime):
    """The tickets that leave, step by step."""
    left = []
    while runtime.busy:
        left.append(runtime.step())
    return left


def counted(monkeypatch, owner, name):
    """The calls of one of an object's methods."""
    calls: list[str] = []
    method = getattr(owner, name)

    def watched(*arguments):
        calls.append(name)
        return method(*arguments)

    monkeypatch.setattr(owner, name, watched)
    return calls


def test_a_ticket_goes_through_its_states(runtime, engine):
    ticket = runtime.add(request())
    assert ticket.state == "queued"
    assert ticket.progress == (0, 4)
    with pytest.raises(RuntimeError, match="queued"):
        ticket.outcome()
    assert runtime.step() == []
    assert (ticket.state, ticket.progress) == (State.RUNNING, (1, 4))
    assert drained(runtime) == [[], [], [ticket]]
    assert (ticket.state, ticket.progress) == (State.FINISHED, (4, 4))
    alone = engine.edit(**vars_of(ticket.request))
    assert torch.equal(ticket.outcome().latents, alone.latents)
    assert np.array_equal(ticket.outcome().images[0], alone.images[0])
    assert ticket.outcome().settings == alone.settings


def vars_of(asked):
    return {k: v for k, v in vars(asked).items() if k != "options"}


def test_results_come_as_they_finish(runtime, monkeypatch):
    """The short edit is decoded and out while the long one, which came first, still runs."""
    decoded = counted(monkeypatch, runtime.backbone, "decode")
    long = runtime.add(request(num_inference_steps=6))
    short = runtime.add(request(num_inference_steps=2))
    assert [runtime.step(), runtime.step()] == [[], [short]]
    assert short.result is not None
    assert (len(decoded), long.state) == (1, State.RUNNING)
    late = runtime.add(request(num_inference_steps=2, seed=5))  # into the running loop
    assert drained(runtime) == [[], [late], [], [long]]


def test_two_tickets_share_calls_and_are_their_single_runs(runtime, engine):
    several = [request(seed=seed, strategy=name) for seed, name in enumerate(("blend", "staged"))]
    tickets = [runtime.add(each) for each in several]
    drained(runtime)
    for ticket, each in zip(tickets, several, strict=True):
        alone = engine.edit(**vars_of(each)).latents
        torch.testing.assert_close(ticket.outcome().latents, alone, atol=1e-4, rtol=1e-4)


def test_the_order_of_arrival_is_the_order_of_service(engine):
    runtime = engine.runtime(max_running=2)
    tickets = [runtime.add(request(num_inference_steps=2, seed=seed)) for seed in range(5)]
    runtime.step()
    assert [ticket.state for ticket in tickets] == ["running"] * 2 + ["queued"] * 3
    assert drained(runtime) == [tickets[:2], [], tickets[2:4], [], tickets[4:]]


class TestFailures:
    def test_bad_input_is_refused_at_the_door(self, runtime):
        for changes in (
            {"image": np.zeros((0, 4, 3), np.uint8)},
            {"strategy": "nonsense"},
            {"options": {"nonsense": 1}},
            {"controls": "nonsense"},
            {"ip_adapter_image": tiny.picture()},
            {"generator": [torch.Generator()] * 2, "seed": None},
        ):
            with pytest.raises(InputError):
                runtime.add(request(**changes))
        assert not runtime.busy

    def test_what_is_found_later_is_this_tickets_alone(self, runtime):
        wrong = {"latents": torch.zeros(1, 4, 3, 3), "denoising_start": 0.5}
        late = runtime.add(request(**wrong))
        good = runtime.add(request(num_inference_steps=2))
        broken = runtime.add(request(strategy=Strategy("broken", (Broken(),))))
        assert runtime.step() == [late]
        assert isinstance(late.error, InputError)
        assert runtime.step() == [good, broken]
        assert good.state is State.FINISHED
        assert broken.state is State.FAILED
        with pytest.raises(LookupError):
            broken.outcome()

    def test_one_bad_picture_ends_its_ticket(self, runtime):
        """The other pictures of the ticket leave the loop with it."""

        def cancel(shot):
            return shot.image != 1

        ticket = runtime.add(request(num_images=3, callback=cancel))
        assert drained(runtime) == [[ticket]]
        assert ticket.state is State.ABORTED
        assert isinstance(ticket.error, CancelledError)

    def test_a_decode_that_fails(self, runtime, monkeypatch):
        ticket = runtime.add(request(num_inference_steps=1))
        monkeypatch.setattr(runtime.backbone, "decode", lambda _: 1 / 0)
        assert runtime.step() == [ticket]
        assert isinstance(ticket.error, ZeroDivisionError)

    @pytest.mark.parametrize("act", ["encode_prompt", "encode", "decode"])
    def test_no_memory_beside_the_network(self, runtime, monkeypatch, act):
        """As torch says it of a CPU; the next edit is none the worse."""

        def fail(*_, **__):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

        with monkeypatch.context() as patch:
            patch.setattr(runtime.backbone, act, fail)
            ticket = runtime.add(request(num_inference_steps=1))
            assert runtime.step() == [ticket]
        with pytest.raises(MemoryLimitError, match="out of memory in an edit, outside"):
            ticket.outcome()
        other = runtime.add(request(num_inference_steps=1))
        assert runtime.step() == [other]
        assert other.state is State.FINISHED


class TestAbort:
    def test_it_ends_one_and_no_other(self, runtime):
        first, second = runtime.add(request()), runtime.add(request(seed=2))
        queued = runtime.add(request(seed=3))
        runtime.abort(queued)
        runtime.step()
        runtime.abort(first)
        runtime.abort(first)  # once more does nothing
        assert first.state is queued.state is State.ABORTED
        assert first.progress == (1, 4)
        assert drained(runtime)[-1] == [second]
        with pytest.raises(CancelledError):
            first.outcome()

    def test_a_callback_may_abort_another(self, runtime):
        first = runtime.add(request(seed=2))
        runtime.add(request(callback=lambda _: runtime.abort(first)))
        assert runtime.step() == [first]
        assert first.state is State.ABORTED

    @pytest.mark.parametrize("end", ["abort", "fail"])
    def test_its_memory_is_free_at_once(self, runtime, end):
        """Whoever holds the ticket: what is left of it is its request and its error."""
        drained_one = runtime.add(request(strategy="blend"))  # what the model remembers is made
        drained(runtime)
        other = runtime.add(request(seed=4, num_inference_steps=8))
        runtime.step()
        before = tensor_bytes()
        strategy = Strategy("broken", (Broken(),)) if end == "fail" else "blend"
        ticket = runtime.add(request(num_images=3, strategy=strategy))
        runtime.step()
        prepared = weakref.ref(ticket.prepared)
        of_one = ticket.jobs[0].latents.nbytes
        assert tensor_bytes() >= before + 3 * 3 * of_one  # latents, noise and originals, at least
        if end == "fail":
            assert runtime.step() == [ticket]
        else:
            runtime.abort(ticket)
        assert tensor_bytes() < before + of_one
        assert prepared() is None
        assert ticket.error is not None
        assert drained_one.result is not None
        assert other.state is State.RUNNING

    def test_close_ends_all(self, engine):
        runtime = engine.runtime(max_running=1)
        tickets = [runtime.add(request(seed=seed)) for seed in range(3)]
        runtime.step()
        runtime.close()
        assert not runtime.busy
        assert {ticket.state for ticket in tickets} == {State.ABORTED}

    def test_an_interrupt_leaves_nobody_behind(self, runtime):
        def interrupt(_):
            raise KeyboardInterrupt

        tickets = [runtime.add(request(callback=interrupt)), runtime.add(request(seed=2))]
        with pytest.raises(KeyboardInterrupt):
            run(runtime, tickets, progress=False)
        assert not runtime.busy
        fresh = runtime.add(request(num_inference_steps=1))
        run(runtime, [fresh], progress=False)
        assert fresh.state is State.FINISHED


def tensor_bytes() -> int:
    """The memory of all tensors that are alive."""
    gc.collect()
    alive = [each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor]
    return sum({each.data_ptr(): each.nbytes() for each in alive}.values())


def test_variants_read_and_encode_once(runtime, monkeypatch):
    encoded = counted(monkeypatch, runtime.backbone, "encode")
    names = ("blend", "differential", "soft-blend")
    tickets = runtime.add_variants([request(strategy=name) for name in names])
    drained(runtime)
    assert len(encoded) == 2  # the original and the filled hole
    assert len({ticket.outcome().settings["strategy"] for ticket in tickets}) == 3
    with pytest.raises(InputError, match="one edit at a time"):
        runtime.add_variants([request(strategy=name, compat="diffusers") for name in names])


def test_the_bar_counts_to_its_end(runtime, capsys):
    tickets = [runtime.add(request(strategy="staged")), runtime.add(request())]
    seen = []
    step = Runtime.step

    def watched(self):
        left = step(self)
        seen.append([ticket.progress for ticket in tickets])
        return left

    runtime.step = watched.__get__(runtime)
    run(runtime, tickets, progress=True)
    assert "denoising" in capsys.readouterr().err
    done = [sum(progress.done for progress in each) for each in seen]
    assert done == sorted(done)
    assert all(progress.done == progress.total for progress in seen[-1])
