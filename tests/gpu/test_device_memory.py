"""Where the device's memory is short: edits are split, one too large fails clearly, all goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import MemoryLimitError, SoftpaintError
from engine.models.codec import KLCodec
from engine.request.request import EditRequest
from tests.kit.devices import cuda_only, hard, on_device

pytestmark = [*on_device, cuda_only]


def large(side: int, **changes: Any) -> dict[str, Any]:
    """An edit of a whole picture of ``side`` px; latents, for decoding takes more than a step."""
    settings = hard()
    return {
        **settings,
        "image": settings["image"].resize((side, side)),
        "mask": np.asarray(Image.fromarray(settings["mask"]).resize((side, side))),
        "region": "full",
        "output_type": "latent",
        "num_inference_steps": 3,
        **changes,
    }


def reserved(act: Callable[[], Any]) -> int:
    """The most bytes that torch has reserved while ``act`` ran."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    act()
    return torch.cuda.max_memory_reserved()


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """The process has no more than so many bytes of the device."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def run(engine: Any, several: list[dict[str, Any]]) -> tuple[list[Any], int | None]:
    """The results of edits, and how many cells their runtime has learnt to be enough."""
    runtime = engine.runtime()
    tickets = [runtime.add(EditRequest(**each)) for each in several]
    while runtime.busy:
        runtime.step()
    return [ticket.outcome() for ticket in tickets], runtime._loop._batching.max_cells


@pytest.fixture(scope="module")
def eight(half):
    """Eight edits: their results where memory is plenty, and in little of it."""
    several = [large(512, seed=seed) for seed in range(8)]
    run(half, several)  # prompts and pictures are remembered, libraries have their workspaces
    one = reserved(lambda: run(half, several[:1]))
    every = reserved(lambda: run(half, several))
    if every - one < 2**26:
        pytest.skip("eight rows take hardly more than one")
    plenty, _ = run(half, several)
    with at_most(one + (every - one) // 4):
        little, cells = run(half, several)
    return plenty, little, cells


def test_eight_edits_are_split(eight):
    *_, cells = eight
    assert cells is not None


def test_eight_split_edits_are_the_same(eight):
    """Other numbers of rows have other last bits, three steps of half precision long."""
    plenty, little, _ = eight
    for one, other in zip(plenty, little, strict=True):
        assert (one.latents - other.latents).abs().float().mean() < 0.01


@pytest.fixture
def warm(half):
    """A picture that is too large for what will be left, read and remembered already."""
    settings = large(1024)
    half.edit(**settings)
    torch.cuda.empty_cache()
    return settings


def test_one_row_too_large_is_told_clearly(half, warm):
    told = pytest.raises(MemoryLimitError, match="out of memory")
    with at_most(torch.cuda.memory_reserved() + 2**22), told as caught:
        half.edit(**warm)
    assert len(str(caught.value).splitlines()) == 1


def test_after_it_the_engine_works(half, warm):
    before = half.edit(**warm)
    with at_most(torch.cuda.memory_reserved() + 2**22), pytest.raises(SoftpaintError):
        half.edit(**warm)
    assert torch.equal(half.edit(**warm).latents, before.latents)


def test_after_it_nothing_is_held(half, warm):
    """While the caller still holds the error."""
    before = torch.cuda.memory_allocated()
    with at_most(torch.cuda.memory_reserved() + 2**22):
        with pytest.raises(SoftpaintError) as caught:
            half.edit(**warm)
        assert torch.cuda.memory_allocated() - before < 2**23
    assert caught.value.__cause__ is not None


def test_a_small_edit_beside_it_is_finished(half, warm):
    small = hard(output_type="latent")
    half.edit(**small)
    torch.cuda.empty_cache()
    # The small one's step takes a sixty-fourth of the large one's.
    with at_most(torch.cuda.memory_reserved() + 2**25):
        outcomes = half.edit_many([warm, small])
    assert not isinstance(outcomes[1], Exception), outcomes[1]


@pytest.mark.parametrize("act", ["encode", "decode"])
def test_a_vae_that_has_no_memory_is_told_clearly(half, monkeypatch, act):
    """As torch would say it; where the limit lies is not to be set finely enough."""

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(KLCodec, act, fail)
    half.clear_cache()
    with pytest.raises(SoftpaintError, match="memory"):
        half.edit(**hard())


def test_many_edits_hold_nothing_but_what_is_remembered(half):
    """Not a byte more after the tenth edit than after the second."""
    half.edit(**hard())
    half.edit(**hard())
    before = torch.cuda.memory_allocated()
    for seed in range(8):
        half.edit(**hard(seed=seed, strategy="think", controls="canny"))
        half.edit(**hard(seed=seed))
    # A ControlNet and what its annotated picture takes may have come.
    assert torch.cuda.memory_allocated() - before < 2**27


def test_a_result_is_no_hold_on_the_model(single):
    """An edit's result keeps its latents on the device, and no more than those."""
    single.edit(**hard())
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    kept = [single.edit(**hard(seed=seed)) for seed in range(4)]
    assert torch.cuda.memory_allocated() - before < len(kept) * 2**16
