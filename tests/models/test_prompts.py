"""Weights, long prompts, embeddings in a prompt's place: what is read, and that it equals what
diffusers makes of the same embeddings.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import InpaintEngine, InputError
from engine.models.syntax import Piece, has_marks, parse
from engine.models.text import Embeds, Reading
from engine.picture.geometry import Size
from tests.kit import tiny
from tests.kit.tiny import both, difference

SIZE = Size(tiny.SIZE, tiny.SIZE)
WEIGHTS = Reading("weights")
LONG = " ".join("abcdefgh" * 12)  # 96 tokens of the tiny vocabulary


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a red tent", [("a red tent", 1)]),
        ("a (red) tent", [("a ", 1), ("red", 1.1), (" tent", 1)]),
        ("a (red:1.3) tent", [("a ", 1), ("red", 1.3), (" tent", 1)]),
        ("((red:.5))", [("red", 0.5 * 1.1)]),
        ("(a (red:2) tent:0.5)", [("a ", 0.5), ("red", 1.0), (" tent", 0.5)]),
        ("[red]", [("red", 1 / 1.1)]),
        (r"a \(red\) tent", [("a (red) tent", 1)]),
        ("smile :( and ] so", [("smile :( and ] so", 1)]),
        ("(red:blue)", [("red:blue", 1.1)]),
        ("(red:-1)", [("red", -1.0)]),
        ("", []),
    ],
)
def test_the_marks_of_weights(prompt, pieces):
    (found,) = parse(prompt)
    assert [each.text for each in found] == [text for text, _ in pieces]
    assert [each.weight for each in found] == pytest.approx([weight for _, weight in pieces])


def test_breaks_part_a_prompt():
    assert parse("a tent BREAK a boat") == [[Piece("a tent")], [Piece("a boat")]]
    assert not has_marks("BREAKFAST at a tent")
    assert has_marks("a BREAK b")


@given(st.text(alphabet="ab ()[]:\\1.", max_size=24))
@settings(max_examples=60, deadline=None)
def test_no_letter_is_lost(prompt):
    """Whatever the brackets do."""
    kept = "".join(piece.text for part in parse(prompt) for piece in part)
    assert [c for c in kept if c in "ab"] == [c for c in prompt if c in "ab"]


@pytest.fixture(scope="module", params=["sdxl", "sd"])
def engine(request):
    sdxl = request.param == "sdxl"
    kind = StableDiffusionXLPipeline if sdxl else StableDiffusionPipeline
    extra = {} if sdxl else {"requires_safety_checker": False}
    return InpaintEngine.from_pipe(kind(**tiny.modules(sdxl=sdxl), **extra))


def encoded(engine: InpaintEngine, prompt: str, negative: str | None = "", **reading: Any) -> Any:
    how = Reading(**{"syntax": "weights", **reading})
    return engine.backbone.encode_prompt(prompt, negative, guided=True, size=SIZE, reading=how)


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_plain_words_are_what_diffusers_makes_of_them(engine):
    """By its own function, and to the bit by the way of weighted ones too."""
    plain = encoded(engine, "a red house", "grey", syntax="plain")
    assert all(map(equal, plain, encoded(engine, "a red house", "grey")))
    assert all(map(equal, plain, encoded(engine, "a (red:1.0) house", "grey")))


def test_a_weight_moves_its_words_and_nothing_else(engine):
    plain, _ = encoded(engine, "a b c")
    up, _ = encoded(engine, "a (b:1.5) c")
    empty, _ = encoded(engine, "", "")
    changed = (up.text != plain.text).any(dim=-1)[0].nonzero().flatten().tolist()
    assert changed == [2]  # the mark of the beginning, a, b
    want = empty.text[0, 2] + 1.5 * (plain.text[0, 2] - empty.text[0, 2])
    torch.testing.assert_close(up.text[0, 2], want)
    off, _ = encoded(engine, "a (b:0) c")
    torch.testing.assert_close(off.text[0, 2], empty.text[0, 2])


def test_a_long_prompt_is_read_whole(engine):
    cond, uncond = encoded(engine, LONG)
    assert cond.text.shape[1] == uncond.text.shape[1] == 2 * 77
    head, _ = encoded(engine, " ".join(LONG.split()[:75]))
    tail, _ = encoded(engine, " ".join(LONG.split()[75:]))
    assert torch.equal(cond.text[:, :77], head.text)
    assert torch.equal(cond.text[:, 77:], tail.text)
    nothing, _ = encoded(engine, "")
    assert torch.equal(uncond.text, torch.cat([nothing.text] * 2, dim=1))


def test_a_break_begins_a_chunk(engine):
    cond, _ = encoded(engine, "a BREAK b")
    parts = [encoded(engine, each)[0].text for each in "ab"]
    assert torch.equal(cond.text, torch.cat(parts, dim=1))


def test_words_without_added_tokens_are_not_converted(engine):
    """diffusers' conversion has transformers warn of indexing errors where a text is long."""
    pipe = engine.backbone.pipe
    kept = pipe.maybe_convert_prompt
    with mock.patch.object(pipe, "maybe_convert_prompt", side_effect=kept) as converted:
        encoded(engine, " ".join("b" * 200), None)
        assert not converted.called
        encoded(engine, "b <|EndOfText|>", None)
        assert converted.called


def test_nothing_of_a_long_or_weighted_prompt_is_unheard(engine):
    result = tiny.edited(engine, prompt=f"(a:1.2) {LONG}", num_inference_steps=1)
    assert result.settings["unheard"] == {}
    with pytest.warns(UserWarning, match="left out: 'd e"):
        plain = tiny.edited(engine, prompt=LONG, prompt_syntax="plain", num_inference_steps=1)
    assert plain.settings["unheard"]["prompt"]["cut_off"]
    with pytest.warns(UserWarning, match=r"as plain words .*<lora:x:1>"):
        tiny.edited(engine, prompt="a <lora:x:1>", num_inference_steps=1)


def test_clip_skip(engine):
    """As diffusers' own for the prompt; for the negative one too."""
    ours, negative = encoded(engine, "a red house", "a red house", clip_skip=1)
    plain, _ = encoded(engine, "a red house")
    assert not torch.equal(ours.text, plain.text)
    assert torch.equal(ours.text, negative.text)
    if "text_embeds" in ours.tensors:  # diffusers' SD reads a part that transformers 5 renamed
        theirs, _ = encoded(engine, "a red house", syntax="plain", clip_skip=1)
        assert torch.equal(ours.text, theirs.text)
    with pytest.raises(InputError, match="clip_skip is at most"):
        tiny.edited(engine, clip_skip=3)


@pytest.mark.parametrize("sdxl", [True, False], ids=["sdxl", "sd"])
@pytest.mark.parametrize("prompt", ["a (red:1.4) house", f"{LONG} (x:1.3) BREAK y"])
def test_an_edit_equals_diffusers_given_the_same_embeddings(sdxl, prompt):
    kind = StableDiffusionXLInpaintPipeline if sdxl else StableDiffusionInpaintPipeline
    modules = tiny.modules(sdxl=sdxl)
    engine = InpaintEngine.from_pipe(kind(**modules))
    cond, uncond = encoded(engine, prompt, "(grey:1.2)")
    given = {"prompt_embeds": cond.text, "negative_prompt_embeds": uncond.text}
    if sdxl:
        given["pooled_prompt_embeds"] = cond.tensors["text_embeds"]
        given["negative_pooled_prompt_embeds"] = uncond.tensors["text_embeds"]
    want, got = both(kind, modules, "blend", prompt=None, num_images=2, **given)
    assert difference((want, got)) == 0.0
    own = engine.edit(
        image=tiny.picture(),
        mask=tiny.box_mask(),
        prompt=prompt,
        negative_prompt="(grey:1.2)",
        prompt_syntax="weights",
        strategy="blend",
        scheduler="euler",
        num_inference_steps=5,
        guidance_scale=5.0,
        num_images=2,
        seed=3,
        output_type="np",
        compat="diffusers",
    )
    assert difference((want, own.images)) == 0.0


class TestEmbeddingsInAPromptsPlace:
    def test_are_the_prompts_own(self, engine):
        cond, uncond = encoded(engine, "a red house", None)
        given = {"prompt_embeds": cond.text, "negative_prompt_embeds": uncond.text}
        if "text_embeds" in cond.tensors:
            given["pooled_prompt_embeds"] = cond.tensors["text_embeds"]
            given["negative_pooled_prompt_embeds"] = uncond.tensors["text_embeds"]
        want = tiny.edited(engine, num_inference_steps=2)
        got = tiny.edited(engine, prompt=None, num_inference_steps=2, **given)
        assert torch.equal(want.latents, got.latents)
        assert got.settings["embeds"] == sorted(given)
        del given["negative_prompt_embeds"]
        given.pop("negative_pooled_prompt_embeds", None)
        alone = tiny.edited(engine, prompt=None, num_inference_steps=2, **given)
        assert torch.equal(want.latents, alone.latents)

    def test_of_another_size_are_refused(self, engine):
        for each, message in (
            ({"prompt_embeds": torch.zeros(1, 77, 7)}, "must be a tensor of 1 n"),
            ({"prompt_embeds": torch.zeros(2, 77, 64)}, "several prompts are several edits"),
            ({"pooled_prompt_embeds": torch.zeros(1, 32)}, "pooled"),
        ):
            with pytest.raises(InputError, match=message):
                tiny.edited(engine, prompt=None if "prompt_embeds" in each else "a", **each)

    def test_beside_a_text_are_refused(self, engine):
        with pytest.raises(InputError, match="either prompt= or prompt_embeds="):
            tiny.edited(engine, prompt="a", prompt_embeds=torch.zeros(1, 77, 64))


def test_embeds_are_told_apart_by_who_they_are():
    """No two edits share what was encoded of tensors that may have changed meanwhile."""
    tensors = {"prompt_embeds": torch.zeros(1)}
    assert Reading(embeds=Embeds(tensors)) != Reading(embeds=Embeds(tensors))
